//! How long a task would take on a node: an estimate, made of parts that its owner can read.

use agent_api::tasks::{CostPart, TaskKind, TaskPath};

use super::{ModelView, NodeView, Wanted};
use crate::tasks::verify;

/// Bytes of a model that are read from a disk per second: a plain SATA SSD. Faster disks only make
/// the estimate careful: a model in memory is worth waiting a little for.
const LOADED_PER_S: f64 = 500e6;
/// Starting a runner, before the model's first byte is read.
const LOAD_MS: f64 = 300.0;
/// Bytes of weights read per second by a computer that measured nothing yet: two channels of DDR4.
/// Writing a token reads all weights once.
const UNMEASURED_PER_S: f64 = 20e9;
/// Speeds guessed from that stay within these tokens per second.
const GUESSED_SPEED: (f64, f64) = (1.0, 100.0);
/// Tokens per second of a model that nothing is known of.
const UNKNOWN_SPEED: f64 = 10.0;
/// Prompts are read in batches: about so many times as fast as answers are written.
const READING_TIMES: f64 = 10.0;
/// Round trips until the first piece is back: the offer, and what it asks for.
const ROUND_TRIPS: f64 = 2.0;
/// Leaving this computer at all: two processes more take part.
const LEAVING_MS: f64 = 5.0;
/// A relay forwards for others too.
const RELAY_MS: f64 = 50.0;
/// Round trip to a node that is not connected, unless it was measured.
const UNKNOWN_RTT_MS: f64 = 150.0;
/// A connection that answers later than that is as good as lost.
const LONGEST_RTT_MS: f64 = 60_000.0;
/// Round trips to connect, with the mesh's handshake.
const CONNECT_TRIPS: f64 = 3.0;
/// A module's run that nothing is known of.
const WASM_MS: f64 = 50.0;
/// The prompt's size is a guess: where prompt and answer together may not fit, a node with more
/// room is worth this.
const TIGHT_MS: f64 = 2_000.0;
/// Lowest reputation that is divided by: 20 tries at most.
const LOWEST: f64 = 0.05;
/// Ties only: a price and another region never weigh more than this.
const TIE_MS: f64 = 2.0;
/// Micro-credits for the task at which the price weighs half of [`TIE_MS`].
const HALF_PRICE: f64 = 1_000.0;

/// Milliseconds, by what takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    waiting: f64,
    loading: f64,
    reading: f64,
    writing: f64,
    running: f64,
    tight: f64,
    travelling: f64,
    retrying: f64,
    price: f64,
    region: f64,
}

/// What is the same for all nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) wanted: &'a Wanted,
    /// This node's.
    pub(super) region: Option<&'a str>,
}

/// It could begin at once.
pub(super) fn is_free(node: &NodeView) -> bool {
    node.queue == 0 && node.slots_free > node.in_flight
}

pub(super) fn estimate(terms: &Terms<'_>, node: &NodeView, model: Option<&ModelView>) -> Cost {
    let wanted = terms.wanted;
    let mut cost = Cost::default();
    match model {
        Some(model) => {
            let speed = tokens_per_s(model);
            cost.reading = 1e3 * f64::from(wanted.prompt_tokens) / (speed * READING_TIMES);
            cost.writing = 1e3 * f64::from(wanted.answer_tokens) / speed;
            if !model.resident {
                cost.loading = LOAD_MS + 1e3 * bytes(model.size_bytes) / LOADED_PER_S;
            }
            let all = wanted.prompt_tokens.saturating_add(wanted.answer_tokens);
            cost.tight = if all > model.context { TIGHT_MS } else { 0.0 };
        }
        None => cost.running = WASM_MS,
    }
    // Jobs there are taken to be like this one.
    let each = cost.reading + cost.writing + cost.running;
    cost.waiting = waiting(wanted, node, each);
    cost.travelling = travelling(node);
    // The number of tries until one succeeds is geometric: 1/p on average.
    let p = node.reputation.clamp(LOWEST, 1.0);
    let p = if node.reputation.is_finite() { p } else { LOWEST };
    let once = cost.waiting + cost.loading + each + cost.tight + cost.travelling;
    cost.retrying = once * (1.0 / p - 1.0);
    cost.price = price(wanted, node);
    let elsewhere = terms.region.is_some() && node.region.is_some();
    let apart = elsewhere && !node.here && node.region.as_deref() != terms.region;
    cost.region = if apart { TIE_MS } else { 0.0 };
    cost
}

