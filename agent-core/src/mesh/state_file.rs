//! `mesh.json`: which mesh this node is in, whom the ticket to it named, whom its owner blocked and
//! whom they trust or own.
//!
//! It holds the secret of a private mesh, so it is 0600. It is written whole or not at all, before
//! anybody is told that something changed. A damaged file is set aside, never overwritten: the
//! owner may want the secret back.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use agent_api::{NodeId, mesh::BlockedNode};
use serde::{Deserialize, Serialize};

use super::{Addresses, MeshCard, MeshId, NodeKey, ticket::TICKET_PEERS};
use crate::{clock::now_ms, identity::write_private};

/// The version that this program writes.
const VERSION: u32 = 1;
/// Nodes that may be blocked, and nodes that may be trusted: as many as a mesh's directory holds.
pub const MARKED_NODES: usize = 4_096;
/// More cannot be ours: two full lists with names are below 1 MiB.
const FILE_BYTES: u64 = 4 << 20;
/// Name of the mesh that the first start makes.
pub const FIRST_NAME: &str = "home";

#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    #[error("cannot read {path}: {source}. Check that the file belongs to you")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} was written by a newer EdgeCoder (version {version}). Install the newer version again, or move the file away to begin with a new mesh"
    )]
    Newer { path: PathBuf, version: u32 },
    #[error("{path} is damaged and cannot be set aside: {source}")]
    SetAside { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the operating system gave no random numbers: {0}")]
    Random(String),
}

/// What the owner said about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub key: NodeKey,
    /// The name that it had then.
    pub name: String,
    pub since_ms: i64,
}

/// A node that the ticket to this mesh named: the way in until peers are saved, whatever happens
/// in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketPeer {
    pub key: NodeKey,
    pub addresses: Addresses,
    /// `None`: the ticket did not say.
    pub name: Option<String>,
}

/// What is remembered over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshMemory {
    pub card: MeshCard,
    /// The inviter first; empty if no ticket led into this mesh. At most a ticket's nodes.
    pub ticket: Vec<TicketPeer>,
    pub blocked: Vec<Mark>,
    pub trusted: Vec<Mark>,
    /// The owner's own nodes; each of them is among the trusted ones too.
    pub own: BTreeSet<NodeKey>,
}

impl MeshMemory {
    /// In another mesh, or in the same one by another name or ticket.
    pub fn enter(&mut self, card: MeshCard, ticket: Vec<TicketPeer>) {
        // A mesh's new name takes nothing away from the way into it.
        if card.id != self.card.id || !ticket.is_empty() {
            self.ticket = ticket;
            self.ticket.truncate(TICKET_PEERS + 1);
        }
        self.card = card;
    }

    /// Relays that the ticket named.
    pub fn ticket_relays(&self) -> impl Iterator<Item = &String> {
        self.ticket.iter().flat_map(|peer| &peer.addresses.relays)
    }

    pub fn is_trusted(&self, key: NodeKey) -> bool {
        self.trusted.iter().any(|mark| mark.key == key)
    }

    pub fn is_own(&self, key: NodeKey) -> bool {
        self.own.contains(&key)
    }

    /// Marks a node as trusted, or as the owner's own, which it is then too; or takes both marks
    /// away. `false`: the list is full.
    pub fn trust(&mut self, key: NodeKey, name: &str, on: bool, own: bool) -> bool {
        let room = set_mark(&mut self.trusted, key, name, on);
        if on && own && room {
            self.own.insert(key);
        } else {
            self.own.remove(&key);
        }
        room
    }

    /// For the view.
    pub fn blocked_nodes(&self) -> Vec<BlockedNode> {
        let node = |mark: &Mark| BlockedNode {
            node_id: mark.key.to_id(),
            name: mark.name.clone(),
            since_ms: mark.since_ms,
        };
        self.blocked.iter().map(node).collect()
    }
}

/// The file and what it says.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    memory: MeshMemory,
}

/// What opening found.
#[derive(Debug)]
pub struct OpenedState {
    pub file: StateFile,
    /// Where a damaged file was moved to; the node is in a new mesh then.
    pub set_aside: Option<PathBuf>,
}

impl StateFile {
    /// Reads the file, or makes one with a new private mesh.
    pub fn open(data_dir: &Path) -> Result<OpenedState, StateFileError> {
        let path = data_dir.join("mesh.json");
        let (memory, set_aside) = match read(&path)? {
            Content::Missing => (None, None),
            Content::Good(memory) => (Some(memory), None),
            Content::Damaged(reason) => {
                let aside = set_aside(&path)?;
                tracing::error!(kept = %aside.display(), "mesh.json was damaged: {reason}");
                (None, Some(aside))
            }
        };
        if let Some(memory) = memory {
            return Ok(OpenedState { file: Self { path, memory }, set_aside });
        }
        let card = new_card(FIRST_NAME.to_owned(), true)?;
        let memory = MeshMemory {
            card,
            ticket: Vec::new(),
            blocked: Vec::new(),
            trusted: Vec::new(),
            own: BTreeSet::new(),
        };
        write(&path, &memory)?;
        Ok(OpenedState { file: Self { path, memory }, set_aside })
    }

