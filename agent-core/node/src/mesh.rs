//! `edgecoder-node mesh`: the mesh of the running node.

pub(crate) mod args;
mod qr;
mod text;

use std::io::{IsTerminal as _, Read as _};

use agent_api::{
    NodeId,
    endpoint::{
        GetMesh, GetMeshPeer, GetMeshPeers, Nothing, PostMeshAdmit, PostMeshBlock, PostMeshCreate,
        PostMeshInvite, PostMeshJoin, PostMeshLeave, PostMeshRefresh, PostMeshTicket,
        PostMeshTrust,
    },
    mesh::{
        AdmitNode, CreateMesh, InviteRequest, MarkNode, Mesh as MeshView, PeerId, PeerQuery,
        TicketText,
    },
};
use agent_core::clock::now_ms;
use anyhow::{Context as _, bail};

use self::args::{Mesh, MeshCommand};
use crate::{
    args::DataDir,
    client::Client,
    model::args::Json,
    terminal::{Confirm, ask, print_json, say},
};

pub(crate) use self::text::{ago, summary};

/// Digits of an id that are enough to mean a node, if no other begins with them.
const MIN_PREFIX: usize = 4;
/// Longest text that is read as a ticket; real ones are below 2 KiB.
const MAX_TICKET: u64 = 64 << 10;

pub(crate) async fn run(args: Mesh) -> anyhow::Result<()> {
    let client = &Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        MeshCommand::Status(args) => status(client, args).await,
        MeshCommand::Peers(args) => peers(client, args).await,
        MeshCommand::Peer(args) => peer(client, args).await,
        MeshCommand::Invite(args) => invite(client, args).await,
        MeshCommand::Join(args) => join(client, args).await,
        MeshCommand::Leave(args) => leave(client, args).await,
        MeshCommand::Create(args) => create(client, args).await,
        MeshCommand::Block(args) => block(client, args, true).await,
        MeshCommand::Unblock(args) => block(client, args, false).await,
        MeshCommand::Trust(args) => trust(client, args).await,
        MeshCommand::Untrust(args) => untrust(client, args).await,
        MeshCommand::Admit(args) => admit(client, args, true).await,
        MeshCommand::Refuse(args) => admit(client, args, false).await,
        MeshCommand::Sources(args) => sources(client, args).await,
        MeshCommand::Ticket(args) => ticket(client, args).await,
    }
}

async fn status(client: &Client, args: Json) -> anyhow::Result<()> {
    let mesh = client.call::<GetMesh>(&Nothing {}).await?;
    if args.json { print_json(&mesh) } else { say(&text::status(&mesh, now_ms())) }
}

async fn peers(client: &Client, args: args::Peers) -> anyhow::Result<()> {
    let query = PeerQuery { limit: args.limit, connected: args.connected.then_some(true) };
    let list = client.call::<GetMeshPeers>(&query).await?;
    if args.output.json { print_json(&list) } else { say(&text::peers(&list, now_ms())) }
}

async fn peer(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let id = find(client, &args.node).await?;
    let details = client.call::<GetMeshPeer>(&PeerId { id }).await?;
    if args.output.json { print_json(&details) } else { say(&text::peer(&details, now_ms())) }
}

async fn invite(client: &Client, args: args::Invite) -> anyhow::Result<()> {
    let request = InviteRequest { expires_in_s: args.expires };
    let invite = client.call::<PostMeshInvite>(&request).await?;
    if args.output.json {
        return print_json(&invite);
    }
    // A script gets the ticket and nothing else.
    if !std::io::stdout().is_terminal() {
        return say(&format!("{}\n", invite.ticket));
    }
    say(&text::invite(&invite, now_ms()))?;
    if args.no_qr { Ok(()) } else { qr::draw(&invite.ticket) }
}

async fn ticket(client: &Client, args: args::Ticket) -> anyhow::Result<()> {
    let ticket = TicketText { ticket: ticket_text(args.ticket)? };
    let info = client.call::<PostMeshTicket>(&ticket).await?;
    if args.output.json { print_json(&info) } else { say(&text::ticket(&info, now_ms())) }
}

async fn join(client: &Client, args: args::Join) -> anyhow::Result<()> {
    let ticket = TicketText { ticket: ticket_text(args.ticket)? };
    let info = client.call::<PostMeshTicket>(&ticket).await?;
    if info.joined {
        // The ticket's nodes may be a way back to the others.
        client.call::<PostMeshJoin>(&ticket).await?;
        return say(&format!(
            "This node is in the mesh {} already; it tries the nodes of the ticket.\n",
            info.name
        ));
    }
    let question = format!("Join the mesh {}, invited by {}?", info.name, info.inviter_name);
    if !may_leave(client, &args.sure, &question).await? {
        return Ok(());
    }
    say(&text::status(&client.call::<PostMeshJoin>(&ticket).await?, now_ms()))
}

async fn leave(client: &Client, args: args::Sure) -> anyhow::Result<()> {
    if !may_leave(client, &args, "Leave it?").await? {
        return Ok(());
    }
    say(&text::status(&client.call::<PostMeshLeave>(&Nothing {}).await?, now_ms()))
}

async fn create(client: &Client, args: args::Create) -> anyhow::Result<()> {
    let request = CreateMesh { private: !args.public, name: args.name };
    if !may_leave(client, &args.sure, &format!("Make the mesh {}?", request.name)).await? {
        return Ok(());
    }
    say(&text::status(&client.call::<PostMeshCreate>(&request).await?, now_ms()))
}

