//! The driver: one task over what the owner asks, connections, frames and deadlines. It feeds the
//! membership and does what its outputs say.

mod links;
mod publish;
mod turn;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use iroh::{Endpoint, EndpointAddr, RelayUrl, Watcher as _, endpoint::RelayStatus};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;

use self::publish::Publisher;
use super::{
    CLOSE_WAIT,
    applied::{Wanted, apply},
    close,
    dial::accept_all,
    endpoint::from_iroh,
    link::{Link, LinkContext, LinkEvent, Opened},
    network::{Network, SleepWatch},
    observed::{self, Observed, Report, Reports},
    session::{Reply, Request, Session},
};
use crate::{
    clock::now_ms,
    mesh::{
        Addresses, MeshCard, MeshError, NodeKey,
        membership::{
            Membership, Setup,
            io::{Command, ConnId, Input, Now, Output},
        },
        record::Ed25519,
        sources::{FOUND_QUEUE, Found, KnownPeer, OwnInfo, SourceContext, Sources},
    },
};

/// Events of all connections that wait for the driver. Each connection may have some frames among
/// them (`link::UNREAD_FRAMES`); 64 of 64 KiB are 4 MiB at the very worst.
const LINK_EVENTS: usize = 64;
/// Connections from outside that wait for the driver.
const OPENED: usize = 32;
/// Between looks at the clocks and at the paths of connections.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between samples of round-trip times, and between looks at relays and the directory.
const SLOW_TICKS: u64 = 5;
/// The last words and the closing of sockets may take so long; a node stops within ten seconds.
const STOP_WAIT: Duration = Duration::from_secs(3);

/// Why the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The node stops.
    Stop,
    /// The owner turned the mesh off.
    Off,
    /// The endpoint closed by itself.
    Lost,
}

type Watched<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// Asked to carry on by one of these.
enum Woken {
    Stop,
    Exit(Exit),
    Request(Request),
    Opened(Box<Opened>),
    Link(LinkEvent),
    Dialed(NodeKey, Result<Box<Opened>, String>),
    Found(Found),
    Observed(Report),
    Settings,
    Announcement,
    Address(EndpointAddr),
    Relays(Vec<RelayStatus>),
    NetworkChanged,
    SourcesChanged,
    UsesChanged,
    Tick,
    Deadline,
    Publish,
}

