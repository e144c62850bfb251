//! The sandbox programs: `edgecoder-sandbox` runs WebAssembly and, inside the operating system's
//! own sandbox, Python and JavaScript. A crash costs the jobs in flight and never the node.

use std::{path::PathBuf, time::Duration};

use agent_api::tasks::{KindAbility, Language};

use super::job::WasmJob;

/// A handle to the programs. Clones share them.
#[derive(Clone, Debug)]
pub struct Sandbox {
    _program: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WasmDone {
    pub output: Vec<u8>,
    pub fuel_used: u64,
}

/// Files beside each other in the folder of one run, the first of which is started.
#[derive(Clone, Debug)]
pub struct Program {
    pub language: Language,
    pub files: Vec<(String, String)>,
    pub wall: Duration,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// `None`: it was stopped.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// Why it was stopped: a sentence.
    pub problem: Option<String>,
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SandboxError {
    /// This computer cannot run it at all.
    #[error("{0}")]
    Unable(String),
    /// The module is wrong or went over its limits: it would on any node.
    #[error("{0}")]
    Refused(String),
    /// The program ended unexpectedly.
    #[error("{0}")]
    Broke(String),
}

impl Sandbox {
    /// `program`: where `edgecoder-sandbox` is. Processes start when they are needed.
    pub fn new(program: Option<PathBuf>) -> Self {
        Self { _program: program }
    }

    /// What this computer can contain. Looked at once.
    pub async fn abilities(&self) -> Vec<KindAbility> {
        Vec::new()
    }

    /// Dropping the future stops it.
    pub async fn wasm(&self, _module: Vec<u8>, _job: &WasmJob) -> Result<WasmDone, SandboxError> {
        Err(SandboxError::Unable(String::new()))
    }

    /// Dropping the future kills it with everything that it started.
    pub async fn run(&self, _program: Program) -> Result<Ran, SandboxError> {
        Err(SandboxError::Unable(String::new()))
    }

    pub async fn shutdown(&self) {}
}
