//! Systems on which only WebAssembly is contained.

use std::{convert::Infallible, path::Path, process::Command};

use agent_api::sandbox::Interpreter;

const WHY: &str = "this operating system has no sandbox that EdgeCoder can use for programs";

pub(crate) fn serve() -> anyhow::Result<String> {
    Ok("WebAssembly".to_owned())
}

pub(crate) fn inside(
    _parent: i32,
    _interpreter: &Interpreter,
    _dir: &Path,
    _wall_s: u64,
    _write: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    anyhow::bail!(WHY)
}

pub(crate) fn threads(_process: u32) -> Option<u64> {
    None
}

pub(crate) fn become_interpreter(
    _interpreter: &Interpreter,
    _dir: &Path,
    _command: Command,
) -> anyhow::Result<Infallible> {
    anyhow::bail!(WHY)
}
