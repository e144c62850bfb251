//! The line between an engine and the program that computes for it: a runner process, or an
//! Ollama daemon. Both are told the same and answer the same, so the engine knows no difference.

use agent_api::runner::{Command, Device, Loaded};
use tokio::sync::{mpsc, oneshot};

use super::{Piece, runner, tools::ToolFormat};

/// What comes over the line, until it is gone.
#[derive(Debug)]
pub(super) enum FromLink {
    /// First, once.
    Hello {
        engine: String,
        devices: Vec<Device>,
    },
    /// Instead of `Hello`: nothing will ever come of this program.
    Unusable(String),
    Loaded {
        loaded: Box<Loaded>,
        tools: Option<ToolFormat>,
    },
    LoadFailed(LoadFailure),
    Piece {
        id: u64,
        piece: Piece,
    },
    /// The program ended or broke the protocol; nothing follows.
    Gone(String),
}

/// Why a model was not loaded.
#[derive(Debug)]
pub(super) struct LoadFailure {
    pub(super) message: String,
    /// It may be different at the next request.
    pub(super) passing: bool,
}

#[derive(Debug)]
pub(super) enum Outbox {
    /// To a process.
    Frames(mpsc::Sender<Vec<u8>>),
    /// To a task of ours.
    Commands(mpsc::Sender<Command>),
}

/// A live line. Dropping it ends the program at its other end.
#[derive(Debug)]
pub(super) struct Link {
    /// Of the process, where there is one of ours.
    pub(super) pid: Option<u32>,
    outbox: Outbox,
    pub(super) inbox: mpsc::Receiver<FromLink>,
    killer: Option<oneshot::Sender<()>>,
}

impl Link {
    pub(super) fn new(
        pid: Option<u32>,
        outbox: Outbox,
        inbox: mpsc::Receiver<FromLink>,
        killer: oneshot::Sender<()>,
    ) -> Self {
        Self { pid, outbox, inbox, killer: Some(killer) }
    }

    /// Sends a command. An error: the other side does not keep up or is gone.
    pub(super) fn send(&self, command: Command) -> Result<(), String> {
        let full = || "the runner does not take requests".to_owned();
        match &self.outbox {
            Outbox::Frames(frames) => {
                frames.try_send(runner::encode(&command)?).map_err(|_| full())
            }
            Outbox::Commands(commands) => commands.try_send(command).map_err(|_| full()),
        }
    }

    /// Ends the program. `inbox` gives `None` once it is gone and its memory is free.
    pub(super) fn end(&mut self) {
        if let Some(killer) = self.killer.take() {
            let _ = killer.send(());
        }
    }
}
