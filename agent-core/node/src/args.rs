//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use agent_core::config::is_url;
use clap::{Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};
use clap_complete::Shell;

use crate::{
    mesh::args::Mesh,
    model::args::{Json, Model},
    schedule::args::{Outbox, Schedule},
    settings::args::{PauseArgs, ResumeArgs, SettingsArgs},
    task::args::Task,
};

/// EdgeCoder without a window: run a node, ask it, look at it.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  edgecoder-node run                          start a node; it prints where its page is
  edgecoder-node ask \"Write a hello world\"    ask the running node
  edgecoder-node model pull llama3.2:1b       fetch a model
  edgecoder-node mesh invite                  a ticket for another computer
  edgecoder-node task submit chat -p \"Hi\" -f  a task for the best node of the mesh
  edgecoder-node status                       what the running node is doing
  edgecoder-node settings set tasks.accept=false   change its settings
  edgecoder-node logs --follow                what it says

Editors and scripts: point an OpenAI client at http://127.0.0.1:4301/v1"
)]
pub(crate) struct CommandLine {
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
    /// See the mesh, invite computers to it, join another
    Mesh(Mesh),
    /// Submit work to the mesh, follow it, fetch its results
    Task(Task),
    /// Submit tasks by the clock
    Schedule(Schedule),
    /// Results on their way to webhooks
    Outbox(Outbox),
    /// Show and change the running node's settings
    Settings(SettingsArgs),
    /// Take no work from other computers and free the model's memory
    Pause(PauseArgs),
    /// Take work again
    Resume(ResumeArgs),
    /// Start no more tasks, own or others', and let those that run finish; or end that
    Drain(Drain),
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
    #[command(flatten)]
    pub(crate) mesh: MeshOptions,
    /// Print one line of JSON on stdout once ready: {"url", "token", "node_id"}
    #[arg(long)]
    pub(crate) json: bool,
}

/// How this run takes part in the mesh. What is not said here is in the settings.
#[derive(Debug, Args)]
pub(crate) struct MeshOptions {
    /// Help other nodes to meet: bootstrap peer, relay, DHT node, public list of seeds
    #[arg(long, env = "EDGECODER_SEED", value_parser = FalseyValueParser::new())]
    pub(crate) seed: bool,
    /// Where the seed's relay listens for HTTP; put a proxy with TLS before it [default: 0.0.0.0:4303]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "EDGECODER_RELAY_LISTEN",
        requires = "seed",
        conflicts_with = "no_relay"
    )]
    pub(crate) relay_listen: Option<SocketAddr>,
    /// Run the seed without a relay
    #[arg(long, env = "EDGECODER_NO_RELAY", value_parser = FalseyValueParser::new())]
    pub(crate) no_relay: bool,
    /// Address under which others reach the seed's relay: https://relay.example
    #[arg(long, value_name = "URL", env = "EDGECODER_RELAY_URL", requires = "seed", conflicts_with = "no_relay", value_parser = web_address)]
    pub(crate) relay_url: Option<String>,
    /// Where the seed's DHT node listens, UDP [default: 0.0.0.0:8468]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "EDGECODER_DHT_LISTEN",
        requires = "seed",
        conflicts_with = "no_dht"
    )]
    pub(crate) dht_listen: Option<SocketAddr>,
    /// Run the seed without a DHT node
    #[arg(long, env = "EDGECODER_NO_DHT", value_parser = FalseyValueParser::new())]
    pub(crate) no_dht: bool,
    /// Address and UDP port of the mesh [default: from settings.json, else any free port; 4302 for a seed]
    #[arg(long, value_name = "ADDRESS:PORT", env = "EDGECODER_MESH_LISTEN")]
    pub(crate) mesh_listen: Option<SocketAddr>,
    /// Seeds to ask for peers, besides those in the settings, by the address of their relay: https://seed.example
    #[arg(long, value_name = "URL", env = "EDGECODER_SEEDS", value_delimiter = ',', value_parser = web_address)]
    pub(crate) seeds: Vec<String>,
    /// Join a mesh with this ticket, unless the node is in it already
    #[arg(long, value_name = "TICKET", env = "EDGECODER_TICKET", hide_env_values = true)]
    pub(crate) ticket: Option<String>,
}

/// The address of a seed or relay, without the slash at its end.
fn web_address(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/');
    if is_url(text) {
        return Ok(text.to_owned());
    }
    Err("an address such as https://seed.example or http://203.0.113.7:4303 is expected".to_owned())
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
    /// A model of this node or of the mesh, or model@node [default: the active one]
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
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
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// on or off
    #[arg(value_name = "ON|OFF")]
    pub(crate) on: OnOff,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
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
        CommandLine::command().debug_assert();
    }

    fn run(options: &[&str]) -> Result<MeshOptions, String> {
        let words = ["edgecoder-node", "run"].iter().chain(options);
        match CommandLine::try_parse_from(words).map_err(|e| e.to_string())?.command {
            Command::Run(run) => Ok(run.mesh),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_seed_and_its_parts_are_said_together() {
        let options = ["--seed", "--relay-listen", "127.0.0.1:0", "--no-dht"];
        let seed = run(&options).expect("accepted");
        assert!(seed.seed && seed.no_dht && seed.relay_listen.is_some());
        assert!(run(&["--relay-listen", "127.0.0.1:0"]).expect_err("no seed").contains("--seed"));
        assert!(run(&["--seed", "--no-relay", "--relay-listen", "127.0.0.1:0"]).is_err());
    }

    #[test]
    fn seeds_are_addresses_between_commas() {
        let options = run(&["--seeds", "https://a.example/,http://203.0.113.7:4303"]);
        let seeds = options.expect("accepted").seeds;
        assert_eq!(seeds, ["https://a.example", "http://203.0.113.7:4303"]);
        assert!(run(&["--seeds", "a.example"]).expect_err("refused").contains("https://"));
    }
}
