//! Two homes behind NATs meet through a seed: straight where their routers allow it, relayed where
//! not; and what happens when the seed dies.

use std::time::Duration;

use agent_api::{
    NodeId,
    mesh::{AnnouncedServing, PathKind},
};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, View, with_settings},
    netlab::{self, Attached, Host, Lab, Link, Nat, Needs},
    node::Options,
};
use serde_json::{Value, json};

/// Two anti-entropy periods of 30 s after the longest backoff that a cut of this length leaves.
const HEALED: Duration = Duration::from_secs(180);

/// Where everybody is 20 ms from the internet.
const HOME: Link = Link::delayed(20);

pub(super) fn at(host: &Host, name: &str) -> Options {
    let options = with_settings(Options::default().without_model(), name, json!({}));
    options.place(host.place())
}

/// A seed on a public host, with the usual ports.
pub(super) fn seed_at(host: &Host, name: &str) -> Options {
    let ip = host.address;
    let (relay, dht) = (format!("{ip}:4303"), format!("{ip}:8468"));
    at(host, name).args(["--seed", "--relay-listen", &relay, "--dht-listen", &dht])
}

/// A seed and a node in each of two homes, all with the seed's ticket.
struct Meeting {
    cluster: Cluster,
    homes: [netlab::Site; 2],
    seed: Host,
}

const SEED: usize = 0;
const LEFT: usize = 1;
const RIGHT: usize = 2;

async fn meet(lab: &Lab, nats: [Nat; 2], link: Link) -> Result<Meeting> {
    let seed = lab.public_host("seed", Link::PLAIN)?;
    let homes = [lab.site("left", nats[0], link)?, lab.site("right", nats[1], link)?];
    let mut cluster = Cluster::new();
    cluster.add(seed_at(&seed, "seed")).await?;
    cluster.add(at(&homes[0].host("a")?, "left")).await?;
    cluster.add(at(&homes[1].host("b")?, "right")).await?;
    cluster.form().await?;
    Ok(Meeting { cluster, homes, seed })
}

fn path(view: &View, id: &NodeId) -> Option<PathKind> {
    view.peer(id).filter(|peer| peer.connected).and_then(|peer| peer.path)
}

/// The two homes reach each other straight, by the word of both.
async fn meet_directly(lab: &Lab, nats: [Nat; 2]) -> Result<()> {
    let meeting = meet(lab, nats, HOME).await?;
    let cluster = &meeting.cluster;
    for (here, there) in [(LEFT, RIGHT), (RIGHT, LEFT)] {
        let id = cluster.id(there);
        let direct = |view: &View| path(view, &id) == Some(PathKind::Direct);
        let view = cluster.until(here, &format!("a direct path, {nats:?}"), direct).await?;
        let peer = view.peer(&id).context("connected")?;
        let public = meeting.homes[there - LEFT].public.octets()[2];
        let address = peer.address.as_deref().context("an address")?;
        assert!(address.starts_with(&format!("45.0.{public}.")), "{address} is not that home's");
        let rtt = peer.rtt_ms.context("measured")?;
        assert!(rtt >= 79.0, "{rtt} ms over two links of 20 ms, there and back");
    }
    Ok(())
}

/// Neither router lets the other home in: they reach each other through the relay, by the word of
/// both.
async fn meet_through_the_relay(lab: &Lab, nats: [Nat; 2]) -> Result<()> {
    let meeting = meet(lab, nats, HOME).await?;
    for (here, there) in [(LEFT, RIGHT), (RIGHT, LEFT)] {
        let id = meeting.cluster.id(there);
        let relayed = |view: &View| path(view, &id) == Some(PathKind::Relay);
        meeting.cluster.until(here, &format!("a relayed path, {nats:?}"), relayed).await?;
    }
    // And it carries what they say.
    let id = meeting.cluster.id(RIGHT);
    let pause = json!({});
    meeting.cluster.http(RIGHT).post::<Value>("/orchestration/pause", &pause).await?;
    let paused = |view: &View| {
        let said = view.peer(&id).and_then(|peer| peer.announcement.as_ref());
        said.is_some_and(|said| said.serving == AnnouncedServing::Paused)
    };
    meeting.cluster.until(LEFT, "its word arrives", paused).await.map(|_| ())
}

