//! Every way out of the program ends here: the node is drained and stopped first, then the
//! program exits with 0.

use std::{sync::atomic::Ordering, time::Duration};

use tauri::{AppHandle, Manager as _};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{app::Shell, window};

/// The supervisor stops within its own 10 s; a little more, so that a defect there cannot keep a
/// program without a window alive.
const STOPPED_BY: Duration = Duration::from_secs(12);

/// Hides the window at once, so that the person sees an answer, and exits when the node has
/// stopped. Asking twice is fine.
pub(crate) fn quit(app: &AppHandle) {
    let shell = app.state::<Shell>();
    if shell.quitting.swap(true, Ordering::SeqCst) {
        return;
    }
    tracing::info!("quitting: the node finishes its requests");
    window::hide(app);
    let supervisor = shell.supervisor.clone();
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        if tokio::time::timeout(STOPPED_BY, supervisor.shutdown()).await.is_err() {
            tracing::error!("the node did not stop in time; it is ended with the program");
        }
        app.exit(0);
    });
}

/// Listens for the signals with which terminals, sessions and services end a program. One that
/// comes before anybody waits for it is kept.
pub(crate) fn listen() -> Vec<Signal> {
    let _runtime = tauri::async_runtime::handle().inner().enter();
    [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .into_iter()
        .filter_map(|kind| {
            signal(kind)
                .inspect_err(|error| {
                    tracing::warn!(%error, "cannot listen for signals; end the app from its menu");
                })
                .ok()
        })
        .collect()
}

/// Quits when one of them comes.
pub(crate) fn on_signals(app: &AppHandle, signals: Vec<Signal>) {
    for mut signal in signals {
        let app = app.clone();
        tauri::async_runtime::spawn(async move {
            if signal.recv().await.is_some() {
                quit(&app);
            }
        });
    }
}
