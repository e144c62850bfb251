//! A model that a running Ollama daemon computes, as an engine sees it: the same commands, the
//! same answers. Protocol: Ollama's `docs/api.md` (NDJSON streams, durations in nanoseconds,
//! errors as `{"error": ...}`, also in the middle of a stream).

mod daemon;
mod lines;
mod translate;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use agent_api::runner::{
    Command, FinishReason, Generate, LoadModel, Loaded, TextInput, Timings, Usage,
};
pub use daemon::OllamaDaemon;
use lines::Lines;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use translate::{Line, Question, Writer};

use super::{
    InferenceError, Piece,
    link::{FromLink, Link, LoadFailure, Outbox},
    tools::ToolFormat,
};

/// Commands on their way to the task. The engine keeps far fewer requests in flight.
const OUTBOX: usize = 256;
/// Answers that the engine has not looked at yet.
const INBOX: usize = 1024;
/// A daemon on this computer or network accepts a connection by then.
const CONNECT: Duration = Duration::from_secs(2);
/// Between two pieces of an answer. Before the first the daemon may load tens of gigabytes and
/// read a long prompt on a slow processor.
const SILENCE: Duration = Duration::from_secs(600);
/// Short questions are answered by then.
const SHORT: Duration = Duration::from_secs(10);
/// Largest body of an answer that comes in one piece: 2,048 vectors of 1,024 numbers as text.
const MAX_BODY: usize = 64 << 20;

/// A model of a daemon.
#[derive(Clone, Debug)]
pub struct Endpoint {
    client: reqwest::Client,
    url: String,
    model: String,
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.model == other.model
    }
}