/// Everything of one open network.
pub(super) struct Driver<'a> {
    session: &'a mut Session,
    endpoint: Endpoint,
    membership: Membership,
    /// What it wants done, in order.
    outputs: VecDeque<Output>,
    begun: Instant,
    /// This mesh: at the start, or later.
    entered: Instant,
    network: Network,
    sleep: SleepWatch,
    ticks: u64,
    context: LinkContext,
    link_events: mpsc::Receiver<LinkEvent>,
    opened: mpsc::Receiver<Opened>,
    links: HashMap<ConnId, Link>,
    next_conn: u64,
    dials: JoinSet<Result<Opened, String>>,
    /// Whom each of them is for; also what a task that panicked was for.
    dialing: HashMap<Id, NodeKey>,
    /// Those who wait for a connection with a peer.
    asked: HashMap<NodeKey, Vec<Reply>>,
    /// Peers with streams, as membership was told.
    used: HashSet<NodeKey>,
    uses_changes: watch::Receiver<()>,
    publisher: Publisher,
    sources: Sources,
    found: mpsc::Receiver<Found>,
    sources_changes: watch::Receiver<u64>,
    own: watch::Sender<OwnInfo>,
    card: watch::Sender<MeshCard>,
    directory: watch::Sender<Arc<Vec<KnownPeer>>>,
    own_addresses: Addresses,
    reports: Reports,
    observed: mpsc::Receiver<Report>,
    relay_connected: bool,
    /// What iroh is to know; a task of its own tells it.
    wanted: watch::Sender<Wanted>,
    address_changes: Watched<EndpointAddr>,
    relay_changes: Watched<Vec<RelayStatus>>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        endpoint: Endpoint,
        network: Network,
        relays: BTreeSet<RelayUrl>,
    ) -> Result<Self, String> {
        let begun = Instant::now();
        let now = Now { mono: Duration::ZERO, unix_ms: now_ms() };
        let own_addresses = from_iroh(&endpoint.addr());
        let membership = Membership::new(setup(session, &own_addresses)?, now);
        let own = watch::Sender::new(OwnInfo::default());
        let card = watch::Sender::new(membership.card().clone());
        let directory = watch::Sender::new(Arc::default());
        let (found_sender, found) = mpsc::channel(FOUND_QUEUE);
        let sources = Sources::start(SourceContext {
            found: found_sender,
            endpoint: endpoint.clone(),
            card: card.subscribe(),
            settings: session.setup.settings.clone(),
            own: own.subscribe(),
            directory: directory.subscribe(),
            storage: session.setup.storage.clone(),
            seed: session.setup.seed.clone(),
        });
        session.ends.sources.send_replace(Some(sources.clone()));
        let (reports, observed) = mpsc::channel(observed::QUEUE);
        session.ends.offers.add(observed::KIND, Arc::new(Observed { reports }));
        let tasks = TaskTracker::new();
        let (events, link_events) = mpsc::channel(LINK_EVENTS);
        let (accepted, opened) = mpsc::channel(OPENED);
        tasks.spawn(accept_all(endpoint.clone(), accepted, tasks.clone()));
        let begin = Wanted { relays, addresses: BTreeSet::new() };
        let wanted = watch::Sender::new(begin.clone());
        tasks.spawn(apply(endpoint.clone(), wanted.subscribe(), begin));
        let context = LinkContext {
            events,
            members: session.ends.members.subscribe(),
            offers: session.ends.offers.clone(),
            uses: session.ends.uses.clone(),
            traffic: session.ends.traffic.clone(),
            tasks,
        };
        let mut driver = Self {
            address_changes: endpoint.watch_addr().stream().boxed(),
            relay_changes: endpoint.home_relay_status().stream().boxed(),
            sources_changes: sources.changes(),
            uses_changes: context.uses.changes(),
            sleep: SleepWatch::new(now),
            session,
            endpoint,
            membership,
            outputs: VecDeque::new(),
            begun,
            entered: begun,
            network,
            ticks: 0,
            context,
            link_events,
            opened,
            links: HashMap::new(),
            next_conn: 0,
            dials: JoinSet::new(),
            dialing: HashMap::new(),
            asked: HashMap::new(),
            used: HashSet::new(),
            publisher: Publisher::new(),
            sources,
            found,
            own,
            card,
            directory,
            own_addresses,
            reports: Reports::default(),
            observed,
            relay_connected: false,
            wanted,
        };
        driver.announce();
        driver.uses_changed();
        let file = driver.session.file.as_ref();
        let ticket = file.map(|file| file.memory().ticket.clone());
        driver.offer_ticket(ticket.unwrap_or_default());
        Ok(driver)
    }

    pub(super) async fn run(mut self) -> Exit {
        let mut tick = interval(TICK);
        // After a sleep one look is enough.
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let closed = self.endpoint.closed();
        tokio::pin!(closed);
        self.pump();
        let exit = loop {
            let deadline = self.deadline();
            let publish_at = self.publisher.due();
            let woken = tokio::select! {
                () = self.session.ends.stop.cancelled() => Woken::Stop,
                () = &mut closed => Woken::Exit(Exit::Lost),
                request = self.session.ends.requests.recv() => {
                    request.map_or(Woken::Stop, Woken::Request)
                }
                Some(opened) = self.opened.recv() => Woken::Opened(Box::new(opened)),
                Some(event) = self.link_events.recv() => Woken::Link(event),
                Some(dialed) = self.dials.join_next_with_id() => self.dial_over(dialed),
                Some(found) = self.found.recv() => Woken::Found(found),
                Some(report) = self.observed.recv() => Woken::Observed(report),
                changed = self.session.setup.settings.changed() => {
                    if changed.is_ok() { Woken::Settings } else { Woken::Stop }
                }
                Ok(()) = self.session.setup.announcement.changed() => Woken::Announcement,
                Some(address) = self.address_changes.next() => Woken::Address(address),
                Some(status) = self.relay_changes.next() => Woken::Relays(status),
                () = self.network.changed() => Woken::NetworkChanged,
                Ok(()) = self.sources_changes.changed() => Woken::SourcesChanged,
                Ok(()) = self.uses_changes.changed() => Woken::UsesChanged,
                _ = tick.tick() => Woken::Tick,
                () = until(deadline) => Woken::Deadline,
                () = until(publish_at) => Woken::Publish,
            };
            match woken {
                Woken::Stop => break Exit::Stop,
                Woken::Exit(exit) => break exit,
                woken => {
                    if let Some(exit) = self.turn(woken) {
                        break exit;
                    }
                }
            }
            self.pump();
        };
        self.stop(exit).await;
        exit
    }

    fn turn(&mut self, woken: Woken) -> Option<Exit> {
        match woken {
            Woken::Request(request) => self.answer(request),
            Woken::Opened(opened) => self.link_up(*opened),
            Woken::Link(event) => self.link_event(event),
            Woken::Dialed(peer, result) => self.dialed(peer, result.map(|opened| *opened)),
            Woken::Found(found) => self.found(found),
            Woken::Observed(report) => self.observed(report),
            Woken::Settings => return self.settings_changed(),
            Woken::Announcement | Woken::SourcesChanged => self.announce(),
            Woken::Address(address) => self.address_changed(&address),
            Woken::Relays(status) => self.relay_status(&status),
            Woken::NetworkChanged => self.network_changed("the network changed"),
            Woken::UsesChanged => self.uses_changed(),
            Woken::Tick => self.tick(),
            Woken::Deadline => self.input(Input::Tick),
            Woken::Publish => self.publish(),
            Woken::Stop | Woken::Exit(_) => {}
        }
        None
    }

    fn now(&self) -> Now {
        Now { mono: self.begun.elapsed(), unix_ms: now_ms() }
    }

    fn deadline(&self) -> Option<Instant> {
        self.membership.deadline().map(|deadline| self.begun + deadline)
    }

    /// What membership wants done is put aside for [`pump`](Self::pump): doing it may be input again.
    fn input(&mut self, input: Input) {
        let now = self.now();
        self.outputs.extend(self.membership.handle(now, input));
    }

    fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    /// Does what membership asked for.
    fn pump(&mut self) {
        while let Some(output) = self.outputs.pop_front() {
            match output {
                Output::Send { conn, bytes, .. } => self.send(conn, bytes),
                Output::Dial { peer, addresses } => self.dial(peer, addresses),
                Output::Close { conn, reason, .. } => {
                    if let Some(link) = self.links.get(&conn) {
                        link.close(close::DONE, &reason);
                    }
                }
                Output::Retire { conn, reason, .. } => {
                    if let Some(link) = self.links.get(&conn) {
                        link.retire(&reason);
                    }
                }
                Output::Event(event) => self.event(event),
            }
        }
    }

    /// Says goodbye, closes everything, waits for it.
    async fn stop(&mut self, exit: Exit) {
        if exit != Exit::Lost {
            self.command(Command::Shutdown);
            self.pump();
        }
        for link in self.links.values() {
            link.close(close::STOPPING, "the node is stopping");
        }
        for reply in self.asked.drain().flat_map(|(_, replies)| replies) {
            let _ = reply.send(Err(MeshError::Stopping));
        }
        self.dials.abort_all();
        self.session.ends.members.send_replace(Arc::default());
        self.session.ends.sources.send_replace(None);
        let connections: Vec<_> = self.links.values().map(|link| link.connection.clone()).collect();
        let said = async {
            for connection in connections {
                connection.closed().await;
            }
        };
        // Whoever is not reached notices by itself.
        let _ = timeout(CLOSE_WAIT, said).await;
        let (endpoint, sources) = (self.endpoint.clone(), self.sources.clone());
        let _ =
            timeout(STOP_WAIT, async { tokio::join!(endpoint.close(), sources.shutdown()) }).await;
        self.context.tasks.close();
    }
}

fn setup(session: &Session, addresses: &Addresses) -> Result<Setup, String> {
    let memory = session.file.as_ref().ok_or("the mesh's file is not read")?.memory();
    let mut rng = [0; 32];
    let mut instance = [0; 8];
    getrandom::fill(&mut rng)
        .and_then(|()| getrandom::fill(&mut instance))
        .map_err(|error| format!("the operating system gave no random numbers: {error}"))?;
    Ok(Setup {
        crypto: Box::new(Ed25519::new(session.setup.key.clone())),
        card: memory.card.clone(),
        instance: u64::from_le_bytes(instance),
        rng,
        lan_join: session.setup.settings.borrow().mesh.lan_join,
        blocked: memory.blocked.iter().map(|mark| mark.key).collect(),
        trusted: memory.trusted.iter().map(|mark| mark.key).collect(),
        announcement: session.setup.announcement.borrow().clone(),
        addresses: addresses.clone(),
    })
}

/// Never, without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
