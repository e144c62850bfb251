//! The handle to all pulls.

use std::{fmt, sync::Arc};

use agent_api::{
    pull::{Pull, PullRequest},
    settings::Settings,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    actor::Actor,
    claims::Claims,
    fetch::{Context, Tuning, Usage},
    peers::OtherPlaces,
    preview::{PreviewFacts, preview},
    progress::Counters,
};
use crate::{
    limit::Limiter,
    models::{
        gguf::GgufInfo,
        manifest::Manifest,
        name::{ModelRef, NameError},
        registry::{RegistryClient, RegistryError, Source, credentials::Credentials},
        store::Store,
    },
    storage::{Storage, StorageError},
};

/// Pulls that are kept at the same time; more than anybody looks through.
pub(super) const MAX_PULLS: usize = 64;
/// Commands that wait for the actor; each is answered within milliseconds.
const COMMANDS: usize = 32;
/// Notables that wait for the node; one per pull and change.
const NOTABLES: usize = 64;

/// What pulls need.
#[derive(Clone)]
pub struct PullsConfig {
    pub store: Store,
    pub storage: Storage,
    pub credentials: Credentials,
    /// For the disk budget: bytes that models and parts take. Called off the hot path, but on an
    /// async thread: it should take milliseconds.
    pub usage: Usage,
    pub tuning: Tuning,
    /// Tells this node's reservations from those of others that share the store: letters and
    /// digits, the same at every start.
    pub owner: String,
    /// Peers that may have what is pulled.
    pub places: Option<Arc<dyn OtherPlaces>>,
    /// Why pulls of an earlier run do not go on by themselves now; the owner may resume them.
    pub hold: Option<String>,
}

impl fmt::Debug for PullsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullsConfig").field("store", &self.store).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("there are {MAX_PULLS} pulls already. Cancel one, or wait until one is done")]
    TooMany,
    #[error("there is no pull {0}. It may be done or cancelled")]
    NoSuchPull(String),
    #[error("the pull cannot be written down: {0}")]
    Storage(#[from] StorageError),
    #[error("{host} did not tell about the model within {seconds} seconds. Try again")]
    Slow { host: String, seconds: u64 },
    #[error("the node is stopping; the pull goes on when it starts again")]
    Closed,
}

/// What the owner should hear about, in the activity feed.
#[derive(Clone, Debug, PartialEq)]
pub enum PullNotable {
    Started {
        id: String,
        model: ModelRef,
    },
    /// Installed. `bytes` came over the network, `seconds` it was running, since this node started.
    Done {
        id: String,
        model: ModelRef,
        bytes: u64,
        seconds: f64,
        swap_when_done: bool,
    },
    /// It needs something from the owner. A pause by the owner is not told to the owner.
    Paused {
        id: String,
        model: ModelRef,
        reason: String,
    },
    Failed {
        id: String,
        model: ModelRef,
        reason: String,
    },
}

/// What is known about the model of a pull.
#[derive(Clone, Debug)]
pub struct PullFacts {
    pub manifest: Arc<Manifest>,
    /// Once the head of the file is here.
    pub info: Option<Arc<GgufInfo>>,
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, PullError>>;

#[derive(Debug)]
pub(super) enum Command {
    Add { source: Box<Source>, swap_when_done: bool, reply: Reply<Pull> },
    Pause { id: String, reply: Reply<Pull> },
    Resume { id: String, reply: Reply<Pull> },
    Cancel { id: String, reply: Reply<()> },
    Facts { id: String, reply: oneshot::Sender<Option<Arc<PullFacts>>> },
    Shutdown { reply: oneshot::Sender<()> },
}

/// A handle to the pulls. Clones share it; when the last one is gone they stop and stay written
/// down.
#[derive(Clone)]
pub struct Pulls {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Vec<Pull>>>,
    context: Arc<Context>,
}

impl fmt::Debug for Pulls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulls").field("snapshot", &self.snapshot.borrow()).finish_non_exhaustive()
    }
}

impl Pulls {
    /// Starts the actor in the current tokio runtime. What was running when the node ended goes on.
    pub fn start(
        config: PullsConfig,
        settings: watch::Receiver<Settings>,
    ) -> (Self, mpsc::Receiver<PullNotable>) {
        let limit = settings.borrow().download_limit;
        let context = Arc::new(Context {
            store: config.store,
            client: RegistryClient::new(settings.clone(), config.credentials),
            limiter: Limiter::new(limit),
            counters: Arc::default(),
            settings,
            usage: config.usage,
            tuning: config.tuning,
            owner: config.owner,
            places: config.places,
            claims: Claims::default(),
        });
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (notables, hearing) = mpsc::channel(NOTABLES);
        let (show, snapshot) = watch::channel(Arc::default());
        let actor = Actor::new(Arc::clone(&context), config.storage, config.hold, show, notables);
        tokio::spawn(actor.run(inbox));
        (Self { commands, snapshot, context }, hearing)
    }

    /// Begins a pull, or gives the one there is for this model; a paused or failed one goes on.
    pub async fn add(&self, request: PullRequest) -> Result<Pull, PullError> {
        let default_host = self.context.settings.borrow().default_registry.clone();
        let source = Source::parse(&request.model, &default_host)?;
        let (source, swap_when_done) = (Box::new(source), request.swap_when_done);
        self.call(|reply| Command::Add { source, swap_when_done, reply }).await
    }

    /// What a pull would do. Keeps nothing; gives up after 20 seconds.
    pub async fn preview(&self, model: &str) -> Result<PreviewFacts, PullError> {
        preview(&self.context, model).await
    }

    /// Stops a pull and keeps its parts. One that is done or failed stays as it is.
    pub async fn pause(&self, id: &str) -> Result<Pull, PullError> {
        let id = id.to_owned();
        self.call(|reply| Command::Pause { id, reply }).await
    }

    /// Lets a paused or failed pull go on; one that waits for its next try tries now.
    pub async fn resume(&self, id: &str) -> Result<Pull, PullError> {
        let id = id.to_owned();
        self.call(|reply| Command::Resume { id, reply }).await
    }

    /// Ends a pull and deletes its parts, unless another pull needs them. Of one that is done, only
    /// the entry goes.
    pub async fn cancel(&self, id: &str) -> Result<(), PullError> {
        let id = id.to_owned();
        self.call(|reply| Command::Cancel { id, reply }).await
    }

    /// Oldest first.
    pub fn list(&self) -> Vec<Pull> {
        self.snapshot.borrow().as_ref().clone()
    }

    /// The list after every change of a state at once, and four times a second while bytes arrive.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Pull>>> {
        self.snapshot.clone()
    }

    /// What is known about the model of a pull; `None` before its manifest is here.
    pub async fn facts(&self, id: &str) -> Option<Arc<PullFacts>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Facts { id: id.to_owned(), reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// Totals since the start.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.context.counters)
    }

    /// Stops all connections, syncs what is here, and ends the actor. What was running goes on at
    /// the next start.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            let _ = answer.await;
        }
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, PullError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| PullError::Closed)?;
        answer.await.map_err(|_| PullError::Closed)?
    }
}