impl Endpoint {
    async fn post(&self, path: &str, body: &Value) -> Result<reqwest::Response, InferenceError> {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        let response = tokio::time::timeout(SILENCE, request.send()).await;
        let response = response.map_err(|_| self.silent())?.map_err(|e| self.gone(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = lines::whole(response, MAX_BODY, SHORT).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body).ok();
        let said = said.as_ref().and_then(|said| said.get("error")).and_then(Value::as_str);
        Err(refused(status.is_client_error(), said.unwrap_or(status.as_str())))
    }

    /// A question whose answer comes in one piece.
    async fn ask(
        &self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Value, InferenceError> {
        let response = self.post(path, body).await?;
        let body = lines::whole(response, MAX_BODY, patience).await.map_err(|e| self.broke(&e))?;
        serde_json::from_slice(&body).map_err(|e| self.broke(&e.to_string()))
    }

    fn gone(&self, error: &reqwest::Error) -> InferenceError {
        InferenceError::Unavailable(format!(
            "Ollama does not answer at {} ({}). Start it, correct ollama_url in the settings, or choose another model.",
            self.url,
            innermost(error)
        ))
    }

    fn silent(&self) -> InferenceError {
        let minutes = SILENCE.as_secs() / 60;
        InferenceError::Unavailable(format!(
            "Ollama at {} has said nothing for {minutes} minutes. Look at its log, or start it again.",
            self.url
        ))
    }

    fn broke(&self, what: &str) -> InferenceError {
        InferenceError::Unavailable(format!(
            "The answer of Ollama at {} broke off: {what}. Send the request again.",
            self.url
        ))
    }
}

/// A client of a daemon. Builds TLS only if nobody did: `ollama_url` may be `https`.
fn client(connect: Duration) -> reqwest::Client {
    crate::models::registry::install_crypto();
    let builder = || {
        let builder = reqwest::Client::builder().no_proxy().connect_timeout(connect);
        builder.redirect(reqwest::redirect::Policy::none())
    };
    // A computer without any certificates still reaches plain http.
    let without_tls = || builder().tls_certs_only([]).build();
    builder().build().or_else(|_| without_tls()).unwrap_or_default()
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What the daemon said no to.
fn refused(ours: bool, said: &str) -> InferenceError {
    let said = said.trim_end_matches('.');
    if said.contains("context length") {
        InferenceError::ContextOverflow(format!("Ollama refused the prompt: {said}."))
    } else if ours {
        InferenceError::BadRequest(format!("Ollama refused the request: {said}."))
    } else {
        InferenceError::Unavailable(format!("Ollama reported an error: {said}."))
    }
}

/// Opens the line. Nothing is asked of the daemon before a model is to be loaded.
pub(super) fn connect(endpoint: Endpoint) -> Link {
    let (outbox, commands) = mpsc::channel(OUTBOX);
    let (said, inbox) = mpsc::channel(INBOX);
    let (killer, killed) = oneshot::channel();
    tokio::spawn(async move {
        let hello = FromLink::Hello { engine: "ollama".into(), devices: Vec::new() };
        if said.send(hello).await.is_ok() {
            let mut session = Session::new(endpoint, said);
            tokio::select! {
                () = session.run(commands) => {}
                told = killed => {
                    // Told to free the model, not only left behind by a node that stops.
                    if told.is_ok() {
                        session.unload().await;
                    }
                }
            }
        }
    });
    Link::new(None, Outbox::Commands(outbox), inbox, killer)
}

/// A line while it is open.
struct Session {
    endpoint: Endpoint,
    said: mpsc::Sender<FromLink>,
    context: u32,
    running: JoinSet<u64>,
    cancels: HashMap<u64, oneshot::Sender<()>>,
}

impl Session {
    fn new(endpoint: Endpoint, said: mpsc::Sender<FromLink>) -> Self {
        Self { endpoint, said, context: 0, running: JoinSet::new(), cancels: HashMap::new() }
    }

    async fn run(&mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                Some(ended) = self.running.join_next() => {
                    if let Ok(id) = ended {
                        self.cancels.remove(&id);
                    }
                }
            }
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Load(load) => {
                self.context = load.context;
                let loaded = match load_model(&self.endpoint, &load).await {
                    Ok((loaded, tools)) => FromLink::Loaded { loaded: Box::new(loaded), tools },
                    Err(error) => FromLink::LoadFailed(LoadFailure {
                        message: error.to_string(),
                        passing: true,
                    }),
                };
                let _ = self.said.send(loaded).await;
            }
            Command::Generate { id, request } => {
                let (cancel, cancelled) = oneshot::channel();
                self.cancels.insert(id, cancel);
                let (endpoint, said) = (self.endpoint.clone(), self.said.clone());
                let context = self.context;
                self.running.spawn(async move {
                    let mut teller = Teller { id, said, usage: Usage::default() };
                    generate(&endpoint, &mut teller, *request, context, cancelled).await;
                    id
                });
            }
            Command::Embed { id, inputs } => {
                let (cancel, cancelled) = oneshot::channel();
                self.cancels.insert(id, cancel);
                let (endpoint, said) = (self.endpoint.clone(), self.said.clone());
                let context = self.context;
                self.running.spawn(async move {
                    let piece = tokio::select! {
                        piece = embed(&endpoint, inputs, context) => piece,
                        _ = cancelled => cancelled_after(Usage::default()),
                    };
                    let _ = said.send(FromLink::Piece { id, piece }).await;
                    id
                });
            }
            Command::Cancel { id } => {
                if let Some(cancel) = self.cancels.remove(&id) {
                    let _ = cancel.send(());
                }
            }
            Command::Unload => self.unload().await,
        }
    }

    /// Asks the daemon to free the model. It does so by itself after a while, should this fail.
    async fn unload(&mut self) {
        self.running.shutdown().await;
        let body = json!({"model": self.endpoint.model, "keep_alive": 0, "stream": false});
        let _ =
            tokio::time::timeout(CONNECT, self.endpoint.ask("/api/generate", &body, SHORT)).await;
    }
}

/// Has the daemon load the model, and asks what it is.
async fn load_model(
    endpoint: &Endpoint,
    load: &LoadModel,
) -> Result<(Loaded, Option<ToolFormat>), InferenceError> {
    let started = Instant::now();
    let show = endpoint.ask("/api/show", &json!({"model": endpoint.model}), SHORT).await?;
    let shown = translate::Shown::read(&show);
    if shown.completion {
        let body = json!({
            "model": endpoint.model,
            "stream": false,
            "options": {"num_ctx": load.context},
        });
        endpoint.ask("/api/generate", &body, SILENCE).await?;
    }
    let loaded = Loaded {
        name: endpoint.model.clone(),
        architecture: shown.architecture,
        parameters: shown.parameters,
        size_bytes: 0,
        context: load.context,
        context_train: shown.context,
        slots: load.slots,
        embedding_width: 0,
        load_ms: started.elapsed().as_secs_f64() * 1e3,
        gpu_layers: 0,
        // The daemon renders it, in its own language.
        chat_template: None,
        bos: String::new(),
        eos: String::new(),
    };
    // Calls arrive apart from the text; `Writer` spells them like this.
    Ok((loaded, shown.tools.then_some(ToolFormat::Hermes)))
}

fn cancelled_after(usage: Usage) -> Piece {
    Piece::Done { finish: FinishReason::Cancelled, usage, timings: Timings::default() }
}

async fn generate(
    endpoint: &Endpoint,
    teller: &mut Teller,
    request: Generate,
    context: u32,
    cancelled: oneshot::Receiver<()>,
) {
    let last = tokio::select! {
        last = answer(endpoint, request, context, teller) => last,
        // Dropping the connection is how the daemon learns it.
        _ = cancelled => Ok(cancelled_after(teller.usage)),
    };
    let _ = teller.tell(last.unwrap_or_else(Piece::Failed)).await;
}

/// Passes the pieces of one request on and counts them, for when it is cancelled.
struct Teller {
    id: u64,
    said: mpsc::Sender<FromLink>,
    usage: Usage,
}

impl Teller {
    async fn tell(&mut self, piece: Piece) -> Result<(), InferenceError> {
        if let Piece::Text { .. } = &piece {
            self.usage.completion_tokens += 1;
        }
        let said = FromLink::Piece { id: self.id, piece };
        self.said.send(said).await.map_err(|_| InferenceError::ShuttingDown)
    }
}

/// Streams an answer; gives the last piece.
async fn answer(
    endpoint: &Endpoint,
    request: Generate,
    context: u32,
    teller: &mut Teller,
) -> Result<Piece, InferenceError> {
    let Question { path, body, around } = translate::question(&endpoint.model, request, context)?;
    let response = endpoint.post(path, &body).await?;
    let mut lines = Lines::new(response);
    let mut writer = Writer::new(around);
    let mut started = false;
    loop {
        let line = tokio::time::timeout(SILENCE, lines.next()).await;
        let line = line.map_err(|_| endpoint.silent())?.map_err(|e| endpoint.broke(&e))?;
        let Some(line) = line else {
            return Err(endpoint.broke("it ended without its last line"));
        };
        let line: Line =
            serde_json::from_slice(&line).map_err(|e| endpoint.broke(&e.to_string()))?;
        if let Some(error) = &line.error {
            return Err(refused(false, error));
        }
        if !std::mem::replace(&mut started, true) {
            teller.tell(Piece::Started { usage: Usage::default() }).await?;
        }
        let text = writer.write(&line);
        if !text.is_empty() {
            teller.tell(Piece::Text { text, logprobs: Vec::new() }).await?;
        }
        if line.done {
            return Ok(line.last());
        }
    }
}

async fn embed(endpoint: &Endpoint, inputs: Vec<TextInput>, context: u32) -> Piece {
    let ask = async {
        let body = translate::embedding(&endpoint.model, inputs, context)?;
        let answer = endpoint.ask("/api/embed", &body, SILENCE).await?;
        translate::embedded(answer).map_err(|e| endpoint.broke(&e))
    };
    ask.await.unwrap_or_else(Piece::Failed)
}
