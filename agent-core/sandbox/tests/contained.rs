//! Both ways of running foreign programs, with the real program and programs that mean ill.

#[path = "contained/programs.rs"]
mod programs;
#[path = "contained/wasm.rs"]
mod wasm;
