//! What can be typed after `edgecoder-node schedule` and `edgecoder-node outbox`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{model::args::Json, task::args::What};

#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  edgecoder-node schedule add \"morning news\" \"30 6 * * 1-5\" chat --prompt \"News of {{time}}\"
  edgecoder-node schedule list                 when each runs next, and what became of the last run
  edgecoder-node schedule pause \"morning news\"

SCHEDULE is its name, its id, or the end of its id.")]
pub(crate) struct Schedule {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Show the schedules: in words, and when each runs next
    #[command(visible_alias = "ls")]
    List(Json),
    /// Submit a task at the times of a cron expression
    #[command(
        after_help = "CRON has five fields: minute, hour, day of the month, month, day of the week; or is @hourly, @daily,
@weekly, @monthly, @yearly. In all texts {{time}} is the planned time (UTC) and {{unix}} the same in
seconds."
    )]
    Add(Box<Add>),
    /// Stop a schedule for a while
    Pause(Named),
    /// Let it go on
    Resume(Named),
    /// Submit its task now, besides its times
    Run(Named),
    /// Remove it; tasks that it submitted stay
    #[command(visible_alias = "rm")]
    Remove(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A name for people
    pub(crate) name: String,
    /// When it runs: "30 6 * * 1-5"
    pub(crate) cron: String,
    /// Time zone, Europe/Berlin [default: this computer's]
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// When the node was not running at a planned time
    #[arg(long, default_value = "skip")]
    pub(crate) missed: Missed,
    #[command(flatten)]
    pub(crate) what: What,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Missed {
    /// Leave it out
    Skip,
    /// One run makes up for all that were missed
    RunOnce,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The schedule
    #[arg(value_name = "SCHEDULE")]
    pub(crate) schedule: String,
}

#[derive(Debug, Parser)]
#[command(after_help = "DELIVERY is its id or the end of it, as the list shows it.")]
pub(crate) struct Outbox {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: OutboxCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// Show results on their way to webhooks, and those that were given up
    #[command(visible_alias = "ls")]
    List(Deliveries),
    /// Try one again now
    Retry(Delivery),
    /// Give one up for good
    #[command(visible_alias = "rm")]
    Remove(Delivery),
}

#[derive(Debug, Args)]
pub(crate) struct Deliveries {
    /// Only those in a state
    #[arg(long)]
    pub(crate) state: Option<State>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Waiting,
    Delivered,
    /// Given up
    Dead,
}

#[derive(Debug, Args)]
pub(crate) struct Delivery {
    /// The delivery
    #[arg(value_name = "DELIVERY")]
    pub(crate) delivery: String,
}
