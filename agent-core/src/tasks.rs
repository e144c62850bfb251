//! Tasks: work goes to the best node, streams back, and is never lost or paid twice.
//!
//! ```text
//!  POST /tasks ──► origin (rows, leases) ─┐                        ┌─► worker (queue, admission)
//!  /v1, /api ────► route (nothing stored) ┴─► placement ─► remote ═╪═ mesh stream ═►   │
//!                                               │ here            ◄┘                   ▼
//!                                               └──────────► run: inference, sandbox ◄─┘
//! ```
//!
//! Pure, without IO: [`lifecycle`], [`placement`], [`fair`], [`verify`], [`reputation`], [`kinds`].

pub mod board;
pub mod code;
pub mod fair;
pub mod handle;
pub mod job;
pub mod kinds;
pub mod known;
pub mod lifecycle;
pub mod modules;
pub mod origin;
pub mod outbox;
pub mod placement;
pub mod remote;
pub mod reputation;
pub mod reputations;
pub mod route;
pub mod rows;
pub mod run;
pub mod sandbox;
pub mod schedule;
pub mod shared;
pub mod verify;
pub mod wire;
pub mod worker;
