//! The mesh between real processes: forming, joining, what an idle node costs, and how soon a dead
//! one is missed, straight and through a relay.

use std::time::{Duration, Instant};

use agent_api::NodeId;
use anyhow::{Context as _, Result};
use edgecoder_tests::cluster::{Cluster, View, member};
use futures_util::future::try_join_all;
use serde_json::json;

use super::{
    Row,
    idle::{cpu_seconds, memory_mb},
    percentile,
};

/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How exactly a moment is seen.
const POLL: Duration = Duration::from_millis(20);

pub(super) async fn measure(quick: bool) -> Result<Vec<Row>> {
    let count = if quick { 6 } else { 20 };
    let begun = Instant::now();
    let mut cluster = Cluster::started(count, |_, options| options).await?.patient(PATIENCE);
    let started = begun.elapsed().as_secs_f64();
    cluster.form().await?;
    let formed = begun.elapsed().as_secs_f64();
    let mut rows = vec![Row {
        what: format!(
            "{count} processes, from the first one's start until each is connected with all and has their word"
        ),
        measured: format!("{formed:.1} s, of which starting the processes {started:.1} s"),
        bound: "under 10 s",
        met: Some(formed < 10.0),
    }];
    rows.push(joins(&mut cluster, if quick { 2 } else { 7 }).await?);
    rows.extend(idle(&cluster, if quick { 5 } else { 30 }).await?);
    rows.push(dead_peer(&mut cluster).await?);
    rows.push(relayed::row(quick)?);
    Ok(rows)
}

/// A node that runs already, from its owner's click on Join until it knows everybody.
async fn joins(cluster: &mut Cluster, rounds: usize) -> Result<Row> {
    let known = cluster.running_ids();
    let mut times = Vec::new();
    for round in 0..rounds {
        let ticket = cluster.invite(0).await?;
        let number = cluster.add(member(&format!("guest-{round}"), json!({}))).await?;
        let begun = Instant::now();
        cluster.join(number, &ticket).await?;
        let inside = |view: &View| view.mesh.counts.connected > 0 && view.knows_all(&known);
        cluster.until(number, "the guest knows everybody", inside).await?;
        times.push(begun.elapsed().as_secs_f64());
        let guest = cluster.id(number);
        cluster.stop(number)?;
        cluster.until_each("the guest is gone", |view| !view.is_connected(&guest)).await?;
    }
    times.sort_by(f64::total_cmp);
    let (median, worst) = (percentile(&times, 0.5), percentile(&times, 1.0));
    Ok(Row {
        what: format!("joining a mesh of {} by ticket until all its nodes are known", known.len()),
        measured: format!("median {median:.2} s, at most {worst:.2} s of {rounds}"),
        bound: "median under 2 s",
        met: Some(median < 2.0),
    })
}

