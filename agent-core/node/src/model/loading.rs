//! `model swap`: makes a model the active one and waits until it is in memory.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use agent_api::{
    endpoint::{GetModelStatus, ListModels, Nothing, PostModelSwap, PostSwapPreview},
    models::{ModelState, ModelStatus, SwapModel, SwapPreview},
};
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;

use super::{INTERRUPTED, args, library::is_called};
use crate::{
    client::Client,
    terminal::{Confirm, ask, print_json, say},
    words::{printable, size},
};

/// Between two looks at a model that is being loaded; the smallest take a tenth of a second.
const POLL: Duration = Duration::from_millis(100);
/// A runner that ended so often while it was waited for will not load this model now. The node goes
/// on trying, less and less often.
const CRASHES: u32 = 3;

pub(crate) async fn swap(client: &Client, args: args::Swap) -> anyhow::Result<()> {
    let name = SwapModel { model: args.name };
    let preview = client.call::<PostSwapPreview>(&name).await?;
    if let Some(problem) = &preview.problem {
        bail!("{problem}");
    }
    if !args.output.json {
        say(&swap_text(&preview))?;
    }
    let list = client.call::<ListModels>(&Nothing {}).await?;
    let pinned: Vec<&str> = list
        .models
        .iter()
        .filter(|model| model.options.pinned && preview.evicts.contains(&model.id))
        .map(|model| model.id.as_str())
        .collect();
    if !pinned.is_empty() && !args.yes {
        let what = format!("{} is pinned and would leave memory.", pinned.join(" and "));
        match ask(&format!("{what} Swap?"))? {
            Confirm::Yes => {}
            Confirm::No => bail!("nothing was changed"),
            Confirm::NoTerminal => bail!("{what} Nothing was changed. To swap, add --yes"),
        }
    }
    let (id, usual) = (&preview.model.id, preview.load_ms);
    let status = swap_and_wait(client, id, usual).await?;
    if args.output.json {
        print_json(&status)?;
    }
    let text = state_text(id, &status)?;
    if args.output.json { Ok(()) } else { say(&format!("{text}\n")) }
}

/// Chooses a model and returns once it is in memory or will not be. `usual`: milliseconds that
/// loading took last. Ctrl+C ends the program; the node goes on loading.
pub(super) async fn swap_and_wait(
    client: &Client,
    id: &str,
    usual: Option<f64>,
) -> anyhow::Result<ModelStatus> {
    let mut status = client.call::<PostModelSwap>(&SwapModel { model: id.to_owned() }).await?;
    let spinner = Spinner::on_stderr(id, usual);
    let crashes = status.runner_crashes.saturating_add(CRASHES);
    let loaded = async {
        while is_on_its_way(id, &status, crashes)? {
            spinner.show(&status);
            tokio::time::sleep(POLL).await;
            status = client
                .call::<GetModelStatus>(&Nothing {})
                .await
                .context("the node stopped. It loads the model when it runs again")?;
        }
        Ok(status)
    };
    tokio::select! {
        loaded = loaded => {
            spinner.clear();
            loaded
        }
        _ = tokio::signal::ctrl_c() => {
            spinner.clear();
            eprintln!("{} is the active model, and the node goes on loading it.", printable(id));
            std::process::exit(INTERRUPTED);
        }
    }
}

/// Whether waiting is of use. An error if the model is not the active one any more, or if its runner
/// crashed until the count was this.
fn is_on_its_way(id: &str, status: &ModelStatus, crashes: u32) -> anyhow::Result<bool> {
    if let Some(other) = status.active.as_ref().filter(|active| active.id != id) {
        bail!("{} was made the active model meanwhile", other.id);
    }
    let waits = matches!(status.state, ModelState::Loading | ModelState::Restarting);
    if waits && status.runner_crashes >= crashes {
        bail!("{} The node goes on trying: edgecoder-node status", status.reason);
    }
    Ok(waits)
}

fn swap_text(preview: &SwapPreview) -> String {
    let mut text = if preview.evicts.is_empty() {
        "Nothing has to leave memory.\n".to_owned()
    } else {
        format!("Leaves memory: {}.\n", preview.evicts.join(", "))
    };
    if preview.running > 0 {
        let (requests, verb) = if preview.running == 1 {
            ("request".to_owned(), "finishes")
        } else {
            ("requests".to_owned(), "finish")
        };
        text.push_str(&format!("{} {requests} {verb} on the old model first.\n", preview.running));
    }
    text.push_str(&format!(
        "Memory of models: {} now, {} afterwards, of {}.\n",
        size(preview.now_bytes),
        size(preview.after_bytes),
        size(preview.limit_bytes)
    ));
    text
}

