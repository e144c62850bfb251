//! One process of WebAssembly jobs: many in flight, each answered by its number.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_api::{
    runner::{check_frame_length, encode_frame},
    sandbox::{Command, PROTOCOL, Reply},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::WasmDone;
use crate::tasks::job::WasmJob;

/// Frames on their way to the process; senders then wait.
const OUTBOX: usize = 64;

/// Modules that the process is believed to have. It keeps fewer and asks for those it forgot.
const KNOWN_MODULES: usize = 1_024;

/// From its start to its first frame, on a computer that is busy.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a job may take beyond its own time before the process is given up: others of five minutes
/// before it, and its compilation.
const STUCK: Duration = Duration::from_secs(600);

/// A line of its log.
const LOG_LINE_BYTES: u64 = 4 << 10;

/// What became of a job.
#[derive(Debug)]
pub(super) enum Answer {
    Done(WasmDone),
    Refused(String),
    Broke(String),
    /// The process ended before the answer, or is retired.
    ProcessGone,
}

/// Ends its process when dropped.
#[derive(Debug)]
pub(super) struct Link {
    outbox: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    next: AtomicU64,
    of_use: AtomicBool,
    known: Mutex<HashSet<String>>,
    killer: Mutex<Option<oneshot::Sender<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Dropped when the process is gone.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    gone: AtomicBool,
    /// It said so: it is given no more jobs and ends with the last that it has.
    retired: AtomicBool,
}

impl Link {
    /// The error goes on after the program's name.
    pub(super) async fn start(program: &Path) -> Result<Self, String> {
        let mut command = tokio::process::Command::new(program);
        // A group of its own: Ctrl+C in a terminal is for the node.
        #[cfg(unix)]
        command.process_group(0).env_clear();
        let mut child = command
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot be started: {error}"))?;
        prefer_as_oom_victim(child.id());
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("has no pipes".to_owned());
        };
        tokio::spawn(log(stderr));
        let mut stdout = BufReader::new(stdout);
        match timeout(START_LIMIT, read_reply(&mut stdout)).await {
            Ok(Ok(Reply::Hello { protocol, .. })) if protocol != PROTOCOL => {
                return Err(other_version(protocol));
            }
            Ok(Ok(Reply::Hello { confinement, .. })) => {
                tracing::debug!(confinement, "a sandbox process is ready");
            }
            Ok(Ok(_)) => return Err("does not speak the sandbox's protocol".to_owned()),
            Ok(Err(error)) => return Err(format!("ended at its start: {error}")),
            Err(_) => return Err("did not become ready in time".to_owned()),
        }
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let (killer, killed) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        tokio::spawn(write_frames(stdin, frames));
        let replies = Arc::clone(&shared);
        tokio::spawn(async move {
            tokio::select! {
                why = hand_out(&mut stdout, &replies) => {
                    tracing::warn!("a sandbox process ended: {why}");
                }
                // Told so, or the link was dropped.
                _ = killed => {}
            }
            replies.gone.store(true, Ordering::SeqCst);
            let _ = child.kill().await;
            replies.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok(Self {
            outbox,
            shared,
            next: AtomicU64::new(0),
            of_use: AtomicBool::new(false),
            known: Mutex::new(HashSet::new()),
            killer: Mutex::new(Some(killer)),
        })
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.shared.gone.load(Ordering::SeqCst)
    }

    /// It compiles nothing more.
    pub(super) fn is_retired(&self) -> bool {
        self.shared.retired.load(Ordering::SeqCst)
    }

    /// Jobs so far.
    pub(super) fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// It answered a job, so it was no failed start.
    pub(super) fn was_of_use(&self) -> bool {
        self.of_use.load(Ordering::Relaxed)
    }

    pub(super) fn kill(&self) {
        self.killer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs a job. Dropping the future stops it.
    pub(super) async fn run(&self, module: &[u8], job: &WasmJob) -> Answer {
        let mut send_bytes = self.is_news(&job.module);
        loop {
            let reply = self.ask(send_bytes.then_some(module), job).await;
            return match reply {
                Some(Reply::NeedModule { .. }) if self.is_retired() => Answer::ProcessGone,
                Some(Reply::NeedModule { .. }) if !send_bytes => {
                    send_bytes = true;
                    continue;
                }
                Some(Reply::Done { output, fuel_used, .. }) => {
                    match BASE64_STANDARD.decode(output) {
                        Ok(output) => Answer::Done(WasmDone { output, fuel_used }),
                        Err(error) => Answer::Broke(format!("the sandbox sent no base64: {error}")),
                    }
                }
                Some(Reply::Failed { lasting: true, message, .. }) => Answer::Refused(message),
                Some(Reply::Failed { lasting: false, message, .. }) => Answer::Broke(message),
                Some(Reply::NeedModule { .. } | Reply::Hello { .. } | Reply::Retired) => {
                    Answer::Broke("the sandbox does not keep to its protocol".to_owned())
                }
                None => Answer::ProcessGone,
            };
        }
    }

    /// `None`: the process is gone.
    async fn ask(&self, module: Option<&[u8]>, job: &WasmJob) -> Option<Reply> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let command = Command::Run {
            id,
            module: job.module.clone(),
            bytes: module.map(|bytes| BASE64_STANDARD.encode(bytes)),
            input: job.input.clone(),
            fuel: job.fuel,
            memory_bytes: job.memory_bytes,
            wall_ms: job.wall_ms,
        };
        let frame = match encode_frame(&command) {
            Ok(frame) => frame,
            Err(error) => {
                return Some(Reply::Failed { id, lasting: true, message: error.to_string() });
            }
        };
        let (sender, reply) = oneshot::channel();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let mut listed = Listed { link: self, id, answered: false };
        // After it is listed: either this sees that the process is gone, or its end clears the list.
        if !self.is_alive() || self.outbox.send(frame).await.is_err() {
            return None;
        }
        let limit = Duration::from_millis(job.wall_ms) + STUCK;
        let Ok(reply) = timeout(limit, reply).await else {
            tracing::warn!("a sandbox process is stuck and is ended");
            self.kill();
            return None;
        };
        listed.answered = reply.is_ok();
        self.of_use.fetch_or(listed.answered, Ordering::Relaxed);
        reply.ok()
    }

    /// Whether the process has to be sent this module.
    fn is_news(&self, sha256: &str) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(sha256) {
            return false;
        }
        if known.len() >= KNOWN_MODULES {
            known.clear();
        }
        known.insert(sha256.to_owned())
    }
}

