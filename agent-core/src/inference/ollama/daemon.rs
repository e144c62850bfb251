//! Which models a running daemon has.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use agent_api::models::ModelSource;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::{Endpoint, lines, translate::Shown};
use crate::{
    config::limits,
    models::{ModelFile, gguf::GgufInfo},
};

/// The owner waits for the list: a daemon that does not take the connection by then is not there.
const CONNECT: Duration = Duration::from_millis(300);
/// And has to answer by then.
const ANSWER: Duration = Duration::from_secs(2);
/// The list and what there is to ask about its models take no longer together. What is not known
/// by then is asked for with the next list.
const ALL: Duration = Duration::from_secs(3);
/// A list is good for this long.
const FRESH: Duration = Duration::from_secs(10);
/// Questions about single models at the same time.
const AT_ONCE: usize = 4;
/// A list of a thousand models is under a megabyte.
const MAX_BODY: usize = 8 << 20;

/// Lists the models of a daemon. Silent when nothing listens: most owners have none.
#[derive(Clone, Debug, Default)]
pub struct OllamaDaemon {
    /// For lists and for requests; made at the first use, because it takes milliseconds.
    clients: Arc<OnceLock<[reqwest::Client; 2]>>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    url: String,
    asked: Option<Instant>,
    models: Arc<[ModelFile]>,
    /// What `/api/show` said, by digest: a digest never changes its meaning. Where it said nothing
    /// of use: when it was asked.
    shown: HashMap<String, Result<Shown, Instant>>,
}

#[derive(Debug, Deserialize)]
struct Tags {
    #[serde(default)]
    models: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tag {
    name: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    modified_at: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    family: String,
    quantization_level: String,
}

impl OllamaDaemon {
    fn clients(&self) -> &[reqwest::Client; 2] {
        self.clients.get_or_init(|| [super::client(CONNECT), super::client(super::CONNECT)])
    }

    /// Where requests for a model go. `url` is the daemon's, `http://127.0.0.1:11434`; `model` its
    /// name there.
    pub fn endpoint(&self, url: &str, model: &str) -> Endpoint {
        let [_, client] = self.clients();
        let url = url.trim_end_matches('/').to_owned();
        Endpoint { client: client.clone(), url, model: model.to_owned() }
    }

    /// The daemon's models at `url`, by name; none for an empty url or where nothing answers.
    pub async fn models(&self, url: &str) -> Arc<[ModelFile]> {
        if url.is_empty() {
            return Arc::default();
        }
        let mut known = self.known.lock().await;
        let fresh = known.asked.is_some_and(|asked| asked.elapsed() < FRESH);
        if known.url == url && fresh {
            return Arc::clone(&known.models);
        }
        let models = self.list(url, &mut known.shown).await.unwrap_or_else(|e| {
            tracing::debug!("no Ollama daemon at {url}: {e}");
            Vec::new()
        });
        *known = Known {
            url: url.to_owned(),
            asked: Some(Instant::now()),
            models: models.into(),
            shown: std::mem::take(&mut known.shown),
        };
        Arc::clone(&known.models)
    }

    async fn list(
        &self,
        url: &str,
        shown: &mut HashMap<String, Result<Shown, Instant>>,
    ) -> Result<Vec<ModelFile>, String> {
        let deadline = Instant::now() + ALL;
        let base = url.trim_end_matches('/');
        let [client, _] = self.clients();
        let request = client.get(format!("{base}/api/tags")).timeout(ANSWER);
        let list = async {
            let response = request.send().await.map_err(|e| super::innermost(&e))?;
            lines::whole(response, MAX_BODY, ANSWER).await
        };
        let late = |_| "it does not answer in time".to_owned();
        let body = tokio::time::timeout_at(deadline.into(), list).await.map_err(late)??;
        let mut tags: Tags = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        tags.models.truncate(limits::LISTED_MODELS);
        tags.models.sort_by(|a, b| a.name.cmp(&b.name));
        shown.retain(|digest, _| tags.models.iter().any(|tag| tag.digest == *digest));
        let asked = Instant::now();
        let is_new = |tag: &&Tag| match shown.get(&tag.digest) {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(failed)) => failed.elapsed() >= FRESH,
        };
        let new: Vec<&Tag> = tags.models.iter().filter(is_new).collect();
        let questions: Vec<_> = new
            .iter()
            .map(|tag| {
                let (client, model) = (client.clone(), tag.name.clone());
                let endpoint = Endpoint { client, url: base.to_owned(), model };
                ask_about(endpoint, tag.digest.clone())
            })
            .collect();
        // Until one says otherwise, also if nobody waits for this list to its end.
        shown.extend(new.iter().map(|tag| (tag.digest.clone(), Err(asked))));
        let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
        while let Ok(Some((digest, show))) =
            tokio::time::timeout_at(deadline.into(), answers.next()).await
        {
            shown.insert(digest, show.ok_or(asked));
        }
        let said = |tag: &Tag| shown.get(&tag.digest).and_then(|show| show.as_ref().ok());
        Ok(tags.models.iter().map(|tag| file(tag, said(tag))).collect())
    }
}

async fn ask_about(endpoint: Endpoint, digest: String) -> (String, Option<Shown>) {
    let body = json!({"model": endpoint.model});
    let show = tokio::time::timeout(ANSWER, endpoint.ask("/api/show", &body, ANSWER)).await;
    (digest, show.ok().and_then(Result::ok).map(|show| Shown::read(&show)))
}

pub(super) fn file(tag: &Tag, shown: Option<&Shown>) -> ModelFile {
    // Where the daemon did not say, most models complete text.
    let shown = shown.cloned().unwrap_or(Shown { completion: true, ..Shown::default() });
    let modified = tag.modified_at.parse::<jiff::Timestamp>().ok();
    ModelFile {
        id: tag.name.clone(),
        path: PathBuf::new(),
        size_bytes: tag.size,
        modified: modified.map_or(SystemTime::UNIX_EPOCH, SystemTime::from),
        installed: modified.map_or(SystemTime::UNIX_EPOCH, SystemTime::from),
        source: ModelSource::OllamaDaemon,
        head: Ok(GgufInfo {
            architecture: if shown.architecture.is_empty() {
                tag.details.family.clone()
            } else {
                shown.architecture
            },
            quantization: tag.details.quantization_level.clone(),
            parameters: shown.parameters,
            context_train: shown.context,
            file_bytes: tag.size,
            // The fields from which `capabilities` is told.
            not_causal: !shown.completion,
            chat_template: shown.completion,
            tools_template: shown.tools,
            thinking_template: shown.thinking,
            fill_in_tokens: shown.insert,
            ..GgufInfo::default()
        }),
        ..ModelFile::default()
    }
}
