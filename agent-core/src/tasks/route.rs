//! Requests that somebody waits for (OpenAI and Ollama endpoints): to this node or to a peer, with
//! failover. Nothing of their words is stored.
//!
//! A model that is here is asked here. Otherwise [`placement`](super::placement) ranks the nodes
//! that have it, and one after the other is offered the job until one takes it ([`tries`]); [`pump`]
//! then carries what comes, and goes on elsewhere when that node is lost.

mod pump;
mod request;
#[cfg(test)]
mod tests;
mod tries;

use std::{fmt, sync::Arc, time::Duration};

use agent_api::{
    NodeId, Settings,
    mesh::Hash,
    runner::Usage,
    tasks::{Placement, Role, TaskPath, TaskState},
};
use pump::Pump;
use request::Request;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tries::{BUSY_WAIT, Tries, to_client};

use super::{
    board::Board,
    job::{BoxFuture, JOB_PIECES, JobError, JobStream, Offer, SharedHost},
    known::{InFlight, Underway},
    placement::{Found, NodeView, Placed, Wanted, find_node, place, same_model},
    remote::Remote,
    rows::{Around, Row, kind_of, new_row},
};
use crate::{
    clock::now_ms,
    inference::{
        Answer, InferenceError, Piece, Route, SharedRoute, SubmitOptions, Work, tools::ToolFormat,
    },
    mesh::NodeKey,
    storage::RequestKind,
};

/// Nodes that are named where a request may not go to them.
const NAMED: usize = 8;
/// Nodes that are asked how a model writes tool calls: each may have to load it.
const DESCRIBERS: usize = 2;

/// Peers that jobs can be offered to.
pub trait Elsewhere: fmt::Debug + Send + Sync + 'static {
    fn offer(
        &self,
        peer: NodeKey,
        path: TaskPath,
        offer: Offer,
    ) -> BoxFuture<'_, Result<JobStream, JobError>>;

    fn tool_format(
        &self,
        peer: NodeKey,
        model: String,
    ) -> BoxFuture<'_, Result<Option<ToolFormat>, JobError>>;
}

impl Elsewhere for Remote {
    fn offer(
        &self,
        peer: NodeKey,
        path: TaskPath,
        offer: Offer,
    ) -> BoxFuture<'_, Result<JobStream, JobError>> {
        Box::pin(Self::offer(self, peer, path, offer))
    }

    fn tool_format(
        &self,
        peer: NodeKey,
        model: String,
    ) -> BoxFuture<'_, Result<Option<ToolFormat>, JobError>> {
        Box::pin(Self::tool_format(self, peer, model))
    }
}

/// A model of another node that answers now.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelElsewhere {
    pub model: String,
    /// What its node is asked for by: its name, or, where others have that name too, the start of
    /// its id.
    pub node: String,
    /// SHA-256 of its weights, where the node says it.
    pub digest: Option<Hash>,
}

/// The nodes of the mesh as they are known at this moment.
pub trait Known: fmt::Debug + Send + Sync + 'static {
    /// With the models that are wanted.
    fn nodes(&self, wanted: &Wanted) -> Vec<NodeView>;

    /// Models of other nodes that answer now.
    fn models_elsewhere(&self) -> Vec<ModelElsewhere>;

    fn place(&self, wanted: &Wanted, nodes: &[NodeView]) -> Placed {
        place(wanted, nodes, now_ms())
    }
}

/// What a router is made of.
#[derive(Clone, Debug)]
pub struct RouterSetup {
    pub host: SharedHost,
    pub elsewhere: Arc<dyn Elsewhere>,
    pub known: Arc<dyn Known>,
    /// Jobs that this node placed, by node.
    pub in_flight: InFlight,
    /// Those in force.
    pub settings: watch::Receiver<Settings>,
    pub board: Board,
    pub around: Arc<dyn Around>,
}

/// Sends requests to the node that answers them. Clones share it.
#[derive(Clone, Debug)]
pub struct Router {
    setup: Arc<RouterSetup>,
}

/// A node that took a request.
#[derive(Debug)]
struct Attempt {
    node: Chosen,
    stream: JobStream,
    route: Route,
    placement: Placement,
    taken: tokio::time::Instant,
    /// What it says that it read.
    prompt: Option<Usage>,
    /// Bytes of the answer that it goes on from.
    continues: usize,
    _counted: Underway,
}

