// Sets the theme before the first paint, and follows the system while the choice is "auto".
// A file of its own: the page's policy allows no inline script.
(function () {
  var root = document.documentElement;
  var system = matchMedia('(prefers-color-scheme: dark)');
  function show() {
    var choice = null;
    try { choice = localStorage.getItem('edgecoder-theme'); } catch (e) { /* storage is off: follow the system */ }
    root.dataset.theme = choice === 'light' || choice === 'dark' ? choice : system.matches ? 'dark' : 'light';
  }
  show();
  system.addEventListener('change', show);
  addEventListener('storage', show);
})();
