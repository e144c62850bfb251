//! Nodes that break the rules.

use super::*;
use crate::{
    mesh::net::{PeerStream, StreamHandler},
    tasks::wire::{FromOrigin, FromWorker, Outcome, Said},
};

/// What a worker of the test says after an offer.
#[derive(Clone, Debug)]
enum Answers {
    Frames(Vec<Said>),
    OtherTask,
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct Liar(Answers);

impl StreamHandler for Liar {
    fn serve(&self, mut stream: PeerStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let answers = self.0.clone();
        Box::pin(async move {
            let read = wire::read(&mut stream.recv, wire::SMALL_BYTES).await;
            let Ok(FromOrigin::Offer(offer)) = read else { panic!("an offer was expected") };
            let frame = |said: Said, fence| FromWorker { task: offer.task.clone(), fence, said };
            let need = wire::encode(&frame(Said::NeedJob, offer.fence), 1 << 10).expect("small");
            stream.send.write_all(&need).await.expect("writes");
            let read = wire::read(&mut stream.recv, wire::JOB_BYTES).await;
            assert!(matches!(read, Ok(FromOrigin::Job { .. })), "{read:?}");
            let bytes = match answers {
                Answers::Bytes(bytes) => bytes,
                Answers::OtherTask => {
                    wire::encode(&frame(Said::Running, offer.fence + 1), 1 << 20).expect("small")
                }
                Answers::Frames(frames) => frames
                    .into_iter()
                    .flat_map(|said| {
                        wire::encode(&frame(said, offer.fence), 32 << 20).expect("small")
                    })
                    .collect(),
            };
            // The requester may have had enough.
            let _ = stream.send.write_all(&bytes).await;
            let _ = stream.send.finish();
            let _ = stream.send.stopped().await;
        })
    }
}

/// More than sixteen, twice sixty-four and four.
const PIECES: usize = 2_000;

fn text(bytes: usize) -> Said {
    Said::Text { text: "x".repeat(bytes), logprobs: Vec::new() }
}

#[tokio::test]
async fn a_worker_that_breaks_the_rules_is_found_out() {
    let (desk, liar) = tokio::join!(TestNode::start("desk"), TestNode::start("liar"));
    desk.join(&liar).await;
    let dir = tempfile::tempdir().expect("temp dir");
    let remote = remote(&desk, &dir);
    let other_kind = Outcome::Wasm { output: String::new(), fuel_used: 0 };
    let too_long: Vec<Said> =
        std::iter::once(Said::Running).chain((0..4).map(|_| text(100 << 10))).collect();
    for answers in [
        Answers::OtherTask,
        Answers::Bytes(u32::MAX.to_le_bytes().to_vec()),
        Answers::Bytes([&9_u32.to_le_bytes()[..], b"not JSON!"].concat()),
        Answers::Frames(vec![text(1)]),
        Answers::Frames(too_long),
        Answers::Frames(vec![Said::Running, Said::Running]),
        Answers::Frames(vec![Said::Running, Said::Result(Box::new(other_kind))]),
    ] {
        liar.mesh.serve_streams(wire::STREAM, Arc::new(Liar(answers.clone())));
        let offered = remote.offer(liar.node_key(), TaskPath::Lan, offer(3)).await;
        let error = match offered {
            Err(error) => error,
            Ok(mut stream) => loop {
                if let Err(error) = piece(&mut stream).await {
                    break error;
                }
            },
        };
        assert!(matches!(error, JobError::Misbehaved(_)), "{answers:?}: {error:?}");
    }
    let ends = Answers::Frames(vec![Said::Running]);
    liar.mesh.serve_streams(wire::STREAM, Arc::new(Liar(ends)));
    let mut stream =
        remote.offer(liar.node_key(), TaskPath::Lan, offer(3)).await.expect("is taken");
    piece(&mut stream).await.expect("it runs");
    let lost = piece(&mut stream).await.expect_err("it ends without a last word");
    assert!(matches!(lost, JobError::Lost(_)), "{lost}");
}

#[tokio::test]
async fn a_requester_that_breaks_the_rules_harms_nobody_else() {
    let (desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let mut held = Vec::new();
    for bytes in [
        Vec::new(),
        u32::MAX.to_le_bytes().to_vec(),
        [&5_u32.to_le_bytes()[..], b"]]]]]"].concat(),
        wire::encode(&FromOrigin::Renew, 100).expect("small"),
        wire::encode(&FromOrigin::Ack, 100).expect("small"),
        12_000_000_u32.to_le_bytes().to_vec(),
    ] {
        let mut stream = desk.mesh.open_stream(peer, wire::STREAM).await.expect("opens");
        stream.send.write_all(&bytes).await.expect("writes");
        held.push(stream);
    }
    // A flood: no more than its share is taken, the rest is refused in words.
    attic.settings.send_modify(|settings| settings.tasks.per_peer = 3);
    let mut taken = Vec::new();
    for _ in 0..20 {
        match remote.offer(peer, TaskPath::Lan, offer(0)).await {
            Ok(stream) => taken.push(stream),
            Err(error) => assert!(matches!(error, JobError::Refused { .. }), "{error:?}"),
        }
    }
    assert_eq!(taken.len(), 3);
    drop(taken);
    until("its tasks are gone", || attic.worker.counts() == (0, 0)).await;
    while attic.asked.try_recv().is_ok() {}
    until("its seats are free", || attic.worker.inner.tasks.len() <= 1).await;
    while attic.asked.try_recv().is_ok() {}
    let mut stream = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect("is taken");
    let asked = attic.next().await;
    asked.say("still here").await;
    asked.done(2).await;
    assert_eq!(whole(&mut stream).await.0, "still here");
}

#[tokio::test]
async fn an_answer_faster_than_its_reader_comes_whole() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let mut stream = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect("is taken");
    let asked = attic.next().await;
    // More pieces than all queues between hold.
    let said = tokio::spawn(async move {
        for _ in 0..PIECES {
            if asked
                .pieces
                .send(Piece::Text { text: "x".to_owned(), logprobs: vec![] })
                .await
                .is_err()
            {
                return false;
            }
        }
        asked.done(100).await;
        true
    });
    let (text, _) = whole(&mut stream).await;
    assert!(said.await.expect("runs"), "everything was taken");
    assert_eq!(text.len(), PIECES, "and nothing was lost on the way");
}
