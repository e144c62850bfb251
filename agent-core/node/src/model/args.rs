//! What can be typed after `edgecoder-node model`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  edgecoder-node model search code          what is worth pulling, and whether it will run here
  edgecoder-node model fit llama3.2:1b      whether it will run, before anything is downloaded
  edgecoder-node model pull llama3.2:1b     fetch it; Ctrl+C leaves the pull running in the node
  edgecoder-node model swap llama3.2:1b     make it the model that answers
  edgecoder-node model rm llama3.2:1b       remove it and say how much that freed")]
pub(crate) struct Model {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: ModelCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Fetch a model: first what it is and whether it will run, then a progress bar
    #[command(after_help = "Examples:
  edgecoder-node model pull llama3.2:1b
  edgecoder-node model pull hf.co/ORG/REPO:Q4_K_M --swap
  edgecoder-node model pull registry.example:5000/team/model:tag")]
    Pull(Pull),
    /// Show pulls that are under way, waiting, paused or failed; pause, resume or cancel one
    Pulls(Pulls),
    /// Show the installed models
    #[command(visible_alias = "ls")]
    List(Json),
    /// Show everything known about an installed model
    Show(Named),
    /// Say whether a model will run here: installed, in the catalogue, or a GGUF file
    Fit(Fit),
    /// Search the catalogue of models that are worth pulling
    Search(Search),
    /// Make another model the active one; requests in flight finish first
    Swap(Swap),
    /// Remove models and say how much disk space that freed
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Load a model into memory beside the active one
    Load(Named),
    /// Free a model's memory after its requests in flight
    Unload(Named),
    /// Give a model a second name; no bytes are copied
    Cp(Copy),
    /// Take a GGUF file of this computer into the node's store
    Import(Import),
    /// Hash a model's files again and compare them with their digests
    Verify(Named),
    /// Keep a user name and a secret for a private registry
    #[command(after_help = "Examples:
  edgecoder-node model login registry.example:5000
  edgecoder-node model login registry.example --username ada --password-stdin < secret.txt
  edgecoder-node model login hf.co --token --password-stdin < token.txt

The secret is asked for or read from stdin. It is never an argument: those are seen by everyone on
this computer and end up in the shell's history.")]
    Login(Login),
}

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Name of an installed model
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// llama3.2:1b, host:port/namespace/model:tag, hf.co/ORG/REPO:QUANT, or a GGUF file's address
    pub(crate) name: String,
    /// Make it the active model once it is here
    #[arg(long)]
    pub(crate) swap: bool,
    /// Fetch it even if it will not run on this computer
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the finished pull as JSON; progress still goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pulls {
    /// End a pull and delete its parts
    #[arg(long, value_name = "ID", conflicts_with_all = ["pause", "resume"])]
    pub(crate) cancel: Option<String>,
    /// Stop a pull and keep its parts
    #[arg(long, value_name = "ID", conflicts_with = "resume")]
    pub(crate) pause: Option<String>,
    /// Go on with a paused or failed pull
    #[arg(long, value_name = "ID")]
    pub(crate) resume: Option<String>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Fit {
    /// Name of a model, or path of a GGUF file
    pub(crate) name: String,
    /// Tokens per request, prompt and answer together [default: as it is set to run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// Requests at the same time [default: as it is set to run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) parallel: Option<u32>,
    /// Layers on the GPU [default: as many as fit]
    #[arg(long, value_name = "N")]
    pub(crate) gpu_layers: Option<u32>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// Words that all have to occur in the name, the summary, the uses or the licence
    pub(crate) words: Vec<String>,
    /// First replace the catalogue by this newer file
    #[arg(long, value_name = "FILE")]
    pub(crate) update: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Swap {
    /// Name of an installed model
    pub(crate) name: String,
    /// Do not ask, even if a pinned model has to leave memory
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Names of installed models
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// Name of an installed model
    pub(crate) source: String,
    /// Its second name
    pub(crate) destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A GGUF file
    pub(crate) path: PathBuf,
    /// Its name here [default: the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The registry's host, as in model names: registry.example:5000
    pub(crate) host: String,
    /// Who you are there; asked for if absent
    #[arg(long, conflicts_with = "token")]
    pub(crate) username: Option<String>,
    /// The secret is an access token, which goes without a user name
    #[arg(long)]
    pub(crate) token: bool,
    /// Read the secret from stdin instead of asking for it
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Forget what is kept for this host
    #[arg(long, conflicts_with_all = ["username", "token", "password_stdin"])]
    pub(crate) forget: bool,
}
