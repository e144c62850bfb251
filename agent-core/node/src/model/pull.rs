//! `model pull` and `model pulls`.

use std::time::Duration;

use agent_api::{
    endpoint::{
        ListPulls, Nothing, PostModelPull, PostPullCancel, PostPullPause, PostPullPreview,
        PostPullResume,
    },
    fit::Verdict,
    pull::{ModelName, Pull, PullId, PullPreview, PullRequest, PullSourceKind, PullState},
};
use anyhow::{Context as _, bail};
use eventsource_stream::Eventsource as _;
use futures_util::StreamExt as _;

use super::{
    INTERRUPTED, args,
    loading::{state_text, swap_and_wait},
    progress::Progress,
};
use crate::{
    client::Client,
    terminal::{print_json, say},
    words::{fit, pull_progress, pull_sources, size, table},
};

/// How often a pull is looked at when its stream is not to be had.
const POLL: Duration = Duration::from_millis(500);

pub(crate) async fn pull(client: &Client, args: args::Pull) -> anyhow::Result<()> {
    let name = ModelName { model: args.name.clone() };
    let preview = client.call::<PostPullPreview>(&name).await?;
    if !args.json {
        say(&preview_text(&preview))?;
    }
    if let (Some(why), false) = (objection(&preview), args.force) {
        bail!("{why}");
    }
    if preview.already_installed && preview.download_bytes == 0 && !args.json {
        if args.swap {
            let status = swap_and_wait(client, &preview.model, None).await?;
            return say(&format!("{}\n", state_text(&preview.model, &status)?));
        }
        return say("Nothing to fetch.\n");
    }
    let request = PullRequest { model: args.name, swap_when_done: args.swap };
    let begun = client.call::<PostModelPull>(&request).await?;
    let id = begun.id.clone();
    let mut progress = Progress::on_stderr();
    let settled = tokio::select! {
        settled = follow(client, begun, &mut progress) => {
            progress.clear();
            settled?
        }
        _ = tokio::signal::ctrl_c() => {
            progress.clear();
            eprintln!("{}", left_running(&id));
            std::process::exit(INTERRUPTED);
        }
    };
    if args.json {
        print_json(&settled)?;
    }
    outcome(&settled).and_then(|text| if args.json { Ok(()) } else { say(&text) })
}

/// What there is to know before the first byte.
fn preview_text(preview: &PullPreview) -> String {
    let mut text = format!("{} from {}\n", preview.model, preview.source);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<10}{value}\n"));
    let to_fetch = if preview.already_installed && preview.download_bytes == 0 {
        "already here".to_owned()
    } else if preview.download_bytes == preview.size_bytes {
        "all of it to fetch".to_owned()
    } else {
        format!("{} to fetch, the rest is already here", size(preview.download_bytes))
    };
    line("Size:", format!("{}, {to_fetch}", size(preview.size_bytes)));
    line("Fit:", preview.fit.as_ref().map_or_else(|| "not known".to_owned(), fit));
    line("Licence:", preview.license.clone().unwrap_or_else(|| "not stated".to_owned()));
    let budget = preview.disk_budget_bytes.map(|b| format!(" of {} budget", size(b)));
    let free = preview.disk_free_bytes.map(|b| format!("; {} free now", size(b)));
    line(
        "Disk:",
        format!(
            "models take {}{} afterwards{}",
            size(preview.disk_after_bytes),
            budget.unwrap_or_default(),
            free.unwrap_or_default()
        ),
    );
    text
}

/// Why the pull is not begun without `--force`.
fn objection(preview: &PullPreview) -> Option<String> {
    if let Some(problem) = &preview.problem {
        return Some(problem.clone());
    }
    let fit = preview.fit.as_ref().filter(|fit| fit.verdict == Verdict::WontFit)?;
    Some(format!(
        "{} will not fit on this computer: {}. To fetch it anyway, add --force",
        preview.model,
        fit.reason.trim_end_matches('.')
    ))
}

