//! Pieces that several panels use.

pub mod answer;
pub mod badge;
pub mod banner;
pub mod dialog;
pub mod icon;
pub mod menu;
pub mod meter;
pub mod spark;
