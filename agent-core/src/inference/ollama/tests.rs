//! Against a daemon made for the test.
