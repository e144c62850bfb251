//! The net lab is what it claims to be: plain sockets behind every kind of NAT, on links that delay
//! and lose, through a cut, and on a laptop that is carried elsewhere.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use edgecoder_tests::{
    netlab::{self, Lab, Link, Nat, Needs},
    programs::PATIENCE,
};
use tokio::{
    net::UdpSocket,
    time::{timeout, timeout_at},
};

/// Until a packet counts as lost: far above what a lab without delay takes.
const LOST: Duration = Duration::from_millis(700);

/// Sends until it arrives, because the first packet of a pair waits for ARP and may be lost on its
/// way through a router that is just being set up. Each call knows its own packets.
async fn sent(
    from: &UdpSocket,
    to: SocketAddr,
    at: &UdpSocket,
    patience: Duration,
) -> Result<Option<SocketAddr>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    let mut bytes = [0; 64];
    let given_up = Instant::now() + patience;
    while Instant::now() < given_up {
        from.send_to(&number, to).await?;
        let again = Instant::now() + LOST / 3;
        while let Ok(received) = timeout_at(again.into(), at.recv_from(&mut bytes)).await {
            let (length, from) = received?;
            if bytes[..length] == number {
                return Ok(Some(from));
            }
        }
    }
    Ok(None)
}

/// Whom it came from; `None` if it does not arrive.
async fn heard(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Result<Option<SocketAddr>> {
    sent(from, to, at, LOST).await
}

/// Whom it came from. It has to arrive, however busy the machine is.
async fn arrives(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> Result<SocketAddr> {
    sent(from, to, at, PATIENCE).await?.context("nothing arrives")
}

fn address(socket: &UdpSocket) -> Result<SocketAddr> {
    Ok(socket.local_addr()?)
}

/// What is known of a NAT from the outside.
#[derive(Debug, PartialEq)]
struct Behaviour {
    /// Two servers see the same address of one inner socket.
    maps_independently: bool,
    /// A stranger's packet arrives at the mapping.
    lets_strangers_in: bool,
    /// A packet from an address that was spoken to arrives, although from another port.
    lets_other_ports_in: bool,
}

async fn behaviour(lab: &Lab, nat: Nat) -> Result<Behaviour> {
    let site = lab.site("site", nat, Link::PLAIN)?;
    let host = site.host("inner")?;
    let [first, second] = ["first", "second"].map(|name| lab.public_host(name, Link::PLAIN));
    let (first, second) = (first?, second?);
    let inner = host.namespace.udp(host.address, 5_000)?;
    let a = first.namespace.udp(first.address, 7_000)?;
    let a_other_port = first.namespace.udp(first.address, 7_001)?;
    let b = second.namespace.udp(second.address, 7_000)?;

    let seen_by_a = arrives(&inner, address(&a)?, &a).await?;
    assert_eq!(seen_by_a.ip() == host.address, nat == Nat::FirewallOnly, "translated or not");
    assert_eq!(
        arrives(&a, seen_by_a, &inner).await?,
        address(&a)?,
        "an answer comes back through {nat:?}"
    );
    // Strangers first: the inner socket has not spoken to `b` yet.
    let stranger = heard(&b, seen_by_a, &inner).await?;
    let other_port = heard(&a_other_port, seen_by_a, &inner).await?;
    let seen_by_b = arrives(&inner, address(&b)?, &b).await?;
    Ok(Behaviour {
        maps_independently: seen_by_a == seen_by_b,
        lets_strangers_in: stranger.is_some(),
        lets_other_ports_in: other_port.is_some(),
    })
}

fn nat_behaves(name: &str, nat: Nat, strangers: bool, other_ports: bool) -> Result<()> {
    netlab::test(name, Needs::Namespaces, async |lab| {
        let expected = Behaviour {
            maps_independently: nat.maps_independently(),
            lets_strangers_in: strangers,
            lets_other_ports_in: other_ports,
        };
        assert_eq!(behaviour(&lab, nat).await?, expected, "{nat:?}");
        Ok(())
    })
}

#[test]
fn a_full_cone_lets_everyone_in() -> Result<()> {
    nat_behaves("mesh::lab::a_full_cone_lets_everyone_in", Nat::FullCone, true, true)
}

#[test]
fn address_restricted_lets_in_whom_it_spoke_to() -> Result<()> {
    let name = "mesh::lab::address_restricted_lets_in_whom_it_spoke_to";
    nat_behaves(name, Nat::AddressRestricted, false, true)
}

#[test]
fn port_restricted_lets_in_the_same_port_only() -> Result<()> {
    let name = "mesh::lab::port_restricted_lets_in_the_same_port_only";
    nat_behaves(name, Nat::PortRestricted, false, false)
}

#[test]
fn symmetric_shows_everyone_another_port() -> Result<()> {
    nat_behaves("mesh::lab::symmetric_shows_everyone_another_port", Nat::Symmetric, false, false)
}

#[test]
fn a_firewall_lets_answers_in_and_translates_nothing() -> Result<()> {
    let name = "mesh::lab::a_firewall_lets_answers_in_and_translates_nothing";
    nat_behaves(name, Nat::FirewallOnly, false, false)
}

#[test]
fn two_homes_can_punch_a_hole() -> Result<()> {
    netlab::test("mesh::lab::two_homes_can_punch_a_hole", Needs::Namespaces, async |lab| {
        let (left, right) = (
            lab.site("left", Nat::PortRestricted, Link::PLAIN)?,
            lab.site("right", Nat::PortRestricted, Link::PLAIN)?,
        );
        let (a, b) = (left.host("a")?, right.host("b")?);
        assert_eq!(a.address, b.address, "homes use the same private network");
        let (at_a, at_b) = (a.namespace.udp(a.address, 5_000)?, b.namespace.udp(b.address, 5_000)?);
        let (to_a, to_b): (SocketAddr, SocketAddr) =
            ((left.public, 5_000).into(), (right.public, 5_000).into());
        // The first one closes nothing although it arrives before the other side has spoken.
        at_a.send_to(b"open", to_b).await?;
        assert_eq!(arrives(&at_b, to_a, &at_a).await?, to_b, "b reaches a");
        assert_eq!(arrives(&at_a, to_b, &at_b).await?, to_a, "a reaches b");
        Ok(())
    })
}

#[test]
fn a_link_delays_and_loses_what_it_should() -> Result<()> {
    netlab::test("mesh::lab::a_link_delays_and_loses_what_it_should", Needs::Wires, async |lab| {
        let delay = Duration::from_millis(40);
        let slow = lab.public_host("slow", Link { delay, ..Link::PLAIN })?;
        let lossy = lab.public_host("lossy", Link { loss: 0.3, seed: 7, ..Link::PLAIN })?;
        let fast = lab.public_host("fast", Link::PLAIN)?;
        let at_slow = slow.namespace.udp(slow.address, 7_000)?;
        let at_lossy = lossy.namespace.udp(lossy.address, 7_000)?;
        let at_fast = fast.namespace.udp(fast.address, 7_000)?;
        arrives(&at_fast, address(&at_slow)?, &at_slow).await?;
        let begun = Instant::now();
        arrives(&at_fast, address(&at_slow)?, &at_slow).await?;
        assert!(begun.elapsed() >= delay, "a packet was quicker than its link");

        arrives(&at_fast, address(&at_lossy)?, &at_lossy).await?;
        let to = address(&at_lossy)?;
        // Read while they come: a socket's buffer is smaller than all of them.
        let count = tokio::spawn(async move {
            let mut bytes = [0; 64];
            let mut arrived = 0;
            while timeout(LOST, at_lossy.recv_from(&mut bytes)).await.is_ok() {
                arrived += 1;
            }
            arrived
        });
        for _ in 0..500 {
            at_fast.send_to(b"maybe", to).await?;
            tokio::task::yield_now().await;
        }
        let arrived = count.await?;
        assert!((280..=420).contains(&arrived), "{arrived} of 500 arrived with a loss of 30 %");
        Ok(())
    })
}

#[test]
fn a_cut_stops_everything_until_it_is_healed() -> Result<()> {
    netlab::test(
        "mesh::lab::a_cut_stops_everything_until_it_is_healed",
        Needs::Namespaces,
        async |lab| {
            let [a, b, c] = ["a", "b", "c"].map(|name| lab.public_host(name, Link::PLAIN));
            let (a, b, c) = (a?, b?, c?);
            let [at_a, at_b, at_c] =
                [&a, &b, &c].map(|host| host.namespace.udp(host.address, 7_000));
            let (at_a, at_b, at_c) = (at_a?, at_b?, at_c?);
            arrives(&at_a, address(&at_b)?, &at_b).await?;
            lab.cut(&[&a], &[&b])?;
            assert!(heard(&at_a, address(&at_b)?, &at_b).await?.is_none());
            assert!(heard(&at_b, address(&at_a)?, &at_a).await?.is_none());
            arrives(&at_a, address(&at_c)?, &at_c).await.context("others are cut off")?;
            lab.heal()?;
            arrives(&at_a, address(&at_b)?, &at_b).await?;
            Ok(())
        },
    )
}

#[test]
fn a_host_can_move_and_change_its_address() -> Result<()> {
    netlab::test(
        "mesh::lab::a_host_can_move_and_change_its_address",
        Needs::Namespaces,
        async |lab| {
            let home = lab.site("home", Nat::PortRestricted, Link::PLAIN)?;
            let cafe = lab.site("cafe", Nat::Symmetric, Link::PLAIN)?;
            let server = lab.public_host("server", Link::PLAIN)?;
            let at_server = server.namespace.udp(server.address, 7_000)?;
            let mut laptop = home.host("laptop")?;
            for place in [home.public, home.public, cafe.public] {
                let socket = laptop.namespace.udp(laptop.address, 0)?;
                let seen = arrives(&socket, address(&at_server)?, &at_server).await?;
                assert_eq!(seen.ip(), place);
                if place == home.public && laptop.address.octets()[3] == 10 {
                    laptop.readdress(77)?;
                } else if place == home.public {
                    cafe.take(&mut laptop)?;
                }
            }
            Ok(())
        },
    )
}
