import init from './ui.js';

init({ module_or_path: './ui_bg.wasm' }).catch((error) => {
  // Without WebAssembly nothing else can say so.
  const note = document.getElementById('boot-note');
  if (note) {
    note.textContent = 'The page could not start: ' + error + '. Reload it; if that does not help, use a newer browser.';
    note.hidden = false;
  }
});
