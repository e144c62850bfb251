//! Whether an offer is taken: decided before it waits, from what is known at this moment. Pure.

use std::time::Duration;

use agent_api::tasks::{KindAbility, TaskKind, TaskSettings};

use crate::tasks::{
    job::{Job, JobError},
    placement::estimate_tokens,
};

/// When a full queue may have room again.
pub(super) const FULL_FOR: Duration = Duration::from_secs(5);
/// When the owner may have changed his mind.
const CLOSED_FOR: Duration = Duration::from_secs(60);
/// Tokens of an answer without a limit of its own. One that is longer pays for the rest afterwards.
const ANSWER_TOKENS: u32 = 512;
/// Cost of a `code` job: some answers of a thousand tokens each.
const CODE_COST: u64 = 10_000;

/// An offer and the node as it is now.
#[derive(Clone, Debug)]
pub struct Offered<'a> {
    pub kind: TaskKind,
    /// Why other nodes' work is not taken now.
    pub closed: Option<String>,
    /// What the sandbox can do.
    pub abilities: &'a [KindAbility],
    /// The model that is asked for, and whether it is here.
    pub model: Option<(&'a str, bool)>,
    /// Tasks of this node that wait or run here.
    pub of_peer: u32,
    /// Tasks of all nodes that wait here.
    pub waiting: u32,
}

/// The error is a refusal with its reason, for the owner of the node that asks.
pub fn admit(settings: &TaskSettings, offered: &Offered<'_>) -> Result<(), JobError> {
    let kind = offered.kind;
    if !settings.accept {
        return refuse("this node does no work for others", Some(CLOSED_FOR));
    }
    if !settings.kinds.contains(&kind) {
        let kind = kind.as_str();
        return refuse(format!("this node takes no tasks of kind {kind}"), Some(CLOSED_FOR));
    }
    if let Some(reason) = &offered.closed {
        return refuse(reason.clone(), Some(CLOSED_FOR));
    }
    if matches!(kind, TaskKind::Wasm | TaskKind::Code) {
        let ability = offered.abilities.iter().find(|ability| ability.kind == kind);
        match ability {
            Some(ability) if ability.able => {}
            Some(ability) => return refuse(ability.reason.clone(), None),
            None => return refuse("this node has no sandbox", None),
        }
    }
    match offered.model {
        Some(("", false)) => return refuse("no model is active here", None),
        Some((name, false)) => return refuse(format!("the model {name} is not here"), None),
        Some((_, true)) | None => {}
    }
    if offered.of_peer >= settings.per_peer {
        let many = offered.of_peer;
        let reason = format!("{many} tasks of yours are here already, which is the most");
        return refuse(reason, Some(FULL_FOR));
    }
    if offered.waiting > 0 && offered.waiting >= settings.waiting {
        return refuse(format!("{} tasks wait here already", offered.waiting), Some(FULL_FOR));
    }
    Ok(())
}

fn refuse(reason: impl Into<String>, retry_after: Option<Duration>) -> Result<(), JobError> {
    Err(JobError::Refused { reason: reason.into(), retry_after })
}

/// What a job costs in the fair queue: tokens, or millions of units of fuel.
pub fn cost(job: &Job, bytes: usize) -> u64 {
    let answer = |limit: Option<u32>| u64::from(limit.unwrap_or(ANSWER_TOKENS).min(1 << 20));
    let prompt = u64::from(estimate_tokens(bytes));
    match job {
        Job::Chat(job) | Job::Completion(job) => prompt + answer(job.generate.max_tokens),
        Job::Embedding { .. } => prompt,
        Job::Wasm(job) => (job.fuel / 1_000_000).max(1),
        Job::Code(_) => CODE_COST,
    }
}

/// What a job took in the end, in the same unit: tokens that were read and written, milliseconds
/// of a core (in which a module burns a million units of fuel or more).
pub fn used(kind: TaskKind, counted: u64, ran: Duration) -> u64 {
    /// A model that is slow writes so many tokens per second: a `code` job that was given up before
    /// it told its tokens had about so many.
    const SLOW: u64 = 20;
    let ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
    match kind {
        TaskKind::Chat | TaskKind::Completion | TaskKind::Embedding => counted,
        TaskKind::Wasm => ms,
        TaskKind::Code => counted.max(ms.saturating_mul(SLOW) / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(kind: TaskKind) -> Offered<'static> {
        let model = Some(("demo", true)).filter(|_| kind != TaskKind::Wasm);
        Offered { kind, closed: None, abilities: &[], model, of_peer: 0, waiting: 0 }
    }

    fn refusal(settings: &TaskSettings, offered: &Offered<'_>) -> String {
        admit(settings, offered).expect_err("is refused").to_string()
    }

    #[test]
    fn a_node_as_it_comes_takes_what_it_can_do() {
        assert_eq!(admit(&TaskSettings::default(), &offered(TaskKind::Chat)), Ok(()));
    }

    #[test]
    fn the_owners_word_comes_first() {
        let mut settings = TaskSettings { accept: false, ..TaskSettings::default() };
        let mut offer = offered(TaskKind::Chat);
        offer.closed = Some("The owner works on it".to_owned());
        assert!(refusal(&settings, &offer).contains("no work for others"));
        settings.accept = true;
        assert_eq!(refusal(&settings, &offer), "The owner works on it");
        settings.kinds = vec![TaskKind::Wasm];
        assert!(refusal(&settings, &offer).contains("kind chat"));
    }

    #[test]
    fn a_model_or_a_sandbox_that_is_missing_is_named() {
        let settings = TaskSettings::default();
        let mut offer = offered(TaskKind::Chat);
        offer.model = Some(("llama", false));
        assert!(refusal(&settings, &offer).contains("llama"));
        let mut offer = offered(TaskKind::Wasm);
        assert!(refusal(&settings, &offer).contains("no sandbox"));
        let reason = "bubblewrap is missing".to_owned();
        let ability = KindAbility { kind: TaskKind::Wasm, able: false, reason };
        offer.abilities = std::slice::from_ref(&ability);
        assert_eq!(refusal(&settings, &offer), "bubblewrap is missing");
        let able = KindAbility { able: true, ..ability.clone() };
        offer.abilities = std::slice::from_ref(&able);
        assert_eq!(admit(&settings, &offer), Ok(()));
    }

    #[test]
    fn a_job_costs_in_the_end_what_it_took() {
        let minute = Duration::from_secs(60);
        assert_eq!(used(TaskKind::Chat, 7_000, minute), 7_000);
        assert_eq!(used(TaskKind::Wasm, 0, minute), 60_000);
        assert_eq!(used(TaskKind::Code, 0, minute), 1_200, "given up early");
        assert_eq!(used(TaskKind::Code, 30_000, minute), 30_000);
    }

    #[test]
    fn quotas_hold_and_say_when_to_come_again() {
        let settings = TaskSettings { per_peer: 2, waiting: 3, ..TaskSettings::default() };
        let mut offer = offered(TaskKind::Chat);
        offer.of_peer = 2;
        let refused = admit(&settings, &offer).expect_err("is refused");
        let told = matches!(&refused, JobError::Refused { retry_after: Some(_), .. });
        assert!(told && refused.to_string().contains("2 tasks of yours"), "{refused}");
        offer.of_peer = 1;
        offer.waiting = 3;
        assert!(refusal(&settings, &offer).contains("3 tasks wait"));
        offer.waiting = 2;
        assert_eq!(admit(&settings, &offer), Ok(()));
    }
}
