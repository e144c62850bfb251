//! Getting into namespaces of one's own.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::Read as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::Lab;

/// Names what runs inside; set for the process below `unshare`.
const INSIDE: &str = "EDGECODER_NETLAB";
/// The file that the inner process makes when it ran to its end.
const DONE: &str = "EDGECODER_NETLAB_DONE";

/// What a test needs of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Namespaces,
    /// Also links with delay or loss, which are made of TAP devices.
    Wires,
}

/// Why there can be no lab on this machine, if so.
///
/// # Errors
/// The text names what is missing.
pub fn is_possible(needs: Needs) -> Result<(), String> {
    for (program, argument) in [("ip", "-V"), ("nft", "--version"), ("nsenter", "--version")] {
        let found = Command::new(program)
            .arg(argument)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!("{program} is not installed (cargo xtask setup --tests)"));
        }
    }
    // What a lab does first, so that a refusal is known before a test counts on it.
    let namespaces = "mount -t tmpfs none /run && ip netns add probe \
                      && nsenter --net=/run/netns/probe nft add table ip probe";
    probe(namespaces, "this machine allows no network namespaces")?;
    if needs == Needs::Wires {
        probe("ip tuntap add dev probe mode tap", "this machine allows no TAP devices")?;
    }
    Ok(())
}

fn probe(script: &str, otherwise: &str) -> Result<(), String> {
    match unshare().args(["sh", "-c", script]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{otherwise}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("unshare does not start: {error}")),
    }
}

/// A program in namespaces of its own, with this process's networks out of sight. It and all that
/// it started end when the process that started it ends.
pub fn command(program: impl AsRef<OsStr>, name: &str) -> Command {
    let mut command = unshare();
    command.arg(program).env(INSIDE, name).stdin(Stdio::piped());
    command
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    if !is_root {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// In the process that [`command`] started with this name: does the work and gives its result.
/// Elsewhere: `None`.
pub fn run_inside(name: &str, work: impl AsyncFnOnce(Lab) -> Result<()>) -> Option<Result<()>> {
    env::var_os(INSIDE).is_some_and(|inside| inside == name).then(|| {
        // The outer process holds the other end as long as it lives.
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(1);
        });
        let runtime = tokio::runtime::Runtime::new()?;
        let outcome = runtime.block_on(async { work(Lab::new()?).await });
        if let (Ok(()), Some(done)) = (&outcome, env::var_os(DONE)) {
            fs::write(done, "")?;
        }
        outcome
    })
}

/// Runs a test in a lab. `name` is its full name as the test runner says it. Where there can be no
/// lab, it says why ([`crate::skipped`]) and passes.
///
/// # Errors
/// The test failed; what it printed is printed.
pub fn test(name: &str, needs: Needs, body: impl AsyncFnOnce(Lab) -> Result<()>) -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return run_inside(name, body).context("another test was asked for")?;
    }
    if let Err(reason) = is_possible(needs) {
        crate::skipped(&reason);
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let done = folder.path().join("done");
    let mut child = command(env::current_exe()?, name)
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(DONE, &done)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.path().join("stderr"))?)
        .spawn()
        .context("starting unshare")?;
    let stdin = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(stdin);
    let said = fs::read(folder.path().join("stderr")).unwrap_or_default();
    eprint!("{}", String::from_utf8_lossy(&said));
    // A name that no test has would succeed as well.
    anyhow::ensure!(
        output.status.success() && done.exists(),
        "inside the lab: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}
