//! Who is let in, and who is not.

use crate::mesh::{
    MeshId,
    membership::{
        Membership, Setup,
        io::{ConnId, Input, Output, Side},
        pair::{NOW_MS, at, closes, connect, frames, key, node, sealed, setup},
        wire::{self, Talk},
    },
    record::Crypto as _,
};

#[test]
fn a_wrong_secret_and_a_foreign_mesh_are_turned_away_with_a_reason() {
    let stranger = |change: fn(&mut Setup)| {
        let mut setup = setup(2);
        change(&mut setup);
        let mut ours = node(1);
        let mut theirs = Membership::new(setup, at(0));
        let connect = |peer, side| connect(peer, 1, side);
        let hello = theirs.handle(at(1), connect(ours.key(), Side::Dialed));
        ours.handle(at(1), connect(theirs.key(), Side::Accepted));
        let bytes = frames(hello).remove(0);
        let frame = Input::Frame { peer: theirs.key(), conn: ConnId(1), bytes };
        let outputs = ours.handle(at(2), frame);
        assert!(!ours.is_connected(&theirs.key()));
        let reason = outputs.into_iter().find_map(|output| match output {
            Output::Close { reason, .. } => Some(reason),
            _ => None,
        });
        (reason.expect("closed"), ours.refused())
    };
    let (reason, refused) = stranger(|setup| setup.card.secret = Some([8; 32]));
    assert!(reason.contains("secret"), "{reason}");
    assert_eq!(refused[0].reason, "not_a_member");
    let (reason, refused) = stranger(|setup| setup.card.id = MeshId([8; 32]));
    assert!(reason.contains("another mesh"), "{reason}");
    assert_eq!(refused[0].reason, "foreign_mesh");
}

#[test]
fn a_node_of_the_future_is_turned_away_with_both_versions() {
    let (mut ours, mut theirs) = (node(1), node(2));
    let connect = |peer, side| connect(peer, 1, side);
    let hello = frames(theirs.handle(at(1), connect(ours.key(), Side::Dialed))).remove(0);
    ours.handle(at(1), connect(theirs.key(), Side::Accepted));
    let Ok(wire::Frame::Talk(Talk::Hello(mut hello))) = wire::decode(&hello) else {
        panic!("the first frame is a hello")
    };
    hello.protocol = (7, 9);
    let bytes = Talk::Hello(hello).encode();
    let outputs = ours.handle(at(2), Input::Frame { peer: theirs.key(), conn: ConnId(1), bytes });
    let reason = outputs.into_iter().find_map(|output| match output {
        Output::Close { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.expect("closed");
    let ours_too = reason.contains(&wire::PROTOCOL.1.to_string());
    assert!(reason.contains('7') && reason.contains('9') && ours_too, "{reason}");
    assert!(!ours.is_connected(&theirs.key()));
}

#[test]
fn a_hello_is_bound_to_its_connection() {
    let mut ours = node(1);
    let mut theirs = node(2);
    // Somebody between passes the frames of one connection on to another.
    let hello = theirs.handle(at(1), connect(ours.key(), 1, Side::Dialed));
    ours.handle(at(1), connect(theirs.key(), 2, Side::Accepted));
    let bytes = frames(hello).remove(0);
    ours.handle(at(2), Input::Frame { peer: theirs.key(), conn: ConnId(2), bytes });
    assert!(!ours.is_connected(&theirs.key()));
}

#[test]
fn a_stranger_that_says_anything_but_hello_does_not_keep_its_connection() {
    let mut ours = node(1);
    let peer = key(2).key();
    ours.handle(at(1), connect(peer, 1, Side::Accepted));
    let mut closed = false;
    // Slowly enough not to be banned.
    for s in 1..14 {
        let frame = Input::Frame { peer, conn: ConnId(1), bytes: Talk::Ping(1).encode() };
        closed |= closes(&ours.handle(at(s * 1_000), frame));
    }
    assert!(closed);
}

#[test]
fn strangers_at_the_door_do_not_take_the_places_of_members() {
    let mut ours = node(1);
    let connect = |n: u8| connect(key(n).key(), u64::from(n), Side::Accepted);
    assert_eq!(ours.learn(&sealed(2, NOW_MS, 1).bytes), Ok(true));
    let refused = (3..=100).filter(|&n| closes(&ours.handle(at(1), connect(n)))).count();
    assert_eq!(refused, 98 - 64);
    assert!(!closes(&ours.handle(at(1), connect(2))), "a member is let in");
}

#[test]
fn frames_before_the_hello_do_not_count() {
    let mut ours = node(1);
    let peer = key(2).key();
    ours.handle(at(1), connect(peer, 1, Side::Accepted));
    for _ in 0..30 {
        let frame = Input::Frame { peer, conn: ConnId(1), bytes: Talk::Ping(1).encode() };
        ours.handle(at(2), frame);
    }
    assert!(ours.refused().iter().any(|row| row.reason == "not_a_member"));
    assert!(!ours.is_connected(&peer));
}
