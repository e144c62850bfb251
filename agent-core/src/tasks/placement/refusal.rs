//! Why a node cannot do a task.

use std::collections::BTreeMap;

use agent_api::tasks::{Privacy, TaskKind};

/// In the order in which they are told: those that could nearly do it first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refusal<'a> {
    Context {
        has: u32,
        needs: u32,
    },
    DidIt,
    Paused,
    Unable,
    Problem(&'a str),
    Kind(TaskKind),
    Private(Privacy),
    NoModel(&'a str),
    /// An empty name means the active model of the node that was asked.
    NoActiveModel,
    NotTheNode(&'a str),
}

impl Refusal<'_> {
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Context { .. } => 0,
            Self::DidIt => 1,
            Self::Paused => 2,
            Self::Unable => 3,
            Self::Problem(_) => 4,
            Self::Kind(_) => 5,
            Self::Private(_) => 6,
            Self::NoModel(_) => 7,
            Self::NoActiveModel => 8,
            Self::NotTheNode(_) => 9,
        }
    }

    /// Of one node: a clause that a sentence about it ends with.
    pub(super) fn text(self, here: bool) -> String {
        match self {
            Self::Context { has, needs } => {
                format!("its context of {has} tokens is too small for a prompt of about {needs}")
            }
            Self::DidIt => "it did this task already; another node's result is wanted".to_owned(),
            Self::Paused => "its owner paused it".to_owned(),
            Self::Unable => "it cannot run models at the moment, by its own word".to_owned(),
            Self::Problem(problem) => problem.to_owned(),
            Self::Kind(kind) if here => {
                format!("this computer cannot do {} tasks", kind.as_str())
            }
            Self::Kind(kind) => format!("it does not take {} tasks", kind.as_str()),
            Self::Private(Privacy::ThisNode) => {
                "the task may not leave the computer that asks".to_owned()
            }
            Self::Private(Privacy::MyNodes) => "it is not marked as your own".to_owned(),
            Self::Private(_) => "it is not marked as your own or trusted".to_owned(),
            Self::NoModel(model) => format!("it does not have the model {model}"),
            Self::NoActiveModel => {
                "the request names no model, and this node has none to choose".to_owned()
            }
            Self::NotTheNode(node) => format!("the task is for {node} only"),
        }
    }

    /// Of so many nodes, for the summary.
    fn of(self, count: usize) -> String {
        let one = count == 1;
        let (nodes, is, has) = if one { ("node", "is", "has") } else { ("nodes", "are", "have") };
        match self {
            Self::Context { .. } => format!("{count} {nodes} {has} a context that is too small"),
            Self::DidIt => format!("{count} {nodes} did it already"),
            Self::Paused => format!("{count} {nodes} {is} paused"),
            Self::Unable => format!("{count} {nodes} cannot run models at the moment"),
            Self::Problem(_) => format!("{count} {nodes} cannot be reached"),
            Self::Kind(kind) => {
                let take = if one { "does" } else { "do" };
                format!("{count} {nodes} {take} not take {} tasks", kind.as_str())
            }
            Self::Private(Privacy::ThisNode) => {
                format!(
                    "{count} {nodes} {is} left out, because the task may not leave this computer"
                )
            }
            Self::Private(Privacy::MyNodes) => {
                format!("{count} {nodes} {is} not marked as your own")
            }
            Self::Private(_) => format!("{count} {nodes} {is} not marked as your own or trusted"),
            Self::NoModel(model) => {
                let lack = if one { "does" } else { "do" };
                format!("{count} {nodes} {lack} not have the model {model}")
            }
            Self::NoActiveModel => format!("{count} {nodes} {has} no model to choose"),
            Self::NotTheNode(node) => format!("{count} {nodes} {is} not {node}"),
        }
    }
}

/// Why nobody can: the reasons, the one that says most first.
pub(super) fn together(refused: &[(usize, Refusal<'_>)]) -> String {
    let mut counts: BTreeMap<u8, (Refusal<'_>, usize)> = BTreeMap::new();
    for (_, refusal) in refused {
        counts.entry(refusal.rank()).or_insert((*refusal, 0)).1 += 1;
    }
    let parts: Vec<String> = counts.into_values().map(|(r, count)| r.of(count)).collect();
    parts.join("; ")
}
