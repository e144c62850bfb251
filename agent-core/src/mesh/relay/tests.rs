//! The relay with real endpoints on this computer.

mod bad_input;

use std::{collections::HashSet, net::Ipv4Addr, sync::Arc};

use agent_api::mesh::Coordinators;
use iroh::{Endpoint, EndpointAddr, RelayMode, RelayUrl, TransportAddr, endpoint::presets};
use iroh_relay::server::{Access, AccessControl as _, ClientRequest};

use super::{
    gate::{OF_ONE_NODE, STRANGERS},
    *,
};
use crate::mesh::{Addresses, NodeKey, sources::KnownPeer};

const ALPN: &[u8] = b"edgecoder/test/1";
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    own: watch::Sender<OwnInfo>,
    directory: watch::Sender<Arc<Vec<KnownPeer>>>,
    reports: watch::Receiver<RelayReport>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    fn start(address: SocketAddr, relay_url: Option<String>) -> Self {
        let seed = SeedSetup { relay: Some(address), relay_url, dht: None };
        let own = watch::Sender::new(OwnInfo::default());
        let directory = watch::Sender::new(Arc::default());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let changed = watch::Sender::new(0);
        let report = watch::Sender::default();
        let reports = report.subscribe();
        let (heard, known) = (own.subscribe(), directory.subscribe());
        let listing = Listing::new(NodeKey([1; 32]), true, heard, known, report.subscribe());
        spawn(&seed, listing, report, stop.clone(), &tasks, changed);
        tasks.close();
        Self { own, directory, reports, stop, tasks }
    }

    async fn url(&mut self) -> RelayUrl {
        let up = self.reports.wait_for(|report| report.bound.is_some());
        let up = tokio::time::timeout(PATIENCE, up).await.expect("it starts").expect("open");
        let url = up.url(&OwnInfo::default()).expect("bound to one address");
        url.parse().expect("a url")
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("it stops");
        assert!(self.reports.borrow().bound.is_none());
    }
}

/// A gate and what it looks at.
pub(super) struct Mesh {
    own: watch::Sender<OwnInfo>,
    directory: watch::Sender<Arc<Vec<KnownPeer>>>,
    pub(super) gate: Arc<Gate>,
}

impl Mesh {
    pub(super) fn new() -> Self {
        let (own, directory) = (watch::Sender::default(), watch::Sender::default());
        let gate = Arc::new(Gate::new(own.subscribe(), directory.subscribe()));
        Self { own, directory, gate }
    }

    pub(super) fn listing(&self) -> Listing {
        let (own, known) = (self.own.subscribe(), self.directory.subscribe());
        Listing::new(NodeKey([1; 32]), true, own, known, watch::Sender::default().subscribe())
    }

    /// The nodes that the directory knows from now on.
    pub(super) fn has(&self, keys: &[u8]) {
        let members = keys.iter().map(|n| member(NodeKey([*n; 32])));
        self.directory.send_replace(Arc::new(members.collect()));
    }
}

fn member(key: NodeKey) -> KnownPeer {
    KnownPeer {
        key,
        addresses: Addresses::default(),
        name: "desk".to_owned(),
        seed: false,
        relay: None,
        dht_port: None,
        region: None,
        version: "0.1.0".to_owned(),
        last_seen_ms: 0,
    }
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A node that has no way but the relay.
async fn relayed(relay: &RelayUrl) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::custom([relay.clone()]))
        .clear_ip_transports()
        .alpns(vec![ALPN.to_vec()])
        .bind()
        .await
        .expect("binds")
}

