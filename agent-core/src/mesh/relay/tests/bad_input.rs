//! Those who want to keep others out of the relay, with real connections to it.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::mesh::relay::opening::Opening;

async fn relay(mesh: &Mesh, opening: usize) -> Server {
    let (gate, opening) = (Arc::clone(&mesh.gate), Opening::of(opening));
    Server::with(any_port(), gate, opening, mesh.listing()).await.expect("listens")
}

async fn connected(to: &Server) -> TcpStream {
    TcpStream::connect(to.address()).await.expect("connects")
}

/// The head of the answer to a request.
async fn ask(stream: &mut TcpStream, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    String::from_utf8(head).expect("text")
}

/// A connection at the point where the client has to prove who it is.
async fn in_handshake(to: &Server) -> TcpStream {
    let mut stream = connected(to).await;
    let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: iroh-relay-v2\r\n";
    let head = ask(&mut stream, "/relay", headers).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    // The challenge: a short binary frame.
    assert_eq!(stream.read_u8().await.expect("a frame"), 0x82);
    let mut challenge = vec![0; stream.read_u8().await.expect("its length").into()];
    stream.read_exact(&mut challenge).await.expect("the challenge");
    stream
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_before_the_proof_end_the_connection() {
    let (mesh, mut rest) = (Mesh::new(), Vec::new());
    let relay = relay(&mesh, 4).await;
    let mut stream = in_time(in_handshake(&relay)).await;
    stream.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.expect("sends");
    in_time(stream.read_to_end(&mut rest)).await.expect("ends");
    assert!(rest.is_empty(), "answered: {rest:?}");
    relay.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_without_a_client_keep_nobody_out() {
    let mesh = Mesh::new();
    let relay = relay(&mesh, 4).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(connected(&relay).await);
        idle.push(in_time(in_handshake(&relay)).await);
    }
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut stream = connected(&relay).await;
        let head = in_time(ask(&mut stream, "/ping", "")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        busy.push(stream);
    }
    for mut stream in idle {
        let mut rest = Vec::new();
        in_time(stream.read_to_end(&mut rest)).await.expect("ends");
        assert!(rest.is_empty(), "{rest:?}");
    }
    relay.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_an_endless_head_is_refused() {
    let mesh = Mesh::new();
    let relay = relay(&mesh, 4).await;
    let answers = async |bytes: usize| {
        let mut stream = connected(&relay).await;
        let header = "a".repeat(bytes);
        let request = format!("GET /ping HTTP/1.1\r\nconnection: close\r\nx: {header}\r\n\r\n");
        // The relay may end the connection while this is under way.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = in_time(stream.read_to_end(&mut answer)).await;
        answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(answers(8 << 10).await);
    assert!(!answers(20 << 10).await);
    relay.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_ends_takes_its_clients_along() {
    for is_dropped in [false, true] {
        let mesh = Mesh::new();
        let relay = relay(&mesh, 4).await;
        let mut streams = [connected(&relay).await, in_time(in_handshake(&relay)).await];
        let url: RelayUrl = format!("http://{}", relay.address()).parse().expect("a url");
        let node = relayed(&url).await;
        in_time(node.online()).await;
        assert_eq!(mesh.gate.connected(), 1);
        if is_dropped {
            drop(relay);
        } else {
            in_time(relay.shutdown()).await;
        }
        for stream in &mut streams {
            in_time(stream.read_to_end(&mut Vec::new())).await.expect("ends");
        }
        // The gate hears of each that ended.
        let gone = async {
            while mesh.gate.connected() > 0 {
                tokio::task::yield_now().await;
            }
        };
        in_time(gone).await;
        node.close().await;
    }
}
