//! Nodes that exist only in memory.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent_api::{
    NodeId, TaskId,
    mesh::AnnouncedServing,
    runner::{FinishReason, Generate, Prompt, Sampling, Timings, Usage},
    tasks::{Candidate, TaskKind, TaskPath},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::tasks::{
    job::{
        BoxFuture, GenerateJob, JOB_PIECES, Job, JobError, JobPiece, JobResult, JobStream, Offer,
        WasmJob,
    },
    known::InFlight,
    origin::workers::Workers,
    placement::{NodeView, Placed, Wanted},
    reputation::Experience,
};

/// What the next offers meet, in their order; afterwards all goes well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Script {
    Refuse,
    LostAtOnce,
    LostWaiting,
    LostRunning,
    LostInText,
    Broke,
    Fails,
    /// Nothing is heard of it.
    Silent,
    SilentRunning,
    /// It runs, and sends nothing in many pieces.
    Empty,
    /// Waits, and comes no nearer.
    Stands,
    Notes,
    /// As without a script.
    Well,
}

#[derive(Debug)]
pub(super) struct Fakes {
    nodes: usize,
    pub(super) in_flight: InFlight,
    scripts: Mutex<VecDeque<Script>>,
    /// What the offers of one task meet, in their order; before `scripts`.
    scripts_of: Mutex<HashMap<TaskId, VecDeque<Script>>>,
    /// Results that were taken: the stream was dropped after its result.
    results: Mutex<HashMap<TaskId, u32>>,
    /// Tasks that a peer still has after a restart, with their fence.
    kept: Mutex<HashSet<(TaskId, u64)>>,
    /// As it was offered.
    offers: Mutex<HashMap<(TaskId, u64), Offer>>,
    experiences: Mutex<Vec<(NodeId, Experience)>>,
    /// Results are compared.
    compared: AtomicBool,
    trusted: AtomicUsize,
    turn: AtomicUsize,
}

pub(super) fn node(n: usize) -> NodeId {
    NodeId(format!("{n:064x}"))
}

pub(super) fn job() -> Job {
    Job::Wasm(WasmJob {
        module: "ab".repeat(32),
        name: None,
        input: String::new(),
        fuel: 100,
        memory_bytes: 1 << 20,
        wall_ms: 1_000,
    })
}

pub(super) fn text_job() -> Job {
    let generate = Generate {
        prompt: Prompt::Chat { messages: Vec::new(), tools: Vec::new() },
        max_tokens: Some(10),
        sampling: Sampling::default(),
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    };
    Job::Chat(GenerateJob {
        model: "m".into(),
        generate: Box::new(generate),
        context: None,
        left_out: Default::default(),
    })
}

impl Fakes {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            in_flight: InFlight::default(),
            scripts: Mutex::default(),
            scripts_of: Mutex::default(),
            results: Mutex::default(),
            kept: Mutex::default(),
            offers: Mutex::default(),
            experiences: Mutex::default(),
            compared: AtomicBool::new(false),
            trusted: AtomicUsize::new(usize::MAX),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn script(&self, scripts: &[Script]) {
        self.scripts.lock().expect("lock").extend(scripts);
    }

    pub(super) fn script_of(&self, task: &TaskId, scripts: &[Script]) {
        let scripts = scripts.iter().copied().collect();
        self.scripts_of.lock().expect("lock").insert(task.clone(), scripts);
    }

    /// Waits until as many scripts as were given have been begun.
    pub(super) async fn began_all(&self) {
        while !self.scripts.lock().expect("lock").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(super) fn remember(&self, task: &TaskId, fence: u64) {
        self.kept.lock().expect("lock").insert((task.clone(), fence));
    }

    pub(super) fn compare(&self) {
        self.compared.store(true, Ordering::Relaxed);
    }

    pub(super) fn trust(&self, node: usize) {
        self.trusted.store(node, Ordering::Relaxed);
    }

    pub(super) fn experiences(&self) -> Vec<(NodeId, Experience)> {
        self.experiences.lock().expect("lock").clone()
    }

    /// Results of a task that the origin has said to be safe.
    pub(super) fn settled(&self, task: &TaskId) -> u32 {
        self.results.lock().expect("lock").get(task).copied().unwrap_or(0)
    }

    fn carry(&self, offer: Offer, script: Option<Script>) -> JobStream {
        let (out, pieces) = mpsc::channel(JOB_PIECES);
        let cancel = CancellationToken::new();
        *self.results.lock().expect("lock").entry(offer.task.clone()).or_default() +=
            u32::from(matches!(script, None | Some(Script::Well)));
        tokio::spawn(perform(offer, script, out, cancel.clone()));
        JobStream { pieces, path: TaskPath::Lan, cancel: cancel.drop_guard() }
    }
}

async fn perform(
    offer: Offer,
    script: Option<Script>,
    out: mpsc::Sender<Result<JobPiece, JobError>>,
    cancel: CancellationToken,
) {
    let send = |piece| {
        let out = out.clone();
        async move {
            let _ = out.send(piece).await;
        }
    };
    let lost = || Err(JobError::Lost("the stream ended".into()));
    let text = |text: &str| JobPiece::Text { text: text.to_owned(), logprobs: Vec::new() };
    match script {
        Some(Script::Silent) => return cancel.cancelled().await,
        Some(Script::Stands) => loop {
            send(Ok(JobPiece::Waiting { position: 3, reason: String::new() })).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            if out.is_closed() {
                return;
            }
        },
        Some(Script::LostWaiting) => {
            send(Ok(JobPiece::Waiting { position: 2, reason: String::new() })).await;
            return send(lost()).await;
        }
        _ => send(Ok(JobPiece::Running)).await,
    }
    match script {
        Some(Script::SilentRunning) => return cancel.cancelled().await,
        Some(Script::Empty) => loop {
            send(Ok(text(""))).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            if out.is_closed() {
                return;
            }
        },
        Some(Script::Notes) => {
            for _ in 0..1_000 {
                send(Ok(JobPiece::Note { text: "still here".into() })).await;
            }
        }
        Some(Script::LostRunning) => return send(lost()).await,
        Some(Script::Broke) => return send(Err(JobError::Broke("out of memory".into()))).await,
        Some(Script::Fails) => return send(Err(JobError::Failed("it traps".into()))).await,
        Some(Script::LostInText) => {
            send(Ok(text("one "))).await;
            return send(lost()).await;
        }
        _ => {}
    }
    let result = match &offer.job {
        Job::Chat(job) => {
            let rest = "one two three".strip_prefix(job.generate.continue_from.as_str());
            send(Ok(text(rest.expect("goes on from what was delivered")))).await;
            JobResult::Text {
                finish: FinishReason::Stop,
                usage: Usage::default(),
                timings: Timings::default(),
            }
        }
        _ => JobResult::Wasm { output: "AAAA".into(), fuel_used: 5 },
    };
    send(Ok(JobPiece::Result(Box::new(result)))).await;
}

impl Workers for Fakes {
    fn me(&self) -> NodeId {
        NodeId("ff".repeat(32))
    }

