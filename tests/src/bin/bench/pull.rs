//! Pulls of one large model from `docker-registry` on loopback, against `curl` writing the same
//! bytes of the same server and `sha256sum` hashing them. They take turns, and the median of the
//! ratios counts.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use agent_api::{hardware::Hardware, models::Removed, pull::PullState};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    fault_proxy::{Fault, FaultProxy, Rule},
    gguf::{Shape, write_random_model},
    node::{Options, TestNode},
    pulls::{self, HEAD, PART},
    registry::{Content, Pushed, Registry},
};
use serde_json::json;

use super::{Row, idle::memory_mb, percentile};

/// 2 GB.
const LARGE: Shape = Shape {
    layers: 41,
    width: 2048,
    feed_forward: 5632,
    heads: 16,
    kv_heads: 4,
    context: 1024,
    ..Shape::LLAMA
};
/// For `--quick`: 0.1 GB.
const SMALL: Shape = Shape { layers: 2, ..LARGE };
/// A pull of the large model; disks differ.
const PATIENCE: Duration = Duration::from_secs(600);
/// What a node reads from files when it starts is less than this: its program's libraries, its
/// database, and a MiB or four of the model, to say what it is.
const READ_AT_START: u64 = 2 * PART;

pub(super) async fn measure(quick: bool) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("large.gguf");
    write_random_model(&file, if quick { SMALL } else { LARGE })?;
    let registry = Registry::start().await?;
    let layers = [("model", Content::File(file.clone()))];
    let pushed = registry.push_model("large", "latest", &layers).await?;
    // The registry has its own copy now.
    std::fs::remove_file(&file)?;
    let mut rows = throughput(&registry, &pushed, dir.path(), if quick { 1 } else { 5 }).await?;
    rows.extend(resume(&registry, &pushed).await?);
    Ok(rows)
}

async fn throughput(
    registry: &Registry,
    pushed: &Pushed,
    dir: &Path,
    rounds: usize,
) -> Result<Vec<Row>> {
    let layer = &pushed.layers[0];
    let url = registry.blob_url("large", &layer.digest);
    let (mut ratios, mut synced, mut rates, mut growth) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let file = dir.join("by-curl");
        let (curl, sync) = by_curl(&url, &file, &layer.digest)?;
        std::fs::remove_file(&file)?;
        let (node, megabytes) = by_node(pushed).await?;
        let mb_per_s = megabytes_of(layer.size) / node;
        eprintln!(
            "  curl and sha256sum {curl:.2} s (and {sync:.2} s to reach the disk), node {node:.2} s, {mb_per_s:.0} MB/s"
        );
        ratios.push(curl / node);
        synced.push((curl + sync) / node);
        rates.push(mb_per_s);
        growth.push(megabytes);
    }
    for values in [&mut ratios, &mut synced, &mut rates, &mut growth] {
        values.sort_by(f64::total_cmp);
    }
    let (ratio, most) = (percentile(&ratios, 0.5), percentile(&growth, 1.0));
    let gigabytes = megabytes_of(layer.size) / 1e3;
    Ok(vec![
        Row {
            what: format!(
                "pull of {gigabytes:.1} GB from loopback, speed of the node : `curl -o` and then `sha256sum`"
            ),
            measured: format!(
                "{ratio:.2} ({:.2} to {:.2}, {rounds} rounds; {:.0} MB/s; {:.2} if curl's file also has to reach the disk)",
                ratios[0],
                percentile(&ratios, 1.0),
                percentile(&rates, 0.5),
                percentile(&synced, 0.5),
            ),
            bound: "at least 0.85",
            met: Some(ratio >= 0.85),
        },
        Row {
            what: format!(
                "node's memory (RSS), growth to its peak while it pulls {gigabytes:.1} GB"
            ),
            measured: format!("{most:.1} MB (the largest of {rounds})"),
            bound: "under 64 MB",
            met: Some(most < 64.0),
        },
    ])
}

/// Seconds that `curl` and `sha256sum` take, and that the file takes to reach the disk.
fn by_curl(url: &str, file: &Path, digest: &str) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let fetched = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--output"])
        .arg(file)
        .arg(url)
        .status()
        .context("curl does not start; run: cargo xtask setup --tests")?;
    anyhow::ensure!(fetched.success(), "curl: {fetched}");
    let hashed = Command::new("sha256sum").arg(file).output()?;
    let seconds = begun.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&hashed.stdout).into_owned();
    let expected = digest.trim_start_matches("sha256:");
    anyhow::ensure!(text.starts_with(expected), "sha256sum says {text}");
    let begun = Instant::now();
    let synced = Command::new("sync").arg(file).status()?;
    anyhow::ensure!(synced.success(), "sync: {synced}");
    Ok((seconds, begun.elapsed().as_secs_f64()))
}

/// Seconds from asking a fresh node to the model being there, and megabytes its memory grew.
async fn by_node(pushed: &Pushed) -> Result<(f64, f64)> {
    let node = Options::default().without_model().start()?;
    // A node measures the speed of its memory after the start, with 256 MB for a moment: that has
    // to be over, and its peak forgotten. Writing 5 does that, see proc_pid_clear_refs(5).
    let _: Hardware = node.http.get("/machine/hardware").await?;
    std::fs::write(format!("/proc/{}/clear_refs", node.pid()), "5")?;
    let before = memory_mb(node.pid(), "VmHWM")?;
    let begun = Instant::now();
    let pull = pulls::start(&node, &pushed.model).await?;
    until_done(&node, &pull.id).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let growth = memory_mb(node.pid(), "VmHWM")? - before;
    let _: Removed = node.http.post("/model/remove", &json!({"model": pushed.model})).await?;
    Ok((seconds, growth))
}

