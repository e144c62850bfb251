//! Puts the program together: arguments, plugins, node, tray, window.

use std::{path::PathBuf, process::ExitCode, sync::atomic::AtomicBool};

use agent_core::{
    config::{Config, Paths},
    logging::{self, LogOutput},
    supervisor::Supervisor,
};
use clap::Parser;
use tauri::{AppHandle, Manager as _, RunEvent, WindowEvent, Wry};

use crate::{commands, events::Page, linux, quit, tray, tray::Tray, window};

/// Why the program cannot run without a display, and what to do instead.
const NO_DISPLAY: &str = "There is no display to open a window on (DISPLAY and WAYLAND_DISPLAY are \
                          not set). Run the node without a window: edgecoder-node run";

/// The EdgeCoder desktop app: a window, a tray icon, and one node inside.
#[derive(Debug, Parser)]
#[command(name = "edgecoder", version)]
struct Arguments {
    /// Keep everything of this node in this folder [default: the user's data folder]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Start in the tray, without showing the window
    #[arg(long)]
    hidden: bool,
}

/// What the parts of the shell share.
pub(crate) struct Shell {
    pub(crate) supervisor: Supervisor,
    pub(crate) paths: Paths,
    pub(crate) page: Page,
    /// Absent where the system has none; then closing the window quits.
    pub(crate) tray: Option<Tray>,
    pub(crate) quitting: AtomicBool,
}

/// Runs until the person quits.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(app) => {
            app.run(on_event);
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the answer to a command line")]
            {
                eprintln!("edgecoder: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<tauri::App> {
    if !linux::has_display() {
        anyhow::bail!(NO_DISPLAY);
    }
    let mut config = Config::for_desktop(arguments.data_dir)?;
    config.logs = start_log(&config.paths);
    let window_state = config.paths.data_dir.join("window.json");
    let app = tauri::Builder::default()
        // First: a second start must end here, before it touches the data of the first.
        .plugin(tauri_plugin_single_instance::init(on_second_start))
        .plugin(window::remembers_its_place(&window_state))
        // Named by the product's specification. The page has no permission to use it: nothing in
        // the app opens other programs, links or folders.
        .plugin(tauri_plugin_shell::init())
        .invoke_handler(tauri::generate_handler![
            commands::connect,
            commands::api,
            commands::cancel,
            commands::restart_now,
        ])
        .setup(move |app| Ok(set_up(app.handle(), config, arguments.hidden)?))
        .build(tauri::generate_context!())?;
    Ok(app)
}

/// Logs go to a file, as a desktop program's stderr is seen by nobody. Where no file can be kept,
/// stderr is better than nothing.
fn start_log(paths: &Paths) -> logging::LogRing {
    let file = paths.log_file();
    let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    match folder {
        Ok(()) => logging::init(LogOutput::File(&file)),
        Err(error) => {
            let ring = logging::init(LogOutput::Stderr);
            tracing::warn!(%error, file = %file.display(), "cannot keep a log file");
            ring
        }
    }
}

fn set_up(app: &AppHandle, config: Config, hidden: bool) -> tauri::Result<()> {
    let paths = config.paths.clone();
    // Before there is a node: from here on a signal stops it in order.
    let signals = quit::listen();
    let supervisor = Supervisor::start(config, tauri::async_runtime::handle().inner());
    let tray = match tray::build(app, &paths) {
        Ok(tray) => Some(tray),
        Err(error) => {
            tracing::warn!(%error, "no tray icon; closing the window will quit");
            None
        }
    };
    app.manage(Shell {
        supervisor,
        paths,
        page: Page::new(),
        tray,
        quitting: AtomicBool::new(false),
    });
    quit::on_signals(app, signals);
    tray::follow(app);
    window::open(app)?;
    if hidden {
        tauri::async_runtime::spawn(window::show_unless_tray(app.clone()));
    } else {
        window::show(app);
    }
    Ok(())
}

fn on_second_start(app: &AppHandle, arguments: Vec<String>, _folder: String) {
    // A login item that starts the app again must not put a window into the person's way.
    if !arguments.iter().any(|argument| argument == "--hidden") {
        window::show(app);
    }
}

fn on_event(app: &AppHandle<Wry>, event: RunEvent) {
    match event {
        // Without a code it is the system or the last window that asks; with one it is `quit`,
        // after the node has stopped.
        RunEvent::ExitRequested { code: None, api, .. } => {
            api.prevent_exit();
            quit::quit(app);
        }
        RunEvent::WindowEvent { event: WindowEvent::CloseRequested { api, .. }, .. } => {
            api.prevent_close();
            tauri::async_runtime::spawn(window::close(app.clone()));
        }
        RunEvent::WindowEvent { event, .. } => window::on_event(app, &event),
        #[cfg(target_os = "macos")]
        RunEvent::Reopen { .. } => window::show(app),
        _ => {}
    }
}