/// Its API is its owner's; the relay's port is everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reaches_the_relay_can_read_the_list_of_seeds() {
    crate::tls::install_crypto();
    let mut relay = Running::start(any_port(), None);
    let url = relay.url().await;
    let answer = reqwest::get(url.join("network/coordinators").expect("a url")).await;
    let list: Coordinators = answer.expect("an answer").json().await.expect("a list");
    let [seed] = list.coordinators.as_slice() else { panic!("{list:?}") };
    let relays = seed.relay.as_ref().map(|at| at.parse::<RelayUrl>().expect("a url"));
    assert_eq!((seed.node_id.clone(), relays), (NodeKey([1; 32]).to_id(), Some(url)));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_without_a_direct_way_talk_through_the_relay() {
    let mut relay = Running::start(any_port(), None);
    let url = relay.url().await;
    let (a, b) = (relayed(&url).await, relayed(&url).await);
    let b_id = b.id();
    let answering = tokio::spawn({
        let b = b.clone();
        async move {
            let connection = b.accept().await.expect("open").await.expect("connects");
            let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
            let said = receive.read_to_end(64).await.expect("reads");
            send.write_all(&said).await.expect("writes");
            send.finish().expect("ends");
            connection.closed().await;
        }
    });
    let talk = async {
        a.online().await;
        b.online().await;
        let to = EndpointAddr::from_parts(b_id, [TransportAddr::Relay(url)]);
        let connection = a.connect(to, ALPN).await.expect("connects");
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(b"through the relay").await.expect("writes");
        send.finish().expect("ends");
        let back = receive.read_to_end(64).await.expect("reads");
        connection.close(0u32.into(), b"done");
        back
    };
    let back = tokio::time::timeout(PATIENCE, talk).await.expect("in time");
    assert_eq!(back, b"through the relay");
    answering.await.expect("answers");
    a.close().await;
    b.close().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_can_tell_the_relay_from_a_captive_portal_and_measure_it() {
    let mut relay = Running::start(any_port(), None);
    let url = relay.url().await;
    crate::tls::install_crypto();
    let client = reqwest::Client::new();
    let get = |path: &str| client.get(url.join(path).expect("a url")).timeout(PATIENCE);
    let probe = get("/ping").send().await.expect("answers");
    assert_eq!(probe.status(), 200);
    let challenge = get("/generate_204").header("x-iroh-challenge", "ts_relay.example");
    let answer = challenge.send().await.expect("answers");
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["x-iroh-response"], "response ts_relay.example");
    let no_socket = get("/relay").send().await.expect("answers");
    assert_eq!(no_socket.status(), 400);
    let health = get("/healthz").send().await.expect("answers");
    assert_eq!(health.headers()["content-type"], "application/json");
    assert_eq!(health.text().await.expect("a body"), r#"{"status":"ok"}"#);
    assert_eq!(get("/else").send().await.expect("answers").status(), 404);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_node_is_refused() {
    let mut relay = Running::start(any_port(), None);
    let url = relay.url().await;
    let blocked = iroh::SecretKey::from_bytes(&[3; 32]);
    let key = NodeKey(*blocked.public().as_bytes());
    relay.own.send_modify(|own| own.blocked = Arc::new(HashSet::from([key])));
    let gate = Gate::new(relay.own.subscribe(), relay.directory.subscribe());
    let ask = |key: &iroh::SecretKey| {
        let (request, ()) = http_request().into_parts();
        ClientRequest::new(key.public(), Default::default(), request)
    };
    let refused = gate.on_connect(&ask(&blocked)).await;
    assert!(matches!(refused, Access::Deny { reason: Some(reason) } if reason.contains("blocked")));
    let other = iroh::SecretKey::from_bytes(&[4; 32]);
    assert_eq!(gate.on_connect(&ask(&other)).await, Access::Allow);
    // The gate is the relay's: another node comes online there.
    let other = relayed(&url).await;
    tokio::time::timeout(PATIENCE, other.online()).await.expect("in time");
    other.close().await;
    relay.stop().await;
}

fn client(n: u8) -> ClientRequest {
    let (request, ()) = http_request().into_parts();
    let key = iroh::SecretKey::from_bytes(&[n; 32]).public();
    ClientRequest::new(key, Default::default(), request)
}

#[tokio::test]
async fn strangers_leave_room_for_the_nodes_of_the_mesh() {
    let Mesh { directory, gate, .. } = Mesh::new();
    let strangers = u8::try_from(STRANGERS).expect("fits");
    let first = client(1);
    assert_eq!(gate.on_connect(&first).await, Access::Allow);
    for n in 2..=strangers {
        assert_eq!(gate.on_connect(&client(n)).await, Access::Allow, "{n}");
    }
    assert!(matches!(gate.on_connect(&client(200)).await, Access::Deny { .. }));
    let member = member(NodeKey(*client(200).endpoint_id().as_bytes()));
    directory.send_replace(Arc::new(vec![member]));
    assert_eq!(gate.on_connect(&client(200)).await, Access::Allow, "it is in the mesh now");
    assert!(matches!(gate.on_connect(&client(201)).await, Access::Deny { .. }));
    gate.on_disconnect(first.endpoint_id(), first.connection_id());
    assert_eq!(gate.on_connect(&client(201)).await, Access::Allow, "a stranger left");
}

#[tokio::test]
async fn one_node_has_a_few_connections() {
    let mesh = Mesh::new();
    let first = client(1);
    assert_eq!(mesh.gate.on_connect(&first).await, Access::Allow);
    for _ in 1..OF_ONE_NODE {
        assert_eq!(mesh.gate.on_connect(&client(1)).await, Access::Allow);
    }
    let refused = mesh.gate.on_connect(&client(1)).await;
    assert!(matches!(refused, Access::Deny { reason: Some(reason) } if reason.contains("many")));
    assert_eq!(mesh.gate.on_connect(&client(2)).await, Access::Allow, "another node");
    mesh.gate.on_disconnect(first.endpoint_id(), first.connection_id());
    assert_eq!(mesh.gate.on_connect(&client(1)).await, Access::Allow, "one ended");
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_ends_or_panics_starts_again_and_says_why() {
    let stop = CancellationToken::new();
    let (said, mut says) = tokio::sync::mpsc::channel(8);
    let lives = std::sync::atomic::AtomicU32::new(0);
    let open = || {
        let life = lives.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            let reason = "its task was gone".to_owned();
            match life {
                0 => panic!("a fault"),
                1 => Err(RelayError::Stopped { address: any_port(), reason }),
                _ => {
                    let mesh = Mesh::new();
                    start(any_port(), mesh.gate.again(), mesh.listing()).await
                }
            }
        }
    };
    let say = move |bound: Option<SocketAddr>, problem| {
        said.try_send((bound.is_some(), problem)).expect("heard");
    };
    let running = run(any_port(), open, stop.clone(), say);
    let watching = async {
        for reason in ["fault of this program", "its task was gone"] {
            let (runs, problem) = says.recv().await.expect("told");
            assert!(!runs && problem.is_some_and(|text: String| text.contains(reason)), "{reason}");
        }
        assert_eq!(says.recv().await, Some((true, None)), "it runs again, and nothing is wrong");
        stop.cancel();
    };
    tokio::join!(running, watching);
}

fn http_request() -> axum::http::Request<()> {
    axum::http::Request::new(())
}

#[tokio::test]
async fn a_port_in_use_is_told_and_the_node_goes_on() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = taken.local_addr().expect("bound");
    let mut relay = Running::start(address, None);
    let told = relay.reports.wait_for(|report| report.problem.is_some());
    let told = tokio::time::timeout(PATIENCE, told).await.expect("in time").expect("open").clone();
    let problem = told.problem.clone().expect("a reason");
    assert!(problem.contains(&address.to_string()), "{problem}");
    assert_eq!(told.url(&OwnInfo::default()), None, "nobody is sent there");
    relay.stop().await;
}

#[test]
fn the_url_for_others_is_the_owners_or_the_best_address() {
    let own = OwnInfo {
        addresses: Addresses {
            direct: ["192.168.1.5:4302", "203.0.113.7:4302", "[2001:db8::1]:4302"]
                .map(|text| text.parse().expect("an address"))
                .to_vec(),
            relays: Vec::new(),
        },
        ..OwnInfo::default()
    };
    let report = |bound: &str, configured: Option<&str>| RelayReport {
        bound: Some(bound.parse().expect("an address")),
        configured: configured.map(str::to_owned),
        problem: None,
    };
    let url = |report: RelayReport| report.url(&own);
    assert_eq!(url(report("0.0.0.0:4303", None)).as_deref(), Some("http://203.0.113.7:4303"));
    assert_eq!(url(report("10.9.9.9:4303", None)).as_deref(), Some("http://10.9.9.9:4303"));
    let configured = report("127.0.0.1:4303", Some("https://relay.example"));
    assert_eq!(url(configured).as_deref(), Some("https://relay.example"));
    assert_eq!(url(RelayReport::default()), None);
}