    pub fn memory(&self) -> &MeshMemory {
        &self.memory
    }

    /// The change is on disk when this returns; after an error nothing has changed.
    pub fn change(&mut self, change: impl FnOnce(&mut MeshMemory)) -> Result<(), StateFileError> {
        let mut memory = self.memory.clone();
        change(&mut memory);
        if memory == self.memory {
            return Ok(());
        }
        write(&self.path, &memory)?;
        self.memory = memory;
        Ok(())
    }
}

/// A card of a mesh that did not exist before.
pub fn new_card(name: String, private: bool) -> Result<MeshCard, StateFileError> {
    let id = MeshId(random()?);
    let secret = if private { Some(random()?) } else { None };
    Ok(MeshCard { id, name, secret, settled: false })
}

fn random() -> Result<[u8; 32], StateFileError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| StateFileError::Random(e.to_string()))?;
    Ok(bytes)
}

/// Adds or takes away a mark. `false`: the list is full.
pub fn set_mark(list: &mut Vec<Mark>, key: NodeKey, name: &str, on: bool) -> bool {
    if !on {
        list.retain(|mark| mark.key != key);
        return true;
    }
    if list.iter().any(|mark| mark.key == key) {
        return true;
    }
    if list.len() >= MARKED_NODES {
        return false;
    }
    list.push(Mark { key, name: name.to_owned(), since_ms: now_ms() });
    true
}

enum Content {
    Missing,
    Good(MeshMemory),
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    card: CardOnDisk,
    #[serde(default)]
    ticket: Vec<TicketPeerOnDisk>,
    #[serde(default)]
    blocked: Vec<MarkOnDisk>,
    #[serde(default)]
    trusted: Vec<MarkOnDisk>,
}

#[derive(Serialize, Deserialize)]
struct CardOnDisk {
    id: String,
    name: String,
    secret: Option<String>,
    settled: bool,
}

#[derive(Serialize, Deserialize)]
struct TicketPeerOnDisk {
    node_id: NodeId,
    addresses: Addresses,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct MarkOnDisk {
    node_id: NodeId,
    #[serde(default)]
    name: String,
    since_ms: i64,
    /// Of trusted nodes only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    own: bool,
}

/// Only the version, so that a newer shape is told apart from a damaged one.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

fn read(path: &Path) -> Result<Content, StateFileError> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Content::Missing),
        Err(source) => return Err(StateFileError::Read { path: path.to_path_buf(), source }),
    };
    if length > FILE_BYTES {
        return Ok(Content::Damaged(format!("it has {length} bytes")));
    }
    let bytes = fs::read(path)
        .map_err(|source| StateFileError::Read { path: path.to_path_buf(), source })?;
    decode(path, &bytes)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Content, StateFileError> {
    match serde_json::from_slice::<VersionOnly>(bytes) {
        Ok(VersionOnly { version }) if version > VERSION => {
            return Err(StateFileError::Newer { path: path.to_path_buf(), version });
        }
        Ok(_) => {}
        Err(e) => return Ok(Content::Damaged(e.to_string())),
    }
    match serde_json::from_slice::<OnDisk>(bytes) {
        Ok(disk) => {
            Ok(from_disk(disk).map_or_else(|what| Content::Damaged(what.into()), Content::Good))
        }
        Err(e) => Ok(Content::Damaged(e.to_string())),
    }
}

fn write(path: &Path, memory: &MeshMemory) -> Result<(), StateFileError> {
    let error = |source| StateFileError::Write { path: path.to_path_buf(), source };
    let text = serde_json::to_vec_pretty(&to_disk(memory)).map_err(|e| error(e.into()))?;
    write_private(path, &text).map_err(error)
}

fn set_aside(path: &Path) -> Result<PathBuf, StateFileError> {
    let aside = path.with_file_name(format!("mesh.json.damaged-{}", now_ms()));
    fs::rename(path, &aside)
        .map_err(|source| StateFileError::SetAside { path: path.to_path_buf(), source })?;
    Ok(aside)
}

