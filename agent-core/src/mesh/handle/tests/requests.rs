//! What the owner asks, and streams.

use std::pin::Pin;

use super::*;

#[derive(Debug)]
struct Echo;

impl StreamHandler for Echo {
    fn serve(&self, mut stream: PeerStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let bytes = stream.recv.read_to_end(1024).await.expect("reads");
            stream.send.write_all(&bytes).await.expect("writes");
            stream.send.finish().expect("finishes");
            let _ = stream.send.stopped().await;
        })
    }
}

#[tokio::test]
async fn a_stream_reaches_its_handler_and_an_unknown_kind_is_refused() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    let nobody = desk.mesh.open_stream(attic.node_key(), "echo/1").await;
    assert!(matches!(nobody, Err(MeshError::NoSuchPeer(_))));
    attic.join(&desk).await;
    attic.mesh.serve_streams("echo/1", Arc::new(Echo));

    let mut stream = desk.mesh.open_stream(attic.node_key(), "echo/1").await.expect("opens");
    stream.send.write_all(b"hello").await.expect("writes");
    stream.send.finish().expect("finishes");
    let answer = stream.recv.read_to_end(1024).await.expect("reads");
    assert_eq!(answer, b"hello");

    let mut stream = desk.mesh.open_stream(attic.node_key(), "no such kind").await.expect("opens");
    assert!(stream.recv.read_to_end(1024).await.is_err());
    assert!(desk.mesh.peer(&attic.id()).expect("known").peer.connected);
}

#[tokio::test]
async fn leaving_and_making_a_mesh_are_on_disk_when_they_are_answered() {
    let node = TestNode::start("desk").await;
    let on_disk = || {
        let opened = crate::mesh::state_file::StateFile::open(node.dir.path()).expect("opens");
        let card = opened.file.memory().card.clone();
        (hex::encode(card.id.0), card.name, card.secret.is_some(), card.settled)
    };
    let in_view = || {
        let view = node.mesh.view();
        (view.mesh_id, view.name, view.private, view.settled)
    };
    let first = in_view();
    assert_eq!(first, on_disk());
    assert_eq!((first.1.as_str(), first.2, first.3), ("home", true, false));

    let create = CreateMesh { name: " commons ".to_owned(), private: false };
    node.mesh.create(create).await.expect("makes");
    let second = in_view();
    assert_eq!(second, on_disk());
    assert_eq!((second.1.as_str(), second.2, second.3), ("commons", false, true));

    node.mesh.leave().await.expect("leaves");
    let third = in_view();
    assert_eq!(third, on_disk());
    assert!(third.0 != first.0 && third.0 != second.0 && third.2);
}

#[tokio::test]
async fn wrong_questions_get_answers_and_change_nothing() {
    let node = TestNode::start("desk").await;
    let before = node.mesh.view().mesh_id;
    for name in ["", "   ", "two\nlines", &"x".repeat(41)] {
        let create = CreateMesh { name: name.to_owned(), private: true };
        let error = node.mesh.create(create).await.expect_err("refused");
        assert!(matches!(error, MeshError::BadRequest(_)), "{name:?}: {error}");
    }
    let ticket = node.ticket().await;
    let mut damaged = ticket.clone();
    damaged.replace_range(40..41, if &ticket[40..41] == "a" { "b" } else { "a" });
    for text in ["", "hello", damaged.as_str()] {
        let error = node.mesh.join(text).await.expect_err("refused");
        assert!(matches!(error, MeshError::Ticket(_)), "{text:?}: {error}");
    }
    for seconds in [0, 31 * 24 * 60 * 60] {
        let error = node.mesh.invite(InviteRequest { expires_in_s: Some(seconds) }).await;
        assert!(matches!(error, Err(MeshError::BadRequest(_))));
    }
    let own = MarkNode { node_id: node.id(), on: true, own: false };
    assert!(matches!(node.mesh.block(own).await, Err(MeshError::BadRequest(_))));
    let admit = AdmitNode { node_id: NodeKey([3; 32]).to_id(), admit: true };
    assert!(matches!(node.mesh.admit(admit).await, Err(MeshError::BadRequest(_))));
    assert_eq!(node.mesh.view().mesh_id, before);
}

#[tokio::test]
async fn a_trusted_node_is_shown_as_such_over_restarts() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    attic.join(&desk).await;
    desk.mesh.trust(attic.mark(true)).await.expect("trusts");
    assert!(desk.mesh.peer(&attic.id()).expect("known").peer.trusted);
    desk.mesh.shutdown().await;
    let TestNode { mesh, key, dir, .. } = desk;
    drop(mesh);
    let desk = TestNode::start_in("desk", key, dir).await;
    desk.until_connected(&attic).await;
    assert!(desk.mesh.peer(&attic.id()).expect("known").peer.trusted);
    assert!(desk.key.verifying_key().to_bytes() == desk.node_key().0);
}

#[tokio::test]
async fn without_a_network_the_node_says_why_and_keeps_answering() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let dir = tempfile::tempdir().expect("temp dir");
    let opened = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens");
    let (settings, said) =
        (watch::Sender::new(Settings::default()), watch::Sender::new(announcement("desk")));
    let setup = MeshSetup {
        key: SigningKey::from_bytes(&[5; 32]),
        data_dir: dir.path().to_path_buf(),
        storage: opened.storage,
        settings: settings.subscribe(),
        announcement: said.subscribe(),
        bind: Some(taken.local_addr().expect("bound")),
        seed: None,
    };
    let mesh = Mesh::start(setup).await;
    let mut snapshot = mesh.inner.snapshot.clone();
    let failed = snapshot.wait_for(|s| s.state == MeshState::Failed);
    drop(timeout(PATIENCE, failed).await.expect("in time").expect("the mesh runs"));
    let port = taken.local_addr().expect("bound").port();
    assert!(mesh.view().reason.contains(&port.to_string()), "{}", mesh.view().reason);
    mesh.create(CreateMesh { name: "later".to_owned(), private: true }).await.expect("makes");
    assert_eq!(mesh.view().name, "later");
    drop(taken);
    let failed = snapshot.wait_for(|s| s.state != MeshState::Failed);
    drop(timeout(PATIENCE, failed).await.expect("in time").expect("the mesh runs"));
    mesh.shutdown().await;
}

#[tokio::test]
async fn a_seeds_relay_is_used_by_those_who_learn_of_it_while_they_run() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let relay = free.local_addr().expect("bound");
    drop(free);
    let setup = SeedSetup { relay: Some(relay), relay_url: None, dht: None };
    let dir = tempfile::tempdir().expect("temp dir");
    let key = SigningKey::from_bytes(&[8; 32]);
    let seed = TestNode::start_with("seed", key, dir, Some(setup)).await;
    let node = TestNode::start("desk").await;
    node.join(&seed).await;
    let url = |s: &Snapshot| {
        s.rows.get(&seed.node_key()).and_then(|row| row.announcement()?.relay.clone())
    };
    let told = node.until("the seed says that it runs a relay", |s| url(s).is_some()).await;
    assert!(url(&told).is_some_and(|url| url.contains(&relay.port().to_string())));
    let used = |s: &Snapshot| s.own.relay_connected && !s.addresses.relays.is_empty();
    node.until("it is reached through the relay", used).await;
    assert!(node.mesh.view().own.relay.is_some_and(|url| url.starts_with("http://127.0.0.1")));
    assert!(seed.mesh.view().own.seed);
}
