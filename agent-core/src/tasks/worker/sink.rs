//! The worker's end of a stream: one task reads, one writes, whoever works stays cancel-safe.

use std::time::Duration;

use agent_api::TaskId;
use iroh::endpoint::{RecvStream, SendStream, VarInt, WriteError};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::{
    mesh::net::PeerStream,
    tasks::wire::{self, FromOrigin, FromWorker, Said},
};

/// A requester that does not read a frame for so long is given up. How long it lets its task wait
/// in all is bounded too, where that waits.
const STALLED: Duration = Duration::from_secs(30);
/// Frames that wait for QUIC, which has a window of its own.
const FRAMES: usize = 4;
/// What was heard and not yet looked at. More renewals at once are a flood and wait.
const HEARD: usize = 4;
/// Code of a stream that is given up.
pub(in crate::tasks) const CANCELLED: VarInt = VarInt::from_u32(16);

/// What came from the origin, or became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Renew,
    Ack,
    /// It ended the stream, or broke its rules: it does not want the task any more.
    Ended,
    /// The connection is gone.
    Lost,
    /// It does not read.
    Stalled,
}

/// Dropping it lets what was said go out, then ends the stream.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) frames: mpsc::Sender<Vec<u8>>,
    pub(super) heard: mpsc::Receiver<Heard>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Sink {
    pub(super) fn new(stream: PeerStream) -> Self {
        let PeerStream { send, recv, in_use, .. } = stream;
        let (frames, to_send) = mpsc::channel(FRAMES);
        let (tell, heard) = mpsc::channel(HEARD);
        let reader = tokio::spawn(listen(recv, tell.clone()));
        let writer = tokio::spawn(async move {
            speak(send, to_send, tell).await;
            drop(in_use);
        });
        Self { frames, heard, reader, writer }
    }

    /// Ends the stream now: another one takes its place, where everything is said again.
    pub(super) fn abandon(self) {
        self.writer.abort();
    }

    /// A stream whose other end the test plays.
    #[cfg(test)]
    pub(super) fn played(frames: mpsc::Sender<Vec<u8>>, heard: mpsc::Receiver<Heard>) -> Self {
        let nothing = || tokio::spawn(std::future::ready(()));
        Self { frames, heard, reader: nothing(), writer: nothing() }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A frame as bytes; one that is too large becomes word of that.
pub(super) fn frame(task: &TaskId, fence: u64, said: Said) -> Vec<u8> {
    let limit = match said {
        Said::Result(_) => wire::RESULT_BYTES,
        _ => wire::PIECE_BYTES,
    };
    let frame = FromWorker { task: task.clone(), fence, said };
    wire::encode(&frame, limit).unwrap_or_else(|error| {
        let reason = wire::cut(&error.to_string());
        let said = Said::Failed { how: wire::Failure::Failed, reason };
        wire::encode(&FromWorker { said, ..frame }, limit).unwrap_or_default()
    })
}

async fn listen(mut recv: RecvStream, tell: mpsc::Sender<Heard>) {
    loop {
        let heard = match wire::read(&mut recv, wire::SMALL_BYTES).await {
            Ok(FromOrigin::Renew) => Heard::Renew,
            Ok(FromOrigin::Ack) => Heard::Ack,
            Err(error) if error.is_lost() => Heard::Lost,
            Ok(_) | Err(_) => Heard::Ended,
        };
        let over = !matches!(heard, Heard::Renew);
        if tell.send(heard).await.is_err() || over {
            return;
        }
    }
}

async fn speak(
    mut send: SendStream,
    mut frames: mpsc::Receiver<Vec<u8>>,
    tell: mpsc::Sender<Heard>,
) {
    while let Some(frame) = frames.recv().await {
        match timeout(STALLED, send.write_all(&frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let lost = matches!(error, WriteError::ConnectionLost(_));
                let _ = tell.send(if lost { Heard::Lost } else { Heard::Ended }).await;
                return;
            }
            Err(_) => {
                let _ = send.reset(CANCELLED);
                let _ = tell.send(Heard::Stalled).await;
                return;
            }
        }
    }
    // An error means that the stream is over already.
    let _ = send.finish();
    let _ = timeout(STALLED, send.stopped()).await;
}
