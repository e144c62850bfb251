//! Nodes of one mesh see each other: what they have, what they do, that they are gone and back.

use std::time::Duration;

use agent_api::{
    ActivityKind, Event, NodeId,
    mesh::{AnnouncedServing, Link, PathKind, Topology},
    node::ActivityList,
};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{self, Cluster, View},
    node::{Options, signal},
    programs::{self, PATIENCE},
    skipped,
};
use futures_util::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// As long as anything else is waited for.
const HEARD: Duration = PATIENCE;
/// Longer than a connection lives without a word.
const SLEEP: Duration = Duration::from_secs(20);
/// For a node that wakes: twice an anti-entropy period, after the longest wait between two dials.
const AWAKE: Duration = Duration::from_secs(90);

/// How it serves, by its own word as this node has it.
fn serving(view: &View, id: &NodeId) -> Option<AnnouncedServing> {
    Some(view.peer(id)?.announcement.as_ref()?.serving)
}

/// Options of a member that has the demo model.
fn with_model(name: &str) -> Options {
    cluster::with_settings(Options::default(), name, json!({})).args(cluster::LOOPBACK)
}

#[tokio::test]
async fn five_nodes_see_each_others_names_models_and_slots() -> Result<()> {
    if !programs::runner().exists() {
        skipped(&format!("there is no runner at {}", programs::runner().display()));
        return Ok(());
    }
    let change = |n: usize, options| if n < 2 { with_model(&format!("node-{n}")) } else { options };
    let cluster = Cluster::started(5, change).await?;
    let model = cluster.node(0).model().await?;
    cluster.node(1).model().await?;
    cluster.form().await?;
    let slots = cluster.node(0).status().await?.requests.slots;
    let ready = [cluster.id(0), cluster.id(1)];
    let sees_models = |view: &View| {
        ready.iter().filter(|id| **id != view.node_id).all(|id| {
            let said = view.peer(id).and_then(|peer| peer.announcement.as_ref());
            said.is_some_and(|said| {
                said.serving == AnnouncedServing::Ready
                    && u32::from(said.slots) == slots
                    && said.slots_free == said.slots
                    && said.models.iter().any(|m| m.id == model && m.resident && m.context > 0)
            })
        })
    };
    cluster.until_each("the two models, resident, with free slots", sees_models).await?;
    for at in 0..5 {
        let view = cluster.view(at).await?;
        for of in (0..5).filter(|of| *of != at) {
            let peer = view.peer(&cluster.id(of)).context("is known")?;
            assert_eq!(peer.name, cluster.name(of));
            assert_eq!(peer.path, Some(PathKind::Lan), "one computer: {peer:?}");
            assert!(peer.rtt_ms.is_some() && peer.address.is_some(), "{peer:?}");
            let said = peer.announcement.as_ref().context("its word")?;
            if of >= 2 {
                assert_eq!(said.serving, AnnouncedServing::Unable);
                assert!(said.models.iter().all(|model| !model.resident), "{said:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_node_is_missed_by_all_and_welcome_again() -> Result<()> {
    let mut cluster = Cluster::of(5).await?;
    let lost = cluster.id(4);
    cluster.kill(4)?;
    cluster.until_each("the killed node is not connected", |v| !v.is_connected(&lost)).await?;
    cluster.restart(4).await?;
    assert_eq!(cluster.id(4), lost, "it is the same node");
    cluster.until_whole().await
}

#[tokio::test]
#[ignore = "takes minutes: cargo xtask test --long"]
async fn a_mesh_survives_churn() -> Result<()> {
    let seed: u64 = rand::random();
    eprintln!("seed of this run: {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::of(6).await?;
    for _ in 0..8 {
        let running: Vec<usize> = cluster.running().collect();
        let victim = running[random.random_range(0..running.len())];
        match random.random_range(0..3) {
            0 => {
                cluster.kill(victim)?;
                cluster.restart(victim).await?;
            }
            1 => {
                cluster.stop(victim)?;
                cluster.restart(victim).await?;
            }
            _ => {
                cluster.remove(victim)?;
                let by = cluster.running().next().context("one runs")?;
                cluster.add_with_ticket(by).await?;
            }
        }
        cluster.until_whole().await.with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pause_reaches_the_others() -> Result<()> {
    let cluster = Cluster::of(3).await?;
    let id = cluster.id(1);
    cluster.http(1).post::<Value>("/orchestration/pause", &json!({})).await?;
    let paused =
        |view: &View| view.node_id == id || serving(view, &id) == Some(AnnouncedServing::Paused);
    cluster.until_each("node 1 is paused", paused).await?;
    cluster.http(1).post::<Value>("/orchestration/resume", &json!({})).await?;
    let resumed =
        |view: &View| view.node_id == id || serving(view, &id) == Some(AnnouncedServing::Unable);
    cluster.until_each("node 1 is back, without a model", resumed).await
}

#[tokio::test]
async fn topology_and_details_say_what_is_so() -> Result<()> {
    let cluster = Cluster::of(3).await?;
    let ids = cluster.running_ids();
    let own = |link: &Link, id: &NodeId| link.from == *id || link.to == *id;
    cluster
        .eventually("every node draws the whole triangle", async || {
            let topology: Topology = cluster.http(0).get("/mesh/topology").await?;
            let linked = |a: &NodeId, b: &NodeId| {
                topology.links.iter().any(|link| own(link, a) && own(link, b))
            };
            Ok(ids.iter().all(|a| ids.iter().all(|b| a == b || linked(a, b))))
        })
        .await?;
    let topology: Topology = cluster.http(0).get("/mesh/topology").await?;
    assert_eq!(topology.own, ids[0]);
    let mut nodes: Vec<_> = topology.nodes.iter().map(|node| node.node_id.clone()).collect();
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected = ids.clone();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(nodes, expected, "this node and the two others, each once");
    for link in &topology.links {
        let mine = own(link, &ids[0]);
        assert_eq!(link.path.is_some(), mine, "paths are known of own links only: {link:?}");
    }

    let details = cluster.details(0, 1).await?;
    assert_eq!(details.peer.node_id, ids[1]);
    let in_use: Vec<_> = details.paths.iter().filter(|path| path.in_use).collect();
    assert_eq!(in_use.len(), 1, "{details:?}");
    assert!(details.bytes_sent > 0 && details.bytes_received > 0, "{details:?}");
    let at_node_1 = cluster.view(1).await?.mesh.own.addresses;
    assert!(at_node_1.contains(&in_use[0].address), "{details:?} and {at_node_1:?}");

    let unknown = format!("/agent-mesh/peers/{}", "0".repeat(64));
    let response = cluster.http(0).request("GET", &unknown).send().await?;
    assert_eq!(response.status(), 404);
    Ok(())
}

#[tokio::test]
async fn who_leaves_says_goodbye() -> Result<()> {
    let cluster = Cluster::of(4).await?;
    let gone = cluster.id(3);
    let before = cluster.view(3).await?.mesh.mesh_id;
    let mut events = cluster.http(0).events().await?;
    let told = |list: &ActivityList, kind| {
        list.items.iter().any(|line| line.kind == kind && line.text.contains("node-3"))
    };
    cluster
        .eventually("the feed says that it joined", async || {
            let list: ActivityList = cluster.http(0).get("/activity").await?;
            Ok(told(&list, ActivityKind::PeerJoined))
        })
        .await?;
    cluster.http(3).post::<Value>("/mesh/leave", &json!({})).await?;
    // Without the goodbye it would stay in the list as overdue for longer than this waits.
    for at in 0..3 {
        cluster
            .until(at, "the one that left is not in the list", |view| {
                view.peer(&gone).is_none() && view.peers.iter().filter(|p| p.connected).count() == 2
            })
            .await?;
    }
    let alone = cluster.until(3, "it is alone", |view| view.peers.is_empty()).await?;
    assert_ne!(alone.mesh.mesh_id, before, "in a new mesh of its own");
    cluster
        .eventually("the feed says that it left", async || {
            let list: ActivityList = cluster.http(0).get("/activity").await?;
            Ok(told(&list, ActivityKind::PeerLeft))
        })
        .await?;
    // Listeners hear both: the line, and that the peer is not in the list any more.
    let (mut line, mut out) = (false, false);
    let heard = async {
        while !(line && out) {
            match events.next().await.context("the stream goes on")?? {
                Event::Activity { item } => {
                    line |= item.kind == ActivityKind::PeerLeft && item.text.contains("node-3");
                }
                Event::Peers { gone: ids, .. } => out |= ids.contains(&gone),
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    timeout(HEARD, heard).await.context("the events tell that it left")??;
    Ok(())
}

#[tokio::test]
async fn a_node_that_slept_is_missed_and_back_when_it_wakes() -> Result<()> {
    let cluster = Cluster::of(3).await?.patient(AWAKE);
    let sleeper = cluster.id(1);
    let pid = cluster.node(1).pid();
    let asleep = Instant::now();
    signal(pid, "STOP")?;
    let missed = async {
        for at in [0, 2] {
            cluster.until(at, "the sleeper is missed", |view| !view.is_connected(&sleeper)).await?;
        }
        // Longer than any connection lives without a word.
        tokio::time::sleep_until(asleep + SLEEP).await;
        anyhow::Ok(())
    };
    let missed = missed.await;
    // Whatever was seen: a stopped process could not be ended in order.
    signal(pid, "CONT")?;
    missed?;
    cluster.until_whole().await
}

#[tokio::test]
async fn an_orderly_stop_says_goodbye_too() -> Result<()> {
    let mut cluster = Cluster::of(3).await?;
    let gone = cluster.id(2);
    cluster.stop(2)?;
    cluster.until_each("the stopped node is not in the list", |v| v.peer(&gone).is_none()).await?;
    cluster.restart(2).await?;
    cluster.until_whole().await
}

#[tokio::test]
async fn a_blocked_node_stays_out_until_it_is_unblocked() -> Result<()> {
    let mut cluster = Cluster::of(3).await?;
    let (owner, blocked) = (cluster.id(0), cluster.id(1));
    let mark = |on: bool| json!({ "node_id": blocked.0, "on": on });
    cluster.http(0).post::<Value>("/mesh/block", &mark(true)).await?;
    let is_out = |view: &View| {
        !view.is_connected(&blocked) && view.mesh.blocked.iter().any(|b| b.node_id == blocked)
    };
    cluster.until(0, "the blocked node is out", is_out).await?;
    cluster.until(1, "it sees that", |view| !view.is_connected(&owner)).await?;
    // The block is on disk, and nobody else blocks it.
    cluster.kill(0)?;
    cluster.restart(0).await?;
    let third = cluster.id(2);
    cluster.until(0, "back among the others", |v| v.is_connected(&third) && is_out(v)).await?;
    cluster
        .until(2, "the third has both", |v| v.is_connected(&owner) && v.is_connected(&blocked))
        .await?;
    cluster.http(0).post::<Value>("/mesh/block", &mark(false)).await?;
    cluster.until_whole().await
}
