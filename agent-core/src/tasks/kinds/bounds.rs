//! The bounds of each kind once more, on a [`Job`] that came from another node: that one may have
//! skipped them. Pure.

use agent_api::{
    runner::{Constraint, Generate, Prompt, Sampling, TextInput},
    tasks::CodeInput,
};

use super::{
    program::{
        FUEL, INPUT_BYTES, ITERATIONS, LEAST_MEMORY, MEMORY, NAME, PROMPT_BYTES, RUN_S,
        TESTS_BYTES, WALL_MS, version_of,
    },
    text::{MODEL_BYTES, STOP_BYTES, TOP_K},
};
use crate::{
    config::limits,
    tasks::job::{GenerateJob, Job, WasmJob},
};

/// Alternatives per token and biased tokens, as the OpenAI endpoint's.
const LOGPROBS: u32 = 20;
const BIASES: usize = 1_024;
/// Text of an answer that goes on: what a worker keeps of one.
const ANSWER_BYTES: usize = 8 << 20;

/// Whether a job is within what its kind allows. The error is a sentence that names the field, for
/// the owner of the node that asks; texts of the job are not in it.
pub fn check_job(job: &Job) -> Result<(), String> {
    if let Some(model) = job.model() {
        bytes("the model's name", model, 0..=MODEL_BYTES)?;
        within("the model's name is one line of text", !model.chars().any(char::is_control))?;
    }
    match job {
        Job::Chat(job) | Job::Completion(job) => generate(job),
        Job::Embedding { inputs, .. } => {
            let most = limits::EMBEDDING_INPUTS;
            count("inputs", inputs.len(), 1..=most)?;
            inputs.iter().try_for_each(|input| text("an input", input))
        }
        Job::Wasm(job) => wasm(job),
        Job::Code(input) => code(job, input),
    }
}

fn generate(job: &GenerateJob) -> Result<(), String> {
    let Generate { prompt, sampling, stop, constraint, logprobs, continue_from, .. } =
        &*job.generate;
    match prompt {
        Prompt::Chat { messages, tools } => {
            count("messages", messages.len(), 1..=limits::CHAT_MESSAGES)?;
            count("tools", tools.len(), 0..=limits::CHAT_TOOLS)?;
        }
        Prompt::Text(input) => text("the prompt", input)?,
        Prompt::Infill { prefix, suffix } => {
            bytes("the prompt", prefix, 0..=limits::BODY_BYTES)?;
            bytes("the suffix", suffix, 0..=limits::BODY_BYTES)?;
        }
    }
    count("stop", stop.len(), 0..=limits::STOP_STRINGS)?;
    stop.iter().try_for_each(|stop| bytes("a text of stop", stop, 1..=STOP_BYTES))?;
    match constraint {
        Some(Constraint::Grammar { gbnf }) => bytes("the grammar", gbnf, 0..=limits::BODY_BYTES)?,
        Some(Constraint::JsonSchema { .. } | Constraint::JsonObject) | None => {}
    }
    within("logprobs is 0 to 20", logprobs.is_none_or(|many| many <= LOGPROBS))?;
    bytes("continue_from", continue_from, 0..=ANSWER_BYTES)?;
    self::sampling(sampling)
}

fn sampling(sampling: &Sampling) -> Result<(), String> {
    let Sampling { temperature, top_k, top_p, min_p, .. } = sampling;
    let Sampling { repeat_penalty, frequency_penalty, presence_penalty, .. } = sampling;
    let numbers = [temperature, top_p, min_p, repeat_penalty, frequency_penalty, presence_penalty];
    let finite = numbers.into_iter().all(|number| number.is_finite());
    within("a sampling parameter is not a finite number", finite)?;
    let top_k = u32::try_from(*top_k).is_ok_and(|top_k| top_k <= TOP_K);
    within("top_k is 0 to 1,000,000", top_k)?;
    count("logit_bias", sampling.logit_bias.len(), 0..=BIASES)?;
    let finite = sampling.logit_bias.iter().all(|(_, bias)| bias.is_finite());
    within("a number of logit_bias is not finite", finite)
}

fn wasm(job: &WasmJob) -> Result<(), String> {
    let digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let is_sha256 = job.module.len() == 64 && job.module.bytes().all(digit);
    within("the module's SHA-256 is 64 lower-case hexadecimal digits", is_sha256)?;
    if let Some(name) = &job.name {
        // Four bytes are the most that a character has.
        bytes("the name", name, 0..=4 * NAME)?;
        let line = name.chars().count() <= NAME && !name.chars().any(char::is_control);
        within("the name is one line of at most 80 characters", line)?;
    }
    let coded = base64::encoded_len(INPUT_BYTES, true).unwrap_or(usize::MAX);
    bytes("the input", &job.input, 0..=coded)?;
    number("fuel", job.fuel, 1..=FUEL.1)?;
    number("memory_bytes", job.memory_bytes, LEAST_MEMORY..=MEMORY.1)?;
    number("wall_ms", job.wall_ms, 1..=WALL_MS.1)
}

