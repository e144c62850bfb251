//! The long-lived task behind the handle: it keeps what is remembered, opens the network, runs the
//! driver on it, and tries again when the network cannot be opened. What the owner asks is written
//! to disk first and carried out then, also while there is no network.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use agent_api::{
    Settings,
    mesh::{MeshState, OwnNode},
};
use futures_util::FutureExt as _;
use iroh::{Endpoint, RelayUrl, endpoint::Connection};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Offers,
    driver::{Driver, Exit},
    endpoint::{self, Opening, RELAYS},
    gate::Gate,
    lookup::Lookup,
    network::Network,
    peers::{Members, Uses},
    snapshot::Snapshot,
    traffic::Traffic,
};
use crate::{
    backoff::Backoff,
    mesh::{
        Addresses, MeshCard, MeshError, MeshSetup, NodeKey,
        membership::io::MeshEvent,
        sources::Sources,
        state_file::{StateFile, StateFileError, TicketPeer, set_mark},
    },
};

/// Questions of the owner that wait. A person asks one at a time.
pub(in crate::mesh) const REQUESTS: usize = 64;
/// Events that a slow listener may be behind before it loses some.
pub(in crate::mesh) const EVENTS: usize = 1_024;
/// Between attempts to open the network.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What a driver that panicked left open gets so long to end.
const CLEAR_WAIT: Duration = Duration::from_secs(3);
/// The owner reads it.
const BROKE: &str = "The mesh broke off by a fault of this program and starts again. The log says where; please report it.";

/// What the owner asks for.
#[derive(Debug)]
pub(in crate::mesh) enum Ask {
    /// Be in this mesh; these peers are known for it.
    Enter {
        card: MeshCard,
        peers: Vec<TicketPeer>,
    },
    /// Somebody was invited.
    Settle,
    Block {
        key: NodeKey,
        name: String,
        on: bool,
    },
    Trust {
        key: NodeKey,
        name: String,
        on: bool,
        own: bool,
    },
    Admit {
        key: NodeKey,
        admit: bool,
    },
    Refresh,
    /// A connection with this peer, made if need be.
    Connect(NodeKey),
    /// A fault of this program.
    #[cfg(test)]
    Break,
}

#[derive(Debug)]
pub(in crate::mesh) enum Answer {
    Done,
    Connection(Box<Connection>),
}

pub(in crate::mesh) type Reply = oneshot::Sender<Result<Answer, MeshError>>;

#[derive(Debug)]
pub(in crate::mesh) struct Request {
    pub(in crate::mesh) ask: Ask,
    pub(in crate::mesh) reply: Reply,
}

/// The task's ends of what the handle holds.
#[derive(Debug)]
pub(in crate::mesh) struct Ends {
    pub(in crate::mesh) requests: mpsc::Receiver<Request>,
    pub(in crate::mesh) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(in crate::mesh) events: broadcast::Sender<MeshEvent>,
    pub(in crate::mesh) members: watch::Sender<Arc<Members>>,
    pub(in crate::mesh) sources: watch::Sender<Option<Sources>>,
    pub(in crate::mesh) offers: Offers,
    pub(in crate::mesh) uses: Uses,
    pub(in crate::mesh) traffic: Traffic,
    pub(in crate::mesh) stop: CancellationToken,
}

/// The task's state, whether there is a network or not.
#[derive(Debug)]
pub(in crate::mesh) struct Session {
    pub(super) setup: MeshSetup,
    pub(super) ends: Ends,
    /// `None`: it could not be read yet.
    pub(super) file: Option<StateFile>,
    pub(super) gate: Gate,
    /// Of the driver that runs; closed here only if that cannot do it any more.
    endpoint: Option<Endpoint>,
    /// A notice that stays in the view: a damaged file was set aside.
    pub(super) notice: String,
}

/// What a view shows before anything is known, and while there is no network.
pub(in crate::mesh) fn empty_snapshot(state: MeshState) -> Snapshot {
    Snapshot {
        state,
        notice: String::new(),
        card: MeshCard {
            id: crate::mesh::MeshId([0; 32]),
            name: String::new(),
            secret: None,
            settled: false,
        },
        own: OwnNode::default(),
        addresses: Addresses::default(),
        rows: std::collections::HashMap::new(),
        nearby: Vec::new(),
        refused: Vec::new(),
        duplicate_identity: false,
        clock_off_ms: None,
        blocked: Vec::new(),
        found: super::snapshot::Found::default(),
        ranges: Vec::new(),
        #[cfg(test)]
        links: 0,
    }
}