/// Processor time and memory of nodes that have nothing to do but to keep the mesh.
async fn idle(cluster: &Cluster, seconds: u64) -> Result<[Row; 2]> {
    let nodes: Vec<usize> = cluster.running().collect();
    let used =
        || -> Result<Vec<f64>> { nodes.iter().map(|n| cpu_seconds(cluster.node(*n))).collect() };
    let (begun, before) = (Instant::now(), used()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (took, after) = (begun.elapsed().as_secs_f64(), used()?);
    let mut cpu: Vec<f64> =
        before.iter().zip(&after).map(|(before, after)| (after - before) / took * 100.0).collect();
    cpu.sort_by(f64::total_cmp);
    let mut rss = nodes
        .iter()
        .map(|n| memory_mb(cluster.node(*n).pid(), "VmRSS"))
        .collect::<Result<Vec<_>>>()?;
    rss.sort_by(f64::total_cmp);
    let count = nodes.len();
    let (cpu_median, cpu_most) = (percentile(&cpu, 0.5), percentile(&cpu, 1.0));
    let (rss_median, rss_most) = (percentile(&rss, 0.5), percentile(&rss, 1.0));
    Ok([
        Row {
            what: format!("idle node in a mesh of {count}, {seconds} s"),
            measured: format!("median {cpu_median:.2} %, at most {cpu_most:.2} % of one core"),
            bound: "all under 1 %",
            met: Some(cpu_most < 1.0),
        },
        Row {
            what: format!("memory (RSS) of a headless node without a model in a mesh of {count}"),
            measured: format!("median {rss_median:.1} MB, at most {rss_most:.1} MB"),
            bound: "all under 40 MB",
            met: Some(rss_most < 40.0),
        },
    ])
}

/// From kill -9 until a node misses it; the last of all counts.
async fn dead_peer(cluster: &mut Cluster) -> Result<Row> {
    let victim = cluster.running().last().context("a node")?;
    let id = cluster.id(victim);
    let begun = Instant::now();
    cluster.kill(victim)?;
    let (watched, id) = (&*cluster, &id);
    let watching = cluster.running().map(|number| missed(watched, number, id, begun));
    let mut times = try_join_all(watching).await?;
    times.sort_by(f64::total_cmp);
    let (median, worst) = (percentile(&times, 0.5), percentile(&times, 1.0));
    Ok(Row {
        what: format!("dead peer noticed, direct connections, by {} nodes", times.len()),
        measured: format!("median {median:.1} s, the last after {worst:.1} s"),
        bound: "all under 15 s",
        met: Some(worst < 15.0),
    })
}

/// Seconds until the node is not connected any more.
async fn missed(cluster: &Cluster, number: usize, id: &NodeId, begun: Instant) -> Result<f64> {
    while cluster.view(number).await?.is_connected(id) {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{}", cluster.report().await);
        tokio::time::sleep(POLL).await;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// In a lab, and therefore in a process of its own.
#[cfg(target_os = "linux")]
pub(super) mod relayed {
    use std::{process::Stdio, time::Instant};

    use agent_api::mesh::PathKind;
    use anyhow::{Context as _, Result};
    use edgecoder_tests::{
        cluster::{Cluster, View, with_settings},
        netlab::{self, Host, Lab, Link, Nat, Needs},
        node::Options,
    };
    use serde_json::json;

    use super::{PATIENCE, Row, missed};

    const NAME: &str = "bench: dead peer behind a relay";

    /// What the inner process does; `None` in the outer one.
    pub(in super::super) fn inside() -> Option<Result<()>> {
        netlab::run_inside(NAME, async |lab| {
            println!("{}", measure(&lab).await?);
            Ok(())
        })
    }

    pub(super) fn row(quick: bool) -> Result<Row> {
        let mut row = Row {
            what: "dead peer noticed, behind a relay".into(),
            measured: "not measured in a quick run".into(),
            bound: "under 30 s",
            met: None,
        };
        if quick {
            return Ok(row);
        }
        if let Err(reason) = netlab::is_possible(Needs::Namespaces) {
            row.measured = format!("not measured: {reason}");
            return Ok(row);
        }
        let child = netlab::command(std::env::current_exe()?, NAME)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare")?;
        let mut child = child;
        // Held until the end: the inner process ends when it closes.
        let stdin = child.stdin.take();
        let output = child.wait_with_output()?;
        drop(stdin);
        anyhow::ensure!(output.status.success(), "inside the lab: {}", output.status);
        let seconds: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
        row.measured = format!("{seconds:.1} s");
        row.met = Some(seconds < 30.0);
        Ok(row)
    }

    fn at(host: &Host, name: &str) -> Options {
        let options = with_settings(Options::default().without_model(), name, json!({}));
        options.place(host.place())
    }

    async fn measure(lab: &Lab) -> Result<f64> {
        let seed = lab.public_host("seed", Link::PLAIN)?;
        let homes = [
            lab.site("left", Nat::Symmetric, Link::PLAIN)?,
            lab.site("right", Nat::Symmetric, Link::PLAIN)?,
        ];
        let relay = format!("{}:4303", seed.address);
        let mut cluster = Cluster::new().patient(PATIENCE);
        cluster.add(at(&seed, "seed").args(["--seed", "--relay-listen", &relay])).await?;
        for (home, name) in homes.iter().zip(["a", "b"]) {
            cluster.add(at(&home.host(name)?, name)).await?;
        }
        cluster.form().await?;
        let id = cluster.id(2);
        let relayed =
            |view: &View| view.peer(&id).is_some_and(|peer| peer.path == Some(PathKind::Relay));
        cluster.until(1, "a relayed path between symmetric NATs", relayed).await?;
        let begun = Instant::now();
        cluster.kill(2)?;
        missed(&cluster, 1, &id, begun).await
    }
}

#[cfg(not(target_os = "linux"))]
mod relayed {
    use anyhow::Result;

    use super::Row;

    pub(super) fn row(_quick: bool) -> Result<Row> {
        Ok(Row {
            what: "dead peer noticed, behind a relay".into(),
            measured: "not measured: network namespaces are Linux's".into(),
            bound: "under 30 s",
            met: None,
        })
    }
}
