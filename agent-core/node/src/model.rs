//! `edgecoder-node model`: everything about models, through the running node.

pub(crate) mod args;
mod library;
mod login;
mod progress;
mod pull;
mod words;

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use self::args::{Model, ModelCommand};
use crate::{args::DataDir, client::Client};

pub(crate) use self::words::printable;

pub(crate) async fn run(args: Model) -> anyhow::Result<()> {
    let client = &Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        ModelCommand::Pull(args) => pull::pull(client, args).await,
        ModelCommand::Pulls(args) => pull::pulls(client, args).await,
        ModelCommand::List(args) => library::list(client, args).await,
        ModelCommand::Show(args) => library::show(client, args).await,
        ModelCommand::Fit(args) => library::fits(client, args).await,
        ModelCommand::Search(args) => library::search(client, args).await,
        ModelCommand::Swap(args) => library::swap(client, args).await,
        ModelCommand::Rm(args) => library::remove(client, args).await,
        ModelCommand::Load(args) => library::load(client, args).await,
        ModelCommand::Unload(args) => library::unload(client, args).await,
        ModelCommand::Cp(args) => library::copy(client, args).await,
        ModelCommand::Import(args) => library::import(client, args).await,
        ModelCommand::Verify(args) => library::verify(client, args).await,
        ModelCommand::Login(args) => login::login(client, args).await,
    }
}

/// Prints text; names and licences in it come from strangers.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(printable(text).as_bytes())?;
    out.flush()?;
    Ok(())
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirm {
    Yes,
    No,
    /// There is nobody to ask.
    NoTerminal,
}

/// Asks on the terminal. Anything but a yes is a no.
fn ask(question: &str) -> anyhow::Result<Confirm> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(Confirm::NoTerminal);
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{} [y/N] ", printable(question))?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let yes = matches!(line.trim().to_lowercase().as_str(), "y" | "yes");
    Ok(if yes { Confirm::Yes } else { Confirm::No })
}

#[cfg(test)]
mod tests {
    use agent_api::{
        fit::{Fit, Verdict},
        models::{InstalledModel, ModelOptions, ModelSource},
        pull::{Pull, PullState},
    };

    pub(super) fn pull(state: PullState) -> Pull {
        Pull {
            id: "0193".to_owned(),
            model: "tiny:latest".to_owned(),
            source: "registry.example".to_owned(),
            state,
            reason: String::new(),
            size_bytes: None,
            done_bytes: 0,
            bytes_per_s: None,
            eta_s: None,
            retry_at_ms: None,
            layers: Vec::new(),
            sources: Vec::new(),
            fit: None,
            swap_when_done: false,
            created_at_ms: 0,
            changed_at_ms: 0,
        }
    }

    pub(super) fn fit(verdict: Verdict, reason: &str) -> Fit {
        Fit {
            verdict,
            reason: reason.to_owned(),
            context: 4096,
            parallel: 4,
            weights_bytes: 0,
            cache_bytes: 0,
            overhead_bytes: 0,
            total_bytes: 0,
            gpu_bytes: 0,
            gpu_layers: 0,
            gpu_limit_bytes: 0,
            ram_limit_bytes: 0,
            tokens_per_s: None,
            exact: true,
        }
    }

    pub(super) fn installed(id: &str) -> InstalledModel {
        InstalledModel {
            id: id.to_owned(),
            name: id.to_owned(),
            path: "/models/blob".to_owned(),
            size_bytes: 1_321_000_000,
            architecture: "llama".to_owned(),
            parameters: Some(1_236_000_000),
            quantization: "Q8_0".to_owned(),
            context_train: 131_072,
            license: None,
            demo: false,
            active: false,
            problem: None,
            source: ModelSource::Store,
            digest: None,
            modified_at_ms: None,
            capabilities: Vec::new(),
            options: ModelOptions::default(),
            residency: None,
            fit: None,
            tokens_per_s: None,
            last_used_ms: None,
            removable_bytes: Some(1_321_000_000),
        }
    }
}
