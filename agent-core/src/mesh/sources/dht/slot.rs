//! What the DHT holds of a mesh: a few small lists of nodes.
//!
//! BitTorrent's own way, announcing an address under an info hash (BEP 5), names no key, and a node
//! is dialed by its key. A mutable item (BEP 44) holds 1,000 bytes of the writer's choice, signed by
//! a key that reader and writer must know. So the members of a mesh derive one such key from what
//! they share, the mesh's id and, if it is private, its secret:
//!
//! ```text
//! info  = first 20 bytes of blake3("edgecoder/dht/1" + id)
//! key   = blake3 derive_key("edgecoder 2026 dht slot v1", info + id + secret)   an Ed25519 seed
//! salt  = "1" + day (u32, big-endian, days since 1970) + slot (one byte, 0 to 15)
//! value = postcard of up to 5 entries, each signed by the node that it is about
//! ```
//!
//! A node writes into the slot that its key falls into, beside the newest entries there. Strangers
//! cannot find the items of a private mesh. In a public one anybody can overwrite a slot, but not
//! invent an entry, and no longer than to the day's end, when the salt changes; other sources do
//! not notice. Whoever stores an item sees keys and addresses of a few nodes, not of which mesh.

use std::net::SocketAddr;

use ed25519_dalek::{Signature, VerifyingKey};
use mainline::SigningKey;
use serde::{Deserialize, Serialize};

use crate::{
    clock::DAY_MS,
    mesh::{
        Addresses, MeshCard, NodeKey,
        addr::{Loopback, is_local},
    },
};

/// Slots of a mesh: room for 80 nodes, of which any one is enough to join.
pub(in crate::mesh::sources) const SLOTS: u8 = 16;
/// Entries per slot; with the addresses below they fit a value.
const ENTRIES: usize = 5;
/// Largest value of BEP 44, in bytes.
const VALUE_BYTES: usize = 1_000;
/// Per entry: what fits. Public addresses go first.
const DIRECT: usize = 4;
const RELAYS: usize = 1;
/// An entry of a node that was not renewed for so long is dropped. Nodes renew within half an hour.
const MAX_AGE_MS: i64 = DAY_MS;
/// Clocks differ.
const FUTURE_MS: i64 = 120_000;
const VERSION: u8 = 1;
const INFO_PREFIX: &[u8] = b"edgecoder/dht/1";
const SIGNED_PREFIX: &[u8] = b"edgecoder/dht/entry/1\0";

/// A node as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mesh::sources) struct Entry {
    pub key: NodeKey,
    pub at_ms: i64,
    pub addresses: Addresses,
    signed: SignedEntry,
}

/// The bytes that a node signed, passed on as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SignedEntry {
    body: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Body {
    key: [u8; 32],
    at_ms: i64,
    direct: Vec<SocketAddr>,
    relays: Vec<String>,
}

/// Where a mesh's items are, and how they are written.
#[derive(Clone, Debug)]
pub(in crate::mesh::sources) struct Shelf {
    signing: SigningKey,
}

impl Shelf {
    pub(in crate::mesh::sources) fn of(card: &MeshCard) -> Self {
        let info = blake3::Hasher::new().update(INFO_PREFIX).update(&card.id.0).finalize();
        let seed = blake3::Hasher::new_derive_key("edgecoder 2026 dht slot v1")
            .update(&info.as_bytes()[..20])
            .update(&card.id.0)
            .update(card.secret.as_ref().map_or(&[][..], |secret| secret))
            .finalize();
        Self { signing: SigningKey::from_bytes(seed.as_bytes()) }
    }

    pub(in crate::mesh::sources) fn signing(&self) -> SigningKey {
        self.signing.clone()
    }