fn to_disk(memory: &MeshMemory) -> OnDisk {
    let marks = |list: &[Mark], own: bool| {
        let mark = |mark: &Mark| MarkOnDisk {
            node_id: mark.key.to_id(),
            name: mark.name.clone(),
            since_ms: mark.since_ms,
            own: own && memory.is_own(mark.key),
        };
        list.iter().map(mark).collect()
    };
    let ticket = memory.ticket.iter().map(|peer| TicketPeerOnDisk {
        node_id: peer.key.to_id(),
        addresses: peer.addresses.clone(),
        name: peer.name.clone(),
    });
    OnDisk {
        version: VERSION,
        card: CardOnDisk {
            id: hex::encode(memory.card.id.0),
            name: memory.card.name.clone(),
            secret: memory.card.secret.map(hex::encode),
            settled: memory.card.settled,
        },
        ticket: ticket.collect(),
        blocked: marks(&memory.blocked, false),
        trusted: marks(&memory.trusted, true),
    }
}

fn from_disk(disk: OnDisk) -> Result<MeshMemory, &'static str> {
    let secret = match &disk.card.secret {
        Some(secret) => Some(bytes_32(secret).ok_or("the secret is not 64 hexadecimal digits")?),
        None => None,
    };
    let card = MeshCard {
        id: MeshId(bytes_32(&disk.card.id).ok_or("the id is not 64 hexadecimal digits")?),
        name: disk.card.name,
        secret,
        settled: disk.card.settled,
    };
    let ticket = disk.ticket.into_iter().take(TICKET_PEERS + 1).filter_map(|peer| {
        let key = NodeKey::from_id(&peer.node_id)?;
        Some(TicketPeer { key, addresses: peer.addresses, name: peer.name })
    });
    let own = disk.trusted.iter().filter(|mark| mark.own).take(MARKED_NODES);
    let own = own.filter_map(|mark| NodeKey::from_id(&mark.node_id)).collect();
    Ok(MeshMemory {
        card,
        ticket: ticket.collect(),
        own,
        blocked: marks(disk.blocked)?,
        trusted: marks(disk.trusted)?,
    })
}

fn marks(list: Vec<MarkOnDisk>) -> Result<Vec<Mark>, &'static str> {
    let mark = |mark: MarkOnDisk| {
        let key = NodeKey::from_id(&mark.node_id).ok_or("a node id is not a key")?;
        Ok(Mark { key, name: mark.name, since_ms: mark.since_ms })
    };
    list.into_iter().take(MARKED_NODES).map(mark).collect()
}