/// Asks before a mesh is left that only a ticket leads back to. Scripts have no terminal and have
/// said what they want.
async fn may_leave(client: &Client, sure: &args::Sure, question: &str) -> anyhow::Result<bool> {
    let mesh = client.call::<GetMesh>(&Nothing {}).await?;
    if sure.yes || !mesh.settled || !mesh.private || mesh.counts.known == 0 {
        return Ok(true);
    }
    let question = format!(
        "This node leaves the mesh {}; only a ticket of one of its {} leads back. {question}",
        mesh.name,
        text::count(mesh.counts.known, "peer"),
    );
    if ask(&question)? == Confirm::No {
        say("Nothing changed.\n")?;
        return Ok(false);
    }
    Ok(true)
}

async fn block(client: &Client, args: args::Marked, on: bool) -> anyhow::Result<()> {
    let node_id = find(client, &args.node).await?;
    client.call::<PostMeshBlock>(&MarkNode { node_id, on, own: false }).await?;
    let done = if on { "is blocked" } else { "is no longer blocked" };
    say(&format!("{} {done}.\n", args.node))
}

async fn trust(client: &Client, args: args::Trusted) -> anyhow::Result<()> {
    let args::Trusted { node, own } = args;
    let node_id = find(client, &node).await?;
    client.call::<PostMeshTrust>(&MarkNode { node_id, on: true, own }).await?;
    let done = if own { "is marked as your own" } else { "is trusted" };
    say(&format!("{node} {done}.\n"))
}

async fn untrust(client: &Client, args: args::Marked) -> anyhow::Result<()> {
    let node_id = find(client, &args.node).await?;
    client.call::<PostMeshTrust>(&MarkNode { node_id, on: false, own: false }).await?;
    say(&format!("{} is no longer trusted.\n", args.node))
}

async fn admit(client: &Client, args: args::Marked, admit: bool) -> anyhow::Result<()> {
    let node_id = find(client, &args.node).await?;
    let mesh = client.call::<PostMeshAdmit>(&AdmitNode { node_id, admit }).await?;
    let done = if admit { "may join" } else { "may not join" };
    say(&format!("{} {done} the mesh {}.\n", args.node, mesh.name))
}

async fn sources(client: &Client, args: args::Sources) -> anyhow::Result<()> {
    let mesh = match args.refresh {
        true => client.call::<PostMeshRefresh>(&Nothing {}).await?,
        false => client.call::<GetMesh>(&Nothing {}).await?,
    };
    if args.output.json {
        return print_json(&mesh.sources);
    }
    say(&text::sources(&mesh, now_ms()))
}

/// The ticket itself, or what comes from stdin.
fn ticket_text(given: String) -> anyhow::Result<String> {
    if given != "-" {
        return Ok(given);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_TICKET)
        .read_to_string(&mut text)
        .context("cannot read the ticket from stdin")?;
    Ok(text)
}

/// The node that is meant: a whole id, also of a node nobody here knows; else the name or the first
/// digits of the id of a peer, of a node on this network, or of a blocked one.
async fn find(client: &Client, text: &str) -> anyhow::Result<NodeId> {
    let text = text.trim();
    if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(NodeId(text.to_lowercase()));
    }
    let mesh = client.call::<GetMesh>(&Nothing {}).await?;
    let peers = client.call::<GetMeshPeers>(&PeerQuery::default()).await?.peers;
    let mut known: Vec<(NodeId, String)> =
        peers.into_iter().map(|peer| (peer.node_id, peer.name)).collect();
    known.extend(others(&mesh));
    pick(text, known)
}

fn others(mesh: &MeshView) -> impl Iterator<Item = (NodeId, String)> {
    let nearby = mesh.nearby.iter().map(|near| (near.node_id.clone(), near.name.clone()));
    nearby.chain(mesh.blocked.iter().map(|node| (node.node_id.clone(), node.name.clone())))
}

fn pick(text: &str, known: Vec<(NodeId, String)>) -> anyhow::Result<NodeId> {
    let lower = text.to_lowercase();
    let mut meant: Vec<_> = known
        .into_iter()
        .filter(|(id, name)| {
            let by_id = lower.len() >= MIN_PREFIX && id.0.starts_with(&lower);
            by_id || name.to_lowercase() == lower
        })
        .collect();
    meant.sort();
    meant.dedup_by(|a, b| a.0 == b.0);
    match meant.as_slice() {
        [(id, _)] => Ok(id.clone()),
        [] => {
            bail!("there is no node {text:?}. edgecoder-node mesh peers lists those that are known")
        }
        several => {
            let ids: Vec<_> = several.iter().map(|(id, _)| id.fmt_short()).collect();
            bail!(
                "several nodes are called {text:?}: use the id of one of them ({})",
                ids.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<(NodeId, String)> {
        let node = |digit: &str, name: &str| (NodeId(digit.repeat(16)), name.to_owned());
        vec![node("ab12", "studio"), node("ab34", "laptop"), node("cd56", "laptop")]
    }

    #[test]
    fn a_node_goes_by_its_name_or_the_first_digits_of_its_id() {
        let found = |text: &str| pick(text, known()).map(|id| id.0[..4].to_owned());
        assert_eq!(found("Studio").expect("found"), "ab12");
        assert_eq!(found("AB34ab").expect("found"), "ab34");
        assert!(found("ab").expect_err("too short").to_string().contains("no node"));
        let error = found("laptop").expect_err("two").to_string();
        assert!(error.contains("ab34") && error.contains("cd56"), "{error}");
    }

    #[test]
    fn a_node_that_is_known_in_two_ways_is_one() {
        let mut twice = known();
        twice.push((NodeId("ab12".repeat(16)), "studio".to_owned()));
        assert!(pick("studio", twice).is_ok());
    }
}
