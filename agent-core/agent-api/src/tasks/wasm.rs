//! Input and output of `wasm`.

use super::{Deserialize, Serialize, inference::one};

/// The version of [`WasmInput`].
pub const WASM_VERSION: u32 = 1;

/// A module, its input and its limits. The module has no files, no network, no clock that moves and
/// no randomness but a fixed one: the same module and input give the same output and the same fuel
/// on every node.
///
/// A module is one of:
/// - a WASI command, core module (preview 1) or component (`wasi:cli/run`): reads the input from
///   stdin and writes the output to stdout;
/// - a core module without imports that exports `memory`, `alloc(len: i32) -> i32` and
///   `run(pointer: i32, len: i32) -> i64`: the answer is the output's pointer in the upper and its
///   length in the lower 32 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WasmInput {
    #[serde(default = "one")]
    pub version: u32,
    /// The module's bytes in base64, at most 5 MiB of them; absent: `module_sha256` names one that
    /// was sent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_sha256: Option<String>,
    /// For people: `rsi 1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes for the module as base64, at most 1 MiB of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The same as text; not both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_text: Option<String>,
    /// Units of wasmtime's fuel, about one per instruction, up to 100 thousand million; absent: a
    /// thousand million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Memory in bytes, up to 1 GiB; absent: 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Milliseconds on the worker's clock, up to 300,000; absent: 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
}

/// Output of `wasm`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WasmOutput {
    /// Bytes as base64, at most 1 MiB of them.
    pub output: String,
    /// The same, where it is UTF-8.
    pub output_text: Option<String>,
    pub fuel_used: u64,
    /// Nodes whose results were compared, and how many of them agree with this one (itself
    /// included).
    pub compared: u32,
    pub agreed: u32,
}
