//! Lets iroh find the addresses of a node of the mesh by its key: from the records that the nodes
//! signed themselves, nowhere else.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use iroh::{
    EndpointId,
    address_lookup::{AddressLookup, EndpointInfo, Error, Item},
};
use n0_future::boxed::BoxStream;
use tokio::sync::watch;

use super::{endpoint::to_iroh, snapshot::Snapshot};
use crate::mesh::NodeKey;

/// Reads the newest snapshot; holds nothing of its own that could grow.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Lookup {
    pub(super) fn new(snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshot }
    }
}

impl AddressLookup for Lookup {
    fn resolve(&self, id: EndpointId) -> Option<BoxStream<Result<Item, Error>>> {
        let key = NodeKey(*id.as_bytes());
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let addresses = &snapshot.rows.get(&key)?.addresses;
        let info = EndpointInfo::from(to_iroh(key, addresses)?);
        Some(stream::iter([Ok(Item::new(info, "mesh records", None))]).boxed())
    }
}
