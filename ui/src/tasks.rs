//! Tasks as the page keeps them: lists, the form of a new one, live text, the file of an export.

pub mod board;
pub mod csv;
pub mod draft;
pub mod follow;
pub mod offers;
pub mod output;