    pub(in crate::mesh::sources) fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// Signs what this node says of itself.
    pub(in crate::mesh::sources) fn own_entry(
        &self,
        secret: &iroh::SecretKey,
        addresses: &Addresses,
        now_ms: i64,
    ) -> Option<Entry> {
        let key = NodeKey(*secret.public().as_bytes());
        let mut direct = addresses.cleaned(Loopback::Allowed).direct;
        direct.sort_by_key(|address| is_local(address.ip()));
        direct.truncate(DIRECT);
        let relays: Vec<String> = addresses.relays.iter().take(RELAYS).cloned().collect();
        let addresses = Addresses { direct, relays };
        let body = Body {
            key: key.0,
            at_ms: now_ms,
            direct: addresses.direct.clone(),
            relays: addresses.relays.clone(),
        };
        let body = postcard::to_stdvec(&body).ok()?;
        let signature = secret.sign(&self.signed_bytes(&body)).to_bytes().to_vec();
        Some(Entry { key, at_ms: now_ms, addresses, signed: SignedEntry { body, signature } })
    }

    /// The value to store: the newest entries that fit, in one slot.
    pub(in crate::mesh::sources) fn encode(&self, mut entries: Vec<Entry>) -> Option<Vec<u8>> {
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.at_ms));
        entries.truncate(ENTRIES);
        while !entries.is_empty() {
            let signed: Vec<&SignedEntry> = entries.iter().map(|entry| &entry.signed).collect();
            let value = postcard::to_stdvec(&(VERSION, signed)).ok()?;
            if value.len() <= VALUE_BYTES {
                return Some(value);
            }
            entries.pop();
        }
        None
    }

    /// The entries of a value that a node of this mesh can have signed within the last day. All
    /// else in it is passed over.
    pub(in crate::mesh::sources) fn decode(&self, value: &[u8], now_ms: i64) -> Vec<Entry> {
        if value.len() > VALUE_BYTES {
            return Vec::new();
        }
        let Ok((VERSION, signed)) = postcard::from_bytes::<(u8, Vec<SignedEntry>)>(value) else {
            return Vec::new();
        };
        signed.into_iter().take(ENTRIES).filter_map(|one| self.read(one, now_ms)).collect()
    }

    fn read(&self, signed: SignedEntry, now_ms: i64) -> Option<Entry> {
        let body: Body = postcard::from_bytes(&signed.body).ok()?;
        let in_time = body.at_ms >= now_ms.saturating_sub(MAX_AGE_MS)
            && body.at_ms <= now_ms.saturating_add(FUTURE_MS);
        let key = VerifyingKey::from_bytes(&body.key).ok()?;
        let signature = Signature::from_slice(&signed.signature).ok()?;
        key.verify_strict(&self.signed_bytes(&signed.body), &signature)
            .ok()
            .filter(|()| in_time)?;
        let addresses = Addresses { direct: body.direct, relays: body.relays };
        let addresses = addresses.cleaned(Loopback::Allowed);
        Some(Entry { key: NodeKey(body.key), at_ms: body.at_ms, addresses, signed })
    }

    /// An entry of one mesh is none of another.
    fn signed_bytes(&self, body: &[u8]) -> Vec<u8> {
        [SIGNED_PREFIX, &self.public(), body].concat()
    }
}

/// The slot that a node writes.
pub(in crate::mesh::sources) fn slot_of(key: NodeKey) -> u8 {
    blake3::hash(&key.0).as_bytes()[0] % SLOTS
}

pub(in crate::mesh::sources) fn day_of(now_ms: i64) -> u32 {
    u32::try_from(now_ms.div_euclid(DAY_MS)).unwrap_or(0)
}

pub(in crate::mesh::sources) fn salt(day: u32, slot: u8) -> [u8; 6] {
    let [a, b, c, d] = day.to_be_bytes();
    [b'1', a, b, c, d, slot]
}

/// One entry per node, its newest.
pub(in crate::mesh::sources) fn merge(entries: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let mut newest: Vec<Entry> = Vec::new();
    for entry in entries {
        match newest.iter_mut().find(|other| other.key == entry.key) {
            Some(other) if other.at_ms >= entry.at_ms => {}
            Some(other) => *other = entry,
            None => newest.push(entry),
        }
    }
    newest
}
