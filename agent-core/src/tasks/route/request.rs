//! A request that somebody waits for, as it travels.

use std::time::{Duration, Instant};

use agent_api::{NodeId, TaskId, tasks::Privacy};

use super::Router;
use crate::{
    inference::{SubmitOptions, Work, left_out::LeftOut},
    storage::RequestKind,
    tasks::{
        job::{GenerateJob, Job, Offer},
        placement::{Wanted, estimate_tokens, split_model},
        rows::{kind_of, new_task_id},
    },
};

/// Tokens of an answer without a limit, for the estimate.
const ANSWER_TOKENS: u32 = 256;
/// A worker that hears nothing for so long forgets the request.
const LEASE: Duration = Duration::from_secs(30);
/// The client waits: ahead of the same node's tasks that nobody waits for.
const PRIORITY: u8 = 7;

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: TaskId,
    pub(super) kind: RequestKind,
    /// As asked, without `@node`.
    pub(super) model: String,
    pub(super) node: Option<String>,
    pub(super) work: Work,
    pub(super) context: Option<u32>,
    pub(super) left_out: LeftOut,
    pub(super) privacy: Privacy,
    /// Bytes of what is asked.
    pub(super) bytes: usize,
    pub(super) arrived: Instant,
}

impl Router {
    pub(super) fn request(
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
            left_out: options.left_out,
            privacy: options.privacy.unwrap_or(usual),
            bytes: bytes.map_or(0, |bytes| bytes.len()),
            arrived: Instant::now(),
        }
    }
}

impl Request {
    /// Whether only this node may answer.
    pub(super) fn stays(&self) -> bool {
        self.privacy == Privacy::ThisNode && self.node.is_none()
    }

    pub(super) fn wanted(&self, tried: &[(NodeId, String)]) -> Wanted {
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

    /// For the node's own id of the model; it goes on from what was delivered.
    pub(super) fn offer(&self, model: &str, delivered: &str, attempt: u32) -> Offer {
        let model = model.to_owned();
        let job = match (&self.work, self.kind) {
            (Work::Embed(inputs), _) => Job::Embedding { model, inputs: inputs.clone() },
            (Work::Generate(generate), kind) => {
                let mut generate = generate.clone();
                generate.continue_from.push_str(delivered);
                let job =
                    GenerateJob { model, generate, context: self.context, left_out: self.left_out };
                match kind {
                    RequestKind::Completion => Job::Completion(job),
                    RequestKind::Chat | RequestKind::Embedding => Job::Chat(job),
                }
            }
        };
        let task = self.id.clone();
        Offer { task, attempt, fence: 0, job, priority: PRIORITY, lease: LEASE }
    }
}
