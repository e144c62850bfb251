//! The beginning of a stream: what is wanted, whether it is taken.

use std::{sync::Arc, time::Duration};

use agent_api::{TaskId, models::ModelState, tasks::TaskKind};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::{Instant, interval, interval_at, timeout},
};

use super::{
    Inner,
    admission::{self, FULL_FOR, Offered},
    held::Held,
    kept::Key,
    line::{Class, Seat, Wish},
    serving::{Serving, Task, Transcript},
    sink::{CANCELLED, Heard, Sink, frame},
};
use crate::{
    mesh::{NodeKey, net::PeerStream},
    tasks::{
        job::{Job, JobError},
        kinds::check_job,
        rows::is_task_id,
        wire::{self, FromOrigin, OfferFrame, Said, Weight, WireError},
    },
};

/// An offer, or a module, of the largest size over a slow line.
const READ_WAIT: Duration = Duration::from_secs(60);
/// Who has nothing to say after so long does not hold a stream open.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Leases that are taken; others are made so long.
const LEASES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(120);
/// Signs of life while something takes its time.
pub(super) const ALIVE: Duration = Duration::from_secs(5);

/// Takes a stream to its end, or gives it to the task that it is for.
pub(super) async fn take(inner: Arc<Inner>, mut stream: PeerStream) {
    let peer = stream.peer;
    let first = wire::read(&mut stream.recv, wire::SMALL_BYTES);
    let Ok(Ok(first)) = timeout(FIRST_WAIT, first).await else {
        // The other end broke the rules or is gone.
        let _ = stream.send.reset(CANCELLED);
        let _ = stream.recv.stop(CANCELLED);
        return;
    };
    match first {
        FromOrigin::Offer(offer) => take_offer(&inner, stream, *offer).await,
        FromOrigin::Attach { version, task, fence } => {
            if let Err(refusal) = check_version(version) {
                return refuse(stream, &task, fence, &refusal).await;
            }
            let key = Key { origin: peer, task, fence };
            if let Some(stream) = attach(&inner, stream, &key).await {
                let gone = JobError::Refused {
                    reason: "this node does not have that task".to_owned(),
                    retry_after: None,
                };
                refuse(stream, &key.task, fence, &gone).await;
            }
        }
        FromOrigin::Describe { version, model } => match check_version(version) {
            Ok(()) => describe(&inner, stream, model).await,
            Err(refusal) => refuse(stream, &no_task(), 0, &refusal).await,
        },
        FromOrigin::Job { .. }
        | FromOrigin::Module { .. }
        | FromOrigin::Renew
        | FromOrigin::Ack => {}
    }
}

fn check_version(version: u32) -> Result<(), JobError> {
    if version == wire::VERSION {
        return Ok(());
    }
    let reason = format!(
        "this node speaks version {} of tasks and the offer is of version {version}; update the \
         older of the two",
        wire::VERSION
    );
    Err(JobError::Refused { reason, retry_after: None })
}

fn refusal(reason: String, retry_after: Option<Duration>) -> JobError {
    JobError::Refused { reason, retry_after }
}

fn crowded() -> JobError {
    refusal("too much of your node's work waits here".to_owned(), Some(FULL_FOR))
}

fn no_task() -> TaskId {
    TaskId(String::new())
}

/// One small frame, and the end of the stream.
async fn refuse(stream: PeerStream, task: &TaskId, fence: u64, error: &JobError) {
    let sink = Sink::new(stream);
    // A frame fits always; nobody reads it if the stream is over.
    let _ = sink.frames.send(frame(task, fence, Said::error(error))).await;
}

