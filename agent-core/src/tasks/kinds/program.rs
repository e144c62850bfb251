//! `wasm` and `code`.

use agent_api::tasks::{
    CODE_VERSION, CodeInput, INFERENCE_VERSION, Language, TaskKind, WASM_VERSION,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use super::{Checked, Fields, text};
use crate::tasks::job::{Job, WasmJob};

/// Bounds that `WasmInput` documents.
const MODULE_BYTES: usize = 5 << 20;
pub(super) const INPUT_BYTES: usize = 1 << 20;
pub(super) const FUEL: (u64, u64) = (1_000_000_000, 100_000_000_000);
pub(super) const MEMORY: (u64, u64) = (64 << 20, 1 << 30);
/// A page of WebAssembly: less than one is no memory at all.
pub(super) const LEAST_MEMORY: u64 = 64 << 10;
pub(super) const WALL_MS: (u64, u64) = (10_000, 300_000);
pub(super) const NAME: usize = 80;
/// With which every module begins.
const MAGIC: &[u8] = b"\0asm";
/// Bounds that `CodeInput` documents.
pub(super) const PROMPT_BYTES: usize = 32 << 10;
pub(super) const TESTS_BYTES: usize = 64 << 10;
pub(super) const ITERATIONS: u32 = 10;
pub(super) const RUN_S: u32 = 120;

/// The newest version of a kind's input.
pub(super) fn version_of(kind: TaskKind) -> u32 {
    match kind {
        TaskKind::Chat | TaskKind::Completion | TaskKind::Embedding => INFERENCE_VERSION,
        TaskKind::Wasm => WASM_VERSION,
        TaskKind::Code => CODE_VERSION,
    }
}

pub(super) fn wasm(fields: &mut Fields<'_, '_>) -> Option<Checked> {
    let module = bytes(fields, "module", MODULE_BYTES);
    let named = fields.text("module_sha256", 64..=64);
    let named = named.and_then(|digits| {
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_hex {
            fields.wrong("module_sha256", "it has 64 hexadecimal digits");
        }
        is_hex.then(|| digits.to_ascii_lowercase())
    });
    if module.as_ref().is_some_and(|module| !module.starts_with(MAGIC)) {
        fields.wrong("module", "this is no WebAssembly module");
    }
    let computed = module.as_ref().map(|module| hex::encode(Sha256::digest(module)));
    match (&computed, &named) {
        (Some(computed), Some(named)) if computed != named => {
            fields.wrong("module_sha256", "the module has another SHA-256");
        }
        (None, None) if fields.get("module").is_none() && fields.get("module_sha256").is_none() => {
            fields.wrong("module", "is missing; module_sha256 may name one that was sent before");
        }
        _ => {}
    }
    let name = fields.line("name", NAME).map(ToOwned::to_owned);
    let input = bytes(fields, "input", INPUT_BYTES);
    let text = fields.text("input_text", 0..=INPUT_BYTES);
    if input.is_some() && text.is_some() {
        fields.wrong("input_text", "input is given too; only one of them may be");
    }
    let input = input.or_else(|| text.map(|text| text.as_bytes().to_vec())).unwrap_or_default();
    let job = WasmJob {
        module: computed.or(named).unwrap_or_default(),
        name,
        input: BASE64_STANDARD.encode(input),
        fuel: fields.integer("fuel", 1..=FUEL.1).unwrap_or(FUEL.0),
        memory_bytes: fields.integer("memory_bytes", LEAST_MEMORY..=MEMORY.1).unwrap_or(MEMORY.0),
        wall_ms: fields.integer("wall_ms", 1..=WALL_MS.1).unwrap_or(WALL_MS.0),
    };
    Some(Checked { job: Job::Wasm(job), node: None, module })
}

/// Bytes as base64.
fn bytes(fields: &mut Fields<'_, '_>, name: &'static str, most: usize) -> Option<Vec<u8>> {
    let coded = fields.text(name, 0..=base64::encoded_len(most, true).unwrap_or(usize::MAX))?;
    match BASE64_STANDARD.decode(coded) {
        Ok(bytes) if bytes.len() <= most => Some(bytes),
        Ok(bytes) => {
            fields.wrong(name, format_args!("at most {most} bytes, not {}", bytes.len()));
            None
        }
        Err(_) => {
            fields.wrong(name, "it is not base64 (with padding)");
            None
        }
    }
}

pub(super) fn code(fields: &mut Fields<'_, '_>) -> Option<Checked> {
    let model = text::model(fields);
    let language = fields.need("language").and_then(|value| {
        let language = serde_json::from_value::<Language>(value.clone()).ok();
        if language.is_none() {
            fields.wrong("language", "it is one of python, javascript");
        }
        language
    });
    let prompt = fields.need_text("prompt", 1..=PROMPT_BYTES);
    let tests = fields.need_text("tests", 1..=TESTS_BYTES);
    let max_iterations = fields.small("max_iterations", 1..=ITERATIONS);
    let run_s = fields.small("run_s", 1..=RUN_S);
    let (model, node) = model?;
    let input = CodeInput {
        version: CODE_VERSION,
        model,
        language: language?,
        prompt: prompt?.to_owned(),
        tests: tests?.to_owned(),
        max_iterations,
        run_s,
    };
    Some(Checked { job: Job::Code(input), node, module: None })
}
