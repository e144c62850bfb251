//! Requests that somebody waits for (OpenAI and Ollama endpoints): to this node or to a peer, with
//! failover. Nothing of their words is stored.
//!
//! A model that is here is asked here. Otherwise [`placement`](super::placement) ranks the nodes
//! that have it, and one after the other is offered the job until one takes it; [`pump`] then
//! carries what comes, and goes on elsewhere when that node is lost.

mod pump;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_api::{
    NodeId, Settings, TaskId,
    tasks::{Privacy, Role, TaskPath, TaskState},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    board::Board,
    job::{BoxFuture, GenerateJob, JOB_PIECES, Job, JobError, JobStream, Offer, SharedHost},
    placement::{NodeView, Placed, Wanted, estimate_tokens, place, same_model, split_model},
    remote::Remote,
    reputation::Experience,
    rows::{Around, Row, kind_of, new_row, new_task_id},
};
use crate::{
    clock::now_ms,
    inference::{Answer, InferenceError, Piece, Route, SubmitOptions, Work, tools::ToolFormat},
    mesh::NodeKey,
    storage::RequestKind,
};

/// Nodes that are offered one request at most.
const TRIES: usize = 8;
/// Tokens of an answer without a limit, for the estimate.
const ANSWER_TOKENS: u32 = 256;
/// A worker that hears nothing for so long forgets the request.
const LEASE: Duration = Duration::from_secs(30);
/// The client waits: ahead of the same node's tasks that nobody waits for.
const PRIORITY: u8 = 7;

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

/// The nodes of the mesh as they are known at this moment.
pub trait Known: fmt::Debug + Send + Sync + 'static {
    /// With the models that are wanted.
    fn nodes(&self, wanted: &Wanted) -> Vec<NodeView>;

    /// Models of other nodes that answer now, each with its node's name.
    fn models_elsewhere(&self) -> Vec<(String, String)>;

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

/// A request on its way.
#[derive(Debug)]
struct Request {
    id: TaskId,
    kind: RequestKind,
    /// As asked, without `@node`.
    model: String,
    node: Option<String>,
    work: Work,
    context: Option<u32>,
    privacy: Privacy,
    /// Bytes of what is asked.
    bytes: usize,
    arrived: Instant,
}

