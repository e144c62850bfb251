//! `edgecoder-node model`: everything about models, through the running node.

pub(crate) mod args;
mod library;
mod loading;
mod login;
mod progress;
mod pull;

use self::args::{Model, ModelCommand};
use crate::{args::DataDir, client::Client};

/// What shells expect of a program that Ctrl+C ended: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

pub(crate) async fn run(args: Model) -> anyhow::Result<()> {
    let client = &Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        ModelCommand::Pull(args) => pull::pull(client, args).await,
        ModelCommand::Pulls(args) => pull::pulls(client, args).await,
        ModelCommand::List(args) => library::list(client, args).await,
        ModelCommand::Show(args) => library::show(client, args).await,
        ModelCommand::Fit(args) => library::fits(client, args).await,
        ModelCommand::Search(args) => library::search(client, args).await,
        ModelCommand::Swap(args) => loading::swap(client, args).await,
        ModelCommand::Rm(args) => library::remove(client, args).await,
        ModelCommand::Load(args) => library::load(client, args).await,
        ModelCommand::Unload(args) => library::unload(client, args).await,
        ModelCommand::Cp(args) => library::copy(client, args).await,
        ModelCommand::Import(args) => library::import(client, args).await,
        ModelCommand::Verify(args) => library::verify(client, args).await,
        ModelCommand::Login(args) => login::login(client, args).await,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::{
        fit::{Fit, Verdict},
        models::{InstalledModel, ModelOptions, ModelSource},
        pull::{Pull, PullState},
    };

    pub(crate) fn pull(state: PullState) -> Pull {
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

    pub(crate) fn fit(verdict: Verdict, reason: &str) -> Fit {
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

    pub(crate) fn installed(id: &str) -> InstalledModel {
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
