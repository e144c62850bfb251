//! Child processes that never outlive the test, with everything they started.

use std::{
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use edgecoder_tests::{node::signal, programs::PATIENCE};

/// A process in a group of its own; dropping it ends the group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) child: Child,
}

impl Group {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Negative: the whole group.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.pid())]).status();
        let _ = signal(self.pid(), "KILL");
        let _ = self.child.wait();
    }
}

/// A port that nobody uses now, below those that are given to whoever asks for any: it is not taken
/// before it is used.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Each test is a process of its own.
    let first = u16::try_from(std::process::id() % 11_000)?;
    (0..1_000)
        .map(|_| 20_000 + (first + 7 * NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no port is free")
}

/// Waits until something listens.
pub(crate) fn listening(port: u16) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        anyhow::ensure!(Instant::now() < deadline, "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The first line a process prints.
pub(crate) fn first_line(group: &mut Group) -> Result<String> {
    let stdout = group.child.stdout.take().context("stdout is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