/// A node that can answer.
#[derive(Clone, Debug)]
struct Chosen {
    key: NodeKey,
    id: NodeId,
    name: String,
    path: TaskPath,
    /// The node's own id of the model.
    model: String,
    model_bytes: Option<u64>,
    /// Milliseconds to its first word.
    estimate_ms: f64,
    is_free: bool,
}

impl Router {
    pub fn new(setup: RouterSetup) -> Self {
        Self { setup: Arc::new(setup) }
    }

    /// Answers from this node or another one. `model` is `model` or `model@node`; an empty name
    /// means this node's active model.
    pub async fn route(
        &self,
        kind: RequestKind,
        model: &str,
        work: Work,
        options: SubmitOptions,
    ) -> Result<Answer, InferenceError> {
        let mut request = self.request(kind, model, work, options);
        let local = self.is_local(&request).await;
        // Without a peer that could help, this node says best what is wrong.
        let stays = request.stays();
        if local || stays {
            let may_leave = !stays && request.node.is_none();
            let error = match self.here(&request, options, may_leave).await {
                Err(InferenceError::NoSuchModel(name)) if stays => {
                    return Err(self.only_elsewhere(name));
                }
                Err(error) if may_leave && may_work_elsewhere(&error) => error,
                done => return done,
            };
            if request.model.is_empty() {
                let active = self.setup.host.model_here(String::new()).await;
                request.model = active.unwrap_or_default();
            }
            let answer = self.elsewhere(request, Duration::ZERO).await;
            return answer.map_err(|_| error);
        }
        match self.elsewhere(request, BUSY_WAIT).await {
            Ok(answer) => Ok(answer),
            Err(Nowhere::Because(error)) => Err(error),
            Err(Nowhere::Unknown { request }) => self.here(&request, options, false).await,
        }
    }

    /// Why a request that may not leave is not answered.
    fn only_elsewhere(&self, model: String) -> InferenceError {
        let known = self.setup.known.models_elsewhere();
        let mut nodes: Vec<String> = known
            .into_iter()
            .filter(|known| same_model(&model, &known.model))
            .map(|known| known.node)
            .take(NAMED)
            .collect();
        nodes.sort();
        if nodes.is_empty() {
            return InferenceError::NoSuchModel(model);
        }
        InferenceError::OnlyElsewhere { model, nodes: nodes.join(", ") }
    }

    /// How a model writes tool calls; `None`: it cannot. It is loaded for that if it has to be.
    pub async fn tool_format(
        &self,
        model: &str,
        options: SubmitOptions,
    ) -> Result<Option<ToolFormat>, InferenceError> {
        let work = Work::Embed(Vec::new());
        let request = self.request(RequestKind::Chat, model, work, options);
        if request.stays() {
            return match self.setup.host.tool_format(request.model).await {
                Err(InferenceError::NoSuchModel(name)) => Err(self.only_elsewhere(name)),
                told => told,
            };
        }
        if self.is_local(&request).await {
            return self.setup.host.tool_format(request.model).await;
        }
        let (nodes, placed) = self.candidates(&request, &[]);
        let mut last = None;
        for node in nodes.into_iter().take(DESCRIBERS) {
            match self.setup.elsewhere.tool_format(node.key, node.model.clone()).await {
                Ok(format) => return Ok(format),
                Err(error) => {
                    self.blame(&node, &error);
                    last = Some(to_client(&node.name, &error));
                }
            }
        }
        match last.or_else(|| self.explain(&request, &placed)) {
            Some(error) => Err(error),
            None => self.setup.host.tool_format(request.model).await,
        }
    }

    /// Models of other nodes that answer now, by name.
    pub fn models_elsewhere(&self) -> Vec<ModelElsewhere> {
        let mut models = self.setup.known.models_elsewhere();
        models.sort_by(|a, b| (&a.model, &a.node).cmp(&(&b.model, &b.node)));
        models
    }

    async fn is_local(&self, request: &Request) -> bool {
        if let Some(name) = &request.node {
            let nodes = self.setup.known.nodes(&request.wanted(&[]));
            let Found::One(at) = find_node(name, &nodes) else { return false };
            return nodes.get(at).is_some_and(|node| node.here);
        }
        // Without a name this node's active model is meant, or there is none.
        request.model.is_empty()
            || self.setup.host.model_here(request.model.clone()).await.is_some()
    }

