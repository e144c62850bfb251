//! Several real nodes in one mesh, each in a process of its own with a home of its own.
//!
//! Tests run at the same time on one computer, so nodes of a cluster do not look for others on the
//! network and listen on loopback only; they come together by ticket, as their owners would do it.

use std::{
    fmt::Write as _,
    future::Future,
    time::{Duration, Instant},
};

use agent_api::{
    NodeId,
    mesh::{Invite, Mesh, Peer, PeerDetails, PeerList, PeerState},
};
use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::{
    http::Http,
    node::{Options, POLL, TestNode},
    programs::PATIENCE,
};

/// Lines of a node's log that are shown when a wait fails.
const LOG_TAIL: usize = 30;
/// Two connections that were dialed at once are told apart, and one is closed, within that time.
const SETTLED_MS: i64 = 6_000;

/// Where a member of a cluster listens for the mesh: this computer only, any free port.
pub const LOOPBACK: [&str; 2] = ["--mesh-listen", "127.0.0.1:0"];

/// A seed on this computer: relay and DHT on any free ports.
pub const SEED: [&str; 5] =
    ["--seed", "--relay-listen", "127.0.0.1:0", "--dht-listen", "127.0.0.1:0"];

/// Nodes in the order in which they were added. Their numbers stay when others go.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    patience: Duration,
}

#[derive(Debug)]
struct Member {
    name: String,
    node_id: NodeId,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Up(Box<TestNode>),
    /// Its home is kept for a restart.
    Down(Box<Options>),
    Removed,
}

/// What one node knows of its mesh at one moment.
#[derive(Clone, Debug)]
pub struct View {
    pub name: String,
    pub node_id: NodeId,
    pub mesh: Mesh,
    pub peers: Vec<Peer>,
}

impl View {
    pub async fn of(name: &str, node: &TestNode) -> Result<Self> {
        Self::through(&node.http, name, &NodeId(node.node_id.clone())).await
    }

    async fn through(http: &Http, name: &str, node_id: &NodeId) -> Result<Self> {
        let mesh = http.get("/mesh").await?;
        let peers = http.get::<PeerList>("/mesh/peers").await?.peers;
        Ok(Self { name: name.to_owned(), node_id: node_id.clone(), mesh, peers })
    }

    pub fn peer(&self, id: &NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.node_id == *id)
    }

    pub fn is_connected(&self, id: &NodeId) -> bool {
        self.peer(id).is_some_and(|peer| peer.connected)
    }

    /// Whether these, and nobody else, are connected; this node's own id is passed over.
    pub fn is_connected_to_just(&self, ids: &[NodeId]) -> bool {
        let others = ids.iter().filter(|id| **id != self.node_id);
        let connected = self.peers.iter().filter(|peer| peer.connected).count();
        connected == others.clone().count() && others.clone().all(|id| self.is_connected(id))
    }

    /// Whether it knows these from their own recent word, connected or not.
    pub fn knows_all(&self, ids: &[NodeId]) -> bool {
        ids.iter().filter(|id| **id != self.node_id).all(|id| {
            self.peer(id).is_some_and(|peer| {
                peer.announcement.is_some()
                    && matches!(peer.state, PeerState::Connected | PeerState::Known)
            })
        })
    }

    /// Messages refused for this reason.
    pub fn refused(&self, reason: &str) -> u64 {
        self.mesh.refused.iter().filter(|r| r.reason == reason).map(|r| r.count).sum()
    }
}

/// How a member is started: on loopback, without a model, finding nobody by itself. `mesh` changes
/// or adds settings of the mesh.
pub fn member(name: &str, mesh: Value) -> Options {
    with_settings(Options::default().without_model(), name, mesh).args(LOOPBACK)
}

/// Writes the settings of a member: quiet on the network, and `mesh` on top.
pub fn with_settings(options: Options, name: &str, mesh: Value) -> Options {
    let mut settings = json!({
        "version": 1,
        "node_name": name,
        "mesh": { "lan": false, "port_mapping": false },
    });
    if let (Value::Object(more), Some(own)) = (mesh, settings["mesh"].as_object_mut()) {
        own.extend(more);
    }
    options.file("settings.json", settings.to_string().as_bytes())
}

impl Cluster {
    /// Nobody yet.
    #[expect(clippy::new_without_default, reason = "an empty cluster is asked for by name")]
    pub fn new() -> Self {
        Self { members: Vec::new(), patience: PATIENCE }
    }

    /// Waits this long for what it waits for, instead of [`PATIENCE`]: where the protocol itself
    /// takes its time.
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// This many nodes in one mesh, all connected with each other.
    ///
    /// # Errors
    /// A node does not start, or they do not find together in time; the text shows each one's view.
    pub async fn of(count: usize) -> Result<Self> {
        let cluster = Self::started(count, |_, options| options).await?;
        cluster.form().await?;
        Ok(cluster)
    }