/// A node that took a request.
#[derive(Debug)]
struct Attempt {
    node: Chosen,
    stream: JobStream,
    route: Route,
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
        let request = self.request(kind, model, work, options);
        let local = self.is_local(&request).await;
        // Without a peer that could help, this node says best what is wrong.
        let stays = request.privacy == Privacy::ThisNode && request.node.is_none();
        if local || stays {
            let again = if stays { None } else { Some(request.work.clone()) };
            let full = match self.here(&request, options).await {
                Err(InferenceError::NoSuchModel(name)) if stays => {
                    return Err(self.only_elsewhere(name));
                }
                Err(full @ (InferenceError::QueueFull | InferenceError::Unavailable(_))) => full,
                done => return done,
            };
            let Some(_) = again.filter(|_| request.node.is_none()) else { return Err(full) };
            return self.elsewhere(request).await.map_err(|_| full);
        }
        match self.elsewhere(request).await {
            Ok(answer) => Ok(answer),
            Err(Nowhere::Because(error)) => Err(error),
            Err(Nowhere::Unknown { request }) if request.node.is_none() => {
                self.here(&request, options).await
            }
            Err(Nowhere::Unknown { .. }) => Err(InferenceError::NoSuchModel(model.to_owned())),
        }
    }

    /// Why a request that may not leave is not answered.
    fn only_elsewhere(&self, model: String) -> InferenceError {
        let known = self.setup.known.models_elsewhere();
        let mut nodes: Vec<String> = known
            .into_iter()
            .filter(|(id, _)| same_model(&model, id))
            .map(|(_, node)| node)
            .take(TRIES)
            .collect();
        nodes.sort();
        if nodes.is_empty() {
            return InferenceError::NoSuchModel(model);
        }
        InferenceError::OnlyElsewhere { model, nodes: nodes.join(", ") }
    }

    /// How a model writes tool calls; `None`: it is a model of this node, which knows by itself.
    pub async fn tool_format(
        &self,
        model: &str,
    ) -> Option<Result<Option<ToolFormat>, InferenceError>> {
        let work = Work::Embed(Vec::new());
        let request = self.request(RequestKind::Chat, model, work, SubmitOptions::default());
        if self.is_local(&request).await {
            return None;
        }
        let (nodes, _) = self.candidates(&request, &[]);
        let mut last = None;
        for node in nodes.into_iter().take(2) {
            match self.setup.elsewhere.tool_format(node.key, node.model).await {
                Ok(format) => return Some(Ok(format)),
                Err(error) => last = Some(Err(to_client(&node.name, &error))),
            }
        }
        last
    }

    /// Models of other nodes that answer now, each with its node's name, by name.
    pub fn models_elsewhere(&self) -> Vec<(String, String)> {
        let mut models = self.setup.known.models_elsewhere();
        models.sort();
        models
    }

    fn request(
        &self,
        kind: RequestKind,
        model: &str,
        work: Work,
        options: SubmitOptions,
    ) -> Request {
        let (model, node) = split_model(model);
        let usual = self.setup.settings.borrow().tasks.privacy;
        let bytes = match &work {
            Work::Generate(generate) => serde_json::to_vec(&generate.prompt),
            Work::Embed(inputs) => serde_json::to_vec(inputs),
        };
        Request {
            id: new_task_id(),
            kind,
            model: model.to_owned(),
            node: node.map(ToOwned::to_owned),
            work,
            context: options.context,
            privacy: options.privacy.unwrap_or(usual),
            bytes: bytes.map_or(0, |bytes| bytes.len()),
            arrived: Instant::now(),
        }
    }

    async fn is_local(&self, request: &Request) -> bool {
        /// Hexadecimal digits by which a node may be named.
        const SHORTEST_ID: usize = 6;
        if let Some(node) = &request.node {
            let (id, name) = self.setup.around.me();
            let by_id = node.len() >= SHORTEST_ID && id.0.starts_with(node.as_str());
            return by_id || name == *node;
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

    /// This node's own models answer.
    async fn here(
        &self,
        request: &Request,
        options: SubmitOptions,
    ) -> Result<Answer, InferenceError> {
        let overhead_ms = request.arrived.elapsed().as_secs_f64() * 1e3;
        let (model, work) = (request.model.clone(), request.work.clone());
        let answer = self.setup.host.infer(request.kind, model, work, options).await?;
        let mut row = self.begin_row(request);
        let (node, name) = self.setup.around.me();
        row.at(node.clone(), name.clone(), TaskPath::Local);
        row.update(|task| task.subject = Some(answer.model().to_owned()));
        let route = Route { node, name, path: TaskPath::Local, overhead_ms };
        let watch = move |piece: &Piece| watch_row(&mut row, piece);
        Ok(answer.with_route(route).watched(watch))
    }

    async fn elsewhere(&self, request: Request) -> Result<Answer, Nowhere> {
        let mut tried = Vec::new();
        let first = match self.begin(&request, "", &mut tried).await {
            Ok(attempt) => attempt,
            Err(Some(error)) => return Err(Nowhere::Because(error)),
            Err(None) => {
                let (_, placed) = self.candidates(&request, &tried);
                return Err(match self.explain(&request, &placed) {
                    Some(why) => Nowhere::Because(InferenceError::Unavailable(why)),
                    None => Nowhere::Unknown { request },
                });
            }
        };
        let row = self.begin_row(&request);
        let (out, receiver) = mpsc::channel(JOB_PIECES);
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let answer = Answer::from_elsewhere(first.node.model.clone(), receiver, guard);
        let route = answer.shared_route();
        route.set(first.route.clone());
        let pump = pump::Pump::new(self.clone(), request, tried, row, out, route);
        tokio::spawn(async move {
            tokio::select! {
                () = pump.run(first) => {}
                () = cancel.cancelled() => {}
            }
        });
        Ok(answer)
    }

    /// Offers it to one node after the other. `Err(None)`: there is none that was not tried.
    async fn begin(
        &self,
        request: &Request,
        delivered: &str,
        tried: &mut Vec<(NodeId, String)>,
    ) -> Result<Attempt, Option<InferenceError>> {
        let mut last = None;
        while tried.len() < TRIES {
            let (nodes, _) = self.candidates(request, tried);
            let Some(node) = nodes.into_iter().next() else { break };
            let overhead_ms = request.arrived.elapsed().as_secs_f64() * 1e3;
            let offer = request.offer(&node.model, delivered, tried.len());
            match self.setup.elsewhere.offer(node.key, node.path, offer).await {
                Ok(stream) => {
                    tried.push((node.id.clone(), String::new()));
                    let (id, name) = (node.id.clone(), node.name.clone());
                    let route = Route { node: id, name, path: node.path, overhead_ms };
                    return Ok(Attempt { node, stream, route });
                }
                Err(error) => {
                    self.blame(&node, &error);
                    let told = to_client(&node.name, &error);
                    if matches!(error, JobError::Failed(_)) {
                        return Err(Some(told));
                    }
                    tried.push((node.id, error.to_string()));
                    last = Some(told);
                }
            }
        }
        Err(last)
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

    /// Which nodes have the model, and why none of them may answer. `None`: none has it.
    fn explain(&self, request: &Request, placed: &Placed) -> Option<String> {
        let nodes = self.setup.known.nodes(&request.wanted(&[]));
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
        Some(format!("No node that has the model {model:?} can answer now. {reasons}."))
    }

    /// What an error says about a node.
    fn blame(&self, node: &Chosen, error: &JobError) {
        let experience = match error {
            JobError::Misbehaved(reason) => Experience::Misbehaved(reason.clone()),
            JobError::Lost(reason) | JobError::Broke(reason) => Experience::Failed(reason.clone()),
            JobError::Refused { .. } | JobError::Failed(_) | JobError::Cancelled => return,
        };
        self.setup.around.experience(node.key, experience);
    }
}

/// Why no other node answers.
enum Nowhere {
    Because(InferenceError),
    /// No node has the model; this one says so in its own words.
    Unknown {
        request: Request,
    },
}

impl Request {
    fn wanted(&self, tried: &[(NodeId, String)]) -> Wanted {
        let answer = match &self.work {
            Work::Generate(generate) => generate.max_tokens.unwrap_or(ANSWER_TOKENS),
            Work::Embed(_) => 0,
        };
        Wanted {
            kind: Some(kind_of(self.kind)),
            model: Some(self.model.clone()),
            node: self.node.clone(),
            privacy: self.privacy,
            prompt_tokens: estimate_tokens(self.bytes),
            answer_tokens: answer.min(4 * ANSWER_TOKENS),
            tried: tried.to_vec(),
            not: Vec::new(),
        }
    }

    fn offer(&self, model: &str, delivered: &str, tries: usize) -> Offer {
        let model = model.to_owned();
        let job = match (&self.work, self.kind) {
            (Work::Embed(inputs), _) => Job::Embedding { model, inputs: inputs.clone() },
            (Work::Generate(generate), kind) => {
                let mut generate = generate.clone();
                generate.continue_from.push_str(delivered);
                let job = GenerateJob { model, generate, context: self.context };
                match kind {
                    RequestKind::Completion => Job::Completion(job),
                    RequestKind::Chat | RequestKind::Embedding => Job::Chat(job),
                }
            }
        };
        let attempt = u32::try_from(tries).unwrap_or(0) + 1;
        let task = self.id.clone();
        Offer { task, attempt, fence: 0, job, priority: PRIORITY, lease: LEASE }
    }
}

/// An error of another node, for the client.
fn to_client(node: &str, error: &JobError) -> InferenceError {
    match error {
        JobError::Failed(reason) => InferenceError::BadRequest(reason.clone()),
        JobError::Refused { reason, .. } => {
            InferenceError::Unavailable(format!("The node {node} did not take it: {reason}."))
        }
        other => InferenceError::Unavailable(format!("The node {node} did not answer: {other}.")),
    }
}

/// A local answer's row follows its pieces.
fn watch_row(row: &mut Row, piece: &Piece) {
    match piece {
        Piece::Started { .. } => row.runs("This computer answers"),
        Piece::Text { .. } => row.speaks(),
        Piece::Done { usage, .. } => {
            row.counted(usage.prompt_tokens, usage.completion_tokens);
            row.end(TaskState::Done, "Answered");
        }
        Piece::Embedded { prompt_tokens, .. } => {
            row.counted(*prompt_tokens, 0);
            row.end(TaskState::Done, "Answered");
        }
        Piece::Failed(error) => row.end(TaskState::Failed, &error.to_string()),
    }
}