    fn begin_row(&self, request: &Request) -> Row {
        let around = Arc::clone(&self.setup.around);
        let kind = kind_of(request.kind);
        let mut row = new_row(request.id.clone(), kind, Role::Asked, around.me());
        row.interactive = true;
        row.privacy = request.privacy;
        row.subject = Some(request.model.clone()).filter(|model| !model.is_empty());
        "It is being placed".clone_into(&mut row.reason);
        Row::begin(self.setup.board.clone(), around, row)
    }

    /// This node's own models answer; where that fails before the first word and it may leave,
    /// another node does.
    async fn here(
        &self,
        request: &Request,
        options: SubmitOptions,
        may_leave: bool,
    ) -> Result<Answer, InferenceError> {
        let overhead_ms = request.arrived.elapsed().as_secs_f64() * 1e3;
        let (model, work) = (request.model.clone(), request.work.clone());
        let answer = self.setup.host.infer(request.kind, model, work, options).await?;
        let mut row = self.begin_row(request);
        let (node, name) = self.setup.around.me();
        row.at(node.clone(), name.clone(), TaskPath::Local);
        row.update(|task| task.subject = Some(answer.model().to_owned()));
        row.placed(placed_here());
        let route = Route { node, name, path: TaskPath::Local, overhead_ms };
        let stop = row.stop().clone();
        if !may_leave {
            let watch = move |piece: &Piece| watch_row(&mut row, piece);
            return Ok(answer.with_route(route).watched(watch).stopped_by(stop));
        }
        // The model that is meant, also where the active one changes meanwhile.
        let request = Request { model: answer.model().to_owned(), ..request.clone() };
        let (out, given, cancel) = open_answer(answer.model());
        let shared = given.shared_route();
        shared.set(route);
        let local = Local { router: self.clone(), request, row, out, route: shared };
        tokio::spawn(unless_cancelled(cancel, local.carry(answer)));
        Ok(given.stopped_by(stop))
    }

    async fn elsewhere(&self, request: Request, patience: Duration) -> Result<Answer, Nowhere> {
        let mut tries = Tries::default();
        let first = match self.begin(&request, "", &mut tries, patience).await {
            Ok(attempt) => attempt,
            Err(Some(error)) => return Err(Nowhere::Because(error)),
            Err(None) => {
                let (_, placed) = self.candidates(&request, &tries.asked);
                return Err(match self.explain(&request, &placed) {
                    Some(error) => Nowhere::Because(error),
                    None => Nowhere::Unknown { request },
                });
            }
        };
        let row = self.begin_row(&request);
        let stop = row.stop().clone();
        let (out, answer, cancel) = open_answer(&first.node.model);
        let route = answer.shared_route();
        route.set(first.route.clone());
        let pump = Pump::new(self.clone(), request, tries, row, out, route);
        tokio::spawn(unless_cancelled(cancel, pump.run(first)));
        Ok(answer.stopped_by(stop))
    }

    /// Other nodes that can answer, best first.
    fn candidates(&self, request: &Request, tried: &[(NodeId, String)]) -> (Vec<Chosen>, Placed) {
        let wanted = request.wanted(tried);
        let nodes = self.setup.known.nodes(&wanted);
        let placed = self.setup.known.place(&wanted, &nodes);
        let ranked = placed.ranked.iter().zip(&placed.models);
        let chosen = ranked.filter_map(|(&index, model)| {
            let node = nodes.get(index).filter(|node| !node.here)?;
            if tried.iter().any(|(id, _)| *id == node.id) {
                return None;
            }
            let model = model.clone().unwrap_or_else(|| request.model.clone());
            let has = node.models.iter().find(|has| has.id == model);
            let candidates = &placed.explanation.candidates;
            let explained = candidates.iter().find(|candidate| candidate.node == node.id);
            let before_writing = explained.map_or(0.0, |candidate| {
                let parts = candidate.parts.iter().filter(|part| !part.what.starts_with("writing"));
                parts.map(|part| part.ms).sum()
            });
            Some(Chosen {
                key: NodeKey::from_id(&node.id)?,
                id: node.id.clone(),
                name: node.name.clone(),
                path: node.path.unwrap_or(TaskPath::Direct),
                model_bytes: has.map(|has| has.size_bytes),
                model,
                estimate_ms: before_writing,
                is_free: node.slots_free > node.in_flight && node.queue == 0,
            })
        });
        (chosen.collect(), placed)
    }

