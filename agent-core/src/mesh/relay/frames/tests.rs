//! What clients send over real connections, byte by byte.

use std::{net::Ipv4Addr, sync::Arc};

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::mesh::relay::{pace::Rate, tests::Mesh};

/// Final, and the kind of message.
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const TEXT: u8 = 0x81;

/// What a client sends, and the relay's end of the connection.
async fn connected(mesh: &Mesh) -> (TcpStream, Frames<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let to = listener.local_addr().expect("bound");
    let client = TcpStream::connect(to).await.expect("connects");
    let (server, _) = listener.accept().await.expect("accepts");
    (client, Frames::new(server, Pace::new(Arc::clone(&mesh.gate))))
}

/// The head of a frame whose mask changes nothing (RFC 6455, section 5.2).
fn head(kind: u8, bytes: usize) -> Vec<u8> {
    let mut head = vec![kind];
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(short @ ..=125), _) => head.push(0x80 | short),
        (_, Ok(long)) => head.extend([&[0xfe][..], &long.to_be_bytes()].concat()),
        _ => head.extend([&[0xff][..], &(bytes as u64).to_be_bytes()].concat()),
    }
    head.extend([0; 4]);
    head
}

/// A message that never ends, of frames without a byte.
fn endless(frames: usize) -> Vec<u8> {
    let (first, next) = (head(0x02, 0), head(0x00, 0));
    [first, next.repeat(frames - 1)].concat()
}

fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

#[tokio::test]
async fn what_is_no_binary_message_ends_the_stream_without_an_answer() {
    for kind in [PING, PONG, TEXT] {
        let mesh = Mesh::new();
        let (mut client, mut frames) = connected(&mesh).await;
        client.write_all(&head(kind, 0)).await.expect("sends");
        assert!(frames.next().await.is_none(), "{kind:x}");
        drop(frames);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("it ends");
        assert!(answer.is_empty(), "{kind:x}: {answer:?}");
    }
}

#[tokio::test]
async fn before_its_proof_a_client_can_send_little_in_messages_or_without() {
    let mesh = Mesh::new();
    let (mut client, mut frames) = connected(&mesh).await;
    client.write_all(&endless(HANDSHAKE_BYTES / 6 + 1)).await.expect("sends");
    let error = frames.next().await.expect("an end").expect_err("too much").to_string();
    assert!(error.contains("before it proved"), "{error}");
    // Nothing is kept ready for a message that is too long.
    let (mut client, mut frames) = connected(&mesh).await;
    client.write_all(&head(BINARY, HANDSHAKE_BYTES + 1)).await.expect("sends");
    let error = frames.next().await.expect("an end").expect_err("too long");
    assert!(error.to_string().contains("exceeds the limit"), "{error}");
}

#[tokio::test]
async fn after_its_proof_a_clients_messages_are_as_long_as_a_packet() {
    let mesh = Mesh::new();
    let (mut client, mut frames) = connected(&mesh).await;
    frames.is_of(key(1));
    let message = [head(BINARY, MESSAGE_BYTES), vec![7; MESSAGE_BYTES]].concat();
    let (sent, got) = tokio::join!(client.write_all(&message), frames.next());
    sent.expect("sends");
    assert_eq!(got.expect("a message").expect("whole"), vec![7; MESSAGE_BYTES]);
    client.write_all(&head(BINARY, MESSAGE_BYTES + 1)).await.expect("sends");
    let error = frames.next().await.expect("an end").expect_err("too long");
    assert!(error.to_string().contains("exceeds the limit"), "{error}");
}

// In the next two time stands still as long as nothing waits for it.

#[tokio::test(start_paused = true)]
async fn the_bytes_of_unfinished_messages_count() {
    let mesh = Mesh::new();
    let (mut client, mut frames) = connected(&mesh).await;
    frames.is_of(key(1));
    let strangers = mesh.gate.bucket(key(2));
    assert_eq!(strangers.take(Rate::STRANGERS.burst as usize - 1_000), None);
    client.write_all(&endless(1_000)).await.expect("sends");
    frames.socket.get_ref().inner.readable().await.expect("bytes are there");
    assert!(frames.next().now_or_never().is_none(), "no message");
    assert!(strangers.take(0).is_some(), "but their bytes");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_waits_for_what_the_others_sent() {
    let mesh = Mesh::new();
    mesh.has(&[3]);
    let strangers = mesh.gate.bucket(key(2));
    for (n, waits) in [(1, true), (3, false)] {
        while strangers.take(1 << 20).is_none() {}
        let (mut client, mut frames) = connected(&mesh).await;
        frames.is_of(key(n));
        client.write_all(&[head(BINARY, 2), vec![7; 2]].concat()).await.expect("sends");
        frames.socket.get_ref().inner.readable().await.expect("bytes are there");
        let got = frames.next().now_or_never();
        assert_eq!(got.is_none(), waits, "{n}: {got:?}");
        if waits {
            let got = frames.next().await.expect("a message").expect("whole");
            assert_eq!(got, vec![7; 2], "when it is its turn");
        }
    }
}
