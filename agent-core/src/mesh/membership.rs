//! Membership without IO: inputs and the time in, outputs out.
//!
//! The driver ([`super::net`]) and the simulator hold one [`Membership`] per node and do what its
//! outputs say. What is in a frame is known here only.

pub mod io;
