//! Signatures without arithmetic: a hash with the author's key in it. Nobody in a simulation knows
//! how to make one for somebody else, because only [`Stamp::sign`] does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use crate::mesh::{
    NodeKey,
    record::{self, Crypto, Record, RecordError},
};

/// Knows every record that was ever signed.
#[derive(Debug, Default)]
pub(crate) struct Notary {
    opened: Mutex<HashMap<[u8; 32], Arc<Record>>>,
    signatures: Mutex<HashSet<[u8; 32]>>,
}

impl Notary {
    pub(super) fn signed(&self, record: &Record) -> bool {
        let signature = &record.bytes[record.bytes.len() - 64..];
        let first: [u8; 32] = signature[..32].try_into().expect("64 bytes");
        self.signatures.lock().expect("one thread").contains(&first)
    }
}

#[derive(Debug)]
pub(crate) struct Stamp {
    key: NodeKey,
    notary: Arc<Notary>,
}

impl Stamp {
    pub(crate) fn new(key: NodeKey, notary: Arc<Notary>) -> Self {
        Self { key, notary }
    }
}

fn stamp(author: &NodeKey, message: &[u8]) -> [u8; 64] {
    let hash = *blake3::keyed_hash(&author.0, message).as_bytes();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&hash);
    signature
}

impl Crypto for Stamp {
    fn key(&self) -> NodeKey {
        self.key
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = stamp(&self.key, message);
        let first: [u8; 32] = signature[..32].try_into().expect("64 bytes");
        self.notary.signatures.lock().expect("one thread").insert(first);
        signature
    }

    fn verify(&self, author: &NodeKey, message: &[u8], signature: &[u8; 64]) -> bool {
        stamp(author, message) == *signature
    }

    fn open(&self, bytes: &[u8]) -> Result<Arc<Record>, RecordError> {
        let Some(at) = bytes.len().checked_sub(64) else { return Err(RecordError::Malformed) };
        let name: [u8; 32] = bytes[at..at + 32].try_into().expect("32 bytes");
        let mut opened = self.notary.opened.lock().expect("one thread");
        if let Some(record) = opened.get(&name)
            && record.bytes == bytes
        {
            return Ok(Arc::clone(record));
        }
        let record = record::open(self, bytes)?;
        opened.insert(name, Arc::clone(&record));
        Ok(record)
    }
}
