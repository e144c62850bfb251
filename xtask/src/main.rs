//! `cargo xtask`: everything a person or CI does with this checkout, in one program.
//!
//! The base program depends on little, so that `cargo xtask run` starts within seconds on a fresh
//! machine. Steps that need a heavy library (wasm-bindgen, the Debian bundler) are subcommands that
//! exist only under a Cargo feature; the base program runs itself again with the feature on.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program: the terminal is where its output belongs"
)]

mod bench;
mod bundle;
mod checks;
mod compile;
mod examples;
mod icons;
mod page;
mod program;
mod run;
mod setup;
mod steps;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{steps::AlreadyReported, workspace::Workspace};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set up, build, run, test and package EdgeCoder"
)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up everything, build, and start EdgeCoder: the desktop app, or with no display the headless node
    Run(run::RunOptions),
    /// Set up everything and run every check that CI runs
    Test(checks::TestOptions),
    /// Install what building needs: system packages, the wasm target; with --tests, what the tests need
    Setup(setup::SetupOptions),
    /// Build the page into ui/dist
    Ui(page::PageOptions),
    /// Measure against llama.cpp driven directly, and report sizes
    Bench(bench::BenchOptions),
    /// Build an installable package
    Bundle(bundle::BundleOptions),
    /// Render the PNG icons from the SVG drawings in icons/
    Icons,
    #[cfg(feature = "page")]
    #[command(hide = true)]
    Bindgen(page::bindgen::BindgenOptions),
    #[cfg(feature = "package")]
    #[command(hide = true)]
    Pack(bundle::pack::PackOptions),
}

fn main() -> ExitCode {
    let task = CommandLine::parse().task;
    let outcome = Workspace::find().and_then(|workspace| match task {
        Task::Run(options) => run::run(&workspace, &options),
        Task::Test(options) => checks::run(&workspace, &options),
        Task::Setup(options) => setup::run(&workspace, &options),
        Task::Ui(options) => page::run(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Bundle(options) => bundle::run(&workspace, &options),
        Task::Icons => icons::render(&workspace),
        #[cfg(feature = "page")]
        Task::Bindgen(options) => page::bindgen::run(&options),
        #[cfg(feature = "package")]
        Task::Pack(options) => bundle::pack::run(&workspace, &options),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.downcast_ref::<AlreadyReported>().is_none() {
                eprintln!("\nerror: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::CommandLine;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
