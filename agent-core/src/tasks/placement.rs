//! Which node does a task: a pure function with its explanation.
//!
//! Nodes that cannot do it are left out, each with a reason. The others are ranked by the time until
//! it would be done there, an estimate whose parts the owner can read ([`cost`]). This node is asked
//! first when it could begin at once; the worker has the last word in any case.

mod cost;
mod names;
mod refusal;
#[cfg(test)]
mod tests;

use agent_api::{
    NodeId,
    mesh::{AnnouncedServing, Hash},
    runner::{Prompt, TextInput},
    tasks::{Candidate, Excluded, Placement, Privacy, TaskKind, TaskPath},
};
use cost::{Cost, Terms};
pub(in crate::tasks) use names::Name;
pub use names::{Found, find_node, same_model, split_model};
use refusal::Refusal;
use serde_json::Value;

use super::job::Job;

/// Rows of an explanation, of each of its lists; see [`Placement`].
const EXPLAINED: usize = 20;

/// Tokens of an answer whose length nobody limited, and the most that is reckoned with: few answers
/// are as long as they may be.
const USUAL_ANSWER: u32 = 256;
const LONG_ANSWER: u32 = 1_024;

/// What is asked of a node.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub kind: Option<TaskKind>,
    /// As the request names it, without `@node`. Empty: the active model of the node, this one
    /// unless `node` names another. `None`: no model is needed.
    pub model: Option<String>,
    /// Id or name of the only node that may do it.
    pub node: Option<String>,
    pub privacy: Privacy,
    /// Estimates; see [`estimate_tokens`].
    pub prompt_tokens: u32,
    pub answer_tokens: u32,
    /// Nodes that were tried, with what they said.
    pub tried: Vec<(NodeId, String)>,
    /// Nodes that must not do it: they did it already, for comparison.
    pub not: Vec<NodeId>,
}

/// A node as it is known at this moment: announced, measured, remembered.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    pub name: String,
    /// This node itself. Its pause does not count: it is for the work of others.
    pub here: bool,
    pub mine: bool,
    pub trusted: bool,
    /// Overdue or unreachable: why, as a clause.
    pub problem: Option<String>,
    pub path: Option<TaskPath>,
    pub rtt_ms: Option<f64>,
    pub region: Option<String>,
    pub serving: AnnouncedServing,
    /// Of this node itself: what it can do at all.
    pub accepts: Vec<TaskKind>,
    /// Those that matter for the request; of this node itself the active one first.
    pub models: Vec<ModelView>,
    pub slots: u32,
    pub slots_free: u32,
    pub queue: u32,
    /// Placed there by this node and not yet in its announcement.
    pub in_flight: u32,
    /// Micro-credits per 1,000 tokens.
    pub price: Option<u64>,
    /// 0 to 1.
    pub reputation: f64,
}

#[derive(Clone, Debug)]
pub struct ModelView {
    pub id: String,
    /// Of its weights; for names with `@sha256:…`.
    pub digest: Option<Hash>,
    pub resident: bool,
    pub context: u32,
    pub size_bytes: u64,
    pub tokens_per_s: Option<f32>,
}

/// The outcome.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Indices into the nodes, best first. Nodes that were tried are not among them.
    pub ranked: Vec<usize>,
    /// The node's own id of the model, per entry of `ranked`.
    pub models: Vec<Option<String>>,
    pub explanation: Placement,
}

impl Placed {
    /// The explanation once this node was chosen.
    pub fn chosen(self, node: &NodeId) -> Placement {
        let mut placement = self.explanation;
        for candidate in &mut placement.candidates {
            candidate.chosen = candidate.node == *node;
        }
        placement
    }
}

/// A node that could do it.
#[derive(Clone, Copy, Debug)]
struct Able<'a> {
    at: usize,
    model: Option<&'a ModelView>,
    cost: Cost,
    total: f64,
    /// What it said when it was tried.
    said: Option<&'a str>,
    /// It could begin at once and nothing has to travel.
    at_once_here: bool,
}

