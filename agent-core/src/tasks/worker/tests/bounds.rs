//! What a worker bounds by itself, whatever the other node did not.

use agent_api::runner::TextInput;

use super::*;
use crate::tasks::{
    rows,
    wire::{FromOrigin, FromWorker, OfferFrame, Said},
};

/// What is said to this job once it was asked for.
async fn answer(desk: &TestNode, peer: NodeKey, offer: &Offer, job: &str) -> FromWorker {
    let mut stream = desk.mesh.open_stream(peer, wire::STREAM).await.expect("opens");
    let offered = FromOrigin::Offer(Box::new(OfferFrame::from(offer)));
    let offered = wire::encode(&offered, wire::SMALL_BYTES).expect("small");
    stream.send.write_all(&offered).await.expect("writes");
    let read = wire::read(&mut stream.recv, wire::PIECE_BYTES);
    let need: FromWorker = timeout(PATIENCE, read).await.expect("in time").expect("is a frame");
    assert_eq!(need.said, Said::NeedJob);
    let length = u32::try_from(job.len()).expect("small").to_le_bytes();
    stream.send.write_all(&length).await.expect("writes");
    stream.send.write_all(job.as_bytes()).await.expect("writes");
    let read = wire::read(&mut stream.recv, wire::PIECE_BYTES);
    timeout(PATIENCE, read).await.expect("comes in time").expect("is a frame")
}

fn frame_of(job: &Job) -> String {
    let frame = FromOrigin::Job { job: Box::new(job.clone()) };
    serde_json::to_string(&frame).expect("is JSON")
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
    let input = TextInput::Text { text: String::new() };
    let job = Job::Embedding { model: "demo".to_owned(), inputs: vec![input; 2_049] };
    let offer = Offer { job, ..offer(0) };
    let refused = answer(&desk, attic.node.node_key(), &offer, &frame_of(&offer.job)).await;
    assert_eq!(refused.task, offer.task);
    let reason = reason(refused);
    assert!(reason.contains("inputs"), "{reason}");
}

#[tokio::test]
async fn an_offer_that_would_fill_the_memory_is_refused_unread() {
    let (desk, attic, ..) = pair().await;
    let offer = offer(3);
    let bomb = format!(
        r#"{{"type":"job","job":{{"kind":"chat","model":"demo","context":null,
            "generate":{{"prompt":{{"type":"chat","tools":[],"messages":[{}0]}}}}}}}}"#,
        r#"{"":0},"#.repeat(1 << 20)
    );
    let refused = answer(&desk, attic.node.node_key(), &offer, &bomb).await;
    assert_eq!((&refused.task, refused.fence), (&offer.task, 3));
    let reason = reason(refused);
    assert!(reason.contains("too many values"), "{reason}");
}

#[tokio::test]
async fn a_job_that_is_not_the_one_that_was_offered_is_refused() {
    let (desk, attic, ..) = pair().await;
    let offer = offer(0);
    let mut other = offer.job.clone();
    if let Job::Completion(job) = &mut other {
        job.model = "another".to_owned();
    }
    let refused = answer(&desk, attic.node.node_key(), &offer, &frame_of(&other)).await;
    let reason = reason(refused);
    assert!(reason.contains("not the one that was offered"), "{reason}");
}

#[tokio::test]
async fn who_refuses_never_sees_the_words() {
    let (desk, attic, ..) = pair().await;
    let offer = offer(0);
    let offered = OfferFrame::from(&offer);
    let told = serde_json::to_value(&offered).expect("is JSON");
    for (name, value) in told.as_object().expect("an object") {
        let value = value.as_str().unwrap_or_default();
        let public = ["task", "kind", "model"].contains(&name.as_str());
        assert!(public || value.is_empty(), "{name}: {value}");
    }
    attic.settings.send_modify(|settings| settings.tasks.accept = false);
    let mut stream =
        desk.mesh.open_stream(attic.node.node_key(), wire::STREAM).await.expect("opens");
    let frame = FromOrigin::Offer(Box::new(offered));
    let bytes = wire::encode(&frame, wire::SMALL_BYTES).expect("small");
    stream.send.write_all(&bytes).await.expect("writes");
    let read = wire::read(&mut stream.recv, wire::PIECE_BYTES);
    let refused: FromWorker = timeout(PATIENCE, read).await.expect("in time").expect("a frame");
    assert!(reason(refused).contains("no work for others"));
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

#[tokio::test]
async fn the_owner_stops_what_the_node_does_for_another() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let (peer, offer) = (attic.node.node_key(), offer(0));
    let mut stream = remote.offer(peer, TaskPath::Lan, offer.clone()).await.expect("is taken");
    let asked = attic.next().await;
    asked.say("Hello").await;
    assert!(attic.worker.inner.setup.board.stop(&offer.task));
    let error = loop {
        if let Err(error) = piece(&mut stream).await {
            break error;
        }
    };
    assert!(matches!(&error, JobError::Broke(why) if why.contains("owner")), "{error:?}");
    timeout(PATIENCE, asked.cancelled.cancelled()).await.expect("its model stops");
    until("it ended", || !attic.noted.ended.lock().expect("no panic").is_empty()).await;
    let ended = attic.noted.ended.lock().expect("no panic").clone();
    assert_eq!((ended[0].state, &*ended[0].reason), (TaskState::Cancelled, rows::STOPPED));
}