/// Shows the pull until nothing more happens to it by itself.
async fn follow(client: &Client, begun: Pull, progress: &mut Progress) -> anyhow::Result<Pull> {
    let mut last = begun;
    progress.show(&last);
    while !last.state.is_settled() {
        // The stream is quicker and cheaper; the list is what counts when it breaks off.
        if let Ok(response) = client.pull_stream(&PullId { id: last.id.clone() }).await {
            let mut events = response.bytes_stream().eventsource();
            while let Some(Ok(event)) = events.next().await {
                let Ok(pull) = serde_json::from_str::<Pull>(&event.data) else { continue };
                progress.show(&pull);
                last = pull;
            }
        }
        if last.state.is_settled() {
            break;
        }
        tokio::time::sleep(POLL).await;
        let list = client
            .call::<ListPulls>(&Nothing {})
            .await
            .context("the node stopped. It goes on with the pull by itself when it runs again")?;
        let found = list.pulls.into_iter().find(|pull| pull.id == last.id);
        last = found.with_context(|| format!("the pull of {} was cancelled", last.model))?;
        progress.show(&last);
    }
    Ok(last)
}

/// What to say about a pull that is settled; the node's own sentence if it is not done.
fn outcome(pull: &Pull) -> anyhow::Result<String> {
    let id = &pull.id;
    match pull.state {
        PullState::Done => {
            let bytes = pull.size_bytes.map(|bytes| format!(" ({})", size(bytes)));
            let active = if pull.swap_when_done { " and becomes the active model" } else { "" };
            let by_peers = pull.sources.iter().any(|s| s.kind == PullSourceKind::Peer);
            let places = pull_sources(pull).filter(|_| by_peers);
            let places = places.map(|places| format!(" It came from {places}."));
            Ok(format!(
                "{} is here{}{active}.{}\n",
                pull.model,
                bytes.unwrap_or_default(),
                places.unwrap_or_default()
            ))
        }
        PullState::Paused => bail!(
            "the pull of {} is paused: {} To go on: edgecoder-node model pulls --resume {id}",
            pull.model,
            sentence(&pull.reason, "its parts are kept")
        ),
        _ => bail!("{}", sentence(&pull.reason, "the pull failed")),
    }
}

fn sentence(reason: &str, otherwise: &str) -> String {
    let reason = if reason.is_empty() { otherwise } else { reason };
    if reason.ends_with(['.', '!', '?']) { reason.to_owned() } else { format!("{reason}.") }
}

fn left_running(id: &str) -> String {
    format!(
        "The pull goes on in the node.
  To watch it:  edgecoder-node model pulls
  To pause it:  edgecoder-node model pulls --pause {id}
  To go on:     edgecoder-node model pulls --resume {id}
  To cancel it: edgecoder-node model pulls --cancel {id}"
    )
}

pub(crate) async fn pulls(client: &Client, args: args::Pulls) -> anyhow::Result<()> {
    let pulls = client.call::<ListPulls>(&Nothing {}).await?.pulls;
    let id = |named: &str| pick(&pulls, named);
    let said = if let Some(named) = &args.cancel {
        let pull = id(named)?;
        client.call::<PostPullCancel>(&PullId { id: pull.id.clone() }).await?;
        format!("The pull of {} is cancelled and its parts are deleted.\n", pull.model)
    } else if let Some(named) = &args.pause {
        let pull = client.call::<PostPullPause>(&PullId { id: id(named)?.id.clone() }).await?;
        format!("{}: {}\n", pull.model, pull_progress(&pull))
    } else if let Some(named) = &args.resume {
        let pull = client.call::<PostPullResume>(&PullId { id: id(named)?.id.clone() }).await?;
        format!("{}: {}\n", pull.model, pull_progress(&pull))
    } else if pulls.is_empty() {
        "No pulls.\n".to_owned()
    } else {
        let rows: Vec<_> = pulls
            .iter()
            .map(|pull| vec![pull.id.clone(), pull.model.clone(), pull_progress(pull)])
            .collect();
        table(&["ID", "MODEL", "STATE"], &rows)
    };
    if args.output.json {
        return print_json(&client.call::<ListPulls>(&Nothing {}).await?);
    }
    say(&said)
}

