//! Hash trees of blobs, so that peers can check every 16 KiB of a blob as it arrives.
//!
//! ```text
//! blobs/sha256-<hex>.outboard    64 bytes per pair of groups in post order, then a trailer:
//!                                8 bytes of MAGIC, the blob's length (u64 LE), its BLAKE3 root
//! ```
//!
//! The tree is that of iroh-blobs (bao with groups of 16 chunks of 1 KiB). It takes 0.4 % of the
//! blob. It is made once, when the first peer asks; the blob is read and compared with its own digest
//! at the same time, so that a damaged one is never offered. It is removed with its blob.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _},
};

use bao_tree::{BaoTree, io::sync::outboard_post_order};
use iroh_blobs::store::IROH_BLOCK_SIZE;
use sha2::{Digest as _, Sha256};

use super::{Store, free_bytes, remove_if_there, room::HEADROOM, sync_dir};
use crate::models::manifest::Digest;

const MAGIC: [u8; 8] = *b"ecbao\0\0\x01";
const TRAILER_BYTES: u64 = 8 + 8 + 32;
/// Read at a time while a tree is made.
const READ_BYTES: usize = 1 << 20;

/// A complete blob and its hash tree, open.
#[derive(Debug)]
pub struct SharedBlob {
    pub data: File,
    /// Bytes of the blob.
    pub size: u64,
    /// BLAKE3 of the blob.
    pub root: [u8; 32],
    /// The tree's hash pairs in post order, from the file's first byte.
    pub outboard: File,
}

/// Whether a blob can be handed to peers.
#[derive(Debug)]
pub enum Sharable {
    NotHere,
    /// [`Store::make_outboard`] has to come first.
    NoTree,
    Ready(SharedBlob),
}

impl Store {
    pub(super) fn outboard_path(&self, digest: Digest) -> std::path::PathBuf {
        self.blobs().join(format!("{}.outboard", digest.file_name()))
    }

