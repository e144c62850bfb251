//! Start, idle processor time and memory of a headless node.

use std::time::Duration;

use anyhow::{Context as _, Result};
use edgecoder_tests::node::{Options, TestNode};

use super::Row;

pub(super) async fn measure(quick: bool) -> Result<Vec<Row>> {
    let seconds = if quick { 3 } else { 30 };
    let starts = if quick { 2 } else { 9 };
    let mut ready = Vec::new();
    for _ in 0..starts {
        let node = Options::default().without_model().start()?;
        ready.push(node.ready_after.as_secs_f64() * 1e3);
    }
    ready.sort_by(f64::total_cmp);
    let start = super::percentile(&ready, 0.5);

    let bare = Options::default().without_model().start()?;
    let with_model = Options::default().start()?;
    with_model.model().await?;
    let before = (cpu_seconds(&bare)?, cpu_seconds(&with_model)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = (cpu_seconds(&bare)?, cpu_seconds(&with_model)?);
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let percent = |before: f64, after: f64| (after - before) / seconds as f64 * 100.0;
    let cpu = percent(before.0, after.0);
    let cpu_model = percent(before.1, after.1);
    let rss = memory_mb(bare.pid(), "VmRSS")?;
    let runner = with_model.status().await?.model.runner_pid.context("a runner")?;
    Ok(vec![
        Row {
            what: format!("process start to answering, without a model, median of {starts}"),
            measured: format!("{start:.0} ms"),
            bound: "under 500 ms",
            met: Some(start < 500.0),
        },
        Row {
            what: format!("idle node without a model, {seconds} s"),
            measured: format!("{cpu:.2} % of one core"),
            bound: "under 0.5 %",
            met: Some(cpu < 0.5),
        },
        Row {
            what: format!("idle node with the demo model loaded, {seconds} s"),
            measured: format!("{cpu_model:.2} % of one core"),
            bound: "under 0.5 %",
            met: Some(cpu_model < 0.5),
        },
        Row {
            what: "memory (RSS) of the node without a model".into(),
            measured: format!("{rss:.1} MB"),
            bound: "under 60 MB",
            met: Some(rss < 60.0),
        },
        Row {
            what: "memory (RSS) of the node and of its runner with the demo model".into(),
            measured: format!(
                "{:.1} and {:.1} MB",
                memory_mb(with_model.pid(), "VmRSS")?,
                memory_mb(runner, "VmRSS")?
            ),
            bound: "reported",
            met: None,
        },
    ])
}

/// User and system time of the process so far. `/proc/PID/stat` counts in hundredths of a second
/// (`sysconf(_SC_CLK_TCK)` is 100 on every Linux this runs on).
pub(super) fn cpu_seconds(node: &TestNode) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid()))?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.get(11).context("utime")?.parse::<f64>()?
        + fields.get(12).context("stime")?.parse::<f64>()?;
    Ok(ticks / 100.0)
}

pub(super) fn memory_mb(pid: u32, field: &str) -> Result<f64> {
    let file = if field == "Pss" { "smaps_rollup" } else { "status" };
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find(|line| line.starts_with(&format!("{field}:")));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)).context("a number")?;
    Ok(kilobytes.parse::<f64>()? * 1024.0 / 1e6)
}
