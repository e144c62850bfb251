//! What of a worker's result is believed. Pure.
//!
//! A requester counts for itself: text cannot have more tokens than bytes. What a worker claims
//! beyond that is cut and counts against it. Bounds are loose on purpose: they catch what cannot be,
//! not what is unlikely, because an honest worker must never be accused.

use std::time::Duration;

use crate::inference::left_out::OWN_SYSTEM_TOKENS;

/// Tokens without text of their own: the end of the answer, and a stop text that was cut off.
const SILENT_TOKENS: u32 = 32;
/// Tokens that a worker adds to the messages: the chat template's (roles, a default system text, the
/// date) and those of the model's own system prompt.
const TEMPLATE_TOKENS: u32 = 1_024 + OWN_SYSTEM_TOKENS;
/// Pieces that may come without a token of their own: text that was held back, at the end.
const EXTRA_PIECES: u32 = 2;
/// Bytes per second that the fastest accelerator of today reads from its memory: 8 TB/s of HBM3e on
/// one NVIDIA B200 (its data sheet, 2024). Writing one token of one answer reads every active weight
/// once, so that memory bounds the speed of decoding (Pope et al., "Efficiently Scaling Transformer
/// Inference", 2022, section 2).
const MEMORY_PER_S: f64 = 8e12;
/// Mixture-of-experts models read a part of their weights per token; the sparsest in common use,
/// Kimi K2, reads 32 thousand million parameters of a million million.
const SPARSEST: f64 = 32.0;
/// Tokens per second of one answer that no model reaches, however small: starting a GPU's kernels
/// for one token takes a tenth of a millisecond.
const FASTEST: f64 = 10_000.0;
/// A stall of the network that delays the first piece makes the rest look faster.
const STALL: Duration = Duration::from_secs(5);
/// Agreements in a row until which every result is compared.
const ALWAYS: u32 = 10;

/// What a worker says about text that it wrote, and what the requester saw itself.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    /// Of all texts that were sent, with what continues an answer.
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
    let most = whole(claim.text_bytes).saturating_add(SILENT_TOKENS);
    let most_prompt = whole(claim.prompt_bytes).saturating_add(TEMPLATE_TOKENS);
    let tokens = claim.completion_tokens.max(claim.pieces).min(most);
    let allowed = fastest(claim.model_bytes) * (claim.took + STALL).as_secs_f64();
    let implausible = if claim.completion_tokens > most {
        Some(format!(
            "it claims {} tokens for {} bytes of text",
            claim.completion_tokens, claim.text_bytes
        ))
    } else if claim.completion_tokens.saturating_add(EXTRA_PIECES) < claim.pieces {
        Some(format!(
            "it claims {} tokens, but sent text {} times",
            claim.completion_tokens, claim.pieces
        ))
    } else if claim.prompt_tokens > most_prompt {
        Some(format!(
            "it claims {} tokens for a prompt of {} bytes",
            claim.prompt_tokens, claim.prompt_bytes
        ))
    } else if f64::from(tokens) > allowed {
        Some(format!(
            "it sent {tokens} tokens in {:.1} s, faster than any memory can hold its model",
            claim.took.as_secs_f64()
        ))
    } else {
        None
    };
    Counted {
        prompt_tokens: claim.prompt_tokens.min(most_prompt),
        completion_tokens: tokens,
        implausible,
    }
}

/// Tokens per second of one answer that no computer of today exceeds with a model of this size.
pub fn fastest(model_bytes: Option<u64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a bound")]
    let by_memory = model_bytes.map(|bytes| MEMORY_PER_S * SPARSEST / bytes.max(1) as f64);
    by_memory.unwrap_or(FASTEST).min(FASTEST)
}

