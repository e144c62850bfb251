//! Browsers, a display and a session bus for the tests that need them.

pub(crate) mod desktop;
pub(crate) mod journey;
pub(crate) mod page;
pub(crate) mod process;
