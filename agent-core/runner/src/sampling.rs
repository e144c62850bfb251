//! Picks the next token from the model's probabilities.
//!
//! Greedy picking without penalties reads the logits where they lie; everything else is a chain of
//! llama.cpp's samplers. A grammar is asked about the one token picked first, and about the whole
//! vocabulary only when it refuses that one: asking about all costs milliseconds per token.

use agent_api::runner::{Sampling, TokenLogprob, TopLogprob};
use llama_cpp_2::{
    context::LlamaContext,
    sampling::LlamaSampler,
    token::{
        LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray,
        logit_bias::LlamaLogitBias,
    },
};

/// A bias at or below this forbids the token, as in the OpenAI API.
const FORBIDDING_BIAS: f32 = -100.0;
/// Tokens that penalties look back on, the default of llama.cpp.
pub(crate) const PENALTY_WINDOW: usize = 64;
/// Most alternatives reported per token; the OpenAI API allows 20.
pub(crate) const MAX_ALTERNATIVES: u32 = 20;
/// Most biased tokens: each costs a little time at every step.
const MAX_BIASES: usize = 1024;

/// The vocabulary as candidates; allocated once and used by every constrained request.
#[derive(Debug)]
pub(crate) struct Candidates {
    all: LlamaTokenDataArray,
    one: LlamaTokenDataArray,
}

impl Candidates {
    pub(crate) fn new() -> Self {
        let empty = || LlamaTokenDataArray::new(Vec::new(), false);
        Self { all: empty(), one: empty() }
    }

    fn fill(&mut self, logits: &[f32]) {
        let tokens = (0_i32..).zip(logits);
        self.all.data.clear();
        self.all.data.extend(tokens.map(|(id, &l)| LlamaTokenData::new(LlamaToken(id), l, 0.0)));
        self.all.selected = None;
        self.all.sorted = false;
    }

    /// Whether the grammar accepts this token next.
    fn accepted(&mut self, grammar: &mut LlamaSampler, token: LlamaToken) -> bool {
        self.one.data.clear();
        self.one.data.push(LlamaTokenData::new(token, 0.0, 0.0));
        self.one.selected = None;
        grammar.apply(&mut self.one);
        self.one.data.first().is_some_and(|d| d.logit() > f32::NEG_INFINITY)
    }
}

/// What came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Picked {
    Token(LlamaToken),
    /// The grammar is complete and nothing may follow.
    Complete,
}

/// One request's way of picking tokens.
#[derive(Debug)]
pub(crate) struct Picker {
    /// `None`: the most probable token, taken directly.
    chain: Option<LlamaSampler>,
    /// By token, ascending.
    bias: Vec<(i32, f32)>,
    grammar: Option<LlamaSampler>,
    /// A token that ends generation, to ask a grammar whether it is complete.
    end: Option<LlamaToken>,
}

impl Picker {
    /// `seen` are the prompt's last tokens, which penalties count. The error is a sentence for
    /// whoever sent the request.
    pub(crate) fn new(
        sampling: &Sampling,
        vocabulary: i32,
        grammar: Option<LlamaSampler>,
        end: Option<LlamaToken>,
        seen: &[LlamaToken],
    ) -> Result<Self, String> {
        check(sampling, vocabulary)?;
        let mut bias: Vec<(i32, f32)> = sampling
            .logit_bias
            .iter()
            .map(|&(t, b)| (t, if b <= FORBIDDING_BIAS { f32::NEG_INFINITY } else { b }))
            .collect();
        bias.sort_by_key(|&(token, _)| token);
        bias.dedup_by_key(|&mut (token, _)| token);
        let penalised = penalises(sampling);
        let chain = (sampling.temperature > 0.0 || penalised).then(|| {
            let seen = if penalised { seen } else { &[] };
            chain(sampling, vocabulary, &bias).with_tokens(seen)
        });
        Ok(Self { chain, bias, grammar, end })
    }

