//! The desktop app's processes, where there is a display: how many, and how much memory.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use edgecoder_tests::programs;

use super::{Row, idle::memory_mb};

/// From the node's first answer until the page has drawn itself and settled.
const SETTLE: Duration = Duration::from_secs(5);

pub(super) fn measure() -> Result<Vec<Row>> {
    let display = std::env::var_os("DISPLAY").is_some();
    let (Some(app), true) = (programs::desktop(), display) else {
        eprintln!("desktop: skipped, no display (xvfb-run dbus-run-session -- cargo xtask bench)");
        return Ok(Vec::new());
    };
    eprintln!("desktop ...");
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    std::fs::create_dir_all(&data)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    std::fs::write(
        data.join("settings.json"),
        format!(r#"{{"version": 1, "listen": "127.0.0.1:{port}"}}"#),
    )?;
    let begun = Instant::now();
    let mut child = Command::new(app)
        .env("EDGECODER_DATA_DIR", &data)
        .env("HOME", home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "the app does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let answering = begun.elapsed();
    std::thread::sleep(SETTLE);
    let tree = processes(child.id())?;
    let mut parts = Vec::new();
    let mut sum = 0.0;
    for (pid, name) in &tree {
        let pss = memory_mb(*pid, "Pss").unwrap_or_default();
        sum += pss;
        parts.push(format!("{name} {pss:.0}"));
    }
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    Ok(vec![
        Row {
            what: "desktop app: start to the API answering".into(),
            measured: format!("{} ms", answering.as_millis()),
            bound: "reported",
            met: None,
        },
        Row {
            what: format!("desktop app: memory (PSS) of its {} processes, window open", tree.len()),
            measured: format!("{sum:.0} MB ({})", parts.join(", ")),
            bound: "reported",
            met: None,
        },
    ])
}

/// A process and everything below it.
fn processes(root: u32) -> Result<Vec<(u32, String)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let parent =
            stat[close + 1..].split_whitespace().nth(1).and_then(|p| p.parse::<u32>().ok());
        all.push((pid, parent.context("a parent")?, stat[open + 1..close].to_owned()));
    }
    let mut tree: Vec<(u32, String)> = all
        .iter()
        .filter(|(pid, ..)| *pid == root)
        .map(|(pid, _, name)| (*pid, name.clone()))
        .collect();
    let mut at = 0;
    while at < tree.len() {
        let parent = tree[at].0;
        tree.extend(
            all.iter().filter(|(_, p, _)| *p == parent).map(|(pid, _, name)| (*pid, name.clone())),
        );
        at += 1;
    }
    Ok(tree)
}
