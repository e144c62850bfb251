//! `POST /api/pull`: a pull of this node, told in the words of Ollama's daemon.

use std::collections::HashMap;

use agent_api::pull::{Pull, PullLayer, PullRequest, PullState};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::{
    answer::{json_line, ndjson},
    body::{Named, parse},
    error::OllamaError,
};
use crate::node::Node;

/// Hexadecimal digits of a layer's digest in its status line.
const SHOWN_DIGITS: usize = 12;

/// Starts a pull or joins the one that is under way, and tells how it goes. It goes on when the
/// client leaves.
pub(super) async fn pull(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OllamaError> {
    let named: Named = parse(body)?;
    let request = PullRequest { model: named.model()?.to_owned(), swap_when_done: false };
    let pull = node.start_pull(request).await?;
    // A pull that is over already may not be there to be watched.
    let mut changes = match node.watch_pull(&pull.id) {
        Some(changes) => changes.boxed(),
        None => stream::iter([pull]).boxed(),
    };
    let mut progress = Progress::default();
    if !named.stream.unwrap_or(true) {
        while let Some(pull) = changes.next().await {
            match progress.tell(&pull).pop() {
                Some(Told::Status(last)) if pull.state == PullState::Done => {
                    return Ok(Json(last).into_response());
                }
                Some(Told::Failed(error)) => return Err(error),
                _ => {}
            }
        }
        return Err(cut_off());
    }
    Ok(ndjson(async_stream::stream! {
        while let Some(pull) = changes.next().await {
            for told in progress.tell(&pull) {
                match told {
                    Told::Status(status) => yield json_line(&status),
                    Told::Failed(error) => {
                        yield error.line();
                        return;
                    }
                }
            }
            if pull.state == PullState::Done {
                return;
            }
        }
        yield cut_off().line();
    }))
}

fn cut_off() -> OllamaError {
    let message = "The pull ended before the model was complete: it was cancelled, or the node is shutting down.";
    OllamaError::new(500, message)
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Status(Value),
    Failed(OllamaError),
}

/// What a client has been told of a pull.
#[derive(Debug, Default)]
struct Progress {
    manifest: bool,
    /// Bytes by digest. They only grow: a part that has to be fetched again is not told.
    layers: HashMap<String, u64>,
    /// The last reason for waiting.
    waiting: String,
}

impl Progress {
    /// The lines that a new state of the pull is worth, in the daemon's order.
    fn tell(&mut self, pull: &Pull) -> Vec<Told> {
        let mut told = Vec::new();
        if !std::mem::replace(&mut self.manifest, true) {
            told.push(status("pulling manifest"));
        }
        for layer in &pull.layers {
            let done =
                if pull.state == PullState::Done { layer.size_bytes } else { layer.done_bytes };
            told.extend(self.layer(layer, done));
        }
        match pull.state {
            PullState::Queued | PullState::Retrying => {
                if !pull.reason.is_empty() && self.waiting != pull.reason {
                    self.waiting.clone_from(&pull.reason);
                    told.push(status(&pull.reason));
                }
            }
            PullState::Resolving | PullState::Downloading => self.waiting.clear(),
            // Told once all layers were: the last bytes are being hashed.
            PullState::Verifying => self.waiting.clear(),
            PullState::Done => {
                told.push(status("verifying sha256 digest"));
                told.push(status("writing manifest"));
                told.push(status("success"));
            }
            PullState::Paused | PullState::Failed => {
                told.push(Told::Failed(OllamaError::new(500, pull.reason.clone())));
            }
        }
        told
    }

    fn layer(&mut self, layer: &PullLayer, done: u64) -> Option<Told> {
        let known = self.layers.get(&layer.digest);
        if known.is_some_and(|&known| done <= known) {
            return None;
        }
        self.layers.insert(layer.digest.clone(), done);
        let digits = layer.digest.strip_prefix("sha256:").unwrap_or(&layer.digest);
        let digits: String = digits.chars().take(SHOWN_DIGITS).collect();
        let mut line = json!({
            "status": format!("pulling {digits}"),
            "digest": layer.digest,
            "total": layer.size_bytes,
        });
        // As the daemon: left out while there is nothing.
        if done > 0 {
            line["completed"] = done.into();
        }
        Some(Told::Status(line))
    }
}

fn status(text: &str) -> Told {
    Told::Status(json!({ "status": text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: PullState, done: &[u64]) -> Pull {
        let layer = |(n, &done_bytes): (usize, &u64)| PullLayer {
            digest: format!("sha256:{}", format!("{n:x}").repeat(64)),
            kind: "model".into(),
            size_bytes: 100,
            done_bytes,
        };
        Pull {
            id: "p".into(),
            model: "m:latest".into(),
            source: "registry".into(),
            state,
            reason: format!("{state:?}"),
            size_bytes: None,
            done_bytes: 0,
            bytes_per_s: None,
            eta_s: None,
            retry_at_ms: None,
            layers: done.iter().enumerate().map(layer).collect(),
            sources: Vec::new(),
            fit: None,
            swap_when_done: false,
            created_at_ms: 0,
            changed_at_ms: 0,
        }
    }

    fn told(pulls: &[Pull]) -> Vec<String> {
        let mut progress = Progress::default();
        let told = pulls.iter().flat_map(|pull| progress.tell(pull));
        told.map(|told| match told {
            Told::Status(line) => format!(
                "{} {}",
                line["status"].as_str().expect("a status"),
                line.get("completed").unwrap_or(&Value::Null)
            ),
            Told::Failed(error) => format!("error {}", error.to_json()["error"]),
        })
        .collect()
    }

    #[test]
    fn a_pull_is_told_in_the_daemons_order() {
        use PullState::{Done, Downloading, Resolving, Verifying};
        let told = told(&[
            at(Resolving, &[]),
            at(Downloading, &[0, 100]),
            at(Downloading, &[50, 100]),
            at(Downloading, &[20, 100]),
            at(Verifying, &[100, 100]),
            at(Done, &[100, 100]),
        ]);
        assert_eq!(
            told,
            [
                "pulling manifest null",
                "pulling 000000000000 null",
                "pulling 111111111111 100",
                "pulling 000000000000 50",
                "pulling 000000000000 100",
                "verifying sha256 digest null",
                "writing manifest null",
                "success null",
            ]
        );
    }

    #[test]
    fn a_pull_that_is_over_already_still_ends_with_success() {
        let told = told(&[at(PullState::Done, &[])]);
        assert_eq!(told.first().map(String::as_str), Some("pulling manifest null"));
        assert_eq!(told.last().map(String::as_str), Some("success null"));
    }

    #[test]
    fn a_pull_that_stops_says_why() {
        use PullState::{Failed, Paused, Retrying};
        let pulls = [at(Retrying, &[1]), at(Retrying, &[1]), at(Paused, &[1])];
        let told_paused = told(&pulls);
        assert_eq!(told_paused[2..], ["Retrying null", "error \"Paused\""], "said once");
        assert_eq!(told(&[at(Failed, &[])]).last().map(String::as_str), Some("error \"Failed\""));
    }
}
