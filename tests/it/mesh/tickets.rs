//! Coming in by ticket, being refused, and going over to another mesh.

use agent_api::mesh::{Mesh, TicketInfo};
use anyhow::{Context as _, Result};
use edgecoder_tests::cluster::Cluster;
use serde_json::{Value, json};

#[tokio::test]
async fn a_ticket_says_where_it_leads_and_forgives_how_it_was_copied() -> Result<()> {
    let cluster = Cluster::started(2, |_, options| options).await?;
    let ticket = cluster.invite(0).await?;
    assert!(ticket.starts_with("ec1"), "{ticket}");
    let mesh = cluster.view(0).await?.mesh;
    let (half, rest) = ticket.split_at(ticket.len() / 2);
    let copied = format!("  {}\n {} \t", half.to_uppercase(), rest);
    let info: TicketInfo =
        cluster.http(1).post("/mesh/ticket", &json!({ "ticket": copied })).await?;
    assert_eq!((info.mesh_id, info.name), (mesh.mesh_id.clone(), mesh.name));
    assert_eq!((info.inviter, info.inviter_name.as_str()), (cluster.id(0), "node-0"));
    assert!(info.private && !info.joined, "the first start makes a private mesh");
    assert!(!info.addresses.is_empty());
    assert!(mesh.settled || cluster.view(0).await?.mesh.settled, "who invites has settled");
    cluster.join(1, &copied).await?;
    cluster.until_whole().await?;
    let info: TicketInfo =
        cluster.http(1).post("/mesh/ticket", &json!({ "ticket": ticket })).await?;
    assert!(info.joined);
    Ok(())
}

#[tokio::test]
async fn one_wrong_character_makes_a_ticket_damaged() -> Result<()> {
    let cluster = Cluster::started(2, |_, options| options).await?;
    let ticket = cluster.invite(0).await?;
    let before = cluster.view(1).await?.mesh.mesh_id;
    let last = ticket.len() - 1;
    // Within the letters of base32: what a typing mistake or a bad scan makes.
    for at in [3, 4, last / 3, last / 2, last - 10, last] {
        let mut bytes = ticket.clone().into_bytes();
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        let damaged = json!({ "ticket": String::from_utf8(bytes)? });
        for path in ["/mesh/ticket", "/mesh/join"] {
            let (status, body) = cluster.http(1).try_post(path, &damaged).await?;
            assert_eq!(status, 400, "{path}, character {at}: {body}");
            let said = body["message"].as_str().context("a message")?;
            assert!(said.contains("damaged"), "{said}");
        }
    }
    for nonsense in ["", "ec1", "hello", "ec1zzzz", &"a".repeat(100_000), "ec1\u{1f980}"] {
        let (status, _) =
            cluster.http(1).try_post("/mesh/join", &json!({ "ticket": nonsense })).await?;
        assert_eq!(status, 400, "{:.20}", nonsense);
    }
    assert_eq!(cluster.view(1).await?.mesh.mesh_id, before, "it stays where it was");
    Ok(())
}

#[tokio::test]
async fn an_expired_ticket_is_refused() -> Result<()> {
    let cluster = Cluster::started(2, |_, options| options).await?;
    let invite: Value = cluster.http(0).post("/mesh/invite", &json!({ "expires_in_s": 1 })).await?;
    let body = json!({ "ticket": invite["ticket"] });
    cluster
        .eventually("the ticket runs out", async || {
            let (status, body) = cluster.http(1).try_post("/mesh/ticket", &body).await?;
            Ok(status == 400 && body["message"].as_str().is_some_and(|m| m.contains("expired")))
        })
        .await
}

#[tokio::test]
async fn who_has_the_wrong_secret_stays_out() -> Result<()> {
    let mut cluster = Cluster::of(3).await?;
    cluster.stop(2)?;
    cluster
        .restart_with(2, |options| {
            let path = options.data_dir().join("mesh.json");
            let text = std::fs::read_to_string(&path).expect("the card");
            let mut card: Value = serde_json::from_str(&text).expect("JSON");
            assert!(spoil(&mut card), "a private mesh has a secret: {text}");
            std::fs::write(&path, card.to_string()).expect("writes");
            options
        })
        .await?;
    let stranger = cluster.id(2);
    let refused = |reason: &'static str| {
        move |view: &edgecoder_tests::cluster::View| view.refused(reason) > 0
    };
    // It knows the addresses and the mesh's id, so it tries; the others see that.
    let at = cluster.until(0, "the stranger was refused", refused("not_a_member")).await?;
    assert!(!at.is_connected(&stranger));
    assert!(cluster.view(2).await?.peers.iter().all(|peer| !peer.connected));
    let view = cluster.view(1).await?;
    assert!(view.is_connected(&cluster.id(0)) && !view.is_connected(&stranger));
    Ok(())
}

/// Changes the first digit of the secret, wherever it is in the file.
fn spoil(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter_mut().any(|(name, field)| match field {
            Value::String(text) if name == "secret" => {
                let other = if text.starts_with('0') { "1" } else { "0" };
                text.replace_range(..1, other);
                true
            }
            Value::Array(bytes) if name == "secret" => {
                let first = bytes.first().and_then(Value::as_u64).unwrap_or_default();
                bytes[0] = json!((first + 1) % 256);
                true
            }
            other => spoil(other),
        }),
        Value::Array(items) => items.iter_mut().any(spoil),
        _ => false,
    }
}

#[tokio::test]
async fn joining_another_mesh_leaves_the_first() -> Result<()> {
    let first = Cluster::of(3).await?;
    let second = Cluster::of(2).await?;
    let moved = first.id(2);
    let ticket = second.invite(0).await?;
    first.join(2, &ticket).await?;
    for at in 0..2 {
        first.until(at, "who went over is gone", |view| view.peer(&moved).is_none()).await?;
        second.until(at, "who came over is here", |view| view.is_connected(&moved)).await?;
    }
    let theirs = second.view(0).await?.mesh.mesh_id;
    let view = first.view(2).await?;
    assert_eq!(view.mesh.mesh_id, theirs);
    assert!(first.running_ids()[..2].iter().all(|id| !view.is_connected(id)), "{:?}", view.peers);
    Ok(())
}

#[tokio::test]
async fn a_public_mesh_lets_in_and_a_new_one_starts_empty() -> Result<()> {
    let cluster = Cluster::of(2).await?;
    let create = json!({ "name": "commons", "private": false });
    let made: Mesh = cluster.http(0).post("/mesh/create", &create).await?;
    assert_eq!((made.name.as_str(), made.private), ("commons", false));
    let id = cluster.id(0);
    cluster.until(1, "its maker has left", |view| view.peer(&id).is_none()).await?;
    let ticket = cluster.invite(0).await?;
    let joined = cluster.join(1, &ticket).await?;
    assert_eq!((joined.mesh_id, joined.private), (made.mesh_id, false));
    cluster.until_whole().await?;
    for name in [String::new(), "x".repeat(41)] {
        let body = json!({ "name": name, "private": true });
        let (status, _) = cluster.http(0).try_post("/mesh/create", &body).await?;
        assert_eq!(status, 400, "a name has 1 to 40 characters");
    }
    Ok(())
}