fn code(job: &Job, input: &CodeInput) -> Result<(), String> {
    number("version", input.version.into(), 1..=version_of(job.kind()).into())?;
    bytes("the prompt", &input.prompt, 1..=PROMPT_BYTES)?;
    bytes("tests", &input.tests, 1..=TESTS_BYTES)?;
    number("max_iterations", input.max_iterations.unwrap_or(1).into(), 1..=ITERATIONS.into())?;
    number("run_s", input.run_s.unwrap_or(1).into(), 1..=RUN_S.into())
}

fn text(name: &str, input: &TextInput) -> Result<(), String> {
    match input {
        TextInput::Text { text } => bytes(name, text, 0..=limits::BODY_BYTES),
        // Each was at least a digit and a comma on its way.
        TextInput::Tokens { tokens } => count(name, tokens.len(), 0..=limits::BODY_BYTES / 2),
    }
}

type Range<T> = std::ops::RangeInclusive<T>;

fn bytes(name: &str, text: &str, range: Range<usize>) -> Result<(), String> {
    let ((low, high), many) = (range.into_inner(), text.len());
    within(
        format_args!("{name} has {low} to {high} bytes, not {many}"),
        (low..=high).contains(&many),
    )
}

fn count(name: &str, many: usize, range: Range<usize>) -> Result<(), String> {
    let (low, high) = range.into_inner();
    within(
        format_args!("{name} has {low} to {high} entries, not {many}"),
        (low..=high).contains(&many),
    )
}

fn number(name: &str, given: u64, range: Range<u64>) -> Result<(), String> {
    let (low, high) = range.into_inner();
    within(format_args!("{name} is {low} to {high}, not {given}"), (low..=high).contains(&given))
}

fn within(otherwise: impl std::fmt::Display, is_so: bool) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise.to_string()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tasks::kinds::check_body;

    fn job(kind: &str, input: serde_json::Value) -> Job {
        check_body(&json!({"kind": kind, "input": input})).expect("valid").1.job
    }

    /// The job, changed, is refused with this word.
    fn refused(job: &Job, word: &str, change: impl FnOnce(&mut Job)) {
        assert_eq!(check_job(job), Ok(()), "as its origin made it");
        let mut job = job.clone();
        change(&mut job);
        let reason = check_job(&job).expect_err(word);
        assert!(reason.contains(word) && reason.len() < 200, "{word}: {reason}");
    }

    #[test]
    fn a_module_without_its_origins_limits_is_refused_by_name() {
        let wasm = job("wasm", json!({"module_sha256": "ab".repeat(32), "name": "rsi"}));
        let with = |word, change: fn(&mut WasmJob)| {
            refused(&wasm, word, |job| {
                let Job::Wasm(job) = job else { panic!("a module") };
                change(job);
            });
        };
        with("wall_ms", |job| job.wall_ms = u64::MAX);
        with("fuel", |job| job.fuel = u64::MAX);
        with("memory_bytes", |job| job.memory_bytes = u64::MAX);
        with("name", |job| job.name = Some("x".repeat(12 << 20)));
        with("name", |job| job.name = Some("a\nb".to_owned()));
        with("SHA-256", |job| job.module = "../x".to_owned());
        with("input", |job| job.input = "A".repeat(3 << 20));
    }

    #[test]
    fn lists_and_texts_beyond_their_bounds_are_refused_by_name() {
        let embedding = job("embedding", json!({"input": ["a"]}));
        refused(&embedding, "inputs", |job| {
            let Job::Embedding { inputs, .. } = job else { panic!("an embedding") };
            *inputs = vec![TextInput::Tokens { tokens: Vec::new() }; 2_049];
        });
        refused(&embedding, "model", |job| {
            let Job::Embedding { model, .. } = job else { panic!("an embedding") };
            *model = "m".repeat(513);
        });
        let chat = job("chat", json!({"messages": [{"role": "user", "content": "hi"}]}));
        let with = |word, change: fn(&mut Generate)| {
            refused(&chat, word, |job| {
                let Job::Chat(job) = job else { panic!("a chat") };
                change(&mut job.generate);
            });
        };
        with("messages", |generate| {
            let messages = vec![json!({}); 4_097];
            generate.prompt = Prompt::Chat { messages, tools: Vec::new() };
        });
        with("stop", |generate| generate.stop = vec!["x".to_owned(); 17]);
        with("logprobs", |generate| generate.logprobs = Some(21));
        with("finite", |generate| generate.sampling.temperature = f32::INFINITY);
        with("logit_bias", |generate| generate.sampling.logit_bias = vec![(1, 0.0); 1_025]);
        let code = job("code", json!({"language": "python", "prompt": "p", "tests": "t"}));
        let with = |word, change: fn(&mut CodeInput)| {
            refused(&code, word, |job| {
                let Job::Code(input) = job else { panic!("code") };
                change(input);
            });
        };
        with("prompt", |input| input.prompt = "x".repeat((32 << 10) + 1));
        with("tests", |input| input.tests = "x".repeat((64 << 10) + 1));
        with("max_iterations", |input| input.max_iterations = Some(u32::MAX));
        with("run_s", |input| input.run_s = Some(0));
    }
}
