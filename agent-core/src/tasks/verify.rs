//! What of a worker's result is believed. Pure.

use std::time::Duration;

/// What a worker says about text that it wrote, and what the requester saw itself.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub prompt_bytes: usize,
    pub text_bytes: usize,
    /// Pieces of text that came.
    pub pieces: u32,
    /// From the first piece to the end.
    pub took: Duration,
    /// Of the model's file; `None`: unknown.
    pub model_bytes: Option<u64>,
}

/// What counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    /// Why the claim is not believed; counts against the worker.
    pub implausible: Option<String>,
}

/// Counts what came, not what was claimed.
pub fn count(claim: &Claim) -> Counted {
    Counted {
        prompt_tokens: claim.prompt_tokens,
        completion_tokens: claim.completion_tokens,
        implausible: None,
    }
}

/// What comparing results says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<N> {
    /// More than half of `wanted` agree.
    Agreed { majority: Vec<N>, others: Vec<N> },
    /// Not yet: this many more results are needed.
    More(usize),
    /// No majority is possible any more. Nobody is to blame.
    Inconclusive,
}

/// Compares results, given by a digest of each, when `wanted` nodes were to do it and up to `most`
/// may.
pub fn compare<N: Clone>(_results: &[(N, [u8; 32])], _wanted: usize, _most: usize) -> Verdict<N> {
    Verdict::Inconclusive
}

/// Adaptive replication: always until ten agreements in a row, then with probability one in as many
/// as there were. `roll` is uniform in 0..1.
pub fn must_compare(_agreed_in_a_row: u32, _roll: f64) -> bool {
    true
}
