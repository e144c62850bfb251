//! Reads commands for the engine, and ends the process when they end.
//!
//! Reading happens on its own thread: the end of the input means that the node is gone, and then
//! this process must go too, whatever llama.cpp is computing at that moment.

use std::{
    convert::Infallible,
    io::{self, BufReader},
    process,
    sync::{
        atomic::{AtomicI32, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use agent_api::runner::{Command, PROTOCOL, Reply, read_frame};

use crate::{engine, failure, llama_log::LlamaErrors, wire::Wire};

/// What `Hello` says about this build; the version is the one pinned in the workspace.
const ENGINE: &str = "llama.cpp (llama-cpp-2 0.1.160)";

/// Commands read ahead of the engine. The engine takes all of them between two decode steps; more
/// than this in one step can only be a flood.
const INBOX: usize = 512;

/// Parsing of grammars, schemas and some tokenizers recurses natively, deeper than a usual thread
/// allows. Only what is touched takes memory.
const ENGINE_STACK_BYTES: usize = 128 << 20;

/// How long a decode step may go on after the input ended. llama.cpp does not like to have its
/// globals destroyed under its feet, so the engine may finish what it is at, but not for long.
const GRACE: Duration = Duration::from_secs(1);

/// What the process ends with.
static STATUS: AtomicI32 = AtomicI32::new(0);

/// Exit status after input that is not the protocol.
const BAD_INPUT: i32 = 2;
/// Exit status after a defect in the engine thread.
const DEFECT: i32 = 101;

/// A command and when it came.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) command: Command,
}

pub(crate) fn serve(errors: LlamaErrors) -> io::Result<Infallible> {
    let mut wire = Wire::stdout()?;
    let devices = engine::devices();
    wire.send(&Reply::Hello { protocol: PROTOCOL, engine: ENGINE.into(), devices });
    wire.flush()?;
    let (sender, inbox) = sync_channel(INBOX);
    let engine_wire = wire.another();
    thread::Builder::new()
        .name("engine".into())
        .stack_size(ENGINE_STACK_BYTES)
        .spawn(move || run_engine(&inbox, engine_wire, &errors))?;
    read_commands(sender, wire)
}

/// The engine thread: the process does not outlive it.
fn run_engine(inbox: &Receiver<Arrived>, mut wire: Wire, errors: &LlamaErrors) {
    let run = std::panic::AssertUnwindSafe(|| engine::run(inbox, &mut wire, errors));
    let status = match std::panic::catch_unwind(run) {
        Ok(Ok(())) => STATUS.load(Ordering::SeqCst),
        Ok(Err(error)) => {
            tracing::error!("replies cannot be written, so the runner ends: {error}");
            1
        }
        Err(_) => DEFECT,
    };
    process::exit(status)
}

/// Ends the process: the engine does it when it finds its inbox closed, or else this thread.
fn leave(inbox: SyncSender<Arrived>, status: i32) -> ! {
    STATUS.store(status, Ordering::SeqCst);
    drop(inbox);
    let closed = Instant::now();
    while let Some(left) = GRACE.checked_sub(closed.elapsed()) {
        thread::park_timeout(left);
    }
    process::exit(status)
}

fn read_commands(sender: SyncSender<Arrived>, mut wire: Wire) -> ! {
    let mut input = BufReader::new(io::stdin());
    loop {
        let command = match read_frame::<Command>(&mut input) {
            Ok(Some(command)) => command,
            Ok(None) => leave(sender, 0),
            Err(error) => {
                tracing::error!("the input is not a command frame, so the runner ends: {error}");
                leave(sender, BAD_INPUT)
            }
        };
        match sender.try_send(Arrived { at: Instant::now(), command }) {
            Ok(()) => {}
            Err(TrySendError::Full(arrived)) => refuse_or_wait(&sender, arrived, &mut wire),
            // The engine is ending the process.
            Err(TrySendError::Disconnected(_)) => leave(sender, DEFECT),
        }
    }
}

/// The inbox is full: requests are refused at once, so that reading goes on; the few commands that
/// control the runner wait.
fn refuse_or_wait(sender: &SyncSender<Arrived>, arrived: Arrived, wire: &mut Wire) {
    match arrived.command {
        Command::Generate { id, .. } | Command::Embed { id, .. } => {
            wire.send(&Reply::Failed { id, error: failure::busy(INBOX) });
            if wire.flush().is_err() {
                process::exit(1);
            }
        }
        Command::Load(_) | Command::Unload | Command::Cancel { .. } => {
            if sender.send(arrived).is_err() {
                process::exit(DEFECT);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn hello_names_the_pinned_engine_version() {
        let workspace = include_str!("../../../Cargo.toml");
        let version = super::ENGINE.split_once("llama-cpp-2 ").expect("names the crate").1;
        let pin = format!("llama-cpp-2 = {{ version = \"={}\"", version.trim_end_matches(')'));
        assert!(workspace.contains(&pin), "Cargo.toml pins another version than {pin}");
    }
}
