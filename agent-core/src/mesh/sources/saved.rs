//! Peers of earlier days: how a node finds its mesh again when no seed is left.

use std::time::Duration;

use agent_api::mesh::{SourceKind, SourceState};

use super::turn::{Turn, Woken};
use crate::{
    backoff::Backoff,
    clock::now_ms,
    mesh::{Addresses, MeshId, NodeKey, addr::Loopback},
    storage::{SaveMeshPeer, SavedPeer, Storage, list_mesh_peers},
};

/// Peers handed over at once: as many as the driver dials at the same time.
const BATCH: usize = 8;
/// Time for the dials of a batch to work out or fail.
const BATCH_WAIT: Duration = Duration::from_secs(10);
/// Between two rounds through the table while this node stays alone.
const FIRST_ROUND: Duration = Duration::from_secs(60);
const LAST_ROUND: Duration = Duration::from_secs(15 * 60);
/// While peers are connected nothing is to be done; the task only waits for that to end.
const REST: Duration = Duration::from_secs(60 * 60);
/// Longest name that is kept, in bytes; the bound of announcements.
const NAME_BYTES: usize = 64;

pub(super) async fn run(mut turn: Turn, storage: Storage) {
    const KIND: SourceKind = SourceKind::Saved;
    let mut rounds = Backoff::new(FIRST_ROUND, LAST_ROUND);
    loop {
        let wait = if !turn.settings().enabled {
            turn.say(KIND, SourceState::Off, "The mesh is off.");
            REST
        } else {
            let mesh = turn.card.borrow().id;
            match list_mesh_peers(storage.readers(), &mesh.0).await {
                Ok(rows) if rows.is_empty() => {
                    let reason =
                        "No peer of this mesh is saved yet. Peers are saved as they connect.";
                    turn.say(KIND, SourceState::Waiting, reason);
                    rounds.next_wait()
                }
                Ok(rows) if !turn.alone() => {
                    let kept = match rows.len() {
                        1 => "One peer is".to_owned(),
                        count => format!("{count} peers are"),
                    };
                    let reason = format!("{kept} kept for the next start.");
                    turn.say(KIND, SourceState::Working, reason);
                    REST
                }
                Ok(rows) => match offer_all(&mut turn, rows).await {
                    Some(Woken::Stop) => return,
                    Some(_) => {
                        rounds.reset();
                        continue;
                    }
                    None => rounds.next_wait(),
                },
                Err(error) => {
                    let reason = format!("Saved peers cannot be read: {error}.");
                    turn.say(KIND, SourceState::Failed, reason);
                    rounds.next_wait()
                }
            }
        };
        match turn.wait(wait).await {
            Woken::Stop => return,
            Woken::Time | Woken::Addresses => {}
            Woken::Asked | Woken::Settings | Woken::Company => rounds.reset(),
        }
    }
}

/// Newest first, a few at a time, until a peer is connected. `Some`: something woke it that is more
/// than the first peer.
async fn offer_all(turn: &mut Turn, rows: Vec<SavedPeer>) -> Option<Woken> {
    let total = rows.len();
    let mut offered = 0;
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        if !turn.alone() {
            break;
        }
        for row in rows.by_ref().take(BATCH) {
            offered += 1;
            let Some((peer, addresses)) = parse(&row) else { continue };
            let name = Some(row.name).filter(|name| !name.is_empty());
            turn.offer(SourceKind::Saved, peer, addresses, name);
        }
        let reason = format!("{offered} of {total} saved peers were tried, the newest first.");
        turn.say(SourceKind::Saved, SourceState::Working, reason);
        if rows.peek().is_none() {
            break;
        }
        match turn.wait(BATCH_WAIT).await {
            Woken::Time | Woken::Company | Woken::Addresses => {}
            woken => return Some(woken),
        }
    }
    None
}

fn parse(row: &SavedPeer) -> Option<(NodeKey, Addresses)> {
    let peer = NodeKey(row.node.as_slice().try_into().ok()?);
    let addresses: Addresses = serde_json::from_str(&row.addresses).ok()?;
    Some((peer, addresses.cleaned(Loopback::Allowed)))
}

/// Hands a row to the database without waiting.
pub(super) fn save(
    storage: &Storage,
    mesh: MeshId,
    peer: NodeKey,
    addresses: Addresses,
    mut name: String,
) {
    let addresses = addresses.cleaned(Loopback::Allowed);
    let Ok(addresses) = serde_json::to_string(&addresses) else { return };
    name.truncate(name.floor_char_boundary(NAME_BYTES));
    let (mesh, node) = (mesh.0.to_vec(), peer.0.to_vec());
    let row = SavedPeer { node, name, addresses, seen_ms: now_ms() };
    storage.write_behind(SaveMeshPeer { mesh, row });
}
