//! What each sequence of the context holds, and which one a new request should get.
//!
//! A sequence keeps the tokens of its last request in the KV cache. The next request that begins
//! with the same tokens (the same system prompt, the same conversation) continues from there.

use std::time::Instant;

use agent_api::runner::{TokenLogprob, Usage};
use llama_cpp_2::token::LlamaToken;

use crate::{sampling::Picker, text::Answer};

/// One sequence of the context.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The tokens whose keys and values the context holds for this sequence, exactly.
    pub(crate) cached: Vec<LlamaToken>,
    /// When the slot was last given away, as a count of admissions.
    pub(crate) admission: u64,
    pub(crate) running: Option<Running>,
}

/// A request that has a slot.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) prompt: Vec<LlamaToken>,
    /// Sampled, and not decoded yet.
    pub(crate) next: Option<LlamaToken>,
    pub(crate) picker: Picker,
    pub(crate) answer: Answer<TokenLogprob>,
    /// Alternatives per token, when probabilities were asked for.
    pub(crate) logprobs: Option<usize>,
    pub(crate) max_tokens: Option<u32>,
    /// Control tokens are part of the text: a grammar counts them in.
    pub(crate) render_control: bool,
    pub(crate) usage: Usage,
    pub(crate) arrived: Instant,
    pub(crate) admitted: Instant,
    /// When the first token could be sampled.
    pub(crate) prompted: Option<Instant>,
}

impl Slot {
    /// Prompt tokens still to be decoded.
    pub(crate) fn prompt_left(&self) -> &[LlamaToken] {
        match &self.running {
            Some(running) => running.prompt.get(self.cached.len()..).unwrap_or_default(),
            None => &[],
        }
    }
}

/// How many tokens at the beginning are the same.
pub(crate) fn common_prefix(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Common tokens that are worth preferring one slot over another: every prompt begins with the
/// same few control tokens.
const WORTH: usize = 32;

/// The free slot for a prompt. One that the prompt continues wins (most of what it holds, or most
/// of the prompt, is common); then an empty one; then, of those that lose what they hold, the one left alone for longest, so that what others may come
/// back to stays.
pub(crate) fn choose(slots: &[Slot], prompt: &[LlamaToken]) -> Option<usize> {
    let free = slots.iter().enumerate().filter(|(_, slot)| slot.running.is_none());
    free.max_by_key(|(_, slot)| {
        let common = common_prefix(&slot.cached, prompt);
        let lost = slot.cached.len() - common;
        let continues = common >= lost || common * 2 >= prompt.len();
        let continued = if continues { common } else { 0 };
        let oldest = std::cmp::Reverse(slot.admission);
        (continued, slot.cached.is_empty(), common / WORTH, oldest)
    })
    .map(|(index, _)| index)
}

/// How much of a slot's cache a prompt can use. The last prompt token is always decoded again,
/// because its probabilities are not kept.
pub(crate) fn reusable(cached: &[LlamaToken], prompt: &[LlamaToken]) -> usize {
    common_prefix(cached, prompt).min(prompt.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Vec<LlamaToken> {
        ids.iter().map(|&id| LlamaToken(id)).collect()
    }

    fn slot(ids: &[i32], admission: u64) -> Slot {
        Slot { cached: tokens(ids), admission, running: None }
    }

    #[test]
    fn a_prompt_goes_where_it_began_before() {
        let slots = [slot(&[1, 2, 9], 1), slot(&[1, 2, 3], 2), slot(&[], 0)];
        assert_eq!(choose(&slots, &tokens(&[1, 2, 3, 4])), Some(1));
        let answered = [slot(&[1, 2, 3, 7, 7, 7, 7, 7, 7, 7], 1), slot(&[], 0)];
        assert_eq!(choose(&answered, &tokens(&[1, 2, 3])), Some(0), "asked once more");
    }

    #[test]
    fn a_new_prompt_takes_an_empty_slot_and_then_the_oldest() {
        let slots = [slot(&[5, 6], 1), slot(&[7], 3), slot(&[], 2)];
        assert_eq!(choose(&slots, &tokens(&[1, 2])), Some(2));
        assert_eq!(choose(&slots[..2], &tokens(&[1, 2])), Some(0));
    }

    #[test]
    fn the_control_token_all_prompts_begin_with_is_no_reason_to_forget_a_conversation() {
        let slots = [slot(&[1, 5, 6, 7], 2), slot(&[1, 8, 9, 10], 1), slot(&[], 0)];
        assert_eq!(choose(&slots, &tokens(&[1, 2, 3])), Some(2), "an empty slot");
        assert_eq!(choose(&slots[..2], &tokens(&[1, 2, 3])), Some(1), "the oldest");
    }

    #[test]
    fn no_slot_is_chosen_when_none_is_free() {
        assert_eq!(choose(&[], &tokens(&[1])), None);
    }

    #[test]
    fn one_prompt_token_is_always_decoded() {
        assert_eq!(reusable(&tokens(&[1, 2, 3]), &tokens(&[1, 2, 3])), 2);
        assert_eq!(reusable(&tokens(&[1, 2, 3]), &tokens(&[1, 2, 4, 5])), 2);
        assert_eq!(reusable(&tokens(&[1]), &tokens(&[1, 2])), 1);
        assert_eq!(reusable(&tokens(&[1]), &[]), 0);
    }
}