    /// Nodes that run but were not brought together. `change` sees each one's number and options.
    pub async fn started(count: usize, change: impl Fn(usize, Options) -> Options) -> Result<Self> {
        let names: Vec<String> = (0..count).map(|n| format!("node-{n}")).collect();
        let with = |(n, name): (usize, &String)| change(n, member(name, json!({})));
        let options: Vec<Options> = names.iter().enumerate().map(with).collect();
        let nodes = try_join_all(options.into_iter().map(start)).await?;
        let members = names.into_iter().zip(nodes).map(|(name, node)| Member::up(name, node));
        Ok(Self { members: members.collect(), patience: PATIENCE })
    }

    /// Everybody joins the first node's mesh by its ticket; waits until all are connected.
    pub async fn form(&self) -> Result<()> {
        let ticket = self.invite(0).await?;
        let others = self.running().filter(|n| *n != 0);
        try_join_all(others.map(|n| self.join(n, &ticket))).await?;
        self.until_whole().await
    }

    /// Waits until every running node is connected with every other and has its word.
    pub async fn until_whole(&self) -> Result<()> {
        let ids = self.running_ids();
        let whole = |view: &View| view.is_connected_to_just(&ids) && view.knows_all(&ids);
        self.until_each("every node is connected with every other", whole).await
    }

    /// As [`Self::until_whole`], and of connections that were dialed by both ends at once one has
    /// given way: from now on a new one is one too many.
    pub async fn until_settled(&self) -> Result<()> {
        self.until_whole().await?;
        let old = |view: &View| {
            let since = view.peers.iter().filter_map(|peer| peer.connected_since_ms);
            since.max().is_some_and(|newest| view.mesh.at_ms - newest >= SETTLED_MS)
        };
        self.until_each("no connection is new", old).await
    }

