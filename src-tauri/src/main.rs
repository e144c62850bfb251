//! The EdgeCoder desktop app: a window, a tray icon, and one node inside.
//!
//! This crate is a host and nothing else. What the node does is in `agent-core`, what the page
//! shows is in `ui`; here is the way between them, and what only a desktop program has.

mod app;
mod commands;
mod door;
mod events;
mod linux;
mod quit;
mod streams;
mod tray;
mod window;

fn main() -> std::process::ExitCode {
    // Before anything starts a thread: the environment may be changed only then.
    linux::prepare_environment();
    app::run()
}
