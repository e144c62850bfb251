//! `edgecoder-runner`: the child process that holds llama.cpp.
//!
//! Inference runs here and not in the node, so that a native crash, an out-of-memory kill or a bad
//! model file costs one model load and never the node. Started without arguments it serves the
//! protocol of `agent_api::runner` on standard input and output; its log goes to standard error.

mod embed;
mod engine;
mod failure;
mod grammar;
mod llama_log;
mod model;
mod pace;
mod prompt;
mod sampling;
mod serve;
mod session;
mod slots;
mod template;
mod text;
mod wire;

use std::process::ExitCode;

use clap::Parser;

/// Runs language models for an EdgeCoder node.
///
/// The node starts this program; it is not meant to be used by hand. Without arguments it reads
/// commands from standard input and answers on standard output until its input ends.
#[derive(Debug, Parser)]
#[command(name = "edgecoder-runner", version)]
struct Arguments {}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    let errors = llama_log::install();
    match serve::serve(errors) {
        Ok(never) => match never {},
        Err(error) => {
            tracing::error!("the runner cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
