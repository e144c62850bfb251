//! Peers that do not keep to the protocol.

use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr, endpoint::presets};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::mesh::net::ALPN;

/// An endpoint of our protocol without a mesh behind it.
async fn stranger(node: &TestNode) -> (Endpoint, Connection) {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    let builder = builder.bind_addr(bind).expect("an address");
    let endpoint = builder.bind().await.expect("binds");
    let id = EndpointId::from_bytes(&node.node_key().0).expect("a key");
    let addresses = node.mesh.snapshot().addresses.direct.clone();
    let to = EndpointAddr::from_parts(id, addresses.into_iter().map(TransportAddr::Ip));
    let connection = endpoint.connect(to, ALPN).await.expect("connects");
    (endpoint, connection)
}

fn refused(node: &TestNode) -> u64 {
    node.mesh.view().refused.iter().map(|refused| refused.count).sum()
}

async fn until_refused(node: &TestNode, more_than: u64) {
    let count = |s: &Snapshot| s.refused.iter().map(|refused| refused.count).sum::<u64>();
    node.until("it is counted", |s| count(s) > more_than).await;
}

async fn closed(connection: &Connection) -> String {
    timeout(PATIENCE, connection.closed()).await.expect("is closed").to_string()
}

#[tokio::test]
async fn random_bytes_are_counted_and_hurt_nobody() {
    let node = TestNode::start("desk").await;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("random numbers");
    println!("seed {}", hex::encode(seed));
    let mut rng = StdRng::from_seed(seed);
    for round in 0..8 {
        let before = refused(&node);
        let (endpoint, connection) = stranger(&node).await;
        let (mut send, _recv) = connection.open_bi().await.expect("opens");
        let mut bytes = vec![0; 4096];
        rng.fill(bytes.as_mut_slice());
        if round % 2 == 0 {
            // Well framed, so that it gets as far as membership.
            bytes[..4].copy_from_slice(&4092_u32.to_le_bytes());
        } else {
            bytes[3] = 0xff;
        }
        // It may be cut off in the middle.
        let _ = send.write_all(&bytes).await;
        until_refused(&node, before).await;
        if round % 2 == 1 {
            closed(&connection).await;
        }
        endpoint.close().await;
    }
    let other = TestNode::start("attic").await;
    other.join(&node).await;
}

#[tokio::test]
async fn a_peer_that_floods_is_closed_while_others_go_on() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    attic.join(&desk).await;
    let (_endpoint, connection) = stranger(&desk).await;
    let (mut send, _recv) = connection.open_bi().await.expect("opens");
    let mut frame = 8_u32.to_le_bytes().to_vec();
    frame.extend([0xee; 8]);
    let flood = frame.repeat(512);
    let flooding = async { while send.write_all(&flood).await.is_ok() {} };
    timeout(PATIENCE, flooding).await.expect("it is cut off");
    let reason = closed(&connection).await;
    assert!(reason.contains("closed by peer"), "{reason}");
    assert!(desk.mesh.peer(&attic.id()).expect("known").peer.connected);
}