    /// Picks from the output `index` of the last decode step. The error is a sentence for whoever
    /// sent the request.
    pub(crate) fn pick(
        &mut self,
        context: &LlamaContext<'_>,
        index: i32,
        candidates: &mut Candidates,
    ) -> Result<Picked, String> {
        let Some(mut grammar) = self.grammar.take() else {
            return match &mut self.chain {
                // Samples and accepts.
                Some(chain) => Ok(Picked::Token(chain.sample(context, index))),
                None => self.greedy(context.get_logits_ith(index)).map(Picked::Token),
            };
        };
        let logits = context.get_logits_ith(index);
        let picked = self.pick_within(&mut grammar, logits, candidates);
        self.grammar = Some(grammar);
        picked
    }

    fn pick_within(
        &mut self,
        grammar: &mut LlamaSampler,
        logits: &[f32],
        candidates: &mut Candidates,
    ) -> Result<Picked, String> {
        let mut token = match &mut self.chain {
            None => Some(self.greedy(logits)?),
            Some(chain) => {
                candidates.fill(logits);
                candidates.all.apply_sampler(chain);
                candidates.all.selected_token()
            }
        };
        token = token.filter(|&token| candidates.accepted(grammar, token));
        if token.is_none() {
            token = self.pick_accepted(grammar, logits, candidates);
        }
        let ends = |candidates: &mut Candidates, grammar: &mut LlamaSampler| {
            self.end.is_none_or(|end| candidates.accepted(grammar, end))
        };
        let Some(token) = token else {
            return if ends(candidates, grammar) {
                Ok(Picked::Complete)
            } else {
                Err("No token of this model can continue the grammar.".into())
            };
        };
        if let Some(chain) = &mut self.chain {
            chain.accept(token);
        }
        // Only for tokens the grammar accepts: llama.cpp aborts on an end it does not expect.
        match grammar.try_accept(token) {
            Ok(()) => Ok(Picked::Token(token)),
            Err(_) => Err("The grammar refused a token it had allowed.".into()),
        }
    }

    /// Picks among the tokens that the grammar accepts and no bias forbids.
    fn pick_accepted(
        &mut self,
        grammar: &mut LlamaSampler,
        logits: &[f32],
        candidates: &mut Candidates,
    ) -> Option<LlamaToken> {
        candidates.fill(logits);
        candidates.all.apply_sampler(grammar);
        let bias_of = |token: LlamaToken| {
            let found = self.bias.binary_search_by_key(&token.0, |&(biased, _)| biased);
            found.map_or(0.0, |at| self.bias[at].1)
        };
        let all = &mut candidates.all.data;
        all.retain(|d| d.logit() + bias_of(d.id()) > f32::NEG_INFINITY);
        match &mut self.chain {
            None => {
                let value = |d: &LlamaTokenData| d.logit() + bias_of(d.id());
                all.iter().max_by(|a, b| value(a).total_cmp(&value(b))).map(LlamaTokenData::id)
            }
            Some(_) if all.is_empty() => None,
            Some(chain) => {
                candidates.all.apply_sampler(chain);
                candidates.all.selected_token()
            }
        }
    }

    fn greedy(&self, logits: &[f32]) -> Result<LlamaToken, String> {
        let best = most_probable(logits, &self.bias).and_then(|i| i32::try_from(i).ok());
        best.map(LlamaToken).ok_or_else(|| "The model gave no token a probability.".into())
    }
}

fn penalises(sampling: &Sampling) -> bool {
    sampling.repeat_penalty != 1.0
        || sampling.frequency_penalty != 0.0
        || sampling.presence_penalty != 0.0
}

