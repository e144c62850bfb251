//! The product's paths about the mesh.

use agent_api::{
    endpoint::Nothing,
    mesh::{
        AdmitNode, Coordinators, CreateMesh, DhtStats, Invite, InviteRequest, MarkNode, Mesh,
        PeerDetails, PeerId, PeerList, PeerQuery, TicketInfo, TicketText, Topology,
    },
};

use super::Answer;
use crate::node::Node;

pub(in crate::api) async fn mesh(node: Node, _: Nothing) -> Answer<Mesh> {
    Ok(node.mesh())
}

pub(in crate::api) async fn peers(node: Node, query: PeerQuery) -> Answer<PeerList> {
    Ok(node.peers(&query))
}

pub(in crate::api) async fn peer(node: Node, query: PeerId) -> Answer<PeerDetails> {
    Ok(node.peer(&query.id)?)
}

pub(in crate::api) async fn topology(node: Node, _: Nothing) -> Answer<Topology> {
    Ok(node.topology())
}

pub(in crate::api) async fn invite(node: Node, request: InviteRequest) -> Answer<Invite> {
    Ok(node.invite(request).await?)
}

pub(in crate::api) async fn ticket(node: Node, ticket: TicketText) -> Answer<TicketInfo> {
    Ok(node.read_ticket(&ticket)?)
}

pub(in crate::api) async fn join(node: Node, ticket: TicketText) -> Answer<Mesh> {
    Ok(node.join_mesh(&ticket).await?)
}

pub(in crate::api) async fn leave(node: Node, _: Nothing) -> Answer<Mesh> {
    Ok(node.leave_mesh().await?)
}

pub(in crate::api) async fn create(node: Node, request: CreateMesh) -> Answer<Mesh> {
    Ok(node.create_mesh(request).await?)
}

pub(in crate::api) async fn block(node: Node, mark: MarkNode) -> Answer<Mesh> {
    Ok(node.block_node(mark).await?)
}

pub(in crate::api) async fn trust(node: Node, mark: MarkNode) -> Answer<Mesh> {
    Ok(node.trust_node(mark).await?)
}

pub(in crate::api) async fn admit(node: Node, answer: AdmitNode) -> Answer<Mesh> {
    Ok(node.admit_node(answer).await?)
}

pub(in crate::api) async fn refresh(node: Node, _: Nothing) -> Answer<Mesh> {
    Ok(node.refresh_mesh())
}

pub(in crate::api) async fn coordinators(node: Node, _: Nothing) -> Answer<Coordinators> {
    Ok(node.coordinators())
}

pub(in crate::api) async fn dht_stats(node: Node, _: Nothing) -> Answer<DhtStats> {
    Ok(node.dht_stats())
}
