//! Replies on their way out: collected while a step runs, then written at once.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_api::runner::{Reply, encode_frame};

use crate::failure;

/// A buffer of frames in front of the shared output.
#[derive(Debug)]
pub(crate) struct Wire {
    out: Arc<Mutex<File>>,
    frames: Vec<u8>,
    /// When the oldest of the frames was added.
    since: Option<Instant>,
}

impl Wire {
    /// Over this process's standard output. A plain file, because the standard library's own
    /// handle looks for line ends in binary frames.
    pub(crate) fn stdout() -> io::Result<Self> {
        Ok(Self { out: Arc::new(Mutex::new(stdout_file()?)), frames: Vec::new(), since: None })
    }

    /// The same output with a buffer of its own, for another thread.
    pub(crate) fn another(&self) -> Self {
        Self { out: Arc::clone(&self.out), frames: Vec::new(), since: None }
    }

    /// Adds a reply; nothing is written before [`flush`](Self::flush).
    pub(crate) fn send(&mut self, reply: &Reply) {
        let frame = encode_frame(reply).or_else(|error| {
            tracing::warn!("a reply does not fit a frame: {error}");
            encode_frame(&too_large(reply))
        });
        match frame {
            Ok(frame) => {
                self.frames.extend_from_slice(&frame);
                self.since.get_or_insert_with(Instant::now);
            }
            Err(error) => tracing::error!("a reply cannot be written: {error}"),
        }
    }

    /// How long the oldest frame has been waiting.
    pub(crate) fn waited(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.since = None;
        if self.frames.is_empty() {
            return Ok(());
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let written = out.write_all(&self.frames).and_then(|()| out.flush());
        self.frames.clear();
        written
    }
}

/// What the node is told instead of a reply larger than a frame.
fn too_large(reply: &Reply) -> Reply {
    match reply {
        Reply::Embedded { id, .. } | Reply::Text { id, .. } | Reply::Started { id, .. } => {
            let message = "The answer is larger than 32 MiB. Send fewer inputs in one request.";
            Reply::Failed { id: *id, error: failure::bad_request(message) }
        }
        _ => Reply::LoadFailed { message: "The model's description is larger than 32 MiB.".into() },
    }
}

#[cfg(unix)]
fn stdout_file() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

#[cfg(windows)]
fn stdout_file() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(File::from(io::stdout().as_handle().try_clone_to_owned()?))
}