    /// Numbers of the running nodes.
    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|n| matches!(self.members[*n].process, Process::Up(_)))
    }

    pub fn running_ids(&self) -> Vec<NodeId> {
        self.running().map(|n| self.id(n)).collect()
    }

    pub fn id(&self, number: usize) -> NodeId {
        self.members[number].node_id.clone()
    }

    pub fn name(&self, number: usize) -> &str {
        &self.members[number].name
    }

    /// A running node.
    ///
    /// # Panics
    /// It does not run.
    pub fn node(&self, number: usize) -> &TestNode {
        match &self.members[number].process {
            Process::Up(node) => node,
            other => panic!("node {number} does not run: {other:?}"),
        }
    }

    pub fn http(&self, number: usize) -> &Http {
        &self.node(number).http
    }

    pub async fn view(&self, number: usize) -> Result<View> {
        let member = &self.members[number];
        View::through(self.http(number), &member.name, &member.node_id).await
    }

    /// One node's details of another.
    pub async fn details(&self, number: usize, of: usize) -> Result<PeerDetails> {
        self.http(number).get(&format!("/agent-mesh/peers/{}", self.id(of).0)).await
    }

    /// A ticket from this node.
    pub async fn invite(&self, number: usize) -> Result<String> {
        let invite: Invite = self.http(number).post("/mesh/invite", &json!({})).await?;
        Ok(invite.ticket)
    }

    pub async fn join(&self, number: usize, ticket: &str) -> Result<Mesh> {
        self.http(number).post("/mesh/join", &json!({ "ticket": ticket })).await
    }

    /// Starts one more node, outside of the mesh; gives its number.
    pub async fn add(&mut self, options: Options) -> Result<usize> {
        let node = start(options).await?;
        let number = self.members.len();
        let settings: agent_api::settings::SettingsView = node.http.get("/settings").await?;
        self.members.push(Member::up(settings.settings.node_name, node));
        Ok(number)
    }

    /// Starts one more node and brings it in with a ticket from `by`.
    pub async fn add_with_ticket(&mut self, by: usize) -> Result<usize> {
        let ticket = self.invite(by).await?;
        let name = format!("node-{}", self.members.len());
        let number = self.add(member(&name, json!({}))).await?;
        self.join(number, &ticket).await?;
        Ok(number)
    }

    /// kill -9; the home stays.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        let options = self.take(number)?.kill()?;
        self.members[number].process = Process::Down(Box::new(options));
        Ok(())
    }

    /// An orderly end, with goodbye; the home stays.
    pub fn stop(&mut self, number: usize) -> Result<()> {
        let (status, options) = self.take(number)?.stop()?;
        self.members[number].process = Process::Down(Box::new(options));
        anyhow::ensure!(status.success(), "node {number} ended with {status}");
        Ok(())
    }

    /// kill -9; the home goes too.
    pub fn remove(&mut self, number: usize) -> Result<()> {
        self.take(number)?.kill().map(|_| ())
    }

    /// Starts a node again with the home that it had.
    pub async fn restart(&mut self, number: usize) -> Result<()> {
        self.restart_with(number, |options| options).await
    }

    /// Starts a node again; `change` may edit what is in its home, or how it is started.
    pub async fn restart_with(
        &mut self,
        number: usize,
        change: impl FnOnce(Options) -> Options,
    ) -> Result<()> {
        let member = &mut self.members[number];
        let down = match std::mem::replace(&mut member.process, Process::Removed) {
            Process::Down(options) => change(*options),
            other => {
                member.process = other;
                bail!("node {number} is not down");
            }
        };
        let node = start(down).await?;
        self.members[number].node_id = NodeId(node.node_id.clone());
        self.members[number].process = Process::Up(Box::new(node));
        Ok(())
    }

    fn take(&mut self, number: usize) -> Result<TestNode> {
        let member = &mut self.members[number];
        match std::mem::replace(&mut member.process, Process::Removed) {
            Process::Up(node) => Ok(*node),
            other => {
                member.process = other;
                bail!("node {number} does not run")
            }
        }
    }

    /// Waits until it holds at one node.
    pub async fn until(
        &self,
        number: usize,
        what: &str,
        holds: impl Fn(&View) -> bool,
    ) -> Result<View> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.view(number).await {
                Ok(view) if holds(&view) => return Ok(view),
                Ok(_) => {}
                Err(error) => bail!(
                    "{} does not answer while it should come to: {what}: {error:#}\n{}",
                    self.name(number),
                    self.report().await
                ),
            }
            if Instant::now() > deadline {
                let name = self.name(number);
                bail!("waited in vain at {name}: {what}\n{}", self.report().await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until it holds at every running node, then makes sure that it holds at all of them in
    /// one round. Nodes are asked one after another, so that waiting costs them little.
    pub async fn until_each(&self, what: &str, holds: impl Fn(&View) -> bool) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            for number in self.running() {
                self.until(number, what, &holds).await?;
            }
            let views = try_join_all(self.running().map(|number| self.view(number))).await?;
            if views.iter().all(&holds) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("it holds at each node, but never at all: {what}\n{}", self.report().await);
            }
        }
    }

    /// Waits for something else than views; the report is the same.
    pub async fn eventually<F: Future<Output = Result<bool>>>(
        &self,
        what: &str,
        mut holds: impl FnMut() -> F,
    ) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        while !holds().await? {
            if Instant::now() > deadline {
                bail!("waited in vain: {what}\n{}", self.report().await);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Each node's view and the end of its log, for a person to read.
    pub async fn report(&self) -> String {
        let mut text = String::new();
        for (number, member) in self.members.iter().enumerate() {
            match &member.process {
                Process::Up(node) => report_node(&mut text, member, node).await,
                Process::Down(_) => line(&mut text, &format!("== {} is down", member.name)),
                Process::Removed => line(&mut text, &format!("== node {number} was removed")),
            }
        }
        text
    }
}

impl Member {
    fn up(name: String, node: TestNode) -> Self {
        let node_id = NodeId(node.node_id.clone());
        Self { name, node_id, process: Process::Up(Box::new(node)) }
    }
}

async fn report_node(text: &mut String, member: &Member, node: &TestNode) {
    let (name, id) = (&member.name, &member.node_id.0[..10]);
    match View::through(&node.http, name, &member.node_id).await {
        Ok(View { mesh, peers, .. }) => {
            let what = format!("{:?} in {} ({})", mesh.state, mesh.name, &mesh.mesh_id);
            line(text, &format!("== {name} {id}: {what}: {}", mesh.reason));
            line(text, &format!("   {:?} refused {:?}", mesh.counts, mesh.refused));
            line(text, &format!("   own {:?}", mesh.own));
            for peer in peers {
                let Peer { name, state, path, address, problem, sources, .. } = peer;
                let spoke = peer.announcement.is_some();
                line(
                    text,
                    &format!(
                        "   - {name} {state:?} {path:?} {address:?} spoke: {spoke} from {sources:?} {problem:?}"
                    ),
                );
            }
        }
        Err(error) => line(text, &format!("== {name} {id} does not answer: {error:#}")),
    }
    let log = node.log();
    let lines: Vec<&str> = log.lines().collect();
    for log_line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
        line(text, &format!("   | {log_line}"));
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

async fn start(options: Options) -> Result<TestNode> {
    tokio::task::spawn_blocking(move || options.start()).await.context("starting a node")?
}
