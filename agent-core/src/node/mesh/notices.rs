//! What of the mesh the owner should know wherever they look. Pure.

use agent_api::mesh::{Mesh as MeshView, MeshState};

/// What the owner should know, by id; `None`: not now.
pub(super) fn notices(view: &MeshView) -> [(&'static str, Option<String>); 4] {
    let asking: Vec<&str> = view
        .nearby
        .iter()
        .filter(|near| near.asks_to_join)
        .map(|near| near.name.as_str())
        .collect();
    [
        (
            "duplicate_identity",
            view.duplicate_identity.then(|| {
                "Another computer uses this node's key, so that others take the two for one. If its data directory was copied: stop one of them, move its node.key away, and start it again; it then gets a key of its own.".to_owned()
            }),
        ),
        ("wrong_clock", view.clock_off_ms.map(wrong_clock)),
        (
            "mesh_failed",
            (view.state == MeshState::Failed)
                .then(|| format!("The mesh does not work: {} This computer is served all the same.", view.reason)),
        ),
        (
            "asks_to_join",
            (!asking.is_empty()).then(|| {
                let (names, verb) = (asking.join(", "), if asking.len() == 1 { "asks" } else { "ask" });
                format!("{names} on this network {verb} to join the mesh {}. Let them in or not in the Mesh panel, or with edgecoder-node mesh admit.", view.name)
            }),
        ),
    ]
}

fn wrong_clock(off_ms: i64) -> String {
    let way = if off_ms > 0 { "ahead" } else { "behind" };
    format!(
        "This computer's clock is probably {} minutes {way}, so that other nodes do not believe what this one says of itself, and it does not believe them. Let the system set its time automatically (on Linux: timedatectl set-ntp true); the mesh then recovers by itself.",
        off_ms.abs() / 60_000
    )
}

#[cfg(test)]
mod tests {
    use agent_api::{
        NodeId,
        mesh::{Nearby, OwnNode, PeerCounts},
    };

    use super::*;

    fn view() -> MeshView {
        MeshView {
            at_ms: 0,
            state: MeshState::Alone,
            reason: "Nobody else is here yet.".into(),
            mesh_id: "ab".repeat(32),
            name: "home".into(),
            private: true,
            settled: false,
            own: OwnNode::default(),
            counts: PeerCounts::default(),
            sources: Vec::new(),
            nearby: Vec::new(),
            refused: Vec::new(),
            duplicate_identity: false,
            clock_off_ms: None,
            blocked: Vec::new(),
        }
    }

    fn standing(view: &MeshView) -> Vec<(&'static str, String)> {
        notices(view).into_iter().filter_map(|(id, text)| Some((id, text?))).collect()
    }

    #[test]
    fn a_healthy_mesh_needs_no_notice() {
        assert_eq!(standing(&view()), []);
    }

    #[test]
    fn trouble_is_told_with_its_reason_and_what_to_do() {
        let near = |name: &str, asks_to_join| Nearby {
            node_id: NodeId("cd".repeat(32)),
            name: name.into(),
            mesh: "home".into(),
            asks_to_join,
            seen_ms: 0,
        };
        let view = MeshView {
            state: MeshState::Failed,
            reason: "UDP cannot be opened.".into(),
            duplicate_identity: true,
            clock_off_ms: Some(-300_000),
            nearby: vec![near("tablet", true), near("printer", false)],
            ..view()
        };
        let standing = standing(&view);
        let ids: Vec<_> = standing.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, ["duplicate_identity", "wrong_clock", "mesh_failed", "asks_to_join"]);
        assert!(standing[0].1.contains("node.key"));
        assert!(standing[1].1.contains("5 minutes behind"));
        assert!(standing[2].1.contains("UDP cannot be opened."));
        assert!(standing[3].1.contains("tablet") && !standing[3].1.contains("printer"));
    }
}
