//! EdgeCoder's front end: one page for the desktop window and for a browser.
//!
//! `backend` is the seam to the node. `state`, `conversation`, `headline`, `words`, `format`, `sse`,
//! `markdown`, `mesh`, `tasks`, `route` and `keyboard` are pure and tested natively. The rest draws.
#![allow(
    missing_debug_implementations,
    unreachable_pub,
    reason = "the component macro makes public property types without Debug"
)]

pub mod app;
pub mod backend;
pub mod chat;
mod clipboard;
pub mod components;
pub mod conversation;
mod derived;
mod files;
pub mod format;
pub mod headline;
pub mod keyboard;
pub mod markdown;
pub mod mesh;
pub mod panels;
pub mod route;
pub mod shell;
pub mod sse;
pub mod state;
mod storage;
pub mod tasks;
pub mod theme;
pub mod words;

/// Draws the page into the document.
pub fn mount() {
    console_error_panic_hook::set_once();
    leptos::mount::mount_to_body(shell::Shell);
}