/// Ranks the nodes.
pub fn place(wanted: &Wanted, nodes: &[NodeView], now_ms: i64) -> Placed {
    let question = Question::new(wanted, nodes);
    let here = nodes.iter().find(|node| node.here);
    let terms = Terms { wanted, region: here.and_then(|node| node.region.as_deref()) };
    let mut able = Vec::new();
    let mut refused = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        match question.model_of(at, node) {
            Err(refusal) => refused.push((at, refusal)),
            Ok(model) => {
                let cost = cost::estimate(&terms, node, model);
                let ready = model.is_some_and(|model| model.resident) && cost::is_free(node);
                let said = wanted.tried.iter().rfind(|(id, _)| *id == node.id);
                let said = said.map(|(_, said)| said.as_str());
                let at_once_here = node.here && ready && said.is_none();
                able.push(Able { at, model, cost, total: cost.total(), said, at_once_here });
            }
        }
    }
    able.sort_by(|a, b| {
        let first = b.at_once_here.cmp(&a.at_once_here);
        let order = first.then_with(|| a.total.total_cmp(&b.total));
        order.then_with(|| nodes[a.at].id.0.cmp(&nodes[b.at].id.0))
    });
    refused.sort_by_key(|(at, refusal)| (refusal.rank(), *at));
    let explanation = Placement {
        at_ms: now_ms,
        summary: summary(&question, nodes, &able, &refused),
        candidates: candidates(wanted, nodes, &able),
        excluded: excluded(nodes, &refused),
        more_excluded: count(refused.len().saturating_sub(EXPLAINED)),
    };
    let ranked = able.iter().filter(|able| able.said.is_none());
    let (ranked, models) =
        ranked.map(|able| (able.at, able.model.map(|model| model.id.clone()))).unzip();
    Placed { ranked, models, explanation }
}

/// What is asked, made ready for thousands of nodes.
struct Question<'a> {
    wanted: &'a Wanted,
    model: Option<Name<'a>>,
    pin: Option<(&'a str, Found)>,
}

impl<'a> Question<'a> {
    fn new(wanted: &'a Wanted, nodes: &[NodeView]) -> Self {
        let pin = wanted.node.as_deref().map(|node| (node, find_node(node, nodes)));
        Self { wanted, model: wanted.model.as_deref().map(Name::read), pin }
    }

    /// The model with which a node can do it, or why it cannot.
    fn model_of<'n>(
        &self,
        at: usize,
        node: &'n NodeView,
    ) -> Result<Option<&'n ModelView>, Refusal<'n>>
    where
        'a: 'n,
    {
        let wanted: &'a Wanted = self.wanted;
        if let Some((name, found)) = self.pin
            && found != Found::One(at)
        {
            return Err(Refusal::NotTheNode(name));
        }
        if !may_see(wanted.privacy, node) {
            return Err(Refusal::Private(wanted.privacy));
        }
        let model = match &self.model {
            None => None,
            Some(name) => Some(self.pick(name, node)?),
        };
        if let Some(kind) = wanted.kind.filter(|kind| !node.accepts.contains(kind)) {
            return Err(Refusal::Kind(kind));
        }
        if let Some(problem) = node.problem.as_deref() {
            return Err(Refusal::Problem(problem));
        }
        match node.serving {
            AnnouncedServing::Paused if !node.here => return Err(Refusal::Paused),
            // Modules need no model; and this node says itself what it lacks when it is asked.
            AnnouncedServing::Unable if !node.here && model.is_some() => {
                return Err(Refusal::Unable);
            }
            _ => {}
        }
        if wanted.not.contains(&node.id) {
            return Err(Refusal::DidIt);
        }
        match model {
            Some(model) if wanted.prompt_tokens > model.context => {
                Err(Refusal::Context { has: model.context, needs: wanted.prompt_tokens })
            }
            model => Ok(model),
        }
    }

    fn pick<'n>(&self, name: &Name<'a>, node: &'n NodeView) -> Result<&'n ModelView, Refusal<'n>>
    where
        'a: 'n,
    {
        if !name.is_empty() {
            let text: &'a str = self.wanted.model.as_deref().unwrap_or_default();
            return name.pick(&node.models).ok_or(Refusal::NoModel(text));
        }
        // The active one comes first; of a peer those in memory do.
        let chosen = node.models.first().filter(|_| node.here || self.pin.is_some());
        chosen.ok_or(Refusal::NoActiveModel)
    }
}

fn may_see(privacy: Privacy, node: &NodeView) -> bool {
    match privacy {
        Privacy::ThisNode => node.here,
        Privacy::MyNodes => node.here || node.mine,
        Privacy::Trusted => node.here || node.mine || node.trusted,
        Privacy::Mesh => true,
    }
}

fn candidates(wanted: &Wanted, nodes: &[NodeView], able: &[Able<'_>]) -> Vec<Candidate> {
    let chosen = able.iter().find(|able| able.said.is_none()).map(|able| able.at);
    let row = |able: &Able<'_>| {
        let node = nodes.get(able.at)?;
        Some(Candidate {
            node: node.id.clone(),
            name: node.name.clone(),
            chosen: chosen == Some(able.at),
            refused: able.said.map(ToOwned::to_owned),
            cost_ms: able.total,
            parts: able.cost.parts(wanted),
        })
    };
    let first = able.iter().take(EXPLAINED);
    // The chosen one is always shown, however many before it were tried.
    let late = able.iter().skip(EXPLAINED).find(|able| chosen == Some(able.at));
    let mut rows: Vec<Candidate> = first.chain(late).filter_map(row).collect();
    if rows.len() > EXPLAINED {
        rows.remove(EXPLAINED - 1);
    }
    rows
}