#[test]
fn two_ordinary_homes_meet_directly() -> Result<()> {
    netlab::test("mesh::nat::two_ordinary_homes_meet_directly", Needs::Wires, async |lab| {
        meet_directly(&lab, [Nat::PortRestricted, Nat::PortRestricted]).await
    })
}

#[test]
fn two_symmetric_homes_meet_through_the_relay() -> Result<()> {
    let name = "mesh::nat::two_symmetric_homes_meet_through_the_relay";
    netlab::test(name, Needs::Wires, async |lab| {
        meet_through_the_relay(&lab, [Nat::Symmetric, Nat::Symmetric]).await
    })
}

#[test]
fn a_firewall_is_no_obstacle() -> Result<()> {
    netlab::test("mesh::nat::a_firewall_is_no_obstacle", Needs::Wires, async |lab| {
        meet_directly(&lab, [Nat::FirewallOnly, Nat::PortRestricted]).await
    })
}

#[test]
#[ignore = "takes a minute: cargo xtask test --long"]
fn full_cones_meet_directly() -> Result<()> {
    netlab::test("mesh::nat::full_cones_meet_directly", Needs::Wires, async |lab| {
        meet_directly(&lab, [Nat::FullCone, Nat::FullCone]).await
    })
}

#[test]
#[ignore = "takes a minute: cargo xtask test --long"]
fn a_full_cone_and_an_address_restricted_one_meet_directly() -> Result<()> {
    let name = "mesh::nat::a_full_cone_and_an_address_restricted_one_meet_directly";
    netlab::test(name, Needs::Wires, async |lab| {
        meet_directly(&lab, [Nat::FullCone, Nat::AddressRestricted]).await
    })
}

#[test]
#[ignore = "takes a minute: cargo xtask test --long"]
fn a_symmetric_home_meets_every_other_kind() -> Result<()> {
    let name = "mesh::nat::a_symmetric_home_meets_every_other_kind";
    netlab::test(name, Needs::Wires, async |lab| {
        let seed = lab.public_host("seed", Link::PLAIN)?;
        let mut cluster = Cluster::new();
        cluster.add(seed_at(&seed, "seed")).await?;
        for (number, nat) in Nat::ALL.into_iter().enumerate() {
            let site = lab.site(&format!("home{number}"), nat, HOME)?;
            cluster.add(at(&site.host(&format!("host{number}"))?, &format!("{nat:?}"))).await?;
        }
        // All five kinds at once, each with each.
        cluster.form().await
    })
}

#[test]
#[ignore = "takes a minute: cargo xtask test --long"]
fn loss_is_survived() -> Result<()> {
    netlab::test("mesh::nat::loss_is_survived", Needs::Wires, async |lab| {
        let link = Link {
            delay: Duration::from_millis(30),
            jitter: Duration::from_millis(20),
            loss: 0.05,
            seed: 11,
        };
        let meeting = meet(&lab, [Nat::PortRestricted, Nat::Symmetric], link).await?;
        let id = meeting.cluster.id(LEFT);
        meeting.cluster.http(LEFT).post::<Value>("/orchestration/pause", &json!({})).await?;
        let paused = |view: &View| {
            let said = view.peer(&id).and_then(|peer| peer.announcement.as_ref());
            said.is_some_and(|said| said.serving == AnnouncedServing::Paused)
        };
        meeting.cluster.until(RIGHT, "its word arrives", paused).await.map(|_| ())
    })
}