/// llama.cpp's own order of samplers.
fn chain(sampling: &Sampling, vocabulary: i32, bias: &[(i32, f32)]) -> LlamaSampler {
    let mut samplers = Vec::new();
    if !bias.is_empty() {
        let bias: Vec<_> =
            bias.iter().map(|&(t, b)| LlamaLogitBias::new(LlamaToken(t), b)).collect();
        samplers.push(LlamaSampler::logit_bias(vocabulary, &bias));
    }
    if penalises(sampling) {
        samplers.push(LlamaSampler::penalties(
            vocabulary,
            PENALTY_WINDOW as i32,
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        ));
    }
    if sampling.temperature <= 0.0 {
        samplers.push(LlamaSampler::greedy());
        return LlamaSampler::chain(samplers, true);
    }
    if sampling.top_k > 0 {
        samplers.push(LlamaSampler::top_k(sampling.top_k));
    }
    if sampling.top_p < 1.0 {
        samplers.push(LlamaSampler::top_p(sampling.top_p, 1));
    }
    if sampling.min_p > 0.0 {
        samplers.push(LlamaSampler::min_p(sampling.min_p, 1));
    }
    if sampling.temperature != 1.0 {
        samplers.push(LlamaSampler::temp(sampling.temperature));
    }
    // llama.cpp takes the largest seed as "choose one", which is what no seed means here.
    let seed = sampling.seed.map_or(u32::MAX, |seed| seed.min(u32::MAX - 1));
    samplers.push(LlamaSampler::dist(seed));
    LlamaSampler::chain(samplers, true)
}

/// Refuses what llama.cpp would ignore or stumble over.
fn check(sampling: &Sampling, vocabulary: i32) -> Result<(), String> {
    let numbers = [
        ("temperature", sampling.temperature, 0.0..=100.0),
        ("top_p", sampling.top_p, 0.0..=1.0),
        ("min_p", sampling.min_p, 0.0..=1.0),
        ("repeat_penalty", sampling.repeat_penalty, 0.01..=100.0),
        ("frequency_penalty", sampling.frequency_penalty, -100.0..=100.0),
        ("presence_penalty", sampling.presence_penalty, -100.0..=100.0),
    ];
    for (name, value, allowed) in numbers {
        if !allowed.contains(&value) {
            let (low, high) = allowed.into_inner();
            return Err(format!("{name} is {value}; it must be from {low} to {high}."));
        }
    }
    if sampling.logit_bias.len() > MAX_BIASES {
        return Err(format!("logit_bias names more than {MAX_BIASES} tokens."));
    }
    for &(token, bias) in &sampling.logit_bias {
        if !(0..vocabulary).contains(&token) {
            let last = vocabulary - 1;
            return Err(format!(
                "logit_bias names token {token}, but this model's tokens are 0 to {last}."
            ));
        }
        if bias.is_nan() || bias == f32::INFINITY {
            return Err(format!("logit_bias of token {token} is not a number."));
        }
    }
    Ok(())
}

/// Index of the largest logit after biases; `None` if there is none to be had.
fn most_probable(logits: &[f32], bias: &[(i32, f32)]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    let mut offer = |index: usize, value: f32| {
        let better = best.is_none_or(|(at, b)| value > b || (value == b && index < at));
        if value > f32::NEG_INFINITY && better {
            best = Some((index, value));
        }
    };
    let mut from = 0;
    for &(token, bias) in bias {
        let at = usize::try_from(token).ok().filter(|&at| at < logits.len())?;
        if let Some((i, value)) = largest(&logits[from..at]) {
            offer(from + i, value);
        }
        offer(at, logits[at] + bias);
        from = at + 1;
    }
    if let Some((i, value)) = largest(&logits[from..]) {
        offer(from + i, value);
    }
    best.map(|(index, _)| index)
}

/// The largest value and where it is first. Written so that the compiler uses vector instructions:
/// this runs over the whole vocabulary for every greedy token.
fn largest(values: &[f32]) -> Option<(usize, f32)> {
    const BLOCK: usize = 1024;
    const LANES: usize = 16;
    let mut best: Option<(usize, f32)> = None;
    for (block, values) in values.chunks(BLOCK).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (wide, rest) = values.as_chunks::<LANES>();
        for chunk in wide {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane = if value > *lane { value } else { *lane };
            }
        }
        let most =
            lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        if best.is_none_or(|(_, b)| most > b)
            && let Some(at) = values.iter().position(|&v| v == most)
        {
            best = Some((block * BLOCK + at, most));
        }
    }
    best
}