async fn take_offer(inner: &Arc<Inner>, stream: PeerStream, offer: OfferFrame) {
    let peer = stream.peer;
    let OfferFrame { version, task, fence, kind, model, priority, lease_ms, attempt: _ } = offer;
    if !is_task_id(&task) {
        return;
    }
    if let Err(refusal) = check_version(version) {
        return refuse(stream, &task, fence, &refusal).await;
    }
    let key = Key { origin: peer, task, fence };
    let stream = if fence == 0 { Some(stream) } else { attach(inner, stream, &key).await };
    let Some(mut stream) = stream else { return };
    let (seat, id) = match admit(inner, peer, kind, model.as_deref()).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refuse(stream, &key.task, fence, &refusal).await,
    };
    let (mut job, held, bytes) = match ask_job(inner, &mut stream, &key).await {
        Ok(asked) => asked,
        Err(refusal) => return refuse(stream, &key.task, fence, &refusal).await,
    };
    let checked = match (job.kind(), job.model()) == (kind, model.as_deref()) {
        true => check_job(&job),
        false => Err("the job that came is not the one that was offered".to_owned()),
    };
    if let Err(why) = checked {
        return refuse(stream, &key.task, fence, &refusal(why, None)).await;
    }
    name_model(&mut job, id);
    if let Job::Chat(job) | Job::Completion(job) = &mut job {
        // A larger context means loading the model anew: only the owner may ask for that. A prompt
        // that does not fit is told so.
        job.context = None;
    }
    if let Job::Wasm(job) = &job {
        let wanted = &job.module;
        if inner.setup.here.find_module(wanted).await.is_none()
            && let Err(refusal) = ask_module(inner, &mut stream, &key, wanted).await
        {
            return refuse(stream, &key.task, fence, &refusal).await;
        }
    }
    let wish = Wish {
        peer,
        class: Class::of(job.kind()),
        weight: inner.weight_of(peer),
        cost: admission::cost(&job, bytes),
        priority: priority.min(9),
    };
    let lease = Duration::from_millis(lease_ms).clamp(*LEASES.start(), *LEASES.end());
    let task = Task { key, job, lease, seat, held };
    let (attach, attached) = mpsc::channel(1);
    if fence != 0 {
        inner.served().insert(task.key.clone(), attach);
    }
    let serving = Serving::new(Arc::clone(inner), &task, Sink::new(stream), attached);
    inner.tasks.spawn(serving.run(task, wish));
}

/// Counts the task for its node, or says why it is not taken. With the id of the model that was
/// asked for.
async fn admit(
    inner: &Inner,
    peer: NodeKey,
    kind: TaskKind,
    asked: Option<&str>,
) -> Result<(Seat, Option<String>), JobError> {
    let host = &inner.setup.here.host;
    let found = match asked {
        Some(name) => host.model_here(name.to_owned()).await,
        None => None,
    };
    let abilities = inner.abilities().await;
    let settings = inner.setup.settings.borrow().tasks.clone();
    let seat = inner.line.seat(peer, |of_peer, waiting| {
        let model = asked.map(|name| (name, found.is_some()));
        let closed = if inner.stop.is_cancelled() {
            Some("this node is stopping".to_owned())
        } else {
            host.closed()
        };
        let offered = Offered { kind, closed, abilities, model, of_peer, waiting };
        admission::admit(&settings, &offered)
    })?;
    Ok((seat, found))
}

/// The model's name becomes its id.
fn name_model(job: &mut Job, id: Option<String>) {
    let Some(id) = id else { return };
    match job {
        Job::Chat(job) | Job::Completion(job) => job.model = id,
        Job::Embedding { model, .. } => *model = id,
        Job::Code(input) => input.model = id,
        Job::Wasm(_) => {}
    }
}

/// Gets what is to be done from the origin, with the memory that it takes and its bytes.
async fn ask_job(
    inner: &Inner,
    stream: &mut PeerStream,
    key: &Key,
) -> Result<(Job, Held, usize), JobError> {
    let (bytes, mut held) = ask(inner, stream, key, Said::NeedJob, wire::JOB_BYTES).await?;
    let weight = Weight::of(&bytes);
    if !weight.is_fair() {
        return Err(refusal(WireError::TooIntricate.to_string(), None));
    }
    if !held.grow(weight.bytes()) {
        return Err(crowded());
    }
    match wire::understand(&bytes) {
        Ok(FromOrigin::Job { job }) => Ok((*job, held, bytes.len())),
        Ok(_) => Err(refusal("something else came in place of the job".to_owned(), None)),
        Err(error) => Err(refusal(error.to_string(), None)),
    }
}

/// Gets a module from the origin.
async fn ask_module(
    inner: &Inner,
    stream: &mut PeerStream,
    key: &Key,
    sha256: &str,
) -> Result<(), JobError> {
    let refused = |reason: &str| refusal(reason.to_owned(), None);
    let need = Said::NeedModule { sha256: sha256.to_owned() };
    let (bytes, _held) = ask(inner, stream, key, need, wire::MODULE_BYTES).await?;
    let Ok(FromOrigin::Module { bytes }) = wire::understand(&bytes) else {
        return Err(refused("something else came in place of the module"));
    };
    let bytes = STANDARD.decode(bytes).map_err(|_| refused("the module is not base64"))?;
    let put = inner.setup.here.others.put_sent(bytes, sha256).await;
    match put.map_err(|e| refused(&e.to_string()))? {
        found if found == *sha256 => Ok(()),
        found => Err(refused(&format!("the module {found} came in place of {sha256}"))),
    }
}