#[test]
fn a_direct_path_outlives_the_seed() -> Result<()> {
    netlab::test("mesh::nat::a_direct_path_outlives_the_seed", Needs::Wires, async |lab| {
        let mut meeting = meet(&lab, [Nat::PortRestricted, Nat::PortRestricted], HOME).await?;
        let cluster = &mut meeting.cluster;
        let [seed, right] = [cluster.id(SEED), cluster.id(RIGHT)];
        let direct = |view: &View| path(view, &right) == Some(PathKind::Direct);
        let before = cluster.until(LEFT, "a direct path", direct).await?.mesh.at_ms;
        let since = |view: &View| view.peer(&right).and_then(|peer| peer.connected_since_ms);
        cluster.kill(SEED)?;
        let missed = |view: &View| !view.is_connected(&seed);
        let after = cluster.until(LEFT, "the seed is missed", missed).await?;
        assert!(after.is_connected(&right));
        // Of two that were dialed at once one stays; none is made after the seed is gone.
        let since = since(&after).context("connected")?;
        assert!(since <= before + 2_000, "the connection was not touched: {since}, {before}");
        Ok(())
    })
}

#[test]
fn when_a_relay_dies_another_takes_over() -> Result<()> {
    netlab::test("mesh::nat::when_a_relay_dies_another_takes_over", Needs::Wires, async |lab| {
        let mut meeting = meet(&lab, [Nat::Symmetric, Nat::Symmetric], HOME).await?;
        let second = lab.public_host("second", Link::PLAIN)?;
        let cluster = &mut meeting.cluster;
        let ticket = cluster.invite(SEED).await?;
        let number = cluster.add(seed_at(&second, "second seed")).await?;
        cluster.join(number, &ticket).await?;
        cluster.until_whole().await?;
        cluster.kill(SEED)?;
        // All that is left, each with each: the two homes have only the second relay.
        cluster.until_whole().await?;
        let right = cluster.id(RIGHT);
        let relay = format!("{}:4303", second.address);
        // The dead relay is noticed after a while; until then the connection seems to be there.
        let moved = |view: &View| {
            let peer = view.peer(&right).filter(|peer| peer.connected);
            peer.is_some_and(|peer| match peer.path {
                Some(PathKind::Relay) => {
                    peer.address.as_deref().is_some_and(|address| address.contains(&relay))
                }
                path => path.is_some(),
            })
        };
        cluster.until(LEFT, "another way to the right home", moved).await.map(|_| ())
    })
}

#[test]
#[ignore = "takes minutes: cargo xtask test --long"]
fn two_halves_become_one_mesh_again() -> Result<()> {
    netlab::test("mesh::nat::two_halves_become_one_mesh_again", Needs::Wires, async |lab| {
        let mut meeting = meet(&lab, [Nat::PortRestricted, Nat::PortRestricted], HOME).await?;
        let [left, right] = &meeting.homes;
        let ticket = meeting.cluster.invite(SEED).await?;
        for (home, name) in [(left, "left 2"), (right, "right 2")] {
            let host = home.host(&name.replace(' ', ""))?;
            let number = meeting.cluster.add(at(&host, name)).await?;
            meeting.cluster.join(number, &ticket).await?;
        }
        let cluster = meeting.cluster.patient(HEALED);
        cluster.until_whole().await?;
        let (left_2, right_2) = (3, 4);

        lab.cut(&[right as &dyn Attached], &[left as &dyn Attached, &meeting.seed])?;
        let far = [cluster.id(RIGHT), cluster.id(right_2)];
        for here in [SEED, LEFT, left_2] {
            let apart = |view: &View| far.iter().all(|id| !view.is_connected(id));
            cluster.until(here, "the right half is missed", apart).await?;
        }
        let near = cluster.id(right_2);
        let together = |view: &View| view.is_connected(&near);
        cluster.until(RIGHT, "the right half stays together", together).await?;
        // Said on one side only.
        cluster.http(left_2).post::<Value>("/orchestration/pause", &json!({})).await?;

        lab.heal()?;
        cluster.until_whole().await?;
        let paused = cluster.id(left_2);
        let knows = |view: &View| {
            view.node_id == paused
                || view
                    .peer(&paused)
                    .and_then(|peer| peer.announcement.as_ref())
                    .is_some_and(|said| said.serving == AnnouncedServing::Paused)
        };
        cluster.until_each("one view: the pause is known everywhere", knows).await
    })
}
