//! `edgecoder-sandbox`: the child processes that run what others wrote.
//!
//! WebAssembly runs in `serve`, many jobs in one process; Python and JavaScript run in `exec`, one
//! process each. Both confine themselves before they touch anything foreign, so that a way out of
//! the interpreter or of the compiled module still ends at the kernel's own walls. What cannot be
//! confined is not run.

mod confine;
mod exec;
mod probe;
mod serve;
mod wasm;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

/// Runs foreign programs for an EdgeCoder node.
///
/// The node starts this program; it is not meant to be used by hand.
#[derive(Debug, Parser)]
#[command(name = "edgecoder-sandbox", version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Runs WebAssembly: commands on standard input, replies on standard output.
    Serve {
        /// Milliseconds for one compilation. A module of 5 MiB takes some seconds on a slow
        /// computer.
        #[arg(long, hide = true, default_value_t = 30_000)]
        compile_limit_ms: u64,
    },
    /// Runs one program of an interpreted language, described on standard input.
    Exec,
    /// Prints what this computer can contain, as JSON.
    Probe,
    /// Confines itself and becomes the interpreter.
    #[command(hide = true)]
    Inside {
        /// The process that started this one: if it is gone, so is the reason to run.
        #[arg(long)]
        parent: i32,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().mode {
        Mode::Serve { compile_limit_ms } => {
            serve::serve(Duration::from_millis(compile_limit_ms)).map(|never| match never {})
        }
        Mode::Exec => exec::exec(),
        Mode::Probe => probe::print(),
        Mode::Inside { parent } => exec::inside(parent).map(|never| match never {}),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A line of this program's log, which is its standard error.
fn say(line: &str) {
    use std::io::Write as _;
    // Nobody reads it any more: nothing is left to be told.
    let _ = writeln!(std::io::stderr(), "{line}");
}