fn whole(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What comparing results says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<N> {
    /// More than half agree: of `wanted`, or of the results if there are more.
    Agreed { majority: Vec<N>, others: Vec<N> },
    /// Not yet: this many more results are needed.
    More(usize),
    /// No majority is possible any more. Nobody is to blame: no experience follows from it.
    Inconclusive,
}

/// Compares results, given by a digest of each, when `wanted` nodes were to do it and up to `most`
/// may.
pub fn compare<N: Clone>(results: &[(N, [u8; 32])], wanted: usize, most: usize) -> Verdict<N> {
    let alike = |digest: &[u8; 32]| results.iter().filter(|(_, other)| other == digest).count();
    let best = results.iter().map(|(_, digest)| (alike(digest), digest)).max_by_key(|(n, _)| *n);
    let votes = best.map_or(0, |(votes, _)| votes);
    let have = results.len();
    if let Some((_, winner)) = best
        && votes > have.max(wanted) / 2
    {
        let of = |in_majority: bool| {
            let nodes = results.iter().filter(|(_, digest)| (digest == winner) == in_majority);
            nodes.map(|(node, _)| node.clone()).collect()
        };
        return Verdict::Agreed { majority: of(true), others: of(false) };
    }
    let most = most.max(wanted);
    // So many alike ones outweigh the rest.
    let needed = (have + 1).saturating_sub(2 * votes).max(wanted.saturating_sub(have)).max(1);
    if have + needed > most { Verdict::Inconclusive } else { Verdict::More(needed) }
}

/// Adaptive replication: always until ten agreements in a row, then with probability one in as many
/// as there were. `roll` is uniform in 0..1.
pub fn must_compare(agreed_in_a_row: u32, roll: f64) -> bool {
    agreed_in_a_row < ALWAYS || roll < 1.0 / f64::from(agreed_in_a_row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn honest() -> Claim {
        Claim {
            prompt_tokens: 40,
            completion_tokens: 100,
            prompt_bytes: 120,
            text_bytes: 420,
            pieces: 98,
            took: Duration::from_secs(4),
            model_bytes: Some(800 << 20),
        }
    }

    #[test]
    fn an_honest_claim_counts_as_it_is() {
        let counted = count(&honest());
        assert_eq!((counted.prompt_tokens, counted.completion_tokens), (40, 100));
        assert_eq!(counted.implausible, None);
        let silent = Claim { completion_tokens: 1, text_bytes: 0, pieces: 0, ..honest() };
        assert_eq!(count(&silent).implausible, None, "an empty answer has its last token");
    }

    #[test]
    fn more_tokens_than_bytes_are_cut_and_told() {
        let counted = count(&Claim { completion_tokens: 1_000_000, ..honest() });
        assert_eq!(counted.completion_tokens, 420 + SILENT_TOKENS);
        let why = counted.implausible.expect("not believed");
        assert!(why.contains("1000000 tokens for 420 bytes"), "{why}");
        let counted = count(&Claim { prompt_tokens: u32::MAX, ..honest() });
        assert_eq!(counted.prompt_tokens, 120 + TEMPLATE_TOKENS);
        assert!(counted.implausible.expect("not believed").contains("prompt of 120 bytes"));
    }

    #[test]
    fn fewer_tokens_than_pieces_are_not_believed() {
        let counted = count(&Claim { completion_tokens: 3, ..honest() });
        assert_eq!(counted.completion_tokens, 98);
        assert!(counted.implausible.expect("not believed").contains("sent text 98 times"));
    }

    #[test]
    fn a_large_model_cannot_be_faster_than_memory() {
        let large = Claim {
            model_bytes: Some(600_000_000_000),
            completion_tokens: 4_000,
            text_bytes: 16_000,
            pieces: 4_000,
            took: Duration::from_millis(100),
            ..honest()
        };
        let why = count(&large).implausible.expect("too fast");
        assert!(why.contains("faster than any memory"), "{why}");
        let slow = Claim { took: Duration::from_secs(60), ..large };
        assert_eq!(count(&slow).implausible, None);
        let burst = Claim { took: Duration::ZERO, ..honest() };
        assert_eq!(count(&burst).implausible, None, "a stalled network is no crime");
        assert!(fastest(None) <= FASTEST && fastest(Some(0)) <= FASTEST);
    }

    fn results(letters: &str) -> Vec<(usize, [u8; 32])> {
        letters.bytes().enumerate().map(|(n, letter)| (n, [letter; 32])).collect()
    }

    #[test]
    fn a_majority_decides_and_says_who_differs() {
        let agreed = |majority: &[usize], others: &[usize]| Verdict::Agreed {
            majority: majority.to_vec(),
            others: others.to_vec(),
        };
        assert_eq!(compare(&results("aba"), 3, 5), agreed(&[0, 2], &[1]));
        assert_eq!(compare(&results("aa"), 3, 5), agreed(&[0, 1], &[]));
        assert_eq!(compare(&results("aa"), 2, 3), agreed(&[0, 1], &[]));
        assert_eq!(compare(&results("a"), 1, 1), agreed(&[0], &[]));
    }

    #[test]
    fn a_draw_asks_for_more_and_ends_without_blame() {
        assert_eq!(compare(&results(""), 3, 5), Verdict::More(3));
        assert_eq!(compare(&results("a"), 2, 3), Verdict::More(1));
        assert_eq!(compare(&results("ab"), 2, 3), Verdict::More(1));
        assert_eq!(compare(&results("abc"), 3, 5), Verdict::More(2));
        assert_eq!(compare(&results("abc"), 3, 3), Verdict::Inconclusive);
        assert_eq!(compare(&results("ab"), 2, 2), Verdict::Inconclusive);
        assert_eq!(compare(&results("aabb"), 2, 4), Verdict::Inconclusive);
    }

    #[test]
    fn comparing_becomes_rarer_after_ten_agreements() {
        assert!(must_compare(0, 0.999) && must_compare(9, 0.999));
        assert!(must_compare(10, 0.099) && !must_compare(10, 0.1));
        assert!(must_compare(1_000, 0.000_5) && !must_compare(1_000, 0.01));
    }

    proptest! {
        #[test]
        fn what_counts_is_never_more_than_what_came(
            prompt_tokens: u32, completion_tokens: u32, prompt_bytes in 0_usize..1 << 24,
            text_bytes in 0_usize..1 << 24, pieces: u32, took in 0_u64..1 << 40,
            model_bytes: Option<u64>,
        ) {
            let took = Duration::from_millis(took);
            let claim = Claim {
                prompt_tokens, completion_tokens, prompt_bytes, text_bytes, pieces, took, model_bytes,
            };
            let counted = count(&claim);
            prop_assert!(counted.completion_tokens <= whole(text_bytes) + SILENT_TOKENS);
            prop_assert!(counted.prompt_tokens <= whole(prompt_bytes) + TEMPLATE_TOKENS);
        }

        #[test]
        fn comparing_ends_and_blames_only_against_a_majority(
            letters in prop::collection::vec(0_u8..4, 0..9), wanted in 1_usize..6, extra in 0_usize..4,
        ) {
            let most = wanted + extra;
            let results: Vec<_> = letters.iter().map(|l| (*l, [*l; 32])).take(most).collect();
            match compare(&results, wanted, most) {
                Verdict::Agreed { majority, others } => {
                    prop_assert_eq!(majority.len() + others.len(), results.len());
                    prop_assert!(majority.len() > others.len());
                    prop_assert!(2 * majority.len() > wanted);
                }
                Verdict::More(more) => {
                    prop_assert!(more > 0 && results.len() + more <= most);
                }
                Verdict::Inconclusive => prop_assert!(results.len() <= most),
            }
        }
    }
}
