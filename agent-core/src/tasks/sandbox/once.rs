//! Processes that do one thing and end: `probe` and `exec`.

use std::{io, path::Path, process::Stdio, time::Duration};

use agent_api::{
    runner::{check_frame_length, encode_frame},
    sandbox::{Abilities, Exec, ExecReply},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

/// A probe starts two interpreters and twice a program in them, maybe on a computer that is busy.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// What a run may take beyond the time of its program: confining, starting, cleaning up.
const GRACE: Duration = Duration::from_secs(30);

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

/// Dropping the future kills the process, and with it what it runs.
pub(super) async fn exec(program: &Path, exec: &Exec, wall: Duration) -> io::Result<ExecReply> {
    let mut child = command(program, "exec").stdin(Stdio::piped()).spawn()?;
    match timeout(wall + GRACE, converse(&mut child, exec)).await {
        Ok(reply) => reply,
        Err(_) => {
            child.kill().await?;
            Err(io::Error::other("the sandbox did not end it in time"))
        }
    }
}

async fn converse(child: &mut Child, exec: &Exec) -> io::Result<ExecReply> {
    // Held open: its end would end the run.
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    stdin.write_all(&encode_frame(exec)?).await?;
    stdin.flush().await?;
    let length = stdout
        .read_u32_le()
        .await
        .map_err(|_| io::Error::other("the sandbox ended unexpectedly"))?;
    check_frame_length(length)?;
    let mut bytes = vec![0; length as usize];
    stdout.read_exact(&mut bytes).await?;
    drop(stdin);
    child.wait().await?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn command(program: &Path, mode: &str) -> Command {
    let mut command = Command::new(program);
    // A group of its own: Ctrl+C in a terminal is for the node.
    #[cfg(unix)]
    command.process_group(0);
    command.arg(mode).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command
}