/// The token's log-probability before any filter, with the `count` most probable ones.
pub(crate) fn log_probability(
    logits: &[f32],
    token: LlamaToken,
    count: usize,
    bytes_of: impl Fn(LlamaToken) -> Vec<u8>,
) -> TokenLogprob {
    let most = largest(logits).map_or(0.0, |(_, value)| value);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - most).exp())).sum();
    let scale = f64::from(most) + sum.ln();
    let value = |index: usize| {
        let logit = logits.get(index).copied().unwrap_or(f32::NEG_INFINITY);
        // JSON has no infinity: a forbidden token gets the smallest number instead.
        ((f64::from(logit) - scale) as f32).max(f32::MIN)
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let top = most_probable_many(logits, count)
        .into_iter()
        .map(|index| {
            let bytes = bytes_of(LlamaToken(index as i32));
            TopLogprob { token: text(&bytes), logprob: value(index), bytes }
        })
        .collect();
    let bytes = bytes_of(token);
    let index = usize::try_from(token.0).unwrap_or(usize::MAX);
    TokenLogprob { token: text(&bytes), logprob: value(index), bytes, top }
}

/// Indices of the `count` largest logits, largest first.
fn most_probable_many(logits: &[f32], count: usize) -> Vec<usize> {
    let mut top: Vec<usize> = Vec::with_capacity(count + 1);
    for (index, &logit) in logits.iter().enumerate() {
        if top.len() == count && top.last().is_none_or(|&last| logit <= logits[last]) {
            continue;
        }
        let at = top.partition_point(|&other| logits[other] >= logit);
        top.insert(at, index);
        top.truncate(count);
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_found_wherever_it_is() {
        for length in [1, 15, 16, 17, 1023, 1024, 1025, 5000] {
            for at in [0, length / 2, length - 1] {
                let mut values: Vec<f32> = (0..length).map(|i| -((i * 7 % 13) as f32)).collect();
                values[at] = 1.0;
                assert_eq!(largest(&values), Some((at, 1.0)));
            }
        }
        assert_eq!(largest(&[]), None);
        assert_eq!(largest(&[f32::NAN, f32::NAN]), None);
    }

    #[test]
    fn biases_move_and_forbid_tokens() {
        let logits = [1.0, 5.0, 3.0, 4.0];
        assert_eq!(most_probable(&logits, &[]), Some(1));
        assert_eq!(most_probable(&logits, &[(1, f32::NEG_INFINITY)]), Some(3));
        assert_eq!(most_probable(&logits, &[(0, 10.0), (1, f32::NEG_INFINITY)]), Some(0));
        assert_eq!(most_probable(&logits, &[(3, 1.0)]), Some(1), "the first of equals");
        let all: Vec<_> = (0..4).map(|t| (t, f32::NEG_INFINITY)).collect();
        assert_eq!(most_probable(&logits, &all), None);
    }

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits = [0.0, 1.0_f32.ln(), 3.0_f32.ln(), 5.0_f32.ln()];
        let entry = log_probability(&logits, LlamaToken(2), 2, |t| vec![b'a' + t.0 as u8]);
        assert!((entry.logprob - 0.3_f32.ln()).abs() < 1e-5);
        let names: Vec<_> = entry.top.iter().map(|t| t.token.as_str()).collect();
        assert_eq!((entry.token.as_str(), names), ("c", vec!["d", "c"]));
        assert!((entry.top[0].logprob - 0.5_f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn forbidden_tokens_keep_a_finite_log_probability() {
        let entry = log_probability(&[0.0, f32::NEG_INFINITY], LlamaToken(1), 0, |_| Vec::new());
        assert!(entry.logprob.is_finite() && entry.top.is_empty());
    }

    #[test]
    fn senseless_settings_are_refused_with_their_name() {
        let refused = |change: fn(&mut Sampling)| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            Picker::new(&sampling, 100, None, None, &[]).expect_err("is refused")
        };
        assert!(refused(|s| s.temperature = f32::NAN).contains("temperature"));
        assert!(refused(|s| s.temperature = -1.0).contains("temperature"));
        assert!(refused(|s| s.top_p = 1.5).contains("top_p"));
        assert!(refused(|s| s.repeat_penalty = 0.0).contains("repeat_penalty"));
        assert!(refused(|s| s.logit_bias = vec![(100, 1.0)]).contains("token 100"));
    }
}
