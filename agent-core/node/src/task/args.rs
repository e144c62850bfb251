//! What can be typed after `edgecoder-node task`.

use std::path::PathBuf;

use agent_api::tasks::{Language, Privacy, TaskKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{mesh::args::seconds, model::args::Json};

#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  edgecoder-node task submit chat --prompt \"Explain CRDTs\" --follow
  edgecoder-node task submit wasm --module rsi.wasm --input-text \"1 2 3\" --follow
  edgecoder-node task list --state active      what is being done, and where
  edgecoder-node task show t_9k2m4p            why this node, what happened so far
  edgecoder-node task output t_9k2m4p          the result

TASK is a task's id, or t_ and the end of it as the list shows it.")]
pub(crate) struct Task {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: TaskCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Submit a task; the best node of the mesh does it
    #[command(after_help = "Examples:
  edgecoder-node task submit chat --model llama3.2:1b --prompt \"Explain CRDTs\" --follow
  edgecoder-node task submit embedding --model nomic-embed-text --prompt - < words.txt
  edgecoder-node task submit code --language python --prompt \"RSI of a list\" --tests test_rsi.py
  edgecoder-node task submit chat --file input.json --privacy my-nodes")]
    Submit(Box<Submit>),
    /// Show tasks, newest first
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one task: its timeline, attempts and why it was placed where it is
    Show(Named),
    /// Print a task's answer as it comes, until it ends
    Follow(Named),
    /// Stop a task, wherever it is
    Cancel(Named),
    /// Submit a task that failed, expired or was cancelled once more
    Retry(Named),
    /// Print a task's result
    Output(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) what: What,
    /// The same key gives the same task, however often it is submitted
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Print the answer as it comes, until the task ends
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

/// A task as it is submitted now, or by a schedule.
#[derive(Debug, Args)]
pub(crate) struct What {
    /// What is to be done
    #[arg(value_name = "KIND")]
    pub(crate) kind: Kind,
    /// Model, or model@node [default: the active model]
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// The prompt, or the text for an embedding; "-" reads it from stdin
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// The whole input as JSON; other options add to it. "-" reads it from stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The WebAssembly module, at most 5 MiB
    #[arg(long, value_name = "FILE")]
    pub(crate) module: Option<PathBuf>,
    /// Input of the module as text
    #[arg(long, value_name = "TEXT")]
    pub(crate) input_text: Option<String>,
    /// Language of the program to be written
    #[arg(long)]
    pub(crate) language: Option<LanguageName>,
    /// The program's tests
    #[arg(long, value_name = "FILE")]
    pub(crate) tests: Option<PathBuf>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// Who may see it [default: from the settings]
    #[arg(long)]
    pub(crate) privacy: Option<PrivacyName>,
    /// Only this node may do it: its name or id
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// 0 (last) to 9 (first) [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: Option<u8>,
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    /// How long it may take in all: 30min, 12h, 7d; at most 30d [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) expires: Option<u64>,
    /// This many nodes do it and most of them have to agree; WebAssembly only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=5))]
    pub(crate) replicas: Option<u8>,
    /// Post the result to this address when it ends
    #[arg(long, value_name = "URL")]
    pub(crate) webhook: Option<String>,
    /// Sign what is posted with the secret in this file
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub(crate) webhook_secret: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Chat,
    Completion,
    Embedding,
    /// A WebAssembly module
    Wasm,
    /// A program that passes your tests
    Code,
}

impl From<Kind> for TaskKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Chat => Self::Chat,
            Kind::Completion => Self::Completion,
            Kind::Embedding => Self::Embedding,
            Kind::Wasm => Self::Wasm,
            Kind::Code => Self::Code,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LanguageName {
    Python,
    Javascript,
}

impl From<LanguageName> for Language {
    fn from(language: LanguageName) -> Self {
        match language {
            LanguageName::Python => Self::Python,
            LanguageName::Javascript => Self::Javascript,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrivacyName {
    /// This computer only
    ThisNode,
    /// Also nodes marked as your own
    MyNodes,
    /// Also nodes of owners you trust
    Trusted,
    /// Any node of the mesh
    Mesh,
}

impl From<PrivacyName> for Privacy {
    fn from(privacy: PrivacyName) -> Self {
        match privacy {
            PrivacyName::ThisNode => Self::ThisNode,
            PrivacyName::MyNodes => Self::MyNodes,
            PrivacyName::Trusted => Self::Trusted,
            PrivacyName::Mesh => Self::Mesh,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those in a state, or active or ended ones
    #[arg(long, value_name = "STATE", value_parser = ["active", "ended", "queued", "placed", "leased", "running", "verifying", "done", "failed", "cancelled", "expired"])]
    pub(crate) state: Option<String>,
    /// Only those of a kind
    #[arg(long)]
    pub(crate) kind: Option<Kind>,
    /// Only those with this in their id, label, model or node's name
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
    /// Only older ones: go on where a list ended
    #[arg(long, value_name = "CURSOR")]
    pub(crate) before: Option<String>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The task
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) output: Json,
}
