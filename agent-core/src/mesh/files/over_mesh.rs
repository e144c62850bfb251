//! Files over the streams of a running mesh.

use std::{io, pin::Pin, sync::Arc};

use agent_api::mesh::{Peer, PeerQuery};
use futures_util::future::BoxFuture;

use super::{BiStream, Neighbours, Provider};
use crate::mesh::{
    Mesh, NodeKey,
    net::{PeerStream, StreamHandler},
};

impl Neighbours for Mesh {
    fn peers(&self) -> Vec<Peer> {
        self.peers(&PeerQuery::default()).peers
    }

    fn is_private(&self) -> bool {
        self.view().private
    }

    fn open(&self, peer: NodeKey, kind: &'static str) -> BoxFuture<'_, io::Result<BiStream>> {
        Box::pin(async move {
            let stream = self.open_stream(peer, kind).await.map_err(io::Error::other)?;
            Ok(bi_stream(stream))
        })
    }
}

impl Provider {
    /// Answers the mesh's streams of all its kinds.
    pub fn serve_over(&self, mesh: &Mesh) {
        for kind in Self::KINDS {
            mesh.serve_streams(kind, Arc::new(Serving { kind, provider: self.clone() }));
        }
    }
}

#[derive(Debug)]
struct Serving {
    kind: &'static str,
    provider: Provider,
}

impl StreamHandler for Serving {
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (kind, provider) = (self.kind, self.provider.clone());
        Box::pin(async move {
            let peer = stream.peer;
            provider.serve(peer, kind, bi_stream(stream)).await;
        })
    }
}

fn bi_stream(stream: PeerStream) -> BiStream {
    let PeerStream { send, recv, in_use, .. } = stream;
    BiStream { send, recv, in_use: Some(Box::new(in_use)) }
}