/// What became of a model that was to be loaded. Loading that failed is an error.
pub(super) fn state_text(model: &str, status: &ModelStatus) -> anyhow::Result<String> {
    let resident = status.resident.iter().find(|resident| is_called(&resident.id, model));
    let (state, reason) = match resident {
        Some(resident) => (resident.state, &resident.reason),
        None => (status.state, &status.reason),
    };
    Ok(match state {
        ModelState::Ready => format!("{model} is ready."),
        ModelState::Loading => format!("{model} is being loaded."),
        ModelState::Failed => bail!("{reason}"),
        ModelState::Restarting | ModelState::Unloaded | ModelState::None => {
            format!("{model}: {reason}")
        }
    })
}

/// What is waited for, on stderr: with the seconds that went by on a terminal, one line elsewhere.
enum Spinner {
    Terminal(ProgressBar, String),
    Line,
}

impl Spinner {
    fn on_stderr(id: &str, usual: Option<f64>) -> Self {
        let usual = usual.map(|ms| format!(" (last time {:.1} s)", ms / 1e3)).unwrap_or_default();
        let text = printable(&format!("Loading {id}{usual}"));
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(POLL);
            return Self::Terminal(bar, text);
        }
        // Nobody reads it any more: no reason to stop.
        let _ = writeln!(std::io::stderr(), "{text}");
        Self::Line
    }

    fn show(&self, status: &ModelStatus) {
        let Self::Terminal(bar, text) = self else { return };
        // While it is loaded, the reason says that it is loaded.
        let reason = match status.state {
            ModelState::Restarting => format!(". {}", status.reason),
            _ => String::new(),
        };
        bar.set_message(printable(&format!("{text}, {} s{reason}", bar.elapsed().as_secs())));
    }

    fn clear(&self) {
        if let Self::Terminal(bar, _) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_api::models::Residency;

    use super::*;
    use crate::model::tests;

    fn status(state: ModelState, resident: Vec<Residency>) -> ModelStatus {
        ModelStatus {
            state,
            reason: String::new(),
            active: None,
            loaded: None,
            retry_at_ms: None,
            runner_crashes: 0,
            runner_pid: None,
            resident,
        }
    }

    #[test]
    fn a_swap_waits_while_the_model_is_loaded_and_ends_when_another_is_chosen() {
        for (state, waits) in [
            (ModelState::Loading, true),
            (ModelState::Restarting, true),
            (ModelState::Ready, false),
            (ModelState::Failed, false),
            (ModelState::Unloaded, false),
        ] {
            let mut now = status(state, Vec::new());
            now.active = Some(tests::installed("b"));
            assert_eq!(is_on_its_way("b", &now, 1).expect("is active"), waits, "{state:?}");
            let error = is_on_its_way("a", &now, 1).expect_err("is not active").to_string();
            assert!(error.contains("b was made the active model"), "{error}");
        }
    }

    #[test]
    fn a_runner_that_crashes_again_and_again_is_not_waited_for() {
        let mut now = status(ModelState::Restarting, Vec::new());
        (now.reason, now.runner_crashes) = ("The runner ended with code 1.".to_owned(), 2);
        assert!(is_on_its_way("b", &now, 3).expect("may still come"));
        now.runner_crashes = 3;
        let error = is_on_its_way("b", &now, 3).expect_err("will not come").to_string();
        assert!(error.starts_with("The runner ended with code 1. The node goes on"), "{error}");
    }

    #[test]
    fn a_swap_says_what_leaves_memory_and_what_finishes_first() {
        let mut preview = SwapPreview {
            model: tests::installed("b"),
            evicts: vec!["a".to_owned()],
            running: 2,
            now_bytes: 1_000_000_000,
            after_bytes: 3_000_000_000,
            limit_bytes: 20_000_000_000,
            load_ms: None,
            problem: None,
        };
        assert_eq!(
            swap_text(&preview),
            "Leaves memory: a.\n2 requests finish on the old model first.\nMemory of models: 1.0 GB now, 3.0 GB afterwards, of 20.0 GB.\n"
        );
        preview.running = 1;
        assert!(swap_text(&preview).contains("1 request finishes"));
    }

    #[test]
    fn a_model_that_failed_to_load_is_an_error_with_the_nodes_reason() {
        let residency = Residency {
            id: "b".to_owned(),
            state: ModelState::Failed,
            backend: agent_api::models::Backend::Runner,
            reason: "needs 66 GB, you have 54 GB".to_owned(),
            loaded: None,
            needs_bytes: 0,
            pid: None,
            running: 0,
            queued: 0,
            pinned: false,
            leaving: false,
            expires_at_ms: None,
        };
        let mut status = status(ModelState::Ready, vec![residency]);
        let error = state_text("b", &status).expect_err("failed");
        assert!(error.to_string().contains("needs 66 GB"));
        status.resident[0].state = ModelState::Ready;
        assert_eq!(state_text("b", &status).expect("ready"), "b is ready.");
    }
}