/// Until a slot is free: all that are ahead, spread over the slots.
fn waiting(wanted: &Wanted, node: &NodeView, each: f64) -> f64 {
    if wanted.kind == Some(TaskKind::Wasm) {
        // Modules need no slot of a model; what was sent there is all that is known.
        return f64::from(node.in_flight) * each / f64::from(node.slots.max(1));
    }
    if is_free(node) {
        return 0.0;
    }
    let unseen = node.in_flight.saturating_sub(node.slots_free);
    let ahead = f64::from(node.queue) + f64::from(unseen);
    // On average half of a running job is done.
    (ahead + 0.5) * each / f64::from(node.slots.max(1))
}

fn travelling(node: &NodeView) -> f64 {
    if node.here {
        return 0.0;
    }
    let usable = node.rtt_ms.filter(|rtt| rtt.is_finite() && *rtt >= 0.0);
    let rtt = usable.unwrap_or(UNKNOWN_RTT_MS).min(LONGEST_RTT_MS);
    let connecting = if node.path.is_none() { CONNECT_TRIPS * rtt } else { 0.0 };
    let relay = if node.path == Some(TaskPath::Relay) { RELAY_MS } else { 0.0 };
    LEAVING_MS + ROUND_TRIPS * rtt + connecting + relay
}

/// Grows with the price and stays below [`TIE_MS`].
fn price(wanted: &Wanted, node: &NodeView) -> f64 {
    let tokens = f64::from(wanted.prompt_tokens) + f64::from(wanted.answer_tokens);
    let credits = bytes(node.price.unwrap_or(0)) * tokens / 1e3;
    TIE_MS * credits / (credits + HALF_PRICE)
}

/// Measured, but never more than memory of today could give; guessed from the size otherwise.
fn tokens_per_s(model: &ModelView) -> f64 {
    let measured = model.tokens_per_s.map(f64::from).filter(|s| s.is_finite() && *s > 0.01);
    match (measured, model.size_bytes) {
        (Some(speed), size) => speed.min(verify::fastest(Some(size).filter(|size| *size > 0))),
        (None, 0) => UNKNOWN_SPEED,
        (None, size) => (UNMEASURED_PER_S / bytes(size)).clamp(GUESSED_SPEED.0, GUESSED_SPEED.1),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn bytes(count: u64) -> f64 {
    count as f64
}

impl Cost {
    pub(super) fn total(&self) -> f64 {
        self.values().iter().sum()
    }

    fn values(&self) -> [f64; 10] {
        let Self { waiting, loading, reading, writing, running, .. } = *self;
        let Self { tight, travelling, retrying, price, region, .. } = *self;
        [waiting, loading, reading, writing, running, tight, travelling, retrying, price, region]
    }

    /// Those that take any time; their sum is the total.
    pub(super) fn parts(&self, wanted: &Wanted) -> Vec<CostPart> {
        let writing = format!("writing {} tokens", wanted.answer_tokens);
        let names = [
            "waiting",
            "loading the model",
            "reading the prompt",
            &writing,
            "running it",
            "its context may be too small",
            "the way there",
            "tries that may fail",
            "its price",
            "another region",
        ];
        let rows = names.iter().zip(self.values()).filter(|(_, ms)| *ms > 0.0);
        rows.map(|(what, ms)| CostPart { what: (*what).to_owned(), ms }).collect()
    }
}
