//! One provider and its clients.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use agent_api::Settings;
use bao_tree::{
    BaoTree, ChunkRanges,
    io::{
        outboard::PostOrderMemOutboard,
        sync::{encode_ranges_validated, outboard_post_order},
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use iroh_blobs::store::IROH_BLOCK_SIZE;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::mesh::files::{
    BiStream, FetchError, Offer, OnShelf, OpenBlob, Provider, Shelf,
    loopback::{Client, Instead, Server},
};

pub(super) fn bytes(length: u64) -> Vec<u8> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).expect("small"));
    bytes
}

pub(super) fn sha(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(super) async fn collect(
    chunks: impl Stream<Item = Result<Bytes, FetchError>>,
) -> Result<Vec<u8>, FetchError> {
    let mut chunks = Box::pin(chunks);
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Blobs in a temporary folder.
#[derive(Debug)]
pub(super) struct Shelved {
    dir: tempfile::TempDir,
    pub manifests: HashMap<String, Vec<u8>>,
    roots: Mutex<HashMap<[u8; 32], [u8; 32]>>,
}

impl Shelved {
    pub(super) fn with(blobs: &[&[u8]]) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let shelved = Self { dir, manifests: HashMap::new(), roots: Mutex::default() };
        for blob in blobs {
            fs::write(shelved.path(sha(blob), "data"), blob).expect("writes");
        }
        shelved
    }

    fn path(&self, sha256: [u8; 32], what: &str) -> PathBuf {
        self.dir.path().join(format!("{}.{what}", hex::encode(sha256)))
    }
}

impl Shelf for Shelved {
    fn find(&self, sha256: [u8; 32]) -> std::io::Result<OnShelf> {
        let Ok(data) = fs::File::open(self.path(sha256, "data")) else {
            return Ok(OnShelf::NotHere);
        };
        let Ok(outboard) = fs::File::open(self.path(sha256, "tree")) else {
            return Ok(OnShelf::NotReady);
        };
        let size = data.metadata()?.len();
        let root = self.roots.lock().expect("no test panics with it")[&sha256];
        Ok(OnShelf::Ready(OpenBlob { data, offer: Offer { size, root }, outboard }))
    }

    fn prepare(&self, sha256: [u8; 32], _stop: &dyn Fn() -> bool) -> std::io::Result<()> {
        let data = fs::read(self.path(sha256, "data"))?;
        let tree = BaoTree::new(data.len() as u64, IROH_BLOCK_SIZE);
        let mut pairs = Vec::new();
        let root = outboard_post_order(&*data, tree, &mut pairs)?;
        self.roots.lock().expect("no test panics with it").insert(sha256, *root.as_bytes());
        fs::File::create(self.path(sha256, "tree"))?.write_all(&pairs)
    }

    fn manifest(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        Ok(self.manifests.get(name).cloned())
    }
}

pub(super) struct Bench {
    pub provider: Provider,
    pub settings: watch::Sender<Settings>,
    shelf: Arc<Shelved>,
    /// What is sent instead of what is asked for.
    instead: Instead,
    server: Server,
    client: Client,
}

impl Bench {
    pub(super) async fn start(shelf: Shelved) -> Self {
        let shelf = Arc::new(shelf);
        let settings = watch::Sender::new(Settings::default());
        let provider = Provider::new(
            Arc::clone(&shelf) as Arc<dyn Shelf>,
            settings.subscribe(),
            CancellationToken::new(),
        );
        let instead = Instead::default();
        let server = Server::start(provider.clone(), Arc::clone(&instead)).await;
        let client = Client::connect(server.address.clone()).await;
        Self { provider, settings, shelf, instead, server, client }
    }

    pub(super) async fn open(&self, kind: &str) -> BiStream {
        self.client.open(kind).await.expect("opens")
    }

    pub(super) async fn another_client(&self) -> Client {
        Client::connect(self.server.address.clone()).await
    }

    /// Turns a byte of a blob over, on disk.
    pub(super) fn damage(&self, blob: &[u8], at: usize) {
        let mut wrong = blob.to_vec();
        wrong[at] ^= 1;
        fs::write(self.shelf.path(sha(blob), "data"), wrong).expect("writes");
    }

    /// Sends the proper encoding of these bytes, whatever is asked for.
    pub(super) fn lie(&self, bytes: &[u8]) {
        let outboard = PostOrderMemOutboard::create(bytes, IROH_BLOCK_SIZE);
        let mut encoded = (bytes.len() as u64).to_le_bytes().to_vec();
        encode_ranges_validated(bytes, outboard, &ChunkRanges::all(), &mut encoded)
            .expect("encodes");
        *self.instead.lock().expect("no test panics with it") = Some(encoded);
    }
}
