//! A task's life as a pure state machine: inputs and the time in, transitions and effects out.
//!
//! ```text
//!  queued ─► placed ─► leased ─► running ─► done
//!    ▲ refused, lost, broke │        └────► verifying ─► done | failed
//!    └──────────────────────┘   at any time: cancelled, expired
//! ```
//!
//! Each lease on a node has a **fence**, a number that only grows. What comes under a fence that
//! is not leased any more is refused and never counted: a worker that was taken for lost and comes
//! back cannot end the task a second time.

#[cfg(test)]
mod tests;

use agent_api::{NodeId, tasks::TaskState};

use super::verify::{Verdict, compare};
use crate::text::sentence;

/// Stands for "it fails" where results are compared: nodes can agree on that too.
pub(super) const FAILS: [u8; 32] = [0; 32];
/// With nodes that this node chose to compare, the third one breaks a tie.
const COMPARED: (usize, usize) = (2, 3);

/// A node that has the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub fence: u64,
    pub node: NodeId,
    /// Placed, leased or running.
    pub state: TaskState,
}

/// A result that came, and waits for others if it has to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    pub fence: u64,
    pub node: NodeId,
    pub digest: [u8; 32],
}

/// One task. All of it is in the database: columns of its row, and its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    pub state: TaskState,
    /// Rounds of asking nodes so far.
    pub attempts: u32,
    /// Tries that failed, of `max_attempts`.
    pub failures: u32,
    pub max_attempts: u32,
    /// The newest that was handed out.
    pub fence: u64,
    /// Nodes that are to do it, and the most that may.
    pub wanted: usize,
    pub most: usize,
    /// The submission asked for several nodes: fewer are not enough.
    pub replicas: bool,
    /// This node: what it computed itself it does not put to the vote.
    pub here: Option<NodeId>,
    /// What the last node said that holds that it fails anywhere.
    pub fails: String,
    pub expires_ms: i64,
    pub leases: Vec<Lease>,
    pub results: Vec<Gathered>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A node was chosen; `of` says why, for people.
    Placed {
        node: NodeId,
        name: String,
    },
    /// It said no before it began.
    Refused {
        fence: u64,
        reason: String,
    },
    /// It took it, and has it wait.
    Leased {
        fence: u64,
        reason: String,
    },
    Running {
        fence: u64,
    },
    Finished {
        fence: u64,
        digest: [u8; 32],
    },
    /// `again`: it may work elsewhere.
    Failed {
        fence: u64,
        reason: String,
        again: bool,
    },
    /// This node stopped while it had it, and the work is gone.
    Interrupted {
        fence: u64,
    },
    /// The result that comes is to be compared with another node's.
    Compare,
    /// There is no node, not even a busy one, that could do it. `trusted`: of those whose results
    /// are here, those that the owner trusts.
    NoCandidate {
        reason: String,
        trusted: Vec<NodeId>,
    },
    Cancel,
    /// Time passed.
    Tick,
}

/// A row of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub state: TaskState,
    pub attempt: u32,
    pub node: Option<NodeId>,
    pub text: String,
}

/// What is to be done now, after the rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Offer it to this node, under this fence.
    Offer { fence: u64, node: NodeId },
    /// Tell the node that it need not go on.
    Stop { fence: u64 },
    /// The result of this lease is the task's. Happens once in a task's life.
    Settle { fence: u64 },
    /// These nodes' results were compared.
    Judge { agreed: Vec<NodeId>, disagreed: Vec<NodeId> },
    /// Look for a node; at once, or after a pause when it failed somewhere.
    Place { pause: bool },
    /// What came under this fence is not taken.
    RefuseLate { fence: u64 },
}

/// Outcome of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub changes: Vec<Change>,
    pub effects: Vec<Effect>,
}

impl Life {
    /// A task that was just submitted. `replicas`: how many nodes must do it.
    pub fn new(replicas: Option<u8>, max_attempts: u32, expires_ms: i64) -> Self {
        let wanted = replicas.map_or(1, usize::from).max(1);
        Self {
            state: TaskState::Queued,
            attempts: 0,
            failures: 0,
            max_attempts,
            fence: 0,
            wanted,
            // Half as many again may settle what the first ones left open.
            most: wanted + wanted / 2,
            replicas: wanted > 1,
            here: None,
            fails: String::new(),
            expires_ms,
            leases: Vec::new(),
            results: Vec::new(),
        }
    }

    /// How many nodes are to be found for it now.
    pub fn openings(&self) -> usize {
        if self.state.is_final() {
            return 0;
        }
        let needed = match self.verdict() {
            _ if self.results.len() < self.wanted => self.wanted,
            Some(Verdict::More(more)) => self.results.len() + more,
            _ => self.results.len(),
        };
        needed.saturating_sub(self.results.len() + self.leases.len())
    }

    /// Nodes that have it or had their say: another one is to do it.
    pub fn not(&self) -> Vec<NodeId> {
        let leased = self.leases.iter().map(|lease| lease.node.clone());
        leased.chain(self.results.iter().map(|result| result.node.clone())).collect()
    }

