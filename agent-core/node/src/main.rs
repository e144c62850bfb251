//! `edgecoder-node`: the headless node and its command line. A thin shell around `agent-core`.

// This is a command-line program: its job is to print.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod client;
mod commands;
mod mesh;
mod model;
mod run;
mod schedule;
mod settings;
mod task;
mod terminal;
mod words;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Command, CommandLine};

fn main() {
    let args = CommandLine::parse();
    let result = match args.command {
        Command::Run(run) => run::run(run),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut CommandLine::command(),
                "edgecoder-node",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::Status(status) => commands::block_on(commands::status(status)),
        Command::Ask(ask) => commands::block_on(commands::ask(ask)),
        Command::Logs(logs) => commands::block_on(commands::logs(logs)),
        Command::Mesh(args) => commands::block_on(mesh::run(args)),
        Command::Model(model) => commands::block_on(model::run(model)),
        Command::Task(args) => commands::block_on(task::run(args)),
        Command::Schedule(args) => commands::block_on(schedule::run(args)),
        Command::Outbox(args) => commands::block_on(schedule::outbox(args)),
        Command::Settings(args) => commands::block_on(settings::run(args)),
        Command::Pause(args) => commands::block_on(settings::pause(args)),
        Command::Resume(args) => commands::block_on(settings::resume(args)),
        Command::Drain(args) => commands::block_on(task::drain(args)),
    };
    if let Err(error) = result {
        if is_broken_pipe(&error) {
            // Whoever read the output has enough of it, as `head`.
            return;
        }
        eprintln!("edgecoder-node: {}", words::printable(&with_causes(&error)));
        std::process::exit(1);
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    // That of a connection to the node is never the error itself.
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The error and its causes. Our own errors already say their cause where it belongs.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
