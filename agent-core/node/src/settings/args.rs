//! What can be typed after `edgecoder-node settings`, `pause` and `resume`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{args::DataDir, mesh::args::seconds, model::args::Json};

#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  edgecoder-node settings                              all of them
  edgecoder-node settings get mesh.seeds
  edgecoder-node settings set tasks.accept=false
  edgecoder-node settings set mesh.seeds=https://a.example,https://b.example parallel=2
  edgecoder-node settings set api_key=- < key.txt      not on the command line, where others see it")]
pub(crate) struct SettingsArgs {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<SettingsCommand>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SettingsCommand {
    /// Print one setting, or a group of them
    Get(SettingsGet),
    /// Change settings; all of them or, if one is wrong, none
    Set(SettingsSet),
}

#[derive(Debug, Args)]
pub(crate) struct SettingsGet {
    /// As listed: parallel, mesh.lan, mesh
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct SettingsSet {
    /// Lists with commas, or as JSON; a value of - is read from stdin
    #[arg(value_name = "NAME=VALUE", required = true, value_parser = assignment)]
    pub(crate) assignments: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) name: String,
    pub(crate) value: String,
}

fn assignment(text: &str) -> Result<Assignment, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok(Assignment { name: name.trim().to_owned(), value: value.trim().to_owned() })
        }
        _ => Err("a name and a value are expected, as in parallel=2".to_owned()),
    }
}

/// What the node takes, in the words of the command line.
fn pause_time(text: &str) -> Result<u64, String> {
    let time = seconds(text)?;
    if (1..=7 * 86_400).contains(&time) {
        return Ok(time);
    }
    Err("a pause is from 1s to 7d long; without --for it lasts until resumed".to_owned())
}

#[derive(Debug, Parser)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Go on by itself after this time: 90s, 30min, 2h, 7d at most [default: until resumed]
    #[arg(long = "for", value_name = "TIME", value_parser = pause_time)]
    pub(crate) for_s: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Parser)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    #[command(flatten)]
    pub(crate) output: Json,
}
