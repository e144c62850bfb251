//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::model::args::Model;

/// EdgeCoder without a window: run a node, ask it, look at it.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  edgecoder-node run                          start a node; it prints where its page is
  edgecoder-node ask \"Write a hello world\"    ask the running node
  edgecoder-node model pull llama3.2:1b       fetch a model
  edgecoder-node status                       what the running node is doing
  edgecoder-node logs --follow                what it says

Editors and scripts: point an OpenAI client at http://127.0.0.1:4301/v1"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node and keep it running until SIGTERM or Ctrl+C
    Run(Run),
    /// Show what the running node is doing
    Status(Status),
    /// Ask the running node's model and print the answer as it comes
    Ask(Ask),
    /// Show the running node's log
    Logs(Logs),
    /// Find, pull, swap and remove models
    Model(Model),
    /// Print completions for a shell, to be put where that shell looks for them
    #[command(
        after_help = "For example: edgecoder-node completions bash > ~/.local/share/bash-completion/completions/edgecoder-node"
    )]
    Completions { shell: Shell },
}

#[derive(Debug, Parser)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Address and port of the API; port 0 takes any free one [default: from settings.json, else 127.0.0.1:4301]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Serve other nodes as bootstrap peer and relay (needs a mesh, which this version does not have)
    #[arg(long)]
    pub(crate) seed: bool,
    /// Join a mesh with this ticket (needs a mesh, which this version does not have)
    #[arg(long, value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
    /// Print one line of JSON on stdout once ready: {"url", "token", "node_id"}
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct DataDir {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Parser)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The question; "-" reads it from stdin
    pub(crate) prompt: String,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always gives the most likely answer
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f64>,
    /// The same number gives the same answer
    #[arg(long)]
    pub(crate) seed: Option<i64>,
    /// Do not print speed and token counts to stderr at the end
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Keep printing new lines until Ctrl+C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many lines to begin with
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