async fn until_done(node: &TestNode, id: &str) -> Result<()> {
    let pull =
        pulls::when_within(node, id, "it is done", PATIENCE, |p| p.state.is_settled()).await?;
    anyhow::ensure!(pull.state == PullState::Done, "{:?}: {}", pull.state, pull.reason);
    Ok(())
}

/// A kill -9 in the middle, and what the next start fetches, hashes and reads again.
async fn resume(registry: &Registry, pushed: &Pushed) -> Result<Vec<Row>> {
    let layer = &pushed.layers[0];
    let half = (layer.size / 2).next_multiple_of(PART);
    let proxy = FaultProxy::start(&registry.origin()).await?;
    proxy.rule(Rule::on("/blobs/", Fault::StallAfter(0)).get().from_byte(half));
    let node = Options::default().without_model().start()?;
    let pull = pulls::start(&node, &pushed.at(&proxy.host)).await?;
    let stalled = pulls::when_within(&node, &pull.id, "half is here", PATIENCE, |pull| {
        pulls::here(pull, &layer.digest) >= half || pull.state.is_settled()
    })
    .await?;
    anyhow::ensure!(!stalled.state.is_settled(), "{}", stalled.reason);
    let here = pulls::here(&stalled, &layer.digest);
    let options = node.kill()?;
    let recorded = Recorded::read(&options.data_dir(), &layer.digest)?;
    proxy.clear_rules();
    proxy.release();
    proxy.forget();
    let node = options.start()?;
    until_done(&node, &pull.id).await?;
    let after = Resumed {
        fetched: proxy.sent(&layer.digest),
        hashed: counted(&node, "edgecoder_pull_hashed_bytes_total").await?,
        read_back: counted(&node, "edgecoder_pull_read_back_bytes_total").await?,
        read: read_from_files(node.pid())?,
    };
    Ok(after.rows(layer.size, here, recorded))
}

/// What a new process did to finish a pull, in bytes.
struct Resumed {
    fetched: u64,
    hashed: u64,
    /// Read because they came ahead of their turn: after the bytes that are verified.
    read_back: u64,
    read: u64,
}

impl Resumed {
    fn rows(&self, size: u64, here: u64, recorded: Recorded) -> Vec<Row> {
        let again = self.fetched.saturating_sub(size - recorded.here);
        let hashed_again = self.hashed.saturating_sub(size - recorded.hashed);
        let read_again = self.read.saturating_sub(self.read_back);
        let megabytes = |bytes| format!("{:.2} MB", megabytes_of(bytes));
        vec![
            Row {
                what: format!(
                    "resume after kill -9 with {:.0} MB on record: of those fetched again (the model's head is)",
                    megabytes_of(recorded.here)
                ),
                measured: megabytes(again),
                bound: "no part: under 4.2 MB",
                met: Some(again <= HEAD),
            },
            Row {
                what: "the same: of those that were verified hashed again".into(),
                measured: megabytes(hashed_again),
                bound: "none",
                met: Some(hashed_again == 0),
            },
            Row {
                what: "the same: read from files by the new process, without bytes that came ahead of their turn"
                    .into(),
                measured: format!(
                    "{} (and {} that came ahead, from the page cache)",
                    megabytes(read_again),
                    megabytes(self.read_back)
                ),
                bound: "under 16.8 MB (two parts)",
                met: Some(read_again <= READ_AT_START),
            },
            Row {
                what: "the same: had come, but were not on record at the kill, so fetched again".into(),
                measured: megabytes(here.saturating_sub(recorded.here)),
                bound: "reported",
                met: None,
            },
        ]
    }
}

/// What the node wrote down about a layer on its way: `agent-core/src/models/pull/record.rs`.
#[derive(Clone, Copy)]
struct Recorded {
    here: u64,
    /// Of the layer's beginning.
    hashed: u64,
}

impl Recorded {
    fn read(data_dir: &Path, digest: &str) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Saved {
            hashed: u64,
            parts: Vec<(u64, u64)>,
        }
        let name = format!("{}.state", digest.replace(':', "-"));
        let path = data_dir.join("models/blobs").join(name);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("no record of the pull: {}", path.display()))?;
        let (_, json) = text.split_once('\n').context("a record of two lines")?;
        let Saved { hashed, parts } = serde_json::from_str(json)?;
        let ahead = parts
            .iter()
            .map(|(part, bytes)| (part * PART + bytes).saturating_sub(hashed.max(part * PART)));
        Ok(Self { here: hashed + ahead.sum::<u64>(), hashed })
    }
}

/// A counter of `/metrics`.
async fn counted(node: &TestNode, name: &str) -> Result<u64> {
    let answer = node.http.request("GET", "/metrics").send().await?.error_for_status()?;
    let text = answer.text().await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("/metrics has no {name}"))?.trim().parse()?)
}

/// `rchar` counts `read` and `pread`, from the page cache too; sockets are received from, which it
/// does not count. See proc_pid_io(5).
fn read_from_files(pid: u32) -> Result<u64> {
    let path: PathBuf = ["/proc", &pid.to_string(), "io"].iter().collect();
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(line.context("rchar")?.trim().parse()?)
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn megabytes_of(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
