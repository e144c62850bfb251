//! What of a result is believed, and the output that is made of it. Pure.

use agent_api::tasks::{CodeOutput, EmbeddingOutput, TextOutput, WasmOutput};
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

/// Tokens that a template, or what begins and ends each text, adds to one prompt.
const TEMPLATE_TOKENS: u32 = 1_024;
/// Tokens that the model may write in one round of a `code` job (`tasks/run.rs`); only the program
/// that it wrote comes here.
const ROUND_TOKENS: u32 = 4_096;

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
    /// What the owner should know before looking at the output.
    pub(super) remark: Option<String>,
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
            let most = whole(seen.prompt_bytes).saturating_add(TEMPLATE_TOKENS);
            let tokens = if seen.here { *prompt_tokens } else { (*prompt_tokens).min(most) };
            let output = EmbeddingOutput { vectors: vectors.clone(), prompt_tokens: tokens };
            Ok(taken(&output, (Some(tokens), None), None))
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
            let mut output = output.clone();
            if !seen.here {
                cap(&mut output, seen.prompt_bytes);
            }
            let tokens = (Some(output.prompt_tokens), Some(output.completion_tokens));
            let remark = (!output.passed).then(|| match output.iterations.len() {
                1 => "Done, but the program does not pass its tests (1 try).".to_owned(),
                tries => format!("Done, but no program passed its tests ({tries} tries)."),
            });
            Ok(Taken { remark, ..taken(&output, tokens, None) })
        }
        (job, _) => Err(format!("a result of another kind came for a {} job", job.kind().as_str())),
    }
}

/// Cuts what a node claims for a `code` job: each round's prompt is what was sent and what came of
/// the round before.
fn cap(output: &mut CodeOutput, sent: usize) {
    let received = output.iterations.iter().map(|i| i.code.len() + i.stdout.len() + i.stderr.len());
    let rounds = whole(output.iterations.len());
    let prompts = whole(sent).saturating_add(TEMPLATE_TOKENS).saturating_mul(rounds);
    let most = prompts.saturating_add(whole(received.sum()));
    output.prompt_tokens = output.prompt_tokens.min(most);
    output.completion_tokens = output.completion_tokens.min(ROUND_TOKENS.saturating_mul(rounds));
}

fn whole(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn taken<T: serde::Serialize>(
    output: &T,
    (prompt_tokens, completion_tokens): (Option<u32>, Option<u32>),
    implausible: Option<String>,
) -> Taken {
    // Outputs are numbers, texts and lists: they can always be written.
    let output = serde_json::to_string(output).unwrap_or_default();
    let digest = Sha256::digest(output.as_bytes()).into();
    Taken { output, digest, prompt_tokens, completion_tokens, implausible, remark: None }
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

#[cfg(test)]
mod tests {
    use agent_api::{
        runner::TextInput,
        tasks::{CodeInput, CodeIteration, Language},
    };

    use super::*;

    fn seen(job: &Job, here: bool) -> Seen {
        Seen { prompt_bytes: prompt_bytes(job), here, ..Seen::default() }
    }

    #[test]
    fn tokens_of_vectors_are_no_more_than_the_texts_can_have() {
        let inputs = vec![TextInput::Text { text: "hello".into() }];
        let job = Job::Embedding { model: "m".into(), inputs };
        let result = JobResult::Embedded { vectors: vec![vec![1.0]], prompt_tokens: u32::MAX };
        let tokens = |here| take(&job, &result, &seen(&job, here)).expect("taken").prompt_tokens;
        assert!(tokens(false).expect("counted") < 2_000);
        assert_eq!(tokens(true), Some(u32::MAX), "this node is believed");
    }

    #[test]
    fn tokens_of_a_program_are_no_more_than_its_rounds_can_have() {
        let job = Job::Code(CodeInput {
            version: 1,
            model: "m".into(),
            language: Language::Python,
            prompt: "Write add(a, b).".into(),
            tests: String::new(),
            max_iterations: None,
            run_s: None,
        });
        let round = CodeIteration {
            code: "x".into(),
            status: Some(0),
            stdout: String::new(),
            stderr: String::new(),
            problem: None,
            run_ms: 1,
        };
        let mut output = CodeOutput {
            code: "x".into(),
            passed: true,
            iterations: vec![round],
            prompt_tokens: u32::MAX,
            completion_tokens: u32::MAX,
        };
        let result = JobResult::Code { output: output.clone() };
        let taken = take(&job, &result, &seen(&job, false)).expect("taken");
        assert_eq!(taken.completion_tokens, Some(ROUND_TOKENS));
        assert!(taken.prompt_tokens.expect("counted") < 2_000);
        (output.prompt_tokens, output.completion_tokens) = (700, 300);
        let result = JobResult::Code { output: output.clone() };
        let honest = take(&job, &result, &seen(&job, false)).expect("taken");
        assert_eq!((honest.prompt_tokens, honest.completion_tokens), (Some(700), Some(300)));
        assert_eq!(honest.remark, None, "it passed");

        output.passed = false;
        let failed = take(&job, &JobResult::Code { output }, &seen(&job, true)).expect("taken");
        assert!(
            failed.remark.is_some_and(|text| text.contains("does not pass")),
            "the owner hears"
        );
    }
}
