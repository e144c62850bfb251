//! The protocol between the node and its sandbox processes, `edgecoder-sandbox`.
//!
//! Frames as in [`crate::runner`]. A process that was started with `serve` takes [`Command`]s and
//! gives [`Reply`]s until its input ends; one that was started with `exec` takes one [`Exec`] and
//! gives one [`ExecReply`]. Either ends, with all that it started, when its input ends.

use serde::{Deserialize, Serialize};

use crate::tasks::Language;

/// Raised when a frame changes meaning; the node refuses a program of another version.
pub const PROTOCOL: u32 = 2;

/// Largest output of a WebAssembly module, 1 MiB, as the contract of `wasm` says.
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// The most that one job of `wasm` may take, as its contract says: fuel, memory and time.
pub const MAX_FUEL: u64 = 100_000_000_000;
pub const MAX_MEMORY_BYTES: u64 = 1 << 30;
pub const MAX_WALL_MS: u64 = 300_000;

/// Node to `serve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Command {
    /// Answered by `Done`, `Failed` or `NeedModule`.
    Run {
        id: u64,
        /// SHA-256 of the module, hexadecimal.
        module: String,
        /// Base64 of the module; absent when the process was given it before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<String>,
        /// Base64.
        input: String,
        fuel: u64,
        memory_bytes: u64,
        /// Milliseconds from the start of the module, without its compilation.
        wall_ms: u64,
    },
    /// Stops a job. Not answered.
    Cancel { id: u64 },
}

/// `serve` to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The first frame, once.
    Hello { protocol: u32, confinement: String },
    /// The module was forgotten: send the job again with its bytes. From a process that is retired:
    /// to another one.
    NeedModule { id: u64 },
    /// A compilation did not end in time. The process compiles nothing more; the modules that it has
    /// go on.
    Retired,
    /// `output` is base64.
    Done { id: u64, output: String, fuel_used: u64 },
    Failed {
        id: u64,
        /// It would fail on any node: the module is wrong or went over a limit.
        lasting: bool,
        /// A sentence.
        message: String,
    },
}

/// A program for `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub interpreter: Interpreter,
    /// An empty folder of its own.
    pub dir: String,
    /// Plain names and contents; the first is started.
    pub files: Vec<(String, String)>,
    pub wall_ms: u64,
}

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum ExecReply {
    Ran {
        /// `None`: it was stopped, or a signal ended it.
        status: Option<i32>,
        /// The last 16 KiB each.
        stdout: String,
        stderr: String,
        /// Why it was stopped: a sentence.
        problem: Option<String>,
        took_ms: u64,
    },
    /// It cannot be contained, so it was not run: a sentence.
    Unable { message: String },
}

/// A program of this computer that runs a language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    pub language: Language,
    /// The program itself, no link or shim.
    pub path: String,
    /// `3.11.2`.
    pub version: String,
    /// Folders with its library, which it may read.
    pub libraries: Vec<String>,
}

/// What `probe` prints: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    pub protocol: u32,
    pub interpreters: Vec<Interpreter>,
    /// How programs are contained, or why they cannot be.
    pub confinement: Result<String, String>,
}
