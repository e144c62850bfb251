//! Linux: the order in which the walls go up, because each takes away what the next would need.

use std::{convert::Infallible, os::unix::process::CommandExt as _, path::Path, process::Command};

use agent_api::{sandbox::Interpreter, tasks::Language};
use anyhow::Context as _;
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

use super::{THREADS, files, namespaces, syscalls};

/// Memory of one program.
const MEMORY_BYTES: u64 = 1 << 30;

/// Largest file of one program.
const FILE_BYTES: u64 = 16 << 20;

/// Files that are open at once.
const OPEN_FILES: u64 = 256;

/// Confines this process for WebAssembly: no file can be opened, no program started, no socket
/// made. Returns in words what holds. An old kernel is no error here: the module has no way to ask
/// for any of it, this is the second wall.
pub(crate) fn serve() -> anyhow::Result<String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_no_new_privs()?;
    let files = files::nothing();
    let calls = syscalls::confine(syscalls::For::WebAssembly);
    let mut walls = vec!["WebAssembly"];
    walls.extend(files.is_ok().then_some("Landlock"));
    walls.extend(calls.is_ok().then_some("seccomp"));
    Ok(walls.join(", "))
}

/// Confines this process for a program of `interpreter` that lives in `dir`; `write` puts its files
/// there. Returns in words what holds. Landlock and seccomp must.
pub(crate) fn inside(
    parent: i32,
    interpreter: &Interpreter,
    dir: &Path,
    wall_s: u64,
    write: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if nix::unistd::getppid().as_raw() != parent {
        anyhow::bail!("the process that asked for it is gone");
    }
    prctl::set_no_new_privs()?;
    let entered = namespaces::enter(dir);
    std::env::set_current_dir(dir).context("its folder cannot be entered")?;
    write()?;
    limit(interpreter.language, wall_s, entered.user)?;
    files::own_folder(dir, interpreter, entered.disk)
        .context("files cannot be kept from it (Landlock)")?;
    syscalls::confine(syscalls::For::Program)
        .context("system calls cannot be kept from it (seccomp)")?;
    Ok(format!("Landlock, seccomp{}", entered.words()))
}

fn limit(language: Language, wall_s: u64, own_user: bool) -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_CPU, wall_s + 1, wall_s + 1)?;
    setrlimit(Resource::RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0)?;
    // V8 sets gigabytes of addresses aside that it never touches: there, what can be written
    // counts. seccomp refuses shared memory, which would not.
    let memory = match language {
        Language::Python => Resource::RLIMIT_AS,
        Language::Javascript => Resource::RLIMIT_DATA,
    };
    setrlimit(memory, MEMORY_BYTES, MEMORY_BYTES)?;
    if own_user {
        // Elsewhere it would count everything that the owner runs, also in containers that are
        // not seen from here; and it never holds for root. There the watchman counts.
        setrlimit(Resource::RLIMIT_NPROC, THREADS, THREADS)?;
    }
    Ok(())
}

/// How many threads a process has; `None`: it is gone.
pub(crate) fn threads(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
}

/// Replaces this process by the interpreter.
pub(crate) fn become_interpreter(
    _interpreter: &Interpreter,
    _dir: &Path,
    mut command: Command,
) -> anyhow::Result<Infallible> {
    let error = command.exec();
    Err(error).context("the interpreter cannot be started")
}
