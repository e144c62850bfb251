//! Noise at the open ports: nobody is lost and nothing grows.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use agent_api::{mesh::Coordinators, node::Health};
use anyhow::{Context as _, Result};
use edgecoder_tests::cluster::{Cluster, SEED};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Packets per port; a thousandth of a second each on the receiving side would be noticed.
const PACKETS: usize = 3_000;
/// Connections to the relay's port.
const CONNECTIONS: usize = 60;
/// Memory that may come with handling all of it: allocators keep what they once had.
const GROWTH_KB: u64 = 40_000;

fn random_bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..most)];
    random.fill(&mut bytes[..]);
    bytes
}

/// Random bytes; some with the first byte and version of a QUIC Initial (RFC 9000, section 17.2.2),
/// so that they get past the first look.
fn spray(random: &mut StdRng, port: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for number in 0..PACKETS {
        let mut bytes = random_bytes(random, 1_472);
        if number % 3 == 0 {
            bytes.resize(1_200, 0);
            bytes[0] = 0xc0 | (bytes[0] & 0x0f);
            bytes[1..5].copy_from_slice(&1_u32.to_be_bytes());
            bytes[5] = 8;
        }
        socket.send_to(&bytes, port)?;
    }
    Ok(())
}

/// What a scanner sends: noise, half a request, a request that promises more than it sends, heads
/// without end, upgrades that are none.
fn knock(random: &mut StdRng, port: SocketAddr) -> Result<()> {
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(port)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        let bytes = match number % 6 {
            0 => random_bytes(random, 4_096),
            1 => b"GET /relay HTTP/1.1\r\nHost: x".to_vec(),
            2 => b"POST /relay HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
            3 => [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20]].concat(),
            4 => b"GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n".to_vec(),
            _ => {
                let mut upgrade = b"GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: iroh-relay-v1\r\n\r\n".to_vec();
                upgrade.extend(random_bytes(random, 4_096));
                upgrade
            }
        };
        // The other side may close first, which is its right.
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut [0; 512]);
    }
    Ok(())
}

fn memory_kb(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

#[tokio::test]
async fn random_bytes_at_the_open_ports_change_nothing() -> Result<()> {
    let seed: u64 = rand::random();
    eprintln!("seed of this run: {seed}");
    let cluster =
        Cluster::started(3, |n, options| if n == 0 { options.args(SEED) } else { options }).await?;
    cluster.form().await?;
    cluster.until_settled().await?;
    let before = cluster.view(0).await?;
    let since = |view: &edgecoder_tests::cluster::View| -> Vec<Option<i64>> {
        cluster.running_ids()[1..]
            .iter()
            .map(|id| view.peer(id).and_then(|peer| peer.connected_since_ms))
            .collect()
    };
    let pid = cluster.node(0).pid();
    let memory = cfg!(target_os = "linux").then(|| memory_kb(pid)).transpose()?;
    let list: Coordinators = cluster.http(0).get("/network/coordinators").await?;
    let own = list.coordinators.into_iter().next().context("the seed")?;
    let mesh: SocketAddr = own.addresses.first().context("an address")?.parse()?;
    let dht: SocketAddr = own.dht.context("a DHT")?.parse()?;
    let relay = own.relay.context("a relay")?;
    let relay: SocketAddr = relay.trim_start_matches("http://").trim_end_matches('/').parse()?;

    let noise = tokio::task::spawn_blocking(move || {
        let mut random = StdRng::seed_from_u64(seed);
        spray(&mut random, mesh)?;
        spray(&mut random, dht)?;
        knock(&mut random, relay)
    });
    noise.await?.with_context(|| format!("seed {seed}"))?;

    let health: Health = cluster.http(0).get("/health/runtime").await?;
    assert!(health.ok);
    cluster.until_whole().await?;
    let after = cluster.view(0).await?;
    assert_eq!(since(&after), since(&before), "connections stood (seed {seed})");
    assert_eq!(after.mesh.counts.known, before.mesh.counts.known, "nobody was invented");
    if let Some(memory) = memory {
        let grown = memory_kb(pid)?.saturating_sub(memory);
        assert!(grown < GROWTH_KB, "{grown} KB more (seed {seed})");
    }
    // The relay still serves.
    let mut cluster = cluster;
    cluster.add_with_ticket(0).await?;
    cluster.until_whole().await
}