    /// Takes one thing that happened.
    pub fn apply(&mut self, input: Input, now_ms: i64) -> Step {
        let mut step = Step::default();
        if self.state.is_final() {
            if let Input::Finished { fence, .. } = input {
                step.effects.push(Effect::RefuseLate { fence });
            }
            return step;
        }
        match input {
            Input::Placed { node, name } => self.placed(node, &name, &mut step),
            Input::Leased { fence, reason } => {
                self.advance(fence, TaskState::Leased, &reason, &mut step);
            }
            Input::Running { fence } => {
                self.advance(fence, TaskState::Running, "Runs.", &mut step);
            }
            Input::Refused { fence, reason } => self.refused(fence, reason, &mut step),
            Input::Finished { fence, digest } => self.finished(fence, digest, &mut step),
            Input::Failed { fence, reason, again: true } => {
                self.failed(fence, reason, true, &mut step);
            }
            Input::Failed { fence, reason, again: false } => {
                self.fails(fence, reason, &mut step);
            }
            Input::Interrupted { fence } => self.interrupted(fence, &mut step),
            Input::Compare => {
                if self.wanted == 1 && self.results.is_empty() {
                    (self.wanted, self.most) = COMPARED;
                }
            }
            Input::NoCandidate { reason, trusted } => self.alone(&reason, &trusted, &mut step),
            Input::Cancel => self.end(TaskState::Cancelled, "Cancelled by you.".into(), &mut step),
            Input::Tick => {
                if now_ms >= self.expires_ms {
                    let text = "Nobody did it in the time it was given.".to_owned();
                    self.end(TaskState::Expired, text, &mut step);
                }
            }
        }
        step
    }

    fn placed(&mut self, node: NodeId, name: &str, step: &mut Step) {
        if self.openings() == 0 || self.not().contains(&node) {
            return;
        }
        if self.leases.is_empty() {
            self.attempts += 1;
        }
        self.fence += 1;
        let lease = Lease { fence: self.fence, node: node.clone(), state: TaskState::Placed };
        self.leases.push(lease);
        self.look(Some(node.clone()), format!("Offered to {name}."), step);
        step.effects.push(Effect::Offer { fence: self.fence, node });
    }

    fn advance(&mut self, fence: u64, state: TaskState, text: &str, step: &mut Step) {
        let Some(lease) = self.leases.iter_mut().find(|lease| lease.fence == fence) else { return };
        // A place in the queue may change many times; that is no transition.
        if lease.state == state || lease.state == TaskState::Running {
            return;
        }
        lease.state = state;
        let node = Some(lease.node.clone());
        self.look(node, text.to_owned(), step);
    }

    fn refused(&mut self, fence: u64, reason: String, step: &mut Step) {
        let Some(lease) = self.take(fence) else { return };
        self.look(Some(lease.node), reason, step);
        step.effects.push(Effect::Place { pause: false });
    }

    fn finished(&mut self, fence: u64, digest: [u8; 32], step: &mut Step) {
        let Some(lease) = self.take(fence) else {
            let text = format!("A late result under lease {fence} was refused.");
            self.look(None, text, step);
            step.effects.push(Effect::RefuseLate { fence });
            return;
        };
        self.results.push(Gathered { fence, node: lease.node, digest });
        self.decide(step);
    }

    /// It would fail on any node, says this one.
    fn fails(&mut self, fence: u64, reason: String, step: &mut Step) {
        if self.wanted > 1 {
            if self.leases.iter().any(|lease| lease.fence == fence) {
                self.fails = reason;
                self.finished(fence, FAILS, step);
            }
            return;
        }
        if self.take(fence).is_some() {
            self.end(TaskState::Failed, reason, step);
        }
    }

    fn failed(&mut self, fence: u64, reason: String, pause: bool, step: &mut Step) {
        let Some(lease) = self.take(fence) else { return };
        self.tried_in_vain(lease.node, reason, pause, step);
    }

    fn tried_in_vain(&mut self, node: NodeId, reason: String, pause: bool, step: &mut Step) {
        self.failures += 1;
        if self.failures >= self.max_attempts {
            let tries = if self.failures == 1 { "one try" } else { "all its tries" };
            return self.end(TaskState::Failed, format!("It failed after {tries}: {reason}"), step);
        }
        self.look(Some(node), reason, step);
        step.effects.push(Effect::Place { pause });
    }

    /// A task that was running may be what stopped this node, so that it counts as a try.
    fn interrupted(&mut self, fence: u64, step: &mut Step) {
        let running = |l: &&Lease| l.fence == fence && l.state == TaskState::Running;
        let text = "EdgeCoder was stopped meanwhile; it is done again.".to_owned();
        if self.leases.iter().find(running).is_some() {
            return self.failed(fence, text, false, step);
        }
        if let Some(lease) = self.take(fence) {
            self.look(Some(lease.node), text, step);
            step.effects.push(Effect::Place { pause: false });
        }
    }