/// What ended a wait without a network.
enum Woken {
    Stop,
    Again,
}

impl Session {
    pub(in crate::mesh) fn new(setup: MeshSetup, ends: Ends) -> Self {
        let mut session = Self {
            setup,
            ends,
            file: None,
            gate: Gate::default(),
            endpoint: None,
            notice: String::new(),
        };
        // The first view already names the mesh.
        let problem = session.read_file().err().map(|error| error.to_string());
        session.publish_without_network(problem);
        session
    }

    /// Also goes on after a panic: a node that says "joined" and does nothing is worse than one that
    /// starts its mesh again. What outlives the driver is safe to use then: the file is written whole
    /// or not at all, the rest is replaced.
    pub(in crate::mesh) async fn run(mut self) {
        // Never reset: a fault that comes back is tried rarely.
        let mut faults = Backoff::new(RETRY.0, RETRY.1);
        let mut broken = None;
        while AssertUnwindSafe(self.run_from(broken)).catch_unwind().await.is_err() {
            broken = Some(faults.next_wait());
        }
        // Rows hold connections, and those the sockets.
        self.ends.snapshot.send_modify(|snapshot| {
            let rows = std::collections::HashMap::new();
            *snapshot = Arc::new(Snapshot { rows, ..Snapshot::clone(snapshot) });
        });
    }

    /// After a panic, first waits so long.
    async fn run_from(&mut self, broken: Option<Duration>) {
        if let Some(wait) = broken {
            tracing::error!("{BROKE}");
            self.clear().await;
            self.publish_without_network(Some(BROKE.to_owned()));
            if let Woken::Stop = self.wait(Some(wait)).await {
                return;
            }
        }
        self.run_until_stopped().await;
    }

    /// Ends what a driver that panicked started: sources run on without it, and the port is taken.
    async fn clear(&mut self) {
        let sources = self.ends.sources.send_replace(None);
        let endpoint = self.endpoint.take();
        let ended = async {
            if let Some(sources) = sources {
                sources.shutdown().await;
            }
            if let Some(endpoint) = endpoint {
                endpoint.close().await;
            }
        };
        // Whatever is still open then makes the next attempt fail, with a reason.
        let _ = timeout(CLEAR_WAIT, ended).await;
    }

