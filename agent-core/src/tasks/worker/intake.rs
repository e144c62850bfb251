//! The beginning of a stream: what is wanted, whether it is taken.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_api::TaskId;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, timeout},
};

use super::{
    Inner,
    admission::{self, Offered},
    kept::Key,
    line::{Class, Seat, Wish},
    serving::{Serving, Task, Transcript},
    sink::{CANCELLED, Heard, Sink, frame},
};
use crate::{
    mesh::{NodeKey, net::PeerStream},
    tasks::{
        job::{Job, JobError},
        rows::is_task_id,
        wire::{self, FromOrigin, OfferFrame, Said},
    },
};

/// An offer, or a module, of the largest size over a slow line.
const READ_WAIT: Duration = Duration::from_secs(60);
/// Who has nothing to say after so long does not hold a stream open.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Offers and modules that are read or wait here, of all nodes and of one: their words are in
/// memory.
const HELD_BYTES: usize = 256 << 20;
const HELD_BYTES_OF_ONE: usize = 32 << 20;
/// What an offer costs at least.
const LEAST_BYTES: usize = 4 << 10;
/// Leases that are taken; others are made so long.
const LEASES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(120);
/// Signs of life while something takes its time.
pub(super) const ALIVE: Duration = Duration::from_secs(5);

/// Bytes that offers take, by node.
#[derive(Debug, Default)]
pub(super) struct Intake {
    held: Arc<Mutex<HashMap<NodeKey, usize>>>,
}

/// Bytes that are taken while this lives.
#[derive(Debug)]
pub(super) struct Held {
    all: Arc<Mutex<HashMap<NodeKey, usize>>>,
    peer: NodeKey,
    bytes: usize,
}

impl Intake {
    fn hold(&self, peer: NodeKey, bytes: usize) -> Option<Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.max(LEAST_BYTES);
        let of_one = held.get(&peer).copied().unwrap_or(0) + bytes;
        let of_all = held.values().sum::<usize>() + bytes;
        if of_one > HELD_BYTES_OF_ONE || of_all > HELD_BYTES {
            return None;
        }
        held.insert(peer, of_one);
        drop(held);
        Some(Held { all: Arc::clone(&self.held), peer, bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.peer) {
            *held = held.saturating_sub(self.bytes);
            if *held == 0 {
                all.remove(&self.peer);
            }
        }
    }
}

/// Takes a stream to its end, or gives it to the task that it is for.
pub(super) async fn take(inner: Arc<Inner>, mut stream: PeerStream) {
    let peer = stream.peer;
    let Some((first, held)) = first(&inner, &mut stream).await else {
        // The other end broke the rules or is gone.
        let _ = stream.send.reset(CANCELLED);
        let _ = stream.recv.stop(CANCELLED);
        return;
    };
    match first {
        FromOrigin::Offer(offer) => take_offer(&inner, stream, *offer, held).await,
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
        FromOrigin::Module { .. } | FromOrigin::Renew | FromOrigin::Ack => {}
    }
}

