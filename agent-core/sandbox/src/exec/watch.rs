//! Watches a program until it ends, and ends it when it takes too much.

use std::{
    io::Read,
    process::{Child, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use agent_api::sandbox::{Exec, ExecReply};
use anyhow::Context as _;

use super::tail::{FLOOD_BYTES, Tail};
use crate::confine::{THREADS, threads};

/// How often a program is looked at: it starts some hundred threads meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// Between two looks at a program whose outputs ended: usually its end is next.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// Runs until the program ends or was stopped.
pub(super) fn until_it_ends(child: &mut Child, program: &Exec) -> anyhow::Result<ExecReply> {
    let started = Instant::now();
    let stdout = child.stdout.take().context("the program has no output")?;
    let stderr = child.stderr.take().context("the program has no output")?;
    let (sender, tails) = channel();
    read_in_background(stdout, Stream::Out, sender.clone())?;
    read_in_background(stderr, Stream::Err, sender)?;
    let wall = Duration::from_millis(program.wall_ms);
    let mut kept = Kept::default();
    let stopped = loop {
        let speaks = kept.next(&tails, LOOK);
        let why = kept.flood().or_else(|| over_time(started, wall)).or_else(|| too_many(child));
        // The end of its outputs is not its end: it may have closed them and go on.
        if why.is_some() || !speaks && child.try_wait()?.is_some() {
            break why;
        }
    };
    if stopped.is_some() {
        child.kill()?;
    }
    let status = child.wait()?;
    let took = started.elapsed();
    kept.rest(&tails);
    let problem = stopped.clone().or_else(|| signal_words(status));
    Ok(ExecReply::Ran {
        status: if stopped.is_some() { None } else { status.code() },
        stdout: kept.out.map(Tail::text).unwrap_or_default(),
        stderr: kept.err.map(Tail::text).unwrap_or_default(),
        problem,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn read_in_background(
    stream: impl Read + Send + 'static,
    which: Stream,
    sender: Sender<(Stream, Tail)>,
) -> std::io::Result<()> {
    thread::Builder::new().spawn(move || {
        let _ = sender.send((which, Tail::read(stream)));
    })?;
    Ok(())
}

/// Both streams, as they end.
#[derive(Debug, Default)]
struct Kept {
    out: Option<Tail>,
    err: Option<Tail>,
}

impl Kept {
    /// Waits for a stream to end, not longer than `most`. `false`: both have.
    fn next(&mut self, tails: &Receiver<(Stream, Tail)>, most: Duration) -> bool {
        match tails.recv_timeout(most) {
            Ok((which, tail)) => self.put(which, tail),
            Err(RecvTimeoutError::Timeout) => {}
            // At once, from now on.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(PAUSE),
        }
        self.out.is_none() || self.err.is_none()
    }

    fn flood(&self) -> Option<String> {
        let flood = [&self.out, &self.err].into_iter().flatten().any(|tail| tail.flood);
        let mib = FLOOD_BYTES >> 20;
        flood.then(|| format!("It was stopped: it printed more than {mib} MiB."))
    }

    /// What the streams still had when the program was gone.
    fn rest(&mut self, tails: &Receiver<(Stream, Tail)>) {
        while let Ok((which, tail)) = tails.recv() {
            self.put(which, tail);
        }
    }

    fn put(&mut self, which: Stream, tail: Tail) {
        match which {
            Stream::Out => self.out = Some(tail),
            Stream::Err => self.err = Some(tail),
        }
    }
}

fn over_time(started: Instant, wall: Duration) -> Option<String> {
    (started.elapsed() >= wall).then(|| {
        format!("It was stopped after {} s, the time that it was given.", wall.as_secs_f64())
    })
}

/// Where the kernel does not bound them.
fn too_many(child: &Child) -> Option<String> {
    (threads(child.id())? > THREADS)
        .then(|| format!("It was stopped: it started more than {THREADS} threads."))
}

#[cfg(unix)]
fn signal_words(status: ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt as _;

    use nix::sys::signal::Signal;
    let number = status.signal()?;
    Some(match Signal::try_from(number) {
        Ok(Signal::SIGXCPU) => "It used up its processor time.".to_owned(),
        Ok(Signal::SIGXFSZ) => "It wrote a file that is too large.".to_owned(),
        Ok(Signal::SIGKILL) => {
            "It was killed (often for its processor time or for want of memory).".to_owned()
        }
        Ok(signal) => format!("A signal ended it: {signal}."),
        Err(_) => format!("A signal ended it: {number}."),
    })
}

#[cfg(not(unix))]
fn signal_words(_status: ExitStatus) -> Option<String> {
    None
}
