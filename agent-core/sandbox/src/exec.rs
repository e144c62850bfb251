//! `exec`: one program of an interpreted language.
//!
//! Two processes: this one keeps watch over time, output and threads; its child (`inside`) confines
//! itself, tells so, and becomes the interpreter. The child dies with its watchman, and can start
//! nothing that would outlive it.

mod tail;
mod watch;

use std::{
    convert::Infallible,
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio, exit},
    sync::atomic::{AtomicI32, Ordering},
    thread,
    time::Duration,
};

use agent_api::{
    runner::{encode_frame, read_frame},
    sandbox::{Exec, ExecReply, Interpreter},
    tasks::Language,
};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::confine;

/// What the child says before it becomes the interpreter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Staged {
    /// In words what holds.
    Confined(String),
    /// It does not run, because this failed.
    Unable(String),
}

/// The child while there is one, for [`end_with_input`].
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Reads one [`Exec`], runs it, writes one [`ExecReply`].
pub(crate) fn exec() -> anyhow::Result<()> {
    let program = read_frame::<Exec>(&mut io::stdin().lock())?.context("nothing to run came")?;
    end_with_input()?;
    let reply = run(&program).map_or_else(
        |error| ExecReply::Unable { message: format!("{error:#}") },
        |(reply, _)| reply,
    );
    let mut out = io::stdout().lock();
    out.write_all(&encode_frame(&reply)?)?;
    Ok(out.flush()?)
}

/// Runs a program; with what became of it comes how it was confined.
pub(crate) fn run(program: &Exec) -> anyhow::Result<(ExecReply, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["inside", "--parent", &std::process::id().to_string()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the sandbox cannot be started")?;
    CHILD.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    let watched = hand_over(program, &mut child).and_then(|confinement| {
        let ran = watch::until_it_ends(&mut child, program)?;
        Ok((ran, confinement))
    });
    // Whatever went wrong: nothing is left behind.
    let _ = child.kill();
    let _ = child.wait();
    CHILD.store(0, Ordering::SeqCst);
    watched
}

/// Gives the child its program and waits until it is confined.
fn hand_over(program: &Exec, child: &mut std::process::Child) -> anyhow::Result<String> {
    let mut stdin = child.stdin.take().context("the sandbox has no input")?;
    stdin.write_all(&encode_frame(program)?)?;
    drop(stdin);
    let stdout = child.stdout.as_mut().context("the sandbox has no output")?;
    match read_frame(stdout).context("the sandbox ended before it was confined")? {
        Some(Staged::Confined(how)) => Ok(how),
        Some(Staged::Unable(why)) => anyhow::bail!("programs cannot be contained here: {why}"),
        None => anyhow::bail!("the sandbox ended before it was confined"),
    }
}

/// Ends this process when its input does: then the node is gone or does not want it any more.
fn end_with_input() -> io::Result<()> {
    thread::Builder::new().name("input".into()).spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        kill_child();
        exit(1)
    })?;
    Ok(())
}

#[cfg(unix)]
fn kill_child() {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let child = CHILD.load(Ordering::SeqCst);
    if child > 0 {
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
}

#[cfg(not(unix))]
fn kill_child() {}

/// The child: confines itself, says so, becomes the interpreter.
pub(crate) fn inside(parent: i32) -> anyhow::Result<Infallible> {
    let program = read_frame::<Exec>(&mut io::stdin().lock())?.context("nothing to run came")?;
    let dir = Path::new(&program.dir);
    let wall = Duration::from_millis(program.wall_ms);
    let write = || write_files(dir, &program.files);
    let wall_s = wall.as_millis().div_ceil(1_000) as u64;
    let confined = confine::inside(parent, &program.interpreter, dir, wall_s, write);
    let staged = match &confined {
        Ok(how) => Staged::Confined(how.clone()),
        Err(error) => Staged::Unable(format!("{error:#}")),
    };
    let mut out = io::stdout().lock();
    out.write_all(&encode_frame(&staged)?)?;
    out.flush()?;
    drop(out);
    confined?;
    confine::become_interpreter(&program.interpreter, dir, interpreter(&program)?)
}

fn write_files(dir: &Path, files: &[(String, String)]) -> anyhow::Result<()> {
    for (name, text) in files {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.starts_with('.') || name.is_empty() || !name.chars().all(plain) {
            anyhow::bail!("{name} is not a plain file name");
        }
        fs::write(dir.join(name), text).with_context(|| format!("{name} cannot be written"))?;
    }
    Ok(())
}

fn interpreter(program: &Exec) -> anyhow::Result<Command> {
    let (main, _) = program.files.first().context("there is no file to run")?;
    let Interpreter { language, path, .. } = &program.interpreter;
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null());
    command.envs([("HOME", program.dir.as_str()), ("TMPDIR", &program.dir)]);
    command.envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("TZ", "UTC")]);
    match language {
        // No user's packages, no environment, no compiled files beside the sources.
        Language::Python => command.args(["-s", "-E", "-B", "-X", "utf8"]),
        // Its configuration is not among the files that it may read.
        Language::Javascript => {
            command.env("OPENSSL_CONF", "/dev/null").arg("--max-old-space-size=512")
        }
    };
    command.arg(main);
    Ok(command)
}
