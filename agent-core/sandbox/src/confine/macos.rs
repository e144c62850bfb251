//! macOS: `sandbox-exec`, the system's own sandbox. A profile that it does not understand starts
//! nothing.

use std::{convert::Infallible, os::unix::process::CommandExt as _, path::Path, process::Command};

use agent_api::sandbox::Interpreter;
use anyhow::Context as _;
use nix::sys::resource::{Resource, setrlimit};

const SANDBOX_EXEC: &str = "/usr/bin/sandbox-exec";

/// Largest file of one program.
const FILE_BYTES: u64 = 16 << 20;

/// WebAssembly's own walls are the only ones.
pub(crate) fn serve() -> anyhow::Result<String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok("WebAssembly".to_owned())
}

/// Sets limits; [`become_interpreter`] brings the walls up.
pub(crate) fn inside(
    parent: i32,
    _interpreter: &Interpreter,
    dir: &Path,
    wall_s: u64,
    write: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    if nix::unistd::getppid().as_raw() != parent {
        anyhow::bail!("the process that asked for it is gone");
    }
    if !Path::new(SANDBOX_EXEC).exists() {
        anyhow::bail!("{SANDBOX_EXEC} is not there");
    }
    std::env::set_current_dir(dir).context("its folder cannot be entered")?;
    write()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_CPU, wall_s + 1, wall_s + 1)?;
    setrlimit(Resource::RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)?;
    Ok("sandbox-exec, no writing of files".to_owned())
}

/// Nothing here counts them.
pub(crate) fn threads(_process: u32) -> Option<u64> {
    None
}

/// Replaces this process by `sandbox-exec` and that by the interpreter.
pub(crate) fn become_interpreter(
    interpreter: &Interpreter,
    dir: &Path,
    command: Command,
) -> anyhow::Result<Infallible> {
    let mut confined = Command::new(SANDBOX_EXEC);
    confined.env_clear().arg("-p").arg(profile(interpreter, dir)?);
    confined.arg(command.get_program()).args(command.get_args());
    let environment = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    confined.envs(environment).stdin(std::process::Stdio::null());
    let error = confined.exec();
    Err(error).context("sandbox-exec cannot be started")
}

/// Everything is denied but reading the system, the interpreter and its own folder.
fn profile(interpreter: &Interpreter, dir: &Path) -> anyhow::Result<String> {
    let own = quoted(&dir.canonicalize()?.to_string_lossy());
    let program = quoted(&interpreter.path);
    let mut libraries = String::new();
    for library in &interpreter.libraries {
        libraries.push_str(&format!("(subpath {})", quoted(library)));
    }
    Ok(format!(
        "(version 1)(deny default)(import \"system.sb\")(deny network*)(deny process-fork)\
         (allow process-exec* (literal {program}))(allow sysctl-read)(allow file-read-metadata)\
         (allow file-read* (literal {program}) {libraries} (subpath \"/usr/lib\") (subpath {own}))\
         (allow file-write* (literal \"/dev/null\"))"
    ))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
