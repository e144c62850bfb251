//! What a worker bounds by itself, whatever the other node did not.

use super::*;
use crate::tasks::{
    job::WasmJob,
    wire::{FromOrigin, FromWorker, OfferFrame, Said},
};

/// The first word after a frame of these bytes.
async fn answer(desk: &TestNode, peer: NodeKey, json: &str) -> FromWorker {
    let mut stream = desk.mesh.open_stream(peer, wire::STREAM).await.expect("opens");
    let length = u32::try_from(json.len()).expect("small").to_le_bytes();
    stream.send.write_all(&length).await.expect("writes");
    stream.send.write_all(json.as_bytes()).await.expect("writes");
    let read = wire::read(&mut stream.recv, wire::PIECE_BYTES);
    timeout(PATIENCE, read).await.expect("comes in time").expect("is a frame")
}

fn reason(answer: FromWorker) -> String {
    match answer.said {
        Said::Refused { reason, .. } => reason,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_job_beyond_its_kinds_bounds_is_refused_by_name() {
    let (desk, attic, ..) = pair().await;
    let wasm = WasmJob {
        module: "ab".repeat(32),
        name: None,
        input: String::new(),
        fuel: 1,
        memory_bytes: 1 << 20,
        wall_ms: u64::MAX,
    };
    let offer = Offer { job: Job::Wasm(wasm), ..offer(0) };
    let task = offer.task.clone();
    let frame = FromOrigin::Offer(Box::new(OfferFrame::from(offer)));
    let json = serde_json::to_string(&frame).expect("is JSON");
    let refused = answer(&desk, attic.node.node_key(), &json).await;
    assert_eq!(refused.task, task);
    let reason = reason(refused);
    assert!(reason.contains("wall_ms"), "{reason}");
}

#[tokio::test]
async fn an_offer_that_would_fill_the_memory_is_refused_unread() {
    let (desk, attic, ..) = pair().await;
    let task = new_task_id();
    let bomb = format!(
        r#"{{"type":"offer","version":1,"task":"{}","attempt":1,"fence":3,"priority":5,
            "lease_ms":30000,"job":{{"kind":"chat","model":"demo","context":null,
            "generate":{{"prompt":{{"type":"chat","tools":[],"messages":[{}0]}}}}}}}}"#,
        task.0,
        r#"{"":0},"#.repeat(1 << 20)
    );
    let refused = answer(&desk, attic.node.node_key(), &bomb).await;
    assert_eq!((&refused.task, refused.fence), (&task, 3));
    let reason = reason(refused);
    assert!(reason.contains("too many values"), "{reason}");
}

#[tokio::test]
async fn a_stranger_does_not_have_the_model_loaded_anew() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let mut large = offer(0);
    if let Job::Completion(job) = &mut large.job {
        job.context = Some(1 << 20);
    }
    let peer = attic.node.node_key();
    let mut stream = remote.offer(peer, TaskPath::Lan, large).await.expect("is taken");
    let asked = attic.next().await;
    assert_eq!(asked.options.context, None);
    asked.done(1).await;
    whole(&mut stream).await;
}

#[tokio::test]
async fn questions_about_a_model_are_admitted_like_tasks() {
    let (_desk, attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let told = remote.tool_format(peer, "demo".to_owned()).await.expect("is told");
    assert!(told.is_none());
    let refused = remote.tool_format(peer, "other".to_owned()).await.expect_err("is not here");
    assert!(refused.to_string().contains("other is not here"), "{refused}");
    attic.settings.send_modify(|settings| settings.tasks.kinds.clear());
    let refused = remote.tool_format(peer, "demo".to_owned()).await.expect_err("is refused");
    assert!(refused.to_string().contains("kind chat"), "{refused}");
}

#[tokio::test]
async fn rows_keep_short_reasons_only() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let mut stream = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect("is taken");
    let asked = attic.next().await;
    let error = InferenceError::BadRequest("x".repeat(100_000));
    asked.pieces.send(Piece::Failed(error)).await.expect("somebody listens");
    while piece(&mut stream).await.is_ok() {}
    until("it ended", || !attic.noted.ended.lock().expect("no panic").is_empty()).await;
    let ended = attic.noted.ended.lock().expect("no panic").clone();
    assert_eq!(ended[0].state, TaskState::Failed);
    assert!(ended[0].reason.len() <= wire::REASON_BYTES, "{}", ended[0].reason.len());
}

#[tokio::test]
async fn a_result_without_room_in_memory_is_kept_at_once_and_comes_again() {
    let (desk, mut attic, remote, _dir) = pair().await;
    let (peer, offer) = (attic.node.node_key(), offer(6));
    let stream = remote.offer(peer, TaskPath::Lan, offer.clone()).await.expect("is taken");
    let asked = attic.next().await;
    asked.say("Hello").await;
    let memory = &attic.worker.inner.memory;
    let mut full = Vec::new();
    for bytes in [1 << 20, 4 << 10] {
        full.extend(std::iter::from_fn(|| memory.hold(desk.node_key(), bytes)));
    }
    asked.done(1).await;
    until("it is not in memory", || attic.worker.inner.served().is_empty()).await;
    let key = Key { origin: desk.node_key(), task: offer.task.clone(), fence: 6 };
    assert!(attic.worker.inner.setup.kept.find(key.clone()).await.is_some(), "is kept");
    drop((stream, full));
    let mut again = remote.attach(peer, TaskPath::Lan, &offer).await.expect("is there");
    assert_eq!(whole(&mut again).await.0, "Hello");
}