    async fn run_until_stopped(&mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            if !self.setup.settings.borrow_and_update().mesh.enabled {
                self.publish_without_network(None);
                match self.wait(None).await {
                    Woken::Stop => return,
                    Woken::Again => continue,
                }
            }
            let problem = match self.open().await {
                Ok(driver) => {
                    backoff.reset();
                    match driver.run().await {
                        Exit::Stop => return,
                        Exit::Off => continue,
                        Exit::Lost => "The network was lost.".to_owned(),
                    }
                }
                Err(problem) => problem,
            };
            tracing::warn!("the mesh has no network: {problem}");
            let wait = backoff.next_wait();
            self.publish_without_network(Some(problem));
            match self.wait(Some(wait)).await {
                Woken::Stop => return,
                Woken::Again => {}
            }
        }
    }

    async fn open(&mut self) -> Result<Driver<'_>, String> {
        self.read_file().map_err(|error| error.to_string())?;
        let settings = self.setup.settings.borrow().clone();
        let relays = relay_urls(&settings, &self.ticket_relays(), &[]);
        let network = Network::start().await;
        let endpoint = endpoint::open(Opening {
            key: &self.setup.key,
            bind: self.setup.bind,
            settings: &settings.mesh,
            relays: &relays,
            gate: self.gate.clone(),
            lookup: Lookup::new(self.ends.snapshot.subscribe()),
        });
        let endpoint = endpoint.await.map_err(|error| error.to_string())?;
        self.endpoint = Some(endpoint.clone());
        Driver::new(self, endpoint, network, relays)
    }

    fn read_file(&mut self) -> Result<(), StateFileError> {
        if self.file.is_some() {
            return Ok(());
        }
        let opened = StateFile::open(&self.setup.data_dir)?;
        if let Some(aside) = &opened.set_aside {
            self.notice = format!(
                "The file that named this node's mesh was damaged and is kept as {}; the node is in a new mesh.",
                aside.display()
            );
        }
        self.file = Some(opened.file);
        self.set_gate();
        Ok(())
    }

    fn set_gate(&self) {
        let blocked = self.file.iter().flat_map(|file| &file.memory().blocked);
        self.gate.set(blocked.map(|mark| mark.key).collect());
    }

    /// Waits without a network, answering the owner.
    async fn wait(&mut self, at_most: Option<Duration>) -> Woken {
        let deadline = async {
            match at_most {
                Some(at_most) => sleep(at_most).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = self.ends.stop.cancelled() => return Woken::Stop,
                () = &mut deadline => return Woken::Again,
                changed = self.setup.settings.changed() => {
                    return if changed.is_ok() { Woken::Again } else { Woken::Stop };
                }
                request = self.ends.requests.recv() => match request {
                    Some(request) => self.answer_without_network(request),
                    None => return Woken::Stop,
                },
            }
        }
    }

    fn answer_without_network(&mut self, Request { ask, reply }: Request) {
        let result = match ask {
            Ask::Connect(_) => Err(MeshError::Off),
            ask => self.write_down(&ask).map(|()| Answer::Done),
        };
        let notice = self.ends.snapshot.borrow().notice.clone();
        let state = self.ends.snapshot.borrow().state;
        self.publish_without_network((state == MeshState::Failed).then_some(notice));
        // Whoever asked may be gone.
        let _ = reply.send(result);
    }

    /// The part of an answer that must be on disk before anything else.
    pub(super) fn write_down(&mut self, ask: &Ask) -> Result<(), MeshError> {
        let file = self.file.as_mut().ok_or_else(|| {
            MeshError::BadRequest("the mesh's file could not be read; see the mesh's state".into())
        })?;
        let mut room = true;
        let written = match ask {
            // The ticket's nodes too: the way in must survive a restart before the first connection.
            Ask::Enter { card, peers } => {
                file.change(|memory| memory.enter(card.clone(), peers.clone()))
            }
            Ask::Settle => file.change(|memory| memory.card.settled = true),
            Ask::Block { key, name, on } => {
                file.change(|memory| room = set_mark(&mut memory.blocked, *key, name, *on))
            }
            Ask::Trust { key, name, on, own } => {
                file.change(|memory| room = memory.trust(*key, name, *on, *own))
            }
            Ask::Admit { .. } | Ask::Refresh | Ask::Connect(_) => Ok(()),
            #[cfg(test)]
            Ask::Break => Ok(()),
        };
        written.map_err(write_error)?;
        if !room {
            return Err(MeshError::BadRequest(
                "this list of nodes is full. Take some off it first".into(),
            ));
        }
        if matches!(ask, Ask::Block { .. }) {
            self.set_gate();
        }
        Ok(())
    }

    /// Relays of the ticket that led into this mesh.
    pub(super) fn ticket_relays(&self) -> Vec<String> {
        let relays = self.file.iter().flat_map(|file| file.memory().ticket_relays().cloned());
        relays.take(RELAYS).collect()
    }

    /// Off without a problem, failed with one.
    fn publish_without_network(&mut self, problem: Option<String>) {
        let enabled = self.setup.settings.borrow().mesh.enabled;
        let state = match (&problem, enabled) {
            (Some(_), _) => MeshState::Failed,
            (None, true) => MeshState::Joining,
            (None, false) => MeshState::Off,
        };
        let mut snapshot = empty_snapshot(state);
        snapshot.notice = problem.unwrap_or_else(|| self.notice.clone());
        snapshot.own.seed = self.setup.seed.is_some();
        snapshot.own.region = self.setup.announcement.borrow().region.clone();
        if let Some(file) = &self.file {
            snapshot.card = file.memory().card.clone();
            snapshot.blocked = file.memory().blocked_nodes();
        }
        self.ends.members.send_replace(Arc::default());
        self.ends.snapshot.send_replace(Arc::new(snapshot));
    }
}

pub(super) fn write_error(error: StateFileError) -> MeshError {
    match error {
        StateFileError::Write { path, source } => MeshError::Write { path, source },
        other => MeshError::BadRequest(other.to_string()),
    }
}

/// The relays to use, bounded; the owner's first.
pub(super) fn relay_urls(
    settings: &Settings,
    ticket: &[String],
    seeds: &[String],
) -> BTreeSet<RelayUrl> {
    let all = settings.mesh.relays.iter().chain(ticket).chain(seeds);
    let mut urls = BTreeSet::new();
    for url in all.filter_map(|url| url.parse::<RelayUrl>().ok()) {
        if urls.len() < RELAYS {
            urls.insert(url);
        }
    }
    urls
}