    fn name_of(&self, node: &NodeId) -> String {
        node.fmt_short().to_owned()
    }

    fn place(&self, wanted: &Wanted) -> (Vec<NodeView>, Placed) {
        let trusted = self.trusted.load(Ordering::Relaxed);
        let view = |n| NodeView { trusted: n == trusted, ..view(n) };
        let nodes: Vec<NodeView> = (0..self.nodes).map(view).collect();
        let mut placed = Placed::default();
        placed.explanation.summary = "No node can do it.".into();
        if wanted.node.is_some() {
            return (nodes, placed);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        placed.ranked = (0..self.nodes).map(|n| (n + turn) % self.nodes).collect();
        placed.models = vec![None; self.nodes];
        let able = nodes.iter().filter(|node| !wanted.not.contains(&node.id));
        placed.explanation.candidates = able.map(candidate).collect();
        (nodes, placed)
    }

    fn offer(&self, _node: NodeView, offer: Offer) -> BoxFuture<'_, Result<JobStream, JobError>> {
        let mut of = self.scripts_of.lock().expect("lock");
        let script = of.get_mut(&offer.task).and_then(VecDeque::pop_front);
        let script = script.or_else(|| self.scripts.lock().expect("lock").pop_front());
        drop(of);
        let under = (offer.task.clone(), offer.fence);
        self.offers.lock().expect("lock").insert(under, offer.clone());
        let retry_after = Some(Duration::from_millis(20));
        let answer = match script {
            Some(Script::Refuse) => {
                Err(JobError::Refused { reason: "It is full.".into(), retry_after })
            }
            Some(Script::LostAtOnce) => Err(JobError::Lost("it is gone".into())),
            script => Ok(self.carry(offer, script)),
        };
        Box::pin(std::future::ready(answer))
    }

    fn attach(&self, _node: NodeId, offer: Offer) -> BoxFuture<'_, Result<JobStream, JobError>> {
        let under = (offer.task.clone(), offer.fence);
        let kept = self.kept.lock().expect("lock").contains(&under);
        let offer = self.offers.lock().expect("lock").get(&under).cloned().unwrap_or(offer);
        let refused = JobError::Refused { reason: "It is not here.".into(), retry_after: None };
        let answer = if kept { Ok(self.carry(offer, None)) } else { Err(refused) };
        Box::pin(std::future::ready(answer))
    }

    fn experience(&self, node: &NodeId, what: Experience) {
        self.experiences.lock().expect("lock").push((node.clone(), what));
    }

    fn must_compare(&self, _node: &NodeId) -> bool {
        self.compared.load(Ordering::Relaxed)
    }
}

fn candidate(node: &NodeView) -> Candidate {
    Candidate {
        node: node.id.clone(),
        name: node.name.clone(),
        chosen: false,
        refused: None,
        cost_ms: 1.0,
        parts: Vec::new(),
    }
}

pub(super) fn view(n: usize) -> NodeView {
    NodeView {
        id: node(n),
        name: format!("n{n}"),
        here: false,
        mine: false,
        trusted: false,
        problem: None,
        path: Some(TaskPath::Lan),
        rtt_ms: None,
        region: None,
        serving: AnnouncedServing::Ready,
        accepts: TaskKind::ALL.to_vec(),
        models: Vec::new(),
        slots: 1,
        slots_free: 1,
        queue: 0,
        in_flight: 0,
        price: None,
        reputation: 0.5,
    }
}