fn bytes_32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(dir: &Path) -> OpenedState {
        StateFile::open(dir).expect("opens")
    }

    #[test]
    fn the_first_start_makes_a_private_unsettled_mesh_that_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = open(dir.path()).file.memory().card.clone();
        assert_eq!(first.name, "home");
        assert!(first.secret.is_some() && !first.settled);
        assert_eq!(open(dir.path()).file.memory().card, first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join("mesh.json");
            let mode = fs::metadata(path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn blocked_and_trusted_nodes_are_remembered() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut file = open(dir.path()).file;
        let (bad, good) = (NodeKey([1; 32]), NodeKey([2; 32]));
        file.change(|memory| {
            assert!(set_mark(&mut memory.blocked, bad, "attic", true));
            assert!(set_mark(&mut memory.trusted, good, "desk", true));
        })
        .expect("writes");
        let memory = open(dir.path()).file.memory().clone();
        assert_eq!(&memory, file.memory());
        assert_eq!(memory.blocked_nodes()[0].name, "attic");
        assert!(memory.is_trusted(good) && !memory.is_trusted(bad));
        file.change(|memory| {
            assert!(set_mark(&mut memory.blocked, bad, "", false));
        })
        .expect("writes");
        assert!(open(dir.path()).file.memory().blocked.is_empty());
    }

    #[test]
    fn own_nodes_are_trusted_too_and_remembered_as_own() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut file = open(dir.path()).file;
        let (desk, friend) = (NodeKey([1; 32]), NodeKey([2; 32]));
        file.change(|memory| {
            assert!(memory.trust(desk, "desk", true, true));
            assert!(memory.trust(friend, "friend", true, false));
        })
        .expect("writes");
        let memory = open(dir.path()).file.memory().clone();
        assert_eq!(&memory, file.memory());
        assert!(memory.is_own(desk) && memory.is_trusted(desk));
        assert!(!memory.is_own(friend) && memory.is_trusted(friend));
        file.change(|memory| assert!(memory.trust(desk, "desk", true, false))).expect("writes");
        let memory = open(dir.path()).file.memory().clone();
        assert!(!memory.is_own(desk) && memory.is_trusted(desk), "only trusted now");
        file.change(|memory| {
            memory.trust(desk, "desk", true, true);
            assert!(memory.trust(desk, "desk", false, true));
        })
        .expect("writes");
        let memory = open(dir.path()).file.memory().clone();
        assert!(!memory.is_own(desk) && !memory.is_trusted(desk));
    }

    #[test]
    fn a_file_from_before_there_were_own_nodes_is_read() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut file = open(dir.path()).file;
        let desk = NodeKey([1; 32]);
        file.change(|memory| assert!(memory.trust(desk, "desk", true, false))).expect("writes");
        let text = fs::read_to_string(dir.path().join("mesh.json")).expect("reads");
        assert!(!text.contains("\"own\""), "as it was written before: {text}");
        let memory = open(dir.path()).file.memory().clone();
        assert!(memory.is_trusted(desk) && memory.own.is_empty());
    }

    #[test]
    fn the_way_that_a_ticket_named_is_kept_until_another_mesh_is_entered() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut file = open(dir.path()).file;
        let card = new_card("club".to_owned(), true).expect("random");
        let addresses = Addresses {
            direct: vec!["203.0.113.7:4302".parse().expect("an address")],
            relays: vec!["https://relay.example".to_owned()],
        };
        let peer = TicketPeer { key: NodeKey([7; 32]), addresses, name: Some("desk".to_owned()) };
        file.change(|memory| memory.enter(card.clone(), vec![peer.clone()])).expect("writes");
        let renamed = MeshCard { name: "the club".to_owned(), ..card };
        file.change(|memory| memory.enter(renamed, Vec::new())).expect("writes");
        let mut file = open(dir.path()).file;
        assert_eq!(file.memory().ticket, [peer]);
        assert_eq!(file.memory().ticket_relays().collect::<Vec<_>>(), ["https://relay.example"]);
        let other = new_card("home".to_owned(), true).expect("random");
        file.change(|memory| memory.enter(other, Vec::new())).expect("writes");
        assert_eq!(open(dir.path()).file.memory().ticket, []);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_kept() {
        for text in ["", "{", "{\"version\":1}", "{\"version\":1,\"card\":{\"id\":\"00\"}}"] {
            let dir = tempfile::tempdir().expect("temp dir");
            fs::write(dir.path().join("mesh.json"), text).expect("writes");
            let opened = open(dir.path());
            let aside = opened.set_aside.expect("says where it is");
            assert_eq!(fs::read_to_string(aside).expect("reads"), text);
            assert_eq!(opened.file.memory().card.name, "home");
        }
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("mesh.json");
        let text = "{\"version\":2,\"rooms\":[]}";
        fs::write(&path, text).expect("writes");
        let error = StateFile::open(dir.path()).expect_err("refused");
        assert!(matches!(error, StateFileError::Newer { version: 2, .. }));
        assert_eq!(fs::read_to_string(&path).expect("reads"), text);
    }

    #[test]
    fn a_change_that_cannot_be_written_changes_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut file = open(dir.path()).file;
        let before = file.memory().clone();
        file.path = dir.path().join("no such folder").join("mesh.json");
        let error = file.change(|memory| memory.card.settled = true).expect_err("no folder");
        assert!(matches!(error, StateFileError::Write { .. }));
        assert_eq!(file.memory(), &before);
    }

    /// What is good can be written and read again.
    fn read_back(bytes: &[u8]) {
        let path = Path::new("mesh.json");
        let Ok(Content::Good(memory)) = decode(path, bytes) else { return };
        let again = serde_json::to_vec(&to_disk(&memory)).expect("serializes");
        let Ok(Content::Good(read)) = decode(path, &again) else { panic!("it is good") };
        assert_eq!(read, memory);
        assert!(memory.ticket.len() <= TICKET_PEERS + 1 && memory.trusted.len() <= MARKED_NODES);
    }

    fn full() -> Vec<u8> {
        let card = new_card("home".to_owned(), true).expect("random");
        let key = NodeKey([3; 32]);
        let addresses = Addresses {
            direct: vec!["10.0.0.1:4302".parse().expect("an address")],
            relays: vec!["https://relay.example".to_owned()],
        };
        let mark = Mark { key, name: "desk".to_owned(), since_ms: 7 };
        let memory = MeshMemory {
            card,
            ticket: vec![TicketPeer { key, addresses, name: None }],
            blocked: vec![mark.clone()],
            trusted: vec![mark],
            own: BTreeSet::from([key]),
        };
        serde_json::to_vec_pretty(&to_disk(&memory)).expect("serializes")
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_memory(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!matches!(decode(Path::new("mesh.json"), &bytes), Ok(Content::Good(_))));
        }

        #[test]
        fn a_changed_file_is_damaged_or_read_whole(
            changes in proptest::collection::vec(any::<(usize, u8)>(), 0..4),
            cut in 0_usize..50,
        ) {
            let mut bytes = full();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            read_back(&bytes);
            bytes.truncate(bytes.len() - cut);
            read_back(&bytes);
        }
    }
}