fn excluded(nodes: &[NodeView], refused: &[(usize, Refusal<'_>)]) -> Vec<Excluded> {
    let row = |(at, refusal): &(usize, Refusal<'_>)| {
        let node = nodes.get(*at)?;
        let reason = refusal.text(node.here);
        Some(Excluded { node: node.id.clone(), name: node.name.clone(), reason })
    };
    refused.iter().take(EXPLAINED).filter_map(row).collect()
}

fn summary(
    question: &Question<'_>,
    nodes: &[NodeView],
    able: &[Able<'_>],
    refused: &[(usize, Refusal<'_>)],
) -> String {
    let mut left = able.iter().filter(|able| able.said.is_none());
    let Some(first) = left.next() else {
        return nobody(question, nodes, able, refused);
    };
    let node = &nodes[first.at];
    let who = if node.here { "This computer" } else { &node.name };
    let what = match first.model {
        Some(model) if model.resident && cost::is_free(node) => {
            format!("{who} has the model in memory and a free slot")
        }
        Some(model) if model.resident => format!("{who} has the model in memory"),
        Some(_) => format!("{who} has the model and would load it"),
        None => format!("{who} is the quickest"),
    };
    match left.next() {
        None if question.pin.is_some() => format!("{what}; it was asked for by name."),
        None => format!("{what}; no other node could do it now."),
        Some(second) => {
            let other = &nodes[second.at];
            let other = if other.here { "this computer" } else { &other.name };
            let longer = second.total - first.total;
            if longer >= 0.0 {
                format!("{what}; {other} would take {} longer.", span(longer))
            } else {
                format!("{what}, so it is asked first; {other} might be {} faster.", span(-longer))
            }
        }
    }
}

/// Why the task cannot be placed.
fn nobody(
    question: &Question<'_>,
    nodes: &[NodeView],
    able: &[Able<'_>],
    refused: &[(usize, Refusal<'_>)],
) -> String {
    let tried = match able.len() {
        0 => String::new(),
        1 => "the only node that could do it was tried".to_owned(),
        n => format!("all {n} nodes that could do it were tried"),
    };
    match question.pin {
        Some((name, Found::Nobody)) => {
            format!("No node of the mesh has the id or name {name}.")
        }
        Some((name, Found::Several(count))) => {
            format!("{count} nodes fit {name}. Use the id of the one that is meant.")
        }
        Some((name, Found::One(at))) => match refused.iter().find(|(of, _)| *of == at) {
            Some((_, refusal)) => {
                let here = nodes.get(at).is_some_and(|node| node.here);
                format!("Only {name} may do it, and {}.", refusal.text(here))
            }
            None => format!("Only {name} may do it, and it was tried."),
        },
        None if refused.is_empty() && tried.is_empty() => "No node is known.".to_owned(),
        None => {
            let parts = [tried, refusal::together(refused)];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            format!("No node can do it now: {}.", parts.join("; "))
        }
    }
}

/// `40 ms`, `3.1 s`, `4 min`.
fn span(ms: f64) -> String {
    match ms {
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 100_000.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} min", ms / 60e3),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Wanted {
    /// What a job asks of a node, with guesses of its size.
    pub fn of(job: &Job) -> Self {
        let answer_tokens = match job {
            Job::Chat(job) | Job::Completion(job) => {
                job.generate.max_tokens.map_or(USUAL_ANSWER, |most| most.min(LONG_ANSWER))
            }
            Job::Code(_) => LONG_ANSWER,
            Job::Embedding { .. } | Job::Wasm(_) => 0,
        };
        Self {
            kind: Some(job.kind()),
            model: job.model().map(ToOwned::to_owned),
            prompt_tokens: estimate_tokens(prompt_bytes(job)),
            answer_tokens,
            ..Self::default()
        }
    }
}

/// Bytes of all texts that a model reads for a job, with what its answer goes on from.
pub fn prompt_bytes(job: &Job) -> usize {
    match job {
        Job::Chat(job) | Job::Completion(job) => {
            let prompt = match &job.generate.prompt {
                Prompt::Chat { messages, tools } => {
                    messages.iter().chain(tools).map(text_bytes).sum()
                }
                Prompt::Text(input) => input_bytes(input),
                Prompt::Infill { prefix, suffix } => prefix.len() + suffix.len(),
            };
            prompt + job.generate.continue_from.len()
        }
        Job::Embedding { inputs, .. } => inputs.iter().map(input_bytes).sum(),
        Job::Code(input) => input.prompt.len() + input.tests.len(),
        Job::Wasm(_) => 0,
    }
}

fn input_bytes(input: &TextInput) -> usize {
    match input {
        TextInput::Text { text } => text.len(),
        // Four bytes each, as in the other direction.
        TextInput::Tokens { tokens } => 4 * tokens.len(),
    }
}

/// Of a message or a tool: keys count too, templates write many of them down.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(text_bytes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
    }
}

/// A guess before anything is counted: four bytes of text per token.
pub fn estimate_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}