/// `None`: nothing that can be understood came in time.
async fn first(inner: &Inner, stream: &mut PeerStream) -> Option<(FromOrigin, Held)> {
    let length = timeout(FIRST_WAIT, wire::read_length(&mut stream.recv)).await.ok()?.ok()?;
    if length > wire::OFFER_BYTES {
        return None;
    }
    let held = inner.intake.hold(stream.peer, length)?;
    let read = wire::read_body(&mut stream.recv, length, wire::OFFER_BYTES);
    Some((timeout(READ_WAIT, read).await.ok()?.ok()?, held))
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

fn no_task() -> TaskId {
    TaskId(String::new())
}

/// One small frame, and the end of the stream.
async fn refuse(stream: PeerStream, task: &TaskId, fence: u64, error: &JobError) {
    let sink = Sink::new(stream);
    // A frame fits always; nobody reads it if the stream is over.
    let _ = sink.frames.send(frame(task, fence, Said::error(error))).await;
}

async fn take_offer(inner: &Arc<Inner>, stream: PeerStream, offer: OfferFrame, held: Held) {
    let peer = stream.peer;
    let OfferFrame { version, task, fence, mut job, priority, lease_ms, attempt: _ } = offer;
    if !is_task_id(&task) {
        return;
    }
    if let Err(refusal) = check_version(version) {
        return refuse(stream, &task, fence, &refusal).await;
    }
    let key = Key { origin: peer, task, fence };
    let stream = if fence == 0 { Some(stream) } else { attach(inner, stream, &key).await };
    let Some(mut stream) = stream else { return };
    let seat = match admit(inner, peer, &mut job).await {
        Ok(seat) => seat,
        Err(refusal) => return refuse(stream, &key.task, fence, &refusal).await,
    };
    if let Job::Wasm(job) = &job {
        let wanted = &job.module;
        if inner.setup.here.modules.get(wanted).await.is_none()
            && let Err(refusal) = ask_module(inner, &mut stream, &key, wanted).await
        {
            return refuse(stream, &key.task, fence, &refusal).await;
        }
    }
    let wish = Wish {
        peer,
        class: Class::of(job.kind()),
        weight: inner.weight_of(peer),
        cost: admission::cost(&job, held.bytes),
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

/// Counts the task for its node, or says why it is not taken. The model's name becomes its id.
async fn admit(inner: &Arc<Inner>, peer: NodeKey, job: &mut Job) -> Result<Seat, JobError> {
    let host = &inner.setup.here.host;
    let asked = job.model().map(ToOwned::to_owned);
    let found = match &asked {
        Some(name) => host.model_here(name.clone()).await,
        None => None,
    };
    let abilities = inner.abilities().await;
    let settings = inner.setup.settings.borrow().tasks.clone();
    let seat = inner.line.seat(peer, |of_peer, waiting| {
        let model = asked.as_deref().map(|name| (name, found.is_some()));
        let closed = if inner.stop.is_cancelled() {
            Some("this node is stopping".to_owned())
        } else {
            host.closed()
        };
        let offered = Offered { kind: job.kind(), closed, abilities, model, of_peer, waiting };
        admission::admit(&settings, &offered)
    })?;
    if let Some(id) = found {
        match job {
            Job::Chat(job) | Job::Completion(job) => job.model = id,
            Job::Embedding { model, .. } => *model = id,
            Job::Code(input) => input.model = id,
            Job::Wasm(_) => {}
        }
    }
    Ok(seat)
}

/// Gets a module from the origin.
async fn ask_module(
    inner: &Inner,
    stream: &mut PeerStream,
    key: &Key,
    sha256: &str,
) -> Result<(), JobError> {
    let refused = |reason: String| JobError::Refused { reason, retry_after: None };
    let ask = Said::NeedModule { sha256: sha256.to_owned() };
    let ask = frame(&key.task, key.fence, ask);
    let sent = stream.send.write_all(&ask).await;
    sent.map_err(|e| refused(format!("the module could not be asked for: {e}")))?;
    let until = Instant::now() + READ_WAIT;
    let read = async {
        loop {
            let length = wire::read_length(&mut stream.recv).await.map_err(|e| e.to_string())?;
            let Some(_held) = inner.intake.hold(key.origin, length.min(wire::MODULE_BYTES)) else {
                return Err("too much of this node's work waits here".to_owned());
            };
            match wire::read_body(&mut stream.recv, length, wire::MODULE_BYTES).await {
                Ok(FromOrigin::Module { bytes }) => return Ok(bytes),
                Ok(FromOrigin::Renew) => {}
                Ok(_) => return Err("something else came in its place".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let read = tokio::time::timeout_at(until, read).await;
    let read = read.unwrap_or_else(|_| Err("it did not come in time".to_owned()));
    let text = read.map_err(|e| refused(format!("the module did not come: {e}")))?;
    let bytes =
        STANDARD.decode(text).map_err(|_| refused("the module is not base64".to_owned()))?;
    let put = inner.setup.here.modules.put(bytes).await;
    match put.map_err(|e| refused(e.to_string()))? {
        found if found == *sha256 => Ok(()),
        found => Err(refused(format!("the module {found} came in place of {sha256}"))),
    }
}

/// Gives a stream to the task that it is for, or sends its kept result. The stream comes back if
/// there is neither.
async fn attach(inner: &Arc<Inner>, stream: PeerStream, key: &Key) -> Option<PeerStream> {
    let served = inner.served().get(key).cloned();
    if let Some(served) = served {
        // One that attaches again before the first was looked at takes the second's place.
        let _ = served.send(Sink::new(stream)).await;
        return None;
    }
    let Some(kept) = inner.setup.kept.find(key.clone()).await else { return Some(stream) };
    let Some(transcript) = Transcript::from_bytes(&kept) else { return Some(stream) };
    let mut sink = Sink::new(stream);
    for said in transcript.replay() {
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
    None
}

/// Tells how a model writes tool calls. Loading it may take a while.
async fn describe(inner: &Arc<Inner>, stream: PeerStream, model: String) {
    let closed = inner.setup.here.host.closed();
    let accept = inner.setup.settings.borrow().tasks.accept;
    let reason = closed.or_else(|| (!accept).then(|| "it does no work for others".to_owned()));
    if let Some(reason) = reason {
        let refusal = JobError::Refused { reason, retry_after: None };
        return refuse(stream, &no_task(), 0, &refusal).await;
    }
    let mut sink = Sink::new(stream);
    let asked = inner.setup.here.host.tool_format(model);
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
