//! Real endpoints on this computer; shelves in temporary folders.

mod bench;
mod decoders;

use std::sync::atomic::Ordering;

use bao_tree::ChunkNum;
use bench::{Bench, Shelved, bytes, collect, sha};
use futures_util::StreamExt as _;
use iroh_blobs::{
    Hash,
    get::fsm::{AtConnected, ConnectedNext, RequestCounters},
    protocol::{ChunkRanges, GetRequest},
};

use super::*;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_found_by_its_sha256_and_every_range_of_it_arrives() {
    let blob = bytes(3 * MIB + 12_345);
    let bench = Bench::start(Shelved::with(&[&blob])).await;
    let offer = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await.expect("offers");
    assert_eq!(offer, Offer { size: blob.len() as u64, root: *blake3::hash(&blob).as_bytes() });
    assert_eq!(bench.provider.counters().prepared.load(Ordering::Relaxed), 1);
    for (from, to) in
        [(0, offer.size), (0, 1), (1_000_001, 2_000_003), (offer.size - 1, offer.size), (7, 7)]
    {
        let stream = bench.open(BLOBS).await;
        let got = collect(fetch(stream, offer, from..to)).await.expect("arrives");
        assert!(got == blob[from as usize..to as usize], "{from}..{to}");
    }
    let again = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await.expect("offers");
    assert_eq!(again, offer);
    assert_eq!(bench.provider.counters().prepared.load(Ordering::Relaxed), 1, "only once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_here_or_not_shared_is_refused_by_name() {
    let blob = bytes(100_000);
    let bench = Bench::start(Shelved::with(&[&blob])).await;
    let asked = ask_offer(bench.open(QUESTIONS).await, [7; 32]).await;
    assert!(matches!(asked, Err(FetchError::NotHere)), "{asked:?}");
    let made_up = Offer { size: 100_000, root: [9; 32] };
    let got = collect(fetch(bench.open(BLOBS).await, made_up, 0..100_000)).await;
    assert!(matches!(got, Err(FetchError::NotHere)), "{got:?}");
    let offer = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await.expect("offers");
    bench.settings.send_modify(|settings| settings.mesh.share_models = false);
    let asked = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await;
    assert!(matches!(asked, Err(FetchError::NotShared)), "{asked:?}");
    let got = collect(fetch(bench.open(BLOBS).await, offer, 0..100_000)).await;
    assert!(got.is_err(), "an offer from before counts no more");
    assert_eq!(bench.provider.counters().sent.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_had_by_its_complete_name() {
    let mut shelved = Shelved::with(&[]);
    shelved.manifests.insert("registry.example/library/demo:latest".to_owned(), b"{}".to_vec());
    let bench = Bench::start(shelved).await;
    let name = "registry.example/library/demo:latest";
    let got = ask_manifest(bench.open(QUESTIONS).await, name).await.expect("is here");
    assert_eq!(got, b"{}");
    let got = ask_manifest(bench.open(QUESTIONS).await, "other").await;
    assert!(matches!(got, Err(FetchError::NotHere)), "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_do_not_fit_the_root_are_never_handed_on() {
    let blob = bytes(MIB);
    let bench = Bench::start(Shelved::with(&[&blob])).await;
    let offer = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await.expect("offers");
    // The blob changes on the provider's disk: it notices while it reads.
    bench.damage(&blob, 600_000);
    let mut chunks = Box::pin(fetch(bench.open(BLOBS).await, offer, 0..MIB));
    let mut good = Vec::new();
    let error = loop {
        match chunks.next().await.expect("does not end well") {
            Ok(bytes) => good.extend_from_slice(&bytes),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FetchError::Broken(_)), "{error:?}");
    assert!(good == blob[..good.len()] && good.len() < 600_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_other_bytes_than_it_said_has_lied() {
    let (said, sent) = (bytes(MIB), bytes(MIB + 1)[1..].to_vec());
    let bench = Bench::start(Shelved::with(&[])).await;
    bench.lie(&sent);
    let offer = Offer { size: MIB, root: *blake3::hash(&said).as_bytes() };
    let got = collect(fetch(bench.open(BLOBS).await, offer, 0..MIB)).await;
    assert!(matches!(got, Err(FetchError::Lied(_))), "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_limited_for_all_and_for_each_peer() {
    // More than the streams' buffers hold, so that every upload stays open until it is read.
    let blob = bytes(24 * MIB);
    let bench = Bench::start(Shelved::with(&[&blob])).await;
    let offer = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await.expect("offers");
    let mut running = Vec::new();
    for _ in 0..4 {
        let mut chunks = Box::pin(fetch(bench.open(BLOBS).await, offer, 0..offer.size));
        chunks.next().await.expect("something").expect("bytes");
        running.push(chunks);
    }
    let fifth = collect(fetch(bench.open(BLOBS).await, offer, 0..100)).await;
    assert!(matches!(fifth, Err(FetchError::Busy)), "{fifth:?}");
    // Another peer has its own share.
    let other = bench.another_client().await;
    for _ in 0..4 {
        let mut chunks =
            Box::pin(fetch(other.open(BLOBS).await.expect("opens"), offer, 0..offer.size));
        chunks.next().await.expect("something").expect("bytes");
        running.push(chunks);
    }
    let third = bench.another_client().await;
    let ninth = collect(fetch(third.open(BLOBS).await.expect("opens"), offer, 0..100)).await;
    assert!(matches!(ninth, Err(FetchError::Busy)), "{ninth:?}");
    let counters = bench.provider.counters();
    assert_eq!(counters.most.load(Ordering::Relaxed), 8);
    assert_eq!(counters.refused.load(Ordering::Relaxed), 2);
    drop(running);
    // A slot comes back when the other end has said that it wants no more.
    loop {
        match collect(fetch(third.open(BLOBS).await.expect("opens"), offer, 0..100)).await {
            Ok(got) => break assert!(got == blob[..100]),
            Err(FetchError::Busy) => tokio::task::yield_now().await,
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_requests_than_for_one_blob_are_refused() {
    let blob = bytes(100_000);
    let bench = Bench::start(Shelved::with(&[&blob])).await;
    let offer = ask_offer(bench.open(QUESTIONS).await, sha(&blob)).await.expect("offers");
    let edges: Vec<u64> = (0..64).collect();
    let many = edges.chunks(2).map(|pair| ChunkRanges::from(ChunkNum(pair[0])..ChunkNum(pair[1])));
    let many = many.fold(ChunkRanges::empty(), |all, one| all | one);
    for request in [
        GetRequest::all(Hash::from(offer.root)),
        GetRequest::blob_ranges(Hash::from(offer.root), many),
    ] {
        let BiStream { send, recv, .. } = bench.open(BLOBS).await;
        let now = n0_future::time::Instant::now();
        let asked = AtConnected::new(now, recv, send, request, RequestCounters::default());
        let Ok(ConnectedNext::StartRoot(root)) = asked.next().await else { panic!("is sent") };
        assert!(root.next().next().await.is_err());
    }
    assert_eq!(bench.provider.counters().uploads.load(Ordering::Relaxed), 0);
}