/// The pull with this id, or the only one of this model.
fn pick<'a>(pulls: &'a [Pull], named: &str) -> anyhow::Result<&'a Pull> {
    if let Some(pull) = pulls.iter().find(|pull| pull.id == named) {
        return Ok(pull);
    }
    let mut of_model = pulls.iter().filter(|pull| pull.model == named);
    match (of_model.next(), of_model.next()) {
        (Some(pull), None) => Ok(pull),
        _ => bail!("there is no pull {named:?}. edgecoder-node model pulls lists them"),
    }
}

#[cfg(test)]
mod tests {
    use agent_api::fit::Fit;

    use super::*;
    use crate::model::tests;

    fn preview(fit: Option<Fit>) -> PullPreview {
        PullPreview {
            model: "big:70b".to_owned(),
            source: "registry.example".to_owned(),
            size_bytes: 42_500_000_000,
            download_bytes: 42_500_000_000,
            files: 4,
            fit,
            license: None,
            disk_free_bytes: Some(100_000_000_000),
            disk_after_bytes: 50_000_000_000,
            disk_budget_bytes: Some(80_000_000_000),
            problem: None,
            already_installed: false,
        }
    }

    #[test]
    fn the_preview_says_size_fit_licence_and_disk() {
        let text = preview_text(&preview(Some(tests::fit(Verdict::FitsRam, "44 GB at 4k"))));
        assert_eq!(
            text,
            "big:70b from registry.example
  Size:     42.5 GB, all of it to fetch
  Fit:      fits RAM: 44 GB at 4k
  Licence:  not stated
  Disk:     models take 50.0 GB of 80.0 GB budget afterwards; 100 GB free now
"
        );
        let mut half_here = preview(None);
        half_here.download_bytes = 2_500_000_000;
        assert!(preview_text(&half_here).contains("2.5 GB to fetch, the rest is already here"));
    }

    #[test]
    fn what_will_not_fit_is_not_fetched_without_force_and_the_reason_is_said() {
        assert_eq!(objection(&preview(None)), None, "not known is no objection");
        let wont = tests::fit(Verdict::WontFit, "needs 66 GB, you have 54 GB");
        let why = objection(&preview(Some(wont))).expect("an objection");
        assert!(why.contains("needs 66 GB, you have 54 GB") && why.contains("--force"), "{why}");
        let full = PullPreview { problem: Some("the disk is full".to_owned()), ..preview(None) };
        assert_eq!(objection(&full).as_deref(), Some("the disk is full"));
    }

    #[test]
    fn a_failed_pull_ends_with_the_nodes_sentence_and_a_paused_one_says_how_to_go_on() {
        let mut pull = tests::pull(PullState::Failed);
        pull.reason = "registry.example sent wrong bytes".to_owned();
        let error = outcome(&pull).expect_err("failed");
        assert_eq!(error.to_string(), "registry.example sent wrong bytes.");
        pull.state = PullState::Paused;
        let error = outcome(&pull).expect_err("paused").to_string();
        assert!(error.contains("wrong bytes") && error.contains("--resume 0193"), "{error}");
        pull.state = PullState::Done;
        assert!(outcome(&pull).is_ok_and(|text| text.contains("tiny:latest is here")));
        pull.sources.push(agent_api::pull::PullSource {
            kind: PullSourceKind::Peer,
            name: "attic-mini".to_owned(),
            node_id: None,
            lan: true,
            bytes: 1,
        });
        let text = outcome(&pull).expect("is done");
        assert!(text.ends_with(" It came from attic-mini (LAN).\n"), "{text}");
    }

    #[test]
    fn a_pull_is_found_by_its_id_or_by_its_model() {
        let mut second = tests::pull(PullState::Queued);
        (second.id, second.model) = ("0194".to_owned(), "other:latest".to_owned());
        let all = [tests::pull(PullState::Downloading), second];
        assert_eq!(pick(&all, "0194").expect("by id").model, "other:latest");
        assert_eq!(pick(&all, "tiny:latest").expect("by model").id, "0193");
        assert!(pick(&all, "none").is_err());
    }
}
