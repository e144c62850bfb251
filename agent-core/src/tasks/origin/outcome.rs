//! What of a result is believed, and the output that is made of it. Pure.

use agent_api::tasks::{EmbeddingOutput, TextOutput, WasmOutput};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use crate::tasks::{
    job::{Job, JobResult},
    verify::{Claim, count},
};

/// Text of one answer: above any context that a model of today has.
pub(super) const TEXT_BYTES: usize = 1 << 20;
/// As the contract of `wasm` says.
const WASM_OUTPUT_BYTES: usize = 1 << 20;

/// What was seen while the result came.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) text: String,
    pub(super) pieces: u32,
    pub(super) prompt_bytes: usize,
    pub(super) took: std::time::Duration,
    pub(super) model_bytes: Option<u64>,
    /// Counted on nodes that were lost in the middle of the answer.
    pub(super) tokens_before: u32,
    /// It came from this node itself, which is believed.
    pub(super) here: bool,
}

/// A result that can be taken.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// JSON by kind.
    pub(super) output: String,
    pub(super) digest: [u8; 32],
    pub(super) prompt_tokens: Option<u32>,
    pub(super) completion_tokens: Option<u32>,
    /// Counts against the worker, though the result is taken.
    pub(super) implausible: Option<String>,
}

/// `Err`: it is not a result of this job.
pub(super) fn take(job: &Job, result: &JobResult, seen: &Seen) -> Result<Taken, String> {
    match (job, result) {
        (Job::Chat(_) | Job::Completion(_), JobResult::Text { finish, usage, .. }) => {
            let counted = count(&Claim {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                prompt_bytes: seen.prompt_bytes,
                text_bytes: seen.text.len(),
                pieces: seen.pieces,
                took: seen.took,
                model_bytes: seen.model_bytes,
            });
            let (prompt, completion, implausible) = if seen.here {
                (usage.prompt_tokens, usage.completion_tokens, None)
            } else {
                (counted.prompt_tokens, counted.completion_tokens, counted.implausible)
            };
            let completion = completion.saturating_add(seen.tokens_before);
            let output = TextOutput {
                text: seen.text.clone(),
                finish: *finish,
                prompt_tokens: prompt,
                completion_tokens: completion,
            };
            Ok(taken(&output, (Some(prompt), Some(completion)), implausible))
        }
        (Job::Embedding { inputs, .. }, JobResult::Embedded { vectors, prompt_tokens }) => {
            if vectors.len() != inputs.len() {
                let (sent, came) = (inputs.len(), vectors.len());
                return Err(format!("{came} vectors came for {sent} texts"));
            }
            let output =
                EmbeddingOutput { vectors: vectors.clone(), prompt_tokens: *prompt_tokens };
            Ok(taken(&output, (Some(*prompt_tokens), None), None))
        }
        (Job::Wasm(job), JobResult::Wasm { output, fuel_used }) => {
            let bytes = BASE64_STANDARD.decode(output).map_err(|e| format!("no base64: {e}"))?;
            if bytes.len() > WASM_OUTPUT_BYTES {
                return Err(format!("an output of {} bytes came; 1 MiB is the most", bytes.len()));
            }
            if *fuel_used > job.fuel {
                return Err(format!("{fuel_used} of {} units of fuel were used", job.fuel));
            }
            let mut hash = Sha256::new();
            hash.update(fuel_used.to_le_bytes());
            hash.update(&bytes);
            let digest = hash.finalize().into();
            let output = wasm_output(output, &bytes, *fuel_used, (1, 1));
            Ok(Taken { digest, ..taken(&output, (None, None), None) })
        }
        (Job::Code(_), JobResult::Code { output }) => {
            let tokens = (Some(output.prompt_tokens), Some(output.completion_tokens));
            Ok(taken(output, tokens, None))
        }
        (job, _) => Err(format!("a result of another kind came for a {} job", job.kind().as_str())),
    }
}

fn taken<T: serde::Serialize>(
    output: &T,
    (prompt_tokens, completion_tokens): (Option<u32>, Option<u32>),
    implausible: Option<String>,
) -> Taken {
    // Outputs are numbers, texts and lists: they can always be written.
    let output = serde_json::to_string(output).unwrap_or_default();
    let digest = Sha256::digest(output.as_bytes()).into();
    Taken { output, digest, prompt_tokens, completion_tokens, implausible }
}

fn wasm_output(
    output: &str,
    bytes: &[u8],
    fuel_used: u64,
    (agreed, compared): (u32, u32),
) -> WasmOutput {
    WasmOutput {
        output: output.to_owned(),
        output_text: std::str::from_utf8(bytes).ok().map(ToOwned::to_owned),
        fuel_used,
        compared,
        agreed,
    }
}

/// Says in an output of `wasm` how many nodes were compared.
pub(super) fn with_verdict(output: String, agreed: usize, compared: usize) -> String {
    let Ok(parsed) = serde_json::from_str::<WasmOutput>(&output) else { return output };
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let told = WasmOutput { agreed: number(agreed), compared: number(compared), ..parsed };
    serde_json::to_string(&told).unwrap_or(output)
}

/// Bytes of text that the model has to read.
pub(super) fn prompt_bytes(job: &Job) -> usize {
    match job {
        Job::Chat(job) | Job::Completion(job) => {
            serde_json::to_string(&job.generate.prompt).map_or(0, |json| json.len())
        }
        Job::Embedding { inputs, .. } => serde_json::to_string(inputs).map_or(0, |json| json.len()),
        Job::Code(input) => input.prompt.len() + input.tests.len(),
        Job::Wasm(_) => 0,
    }
}