/// A job that the process has: cancelled when nobody waits for it any more.
struct Listed<'a> {
    link: &'a Link,
    id: u64,
    answered: bool,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut waiting = self.link.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&self.id);
        // Its compilation would go on for nobody.
        if self.link.is_retired() && waiting.is_empty() {
            return self.link.kill();
        }
        drop(waiting);
        if self.answered {
            return;
        }
        if let Ok(frame) = encode_frame(&Command::Cancel { id: self.id }) {
            // A full outbox: then the job goes on until its own limits end it.
            let _ = self.link.outbox.try_send(frame);
        }
    }
}

/// What a process of another version is.
pub(super) fn other_version(protocol: u32) -> String {
    format!(
        "The program edgecoder-sandbox is of another version (protocol {protocol}, needed {PROTOCOL}). Install EdgeCoder again."
    )
}

async fn write_frames(mut stdin: ChildStdin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if stdin.write_all(&frame).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

/// Gives replies to those who wait for them, until the pipe ends; says why it did.
async fn hand_out(stdout: &mut BufReader<ChildStdout>, shared: &Shared) -> String {
    loop {
        let reply = match read_reply(stdout).await {
            Ok(reply) => reply,
            Err(error) => return error.to_string(),
        };
        let id = match &reply {
            Reply::NeedModule { id } | Reply::Done { id, .. } | Reply::Failed { id, .. } => *id,
            Reply::Retired => {
                shared.retired.store(true, Ordering::SeqCst);
                let waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_empty() {
                    return "a module took too long to compile".to_owned();
                }
                continue;
            }
            Reply::Hello { .. } => continue,
        };
        let waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // It may have been cancelled.
        if let Some(waiting) = waiting {
            let _ = waiting.send(reply);
        }
    }
}

async fn read_reply(stdout: &mut BufReader<ChildStdout>) -> std::io::Result<Reply> {
    let length = stdout.read_u32_le().await?;
    check_frame_length(length)?;
    let mut bytes = vec![0; length as usize];
    stdout.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

async fn log(stderr: ChildStderr) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    // `take` bounds a line that never ends.
    while let Ok(1..) = (&mut stderr).take(LOG_LINE_BYTES).read_until(b'\n', &mut line).await {
        tracing::debug!(target: "sandbox", "{}", String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

/// When memory runs out the kernel should take the sandbox and not the node.
fn prefer_as_oom_victim(pid: Option<u32>) {
    #[cfg(target_os = "linux")]
    if let Some(pid) = pid {
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pid;
}
