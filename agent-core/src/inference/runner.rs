//! One runner process: its pipes, its log, its end.

use std::{
    collections::VecDeque,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use agent_api::runner::{self, Command, Reply, RunnerError, RunnerErrorKind, Usage};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout},
    sync::mpsc,
};

use super::{
    InferenceError, Piece,
    link::{FromLink, Link, LoadFailure, Outbox},
    tools::ToolFormat,
};

/// Frames on their way to the runner. The engine keeps far fewer requests in flight.
const OUTBOX: usize = 256;
/// Frames from the runner that the engine has not looked at yet.
const INBOX: usize = 1024;
/// Last lines of the runner's log, quoted when it ends unexpectedly.
const KEPT_LOG_LINES: usize = 8;
const LOG_LINE_BYTES: usize = 400;

/// Starts a runner. It ends when the link does.
pub(super) fn spawn(program: &Path) -> std::io::Result<Link> {
    let mut command = tokio::process::Command::new(program);
    // A group of its own: Ctrl+C in a terminal is for the node, which still lets the runner
    // finish its requests.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id();
    prefer_as_oom_victim(pid);
    let (outbox, frames) = mpsc::channel(OUTBOX);
    let (replies, inbox) = mpsc::channel(INBOX);
    let (killer, killed) = tokio::sync::oneshot::channel();
    let log = Arc::new(Mutex::new(VecDeque::new()));
    if let Some(stdin) = child.stdin.take() {
        tokio::spawn(write_frames(stdin, frames));
    }
    let log_reader = child
        .stderr
        .take()
        .map(|stderr| tokio::spawn(read_log(BufReader::new(stderr), Arc::clone(&log))));
    let stdout = child.stdout.take();
    tokio::spawn(async move {
        // The killer is dropped with the `Link`: then the child goes too.
        tokio::select! {
            reason = read_replies(stdout, &replies) => {
                let end = describe_end(&mut child, reason).await;
                if let Some(reader) = log_reader {
                    let _ = reader.await;
                }
                let said = last_words(&log);
                let _ = replies.send(FromLink::Gone(format!("{end}{said}"))).await;
            }
            _ = killed => {
                // `replies` is dropped after the process is gone: that is how the link learns it.
                let _ = child.kill().await;
            }
        }
    });
    Ok(Link::new(pid, Outbox::Frames(outbox), inbox, killer))
}

/// The frame of a command.
pub(super) fn encode(command: &Command) -> Result<Vec<u8>, String> {
    runner::encode_frame(command).map_err(|e| e.to_string())
}

/// What a frame means to an engine; `None` for those that tell nothing new.
fn translate(reply: Reply) -> Option<FromLink> {
    Some(match reply {
        Reply::Hello { protocol, .. } if protocol != runner::PROTOCOL => {
            FromLink::Unusable(format!(
                "The program edgecoder-runner is of another version (protocol {protocol}, needed {}). Install EdgeCoder again.",
                runner::PROTOCOL
            ))
        }
        Reply::Hello { engine, devices, .. } => FromLink::Hello { engine, devices },
        Reply::Loaded(loaded) => {
            let tools = loaded.chat_template.as_deref().and_then(ToolFormat::of);
            FromLink::Loaded { loaded: Box::new(loaded), tools }
        }
        Reply::LoadFailed { message } => {
            FromLink::LoadFailed(LoadFailure { message, passing: false })
        }
        Reply::Unloaded => return None,
        Reply::Started { id, prompt_tokens, cached_tokens } => {
            let usage = Usage { prompt_tokens, cached_tokens, completion_tokens: 0 };
            FromLink::Piece { id, piece: Piece::Started { usage } }
        }
        Reply::Text { id, text, logprobs } => {
            FromLink::Piece { id, piece: Piece::Text { text, logprobs } }
        }
        Reply::Done { id, finish, usage, timings } => {
            FromLink::Piece { id, piece: Piece::Done { finish, usage, timings } }
        }
        Reply::Embedded { id, vectors, prompt_tokens } => {
            FromLink::Piece { id, piece: Piece::Embedded { vectors, prompt_tokens } }
        }
        Reply::Failed { id, error } => {
            FromLink::Piece { id, piece: Piece::Failed(from_runner_error(error)) }
        }
    })
}

fn from_runner_error(error: RunnerError) -> InferenceError {
    let RunnerError { kind, message } = error;
    match kind {
        RunnerErrorKind::BadRequest => InferenceError::BadRequest(message),
        RunnerErrorKind::ContextOverflow => InferenceError::ContextOverflow(message),
        RunnerErrorKind::Busy => InferenceError::QueueFull,
        RunnerErrorKind::NoModel => InferenceError::RunnerLost,
        RunnerErrorKind::Engine => InferenceError::Engine(message),
    }
}

async fn write_frames(mut stdin: ChildStdin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if stdin.write_all(&frame).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

/// Reads frames until the pipe ends; returns why it stopped, if not for a clean end.
async fn read_replies(
    stdout: Option<ChildStdout>,
    replies: &mpsc::Sender<FromLink>,
) -> Option<String> {
    let mut stdout = BufReader::with_capacity(1 << 16, stdout?);
    let mut bytes = Vec::new();
    loop {
        let length = stdout.read_u32_le().await.ok()?;
        if let Err(e) = runner::check_frame_length(length) {
            return Some(e.to_string());
        }
        bytes.resize(length as usize, 0);
        stdout.read_exact(&mut bytes).await.ok()?;
        let reply = match serde_json::from_slice(&bytes) {
            Ok(reply) => reply,
            Err(e) => return Some(format!("it sent a frame that makes no sense ({e})")),
        };
        let Some(said) = translate(reply) else { continue };
        if replies.send(said).await.is_err() {
            return None;
        }
    }
}

async fn describe_end(child: &mut Child, reason: Option<String>) -> String {
    if let Some(reason) = reason {
        let _ = child.kill().await;
        return reason;
    }
    match child.wait().await {
        Ok(status) => {
            #[cfg(unix)]
            {
                use std::os::unix::process::ExitStatusExt as _;
                if let Some(signal) = status.signal() {
                    return match signal {
                        9 => "it was killed (signal 9; often the system running out of memory)"
                            .into(),
                        4 => "it used an instruction that this processor does not have (signal 4)"
                            .into(),
                        n => format!("it crashed (signal {n})"),
                    };
                }
            }
            format!("it ended with {status}")
        }
        Err(e) => format!("its end could not be read ({e})"),
    }
}

async fn read_log(
    mut stderr: impl tokio::io::AsyncBufRead + Unpin,
    kept: Arc<Mutex<VecDeque<String>>>,
) {
    let mut line = Vec::new();
    // `take` bounds a line that never ends.
    while let Ok(n) = (&mut stderr).take(1 << 16).read_until(b'\n', &mut line).await {
        if n == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().take(LOG_LINE_BYTES).collect();
        tracing::debug!(target: "runner", "{text}");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LOG_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
        drop(kept);
        line.clear();
    }
}

fn last_words(log: &Mutex<VecDeque<String>>) -> String {
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    match log.back() {
        Some(line) if !line.is_empty() => format!("; its last line was: {line}"),
        _ => String::new(),
    }
}

/// When memory runs out the kernel should take the runner, which comes back by itself, and not
/// the node. Raising a child's score needs no privilege; failing costs nothing.
fn prefer_as_oom_victim(pid: Option<u32>) {
    #[cfg(target_os = "linux")]
    if let Some(pid) = pid {
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pid;
}
