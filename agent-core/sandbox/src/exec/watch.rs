//! Watches a program until it ends, and ends it when it takes too much.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use agent_api::sandbox::{Exec, ExecReply};
use anyhow::Context as _;

use super::tail::{FLOOD_BYTES, Tail};
use crate::confine::{DISK_FILES, DISK_MIB};

/// How often the folder is looked at, where no disk of its own bounds it.
const LOOK: Duration = Duration::from_millis(50);

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
    let mut stopped = kept.wait(&tails, started + wall, Path::new(&program.dir), wall);
    // It may have closed its outputs and go on.
    while stopped.is_none() && child.try_wait()?.is_none() {
        if started.elapsed() >= wall {
            stopped = Some(over_time(wall));
        }
        thread::sleep(Duration::from_millis(1));
    }
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
    /// Until both streams ended (`None`) or there is a reason to stop.
    fn wait(
        &mut self,
        tails: &Receiver<(Stream, Tail)>,
        deadline: Instant,
        dir: &Path,
        wall: Duration,
    ) -> Option<String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(over_time(wall));
            }
            match tails.recv_timeout(left.min(LOOK)) {
                Ok((which, tail)) => {
                    let flood = tail.flood;
                    self.put(which, tail);
                    if flood {
                        let mib = FLOOD_BYTES >> 20;
                        return Some(format!("It was stopped: it printed more than {mib} MiB."));
                    }
                    if self.out.is_some() && self.err.is_some() {
                        return None;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(why) = too_much_on_disk(dir) {
                        return Some(why);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
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

fn over_time(wall: Duration) -> String {
    format!("It was stopped after {} s, the time that it was given.", wall.as_secs_f64())
}

/// Looks only as deep and as far as there are things to find within the bounds.
fn too_much_on_disk(dir: &Path) -> Option<String> {
    let (mut bytes, mut files) = (0, 0);
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        // It may be gone by now.
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            files += 1;
            bytes += meta.len();
            if meta.is_dir() {
                folders.push(entry.path());
            }
            if files > DISK_FILES {
                return Some(format!("It was stopped: it made more than {DISK_FILES} files."));
            }
            if bytes > DISK_MIB << 20 {
                return Some(format!("It was stopped: it wrote more than {DISK_MIB} MiB."));
            }
        }
    }
    None
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
