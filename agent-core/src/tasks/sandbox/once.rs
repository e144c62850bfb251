//! Processes that do one thing and end: `probe` and `exec`.

use std::{io, path::Path, process::Stdio, time::Duration};

use agent_api::{
    runner::{check_frame_length, encode_frame},
    sandbox::{Abilities, Exec, ExecReply},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    runtime::Handle,
    time::timeout,
};

/// A probe starts two interpreters and twice a program in them, maybe on a computer that is busy.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// What a run may take beyond the time of its program: confining, starting, cleaning up.
const GRACE: Duration = Duration::from_secs(30);

/// For ending what it runs, once it is not wanted any more.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// A program and two outputs of 16 KiB, or the abilities, are far smaller.
const MAX_REPLY_BYTES: usize = 1 << 20;

pub(super) async fn probe(program: &Path) -> io::Result<Abilities> {
    let mut child = command(program, "probe").stdin(Stdio::null()).spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut bytes = Vec::new();
    let read = async {
        output.take(MAX_REPLY_BYTES as u64).read_to_end(&mut bytes).await?;
        child.wait().await
    };
    let status = timeout(PROBE_LIMIT, read).await??;
    if !status.success() {
        return Err(io::Error::other(format!("it ended with {status}")));
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// Runs a program in `dir`, which is deleted afterwards. Dropping the future ends the process, and
/// with it what it runs.
pub(super) async fn exec(
    program: &Path,
    exec: &Exec,
    wall: Duration,
    dir: TempDir,
) -> io::Result<ExecReply> {
    let mut command = command(program, "exec");
    let child = command.stdin(Stdio::piped()).kill_on_drop(false).spawn()?;
    let mut running = Running { process: Some((child, dir)) };
    match timeout(wall + GRACE, running.converse(exec)).await {
        Ok(reply) => reply,
        Err(_) => Err(io::Error::other("the sandbox did not end it in time")),
    }
}

/// A process with the folder that it uses, until both are gone.
struct Running {
    /// `None` only while it is dropped.
    process: Option<(Child, TempDir)>,
}

impl Running {
    async fn converse(&mut self, exec: &Exec) -> io::Result<ExecReply> {
        let (child, _) = self.process.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        // Stays open: its end would end the run.
        let stdin = child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&encode_frame(exec)?).await?;
        stdin.flush().await?;
        let stdout = child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let length = stdout
            .read_u32_le()
            .await
            .map_err(|_| io::Error::other("the sandbox ended unexpectedly"))?;
        check_frame_length(length)?;
        let mut bytes = vec![0; length as usize];
        stdout.read_exact(&mut bytes).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let (Some((child, dir)), Ok(runtime)) = (self.process.take(), Handle::try_current()) {
            runtime.spawn(end(child, dir));
        }
    }
}

/// When its input ends the watchman ends the program, then itself. Killed, it could not, and only
/// Linux does it then.
async fn end(mut child: Child, dir: TempDir) {
    drop(child.stdin.take());
    if timeout(LAST_MOMENT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    // The program wrote nothing there, see the sandbox's `confine.rs`; the disk may be slow.
    let _ = tokio::task::spawn_blocking(move || drop(dir)).await;
}

fn command(program: &Path, mode: &str) -> Command {
    let mut command = Command::new(program);
    // A group of its own: Ctrl+C in a terminal is for the node.
    #[cfg(unix)]
    command.process_group(0);
    command.arg(mode).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command
}