/// Asks the origin for a frame of at most `limit` bytes. With the memory that it takes.
async fn ask(
    inner: &Inner,
    stream: &mut PeerStream,
    key: &Key,
    said: Said,
    limit: usize,
) -> Result<(Vec<u8>, Held), JobError> {
    let asked = async {
        let sent = stream.send.write_all(&frame(&key.task, key.fence, said)).await;
        sent.map_err(|e| refusal(format!("it could not be asked for: {e}"), None))?;
        let broken = |e: WireError| refusal(format!("it did not come: {e}"), None);
        let length = wire::read_length(&mut stream.recv).await.map_err(broken)?;
        let held = inner.memory.hold(key.origin, length.min(limit)).ok_or_else(crowded)?;
        Ok((wire::read_bytes(&mut stream.recv, length, limit).await.map_err(broken)?, held))
    };
    let late = || Err(refusal("what was asked for did not come in time".to_owned(), None));
    timeout(READ_WAIT, asked).await.unwrap_or_else(|_| late())
}

/// Gives a stream to the task that it is for, or sends its kept result. The stream comes back if
/// there is neither.
async fn attach(inner: &Arc<Inner>, mut stream: PeerStream, key: &Key) -> Option<PeerStream> {
    let served = inner.served().get(key).cloned();
    if let Some(served) = served {
        // One that attaches again before the first was looked at takes the second's place.
        let _ = served.send(Sink::new(stream)).await;
        return None;
    }
    // A result is large: one at a time is read for a node.
    let turn = replay_turn(inner, &mut stream, key).await?;
    let Some(kept) = inner.setup.kept.find(key.clone()).await else { return Some(stream) };
    let Some(held) = inner.memory.hold(key.origin, kept.len()) else {
        refuse(stream, &key.task, key.fence, &crowded()).await;
        return None;
    };
    let Some(transcript) = Transcript::from_bytes(&kept) else { return Some(stream) };
    drop(kept);
    let mut sink = Sink::new(stream);
    for said in transcript.into_replay() {
        if sink.frames.send(frame(&key.task, key.fence, said)).await.is_err() {
            return None;
        }
    }
    // Unacknowledged it stays: the origin may come once more.
    let acknowledged = async {
        loop {
            match sink.heard.recv().await {
                Some(Heard::Ack) => return true,
                Some(Heard::Renew) => {}
                _ => return false,
            }
        }
    };
    if timeout(*LEASES.end(), acknowledged).await == Ok(true) {
        inner.setup.kept.forget(key.clone()).await;
    }
    // Until then the result is in memory, on its way.
    drop((held, turn));
    None
}

/// Waits until no other result is read for the node, with signs of life. `None`: it is gone.
async fn replay_turn(
    inner: &Inner,
    stream: &mut PeerStream,
    key: &Key,
) -> Option<OwnedMutexGuard<()>> {
    let turn = inner.replays.turn(key.origin);
    tokio::pin!(turn);
    let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
    loop {
        tokio::select! {
            turn = &mut turn => return Some(turn),
            _ = alive.tick() => {
                let alive = frame(&key.task, key.fence, Said::Alive);
                timeout(READ_WAIT, stream.send.write_all(&alive)).await.ok()?.ok()?;
            }
        }
    }
}

/// Tells how a model writes tool calls. Loading it may take a while.
async fn describe(inner: &Arc<Inner>, stream: PeerStream, model: String) {
    let peer = stream.peer;
    let (_seat, id) = match admit(inner, peer, TaskKind::Chat, Some(&model)).await {
        Ok((seat, id)) => (seat, id.unwrap_or(model)),
        Err(refusal) => return refuse(stream, &no_task(), 0, &refusal).await,
    };
    let mut sink = Sink::new(stream);
    let host = &inner.setup.here.host;
    let asked = async {
        let state = host.own().inference.find(&id).map(|found| found.residency.state);
        // Who asks about one model after the other has them loaded one after the other.
        let _turn = match state {
            Some(ModelState::Ready) => None,
            _ => Some(inner.loads.turn(peer).await),
        };
        host.tool_format(id).await
    };
    tokio::pin!(asked);
    let mut alive = interval(ALIVE);
    let said = loop {
        tokio::select! {
            told = &mut asked => break match told {
                Ok(tools) => Said::Described { tools },
                Err(error) => Said::error(&JobError::from(error)),
            },
            _ = alive.tick() => {
                // A full channel shows life by itself.
                let _ = sink.frames.try_send(frame(&no_task(), 0, Said::Alive));
            }
            heard = sink.heard.recv() => if !matches!(heard, Some(Heard::Renew)) { return },
        }
    };
    let _ = sink.frames.send(frame(&no_task(), 0, said)).await;
}