    /// A comparison that this node chose, with nobody to compare with, is left out. Results that
    /// differ, with nobody to break the tie, decide nothing and punish nobody.
    fn alone(&mut self, reason: &str, trusted: &[NodeId], step: &mut Step) {
        let enough = !self.replicas || self.results.len() >= self.wanted;
        if !enough || !self.leases.is_empty() {
            return;
        }
        match self.results.as_slice() {
            [] => {}
            [only] if only.digest == FAILS => {
                // One node's word does not end a task; it counts as a try.
                let node = only.node.clone();
                self.results.clear();
                (self.wanted, self.most) = (1, 1);
                self.tried_in_vain(node, "It fails there.".to_owned(), true, step);
            }
            [only] => {
                let fence = only.fence;
                let text = format!("Done; not compared with another node: {reason}");
                self.settle(fence, text, step);
            }
            several => {
                let known = several.iter().find(|r| r.digest != FAILS && trusted.contains(&r.node));
                let text = format!("The results of {} nodes differ", several.len());
                match known.map(|result| result.fence) {
                    Some(fence) => {
                        let text = format!("Done: {text}; one is of a node that you trust.");
                        self.settle(fence, text, step);
                    }
                    None => {
                        let text = format!(
                            "{text} and no other node can decide. Submit it again when there is one, or trust a node."
                        );
                        self.end(TaskState::Failed, text, step);
                    }
                }
            }
        }
    }

    fn verdict(&self) -> Option<Verdict<NodeId>> {
        if self.wanted <= 1 {
            return None;
        }
        let own = self.results.iter().find(|r| Some(&r.node) == self.here.as_ref());
        if let Some(own) = own.filter(|_| !self.replicas || self.results.len() >= self.wanted) {
            let of = |alike: bool| {
                let nodes = self.results.iter().filter(|r| (r.digest == own.digest) == alike);
                nodes.map(|result| result.node.clone()).collect()
            };
            return Some(Verdict::Agreed { majority: of(true), others: of(false) });
        }
        let results = self.results.iter().map(|r| (r.node.clone(), r.digest));
        Some(compare(&results.collect::<Vec<_>>(), self.wanted, self.most))
    }

    fn decide(&mut self, step: &mut Step) {
        let Some(verdict) = self.verdict() else {
            let fence = self.results.last().map_or(0, |result| result.fence);
            return self.settle(fence, "Done.".to_owned(), step);
        };
        if self.replicas && self.results.len() < self.wanted {
            // So many were asked for; two that agree are not three.
            return self.wait_for_more(step);
        }
        match verdict {
            Verdict::Agreed { majority, others } => {
                let winner = self.results.iter().find(|r| majority.contains(&r.node)).cloned();
                let (agreed, of) = (majority.len(), self.results.len());
                let own = self.here.as_ref().is_some_and(|here| majority.contains(here));
                step.effects.push(Effect::Judge { agreed: majority, disagreed: others });
                let Some(winner) = winner else { return };
                let whose = if own { ", this one among them" } else { "" };
                let text = format!("{agreed} of {of} nodes agree{whose}.");
                if winner.digest == FAILS {
                    let text = format!("{} It fails: {text}", sentence(&self.fails));
                    return self.end(TaskState::Failed, text.trim().to_owned(), step);
                }
                self.settle(winner.fence, format!("Done: {text}"), step);
            }
            Verdict::More(_) => self.wait_for_more(step),
            Verdict::Inconclusive => {
                let text = format!(
                    "The results of {} nodes differ and no majority is possible. Submit it again, or with more replicas.",
                    self.results.len()
                );
                self.end(TaskState::Failed, text, step);
            }
        }
    }

    fn wait_for_more(&mut self, step: &mut Step) {
        let node = self.results.last().map(|result| result.node.clone());
        self.look(node, "A result came; another node's is awaited.".to_owned(), step);
        if self.openings() > 0 {
            step.effects.push(Effect::Place { pause: false });
        }
    }

    fn settle(&mut self, fence: u64, text: String, step: &mut Step) {
        self.end(TaskState::Done, text, step);
        step.effects.push(Effect::Settle { fence });
    }

    fn end(&mut self, state: TaskState, text: String, step: &mut Step) {
        for lease in self.leases.drain(..) {
            step.effects.push(Effect::Stop { fence: lease.fence });
        }
        self.state = state;
        step.changes.push(Change { state, attempt: self.attempts, node: None, text });
    }

    fn take(&mut self, fence: u64) -> Option<Lease> {
        let at = self.leases.iter().position(|lease| lease.fence == fence)?;
        Some(self.leases.remove(at))
    }

    /// The state that leases and results make, and a line about how it came to be.
    fn look(&mut self, node: Option<NodeId>, text: String, step: &mut Step) {
        let furthest = self.leases.iter().map(|lease| lease.state).max_by_key(|s| rank(*s));
        self.state = match furthest {
            _ if !self.results.is_empty() => TaskState::Verifying,
            Some(state) => state,
            None => TaskState::Queued,
        };
        step.changes.push(Change { state: self.state, attempt: self.attempts, node, text });
    }
}

fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Placed => 1,
        TaskState::Leased => 2,
        TaskState::Running => 3,
        _ => 0,
    }
}