    /// Why no node that has the model may answer. `None`: none has it.
    fn explain(&self, request: &Request, placed: &Placed) -> Option<InferenceError> {
        let nodes = self.setup.known.nodes(&request.wanted(&[]));
        if let Some(name) = &request.node {
            let why = placed.explanation.summary.clone();
            let has = match find_node(name, &nodes) {
                Found::One(at) => nodes.get(at).is_some_and(|node| !node.models.is_empty()),
                Found::Nobody | Found::Several(_) => false,
            };
            let error = if has { InferenceError::Unavailable } else { InferenceError::NotThere };
            return Some(error(why));
        }
        let reasons: Vec<String> = placed
            .explanation
            .excluded
            .iter()
            .filter(|excluded| {
                let node = nodes.iter().find(|node| node.id == excluded.node);
                node.is_some_and(|node| {
                    !node.here && node.models.iter().any(|has| same_model(&request.model, &has.id))
                })
            })
            .map(|excluded| format!("{}: {}", excluded.name, excluded.reason))
            .collect();
        if reasons.is_empty() {
            return None;
        }
        let model = &request.model;
        let reasons = reasons.join("; ");
        let why = format!("No node that has the model {model:?} can answer now. {reasons}.");
        Some(InferenceError::Unavailable(why))
    }
}

/// Nothing is estimated for what stays here, and no other node was looked at.
fn placed_here() -> Placement {
    Placement {
        at_ms: now_ms(),
        summary: "This computer has the model, so nothing was sent to another one.".to_owned(),
        ..Placement::default()
    }
}

/// An answer with the end into which its pieces go. It is cancelled when the answer is dropped.
fn open_answer(model: &str) -> (mpsc::Sender<Piece>, Answer, CancellationToken) {
    let (out, receiver) = mpsc::channel(JOB_PIECES);
    let cancel = CancellationToken::new();
    let guard = cancel.clone().drop_guard();
    (out, Answer::from_elsewhere(model.to_owned(), receiver, guard), cancel)
}

async fn unless_cancelled(cancel: CancellationToken, work: impl Future<Output = ()> + Send) {
    tokio::select! {
        () = work => {}
        () = cancel.cancelled() => {}
    }
}

/// This node's own answer, in whose place another node's may come.
struct Local {
    router: Router,
    request: Request,
    row: Row,
    out: mpsc::Sender<Piece>,
    route: SharedRoute,
}

impl Local {
    async fn carry(self, mut answer: Answer) {
        let mut next = answer.next().await;
        if let Some(Piece::Failed(error)) = &next
            && may_work_elsewhere(error)
        {
            let mut tries = Tries::default();
            let begun = self.router.begin(&self.request, "", &mut tries, Duration::ZERO).await;
            if let Ok(first) = begun {
                drop(answer);
                self.route.set(first.route.clone());
                let Self { router, request, row, out, route } = self;
                return Pump::new(router, request, tries, row, out, route).run(first).await;
            }
        }
        let Self { request, mut row, out, .. } = self;
        // Its prompt may be long.
        drop(request);
        while let Some(piece) = next {
            watch_row(&mut row, &piece);
            if out.send(piece).await.is_err() {
                return;
            }
            next = answer.next().await;
        }
    }
}

/// Errors of this node's models that another node may not have: the request itself is right.
fn may_work_elsewhere(error: &InferenceError) -> bool {
    matches!(
        error,
        InferenceError::QueueFull
            | InferenceError::Unavailable(_)
            | InferenceError::RunnerLost
            | InferenceError::Engine(_)
            | InferenceError::ContextOverflow(_)
    )
}

/// Why no other node answers.
enum Nowhere {
    Because(InferenceError),
    /// No node has the model; this one says so in its own words.
    Unknown {
        request: Request,
    },
}

/// A local answer's row follows its pieces.
fn watch_row(row: &mut Row, piece: &Piece) {
    match piece {
        Piece::Started { .. } => row.runs("This computer answers"),
        Piece::Text { .. } => row.speaks(),
        Piece::Done { usage, timings, .. } => {
            row.counted(usage.prompt_tokens, usage.completion_tokens);
            row.wrote(usage.completion_tokens, timings.generate_ms);
            row.end(TaskState::Done, "Answered");
        }
        Piece::Embedded { prompt_tokens, .. } => {
            row.counted(*prompt_tokens, 0);
            row.end(TaskState::Done, "Answered");
        }
        // Dropping the row says who stopped it.
        Piece::Failed(InferenceError::Stopped) => {}
        Piece::Failed(error) => row.end(TaskState::Failed, &error.to_string()),
    }
}
