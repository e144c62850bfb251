//! Bodies of another program's answers, bounded.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};

/// Longest line; one token or one tool call is far shorter.
const MAX_LINE: usize = 1 << 20;
/// Longest answer; a million tokens of text are a few megabytes.
const MAX_ANSWER: usize = 64 << 20;

/// The lines of a body as they arrive.
pub(super) struct Lines {
    body: std::pin::Pin<Box<dyn Stream<Item = reqwest::Result<Chunk>> + Send>>,
    /// Arrived and not yet given out.
    held: Vec<u8>,
    /// How much of `held` has no line end.
    searched: usize,
    total: usize,
}

/// Bytes as the client hands them out.
type Chunk = axum::body::Bytes;

impl Lines {
    pub(super) fn new(response: reqwest::Response) -> Self {
        let body = Box::pin(response.bytes_stream());
        Self { body, held: Vec::new(), searched: 0, total: 0 }
    }

    /// The next line that is not empty, without its end; `None` at the end of the body.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(at) = self.held[self.searched..].iter().position(|&b| b == b'\n') {
                let rest = self.held.split_off(self.searched + at + 1);
                let mut line = std::mem::replace(&mut self.held, rest);
                self.searched = 0;
                line.truncate(line.trim_ascii_end().len());
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.held.len();
            if self.held.len() > MAX_LINE {
                return Err("a line is longer than 1 MiB".into());
            }
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.total += chunk.len();
                    if self.total > MAX_ANSWER {
                        return Err("it is longer than 64 MiB".into());
                    }
                    self.held.extend_from_slice(&chunk);
                }
                Some(Err(e)) => return Err(super::innermost(&e)),
                None if self.held.trim_ascii().is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.held)));
                }
            }
        }
    }
}

/// A whole body of at most `max` bytes.
pub(super) async fn whole(
    mut response: reqwest::Response,
    max: usize,
    patience: Duration,
) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let read = async {
        while let Some(chunk) = response.chunk().await.map_err(|e| super::innermost(&e))? {
            if body.len() + chunk.len() > max {
                return Err(format!("it is longer than {} MiB", max >> 20));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(patience, read).await {
        Ok(read) => read.map(|()| body),
        Err(_) => Err(format!("it did not arrive within {} s", patience.as_secs())),
    }
}