    /// Opens a blob for peers. Quick: nothing is hashed.
    pub fn sharable(&self, digest: Digest) -> io::Result<Sharable> {
        let data = match File::open(self.blob_path(digest)) {
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Sharable::NotHere),
            Err(e) => return Err(e),
        };
        let size = data.metadata()?.len();
        let outboard = match File::open(self.outboard_path(digest)) {
            Ok(outboard) => outboard,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Sharable::NoTree),
            Err(e) => return Err(e),
        };
        match read_root(&outboard, size)? {
            Some(root) => Ok(Sharable::Ready(SharedBlob { data, size, root, outboard })),
            None => {
                tracing::warn!("the hash tree of {digest} is damaged; it is made anew");
                self.remove_outboard(digest)?;
                Ok(Sharable::NoTree)
            }
        }
    }

    /// Makes the hash tree of a blob: reads all of it. `stop` is asked after every megabyte.
    ///
    /// Fails with `InvalidData` if the blob is damaged.
    pub fn make_outboard(&self, digest: Digest, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let data = File::open(self.blob_path(digest))?;
        let size = data.metadata()?.len();
        let tree = BaoTree::new(size, IROH_BLOCK_SIZE);
        let needs = tree.outboard_size() + TRAILER_BYTES;
        if free_bytes(&self.blobs()).is_some_and(|free| free < needs.saturating_add(HEADROOM)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let temporary = tempfile::NamedTempFile::new_in(self.blobs())?;
        // Garbage collection leaves alone what is locked.
        temporary.as_file().lock()?;
        let mut to = BufWriter::with_capacity(READ_BYTES, temporary);
        let mut from = Hashing { inner: &data, hasher: Sha256::new(), stop };
        let buffered = BufReader::with_capacity(READ_BYTES, &mut from);
        let root = outboard_post_order(buffered, tree, &mut to)?;
        if Digest::from_hash(from.hasher.finalize().into()) != digest {
            let why = format!(
                "the layer {digest} has other bytes than its name says; verify the models that use it"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        to.write_all(&MAGIC)?;
        to.write_all(&size.to_le_bytes())?;
        to.write_all(root.as_bytes())?;
        let temporary = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.outboard_path(digest))?;
        sync_dir(&self.blobs())?;
        if self.blob_size(digest).is_none() {
            // It was removed meanwhile.
            self.remove_outboard(digest)?;
        }
        Ok(())
    }

    pub(super) fn remove_outboard(&self, digest: Digest) -> io::Result<()> {
        remove_if_there(&self.outboard_path(digest))
    }
}

/// The root that a tree's trailer names; `None` if this is not the tree of a blob of that size.
fn read_root(mut outboard: &File, size: u64) -> io::Result<Option<[u8; 32]>> {
    let pairs = BaoTree::new(size, IROH_BLOCK_SIZE).outboard_size();
    if outboard.metadata()?.len() != pairs + TRAILER_BYTES {
        return Ok(None);
    }
    outboard.seek(SeekFrom::Start(pairs))?;
    let mut magic = [0; 8];
    let mut length = [0; 8];
    let mut root = [0; 32];
    outboard.read_exact(&mut magic)?;
    outboard.read_exact(&mut length)?;
    outboard.read_exact(&mut root)?;
    Ok((magic == MAGIC && u64::from_le_bytes(length) == size).then_some(root))
}

/// Hashes what is read through it.
struct Hashing<'a> {
    inner: &'a File,
    hasher: Sha256,
    stop: &'a dyn Fn() -> bool,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            // `Interrupted` itself would be tried again by whoever reads.
            return Err(io::Error::other("the node is stopping"));
        }
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bao_tree::{
        ChunkRanges, io::outboard::PostOrderOutboard, io::sync::encode_ranges_validated,
    };

    use super::*;
    use crate::models::store::write_whole;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path().to_path_buf()).expect("opens");
        (dir, store)
    }

    fn put(store: &Store, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        write_whole(&store.blob_path(digest), bytes).expect("writes");
        digest
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn a_tree_is_made_once_and_proves_every_byte() {
        let (_dir, store) = store();
        for length in [0, 1, 16 << 10, (16 << 10) + 1, 300_000] {
            let bytes = bytes(length);
            let digest = put(&store, &bytes);
            assert!(matches!(store.sharable(digest).expect("looks"), Sharable::NoTree));
            store.make_outboard(digest, &|| false).expect("makes");
            let Sharable::Ready(blob) = store.sharable(digest).expect("looks") else {
                panic!("{length} bytes are not ready");
            };
            assert_eq!((blob.size, blob.root), (length as u64, *blake3::hash(&bytes).as_bytes()));
            let tree = BaoTree::new(blob.size, IROH_BLOCK_SIZE);
            let outboard = PostOrderOutboard { root: blob.root.into(), tree, data: &blob.outboard };
            encode_ranges_validated(&blob.data, outboard, &ChunkRanges::all(), io::sink())
                .expect("all hashes agree");
        }
    }

    #[test]
    fn a_damaged_blob_is_not_offered() {
        let (_dir, store) = store();
        let digest = put(&store, &bytes(100_000));
        fs::write(store.blob_path(digest), [0; 100_000]).expect("damages it");
        let error = store.make_outboard(digest, &|| false).expect_err("refuses");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(matches!(store.sharable(digest).expect("looks"), Sharable::NoTree));
        assert_eq!(fs::read_dir(store.blobs()).expect("a folder").count(), 1, "nothing is left");
    }

    #[test]
    fn a_cut_tree_is_made_anew() {
        let (_dir, store) = store();
        let digest = put(&store, &bytes(100_000));
        store.make_outboard(digest, &|| false).expect("makes");
        let path = store.outboard_path(digest);
        let whole = fs::read(&path).expect("reads");
        fs::write(&path, &whole[..whole.len() - 1]).expect("cuts");
        assert!(matches!(store.sharable(digest).expect("looks"), Sharable::NoTree));
        assert!(!path.exists());
    }

    #[test]
    fn a_stopped_node_leaves_no_half_tree() {
        let (_dir, store) = store();
        let digest = put(&store, &bytes(100_000));
        store.make_outboard(digest, &|| true).expect_err("is stopped");
        assert_eq!(fs::read_dir(store.blobs()).expect("a folder").count(), 1);
    }

    #[test]
    fn a_tree_goes_with_its_blob() {
        let (_dir, store) = store();
        let digest = put(&store, &bytes(100_000));
        store.make_outboard(digest, &|| false).expect("makes");
        let before = store.usage();
        assert_eq!(before.partial_bytes, 0, "a tree is not a part of a pull");
        store.collect_garbage().expect("collects");
        assert!(!store.blob_path(digest).exists());
        assert!(!store.outboard_path(digest).exists());
    }

    #[test]
    fn a_tree_of_a_model_in_use_stays() {
        use crate::models::{
            manifest::Manifest,
            name::{ModelRef, OLLAMA_REGISTRY},
        };
        let (_dir, store) = store();
        let digest = put(&store, &bytes(100_000));
        let name = ModelRef::parse("demo", OLLAMA_REGISTRY).expect("a name");
        let guard = store.lock().expect("locks");
        store.install(&guard, &name, &Manifest::of_gguf(digest, 100_000)).expect("installs");
        drop(guard);
        store.make_outboard(digest, &|| false).expect("makes");
        store.collect_garbage().expect("collects");
        assert!(matches!(store.sharable(digest).expect("looks"), Sharable::Ready(_)));
        store.remove(&name).expect("removes");
        assert!(!store.outboard_path(digest).exists());
    }
}
