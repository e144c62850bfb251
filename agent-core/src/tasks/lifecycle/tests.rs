//! Lives made up at random: one settlement at most, fences that grow, an end for each.

use proptest::prelude::*;

use super::*;

const EXPIRES: i64 = 1_000;

fn node(n: u8) -> NodeId {
    NodeId(format!("{n:064x}"))
}

fn placed(n: u8) -> Input {
    Input::Placed { node: node(n), name: format!("n{n}") }
}

fn states(step: &Step) -> Vec<TaskState> {
    step.changes.iter().map(|change| change.state).collect()
}

#[test]
fn a_task_goes_from_the_queue_to_its_result() {
    let mut life = Life::new(None, 3, EXPIRES);
    let step = life.apply(placed(1), 0);
    assert_eq!(step.effects, [Effect::Offer { fence: 1, node: node(1) }]);
    assert_eq!(life.openings(), 0);
    let step = life.apply(Input::Leased { fence: 1, reason: "second".into() }, 0);
    assert_eq!(states(&step), [TaskState::Leased]);
    assert!(life.apply(Input::Leased { fence: 1, reason: "first".into() }, 0).changes.is_empty());
    assert_eq!(states(&life.apply(Input::Running { fence: 1 }, 0)), [TaskState::Running]);
    let step = life.apply(Input::Finished { fence: 1, digest: [1; 32] }, 0);
    assert_eq!(states(&step), [TaskState::Done]);
    assert_eq!(step.effects, [Effect::Settle { fence: 1 }]);
}

#[test]
fn a_worker_that_comes_back_late_is_refused() {
    let mut life = Life::new(None, 3, EXPIRES);
    life.apply(placed(1), 0);
    let lost = Input::Failed { fence: 1, reason: "silent".into(), again: true };
    let step = life.apply(lost, 0);
    assert_eq!((states(&step), life.openings()), (vec![TaskState::Queued], 1));
    life.apply(placed(2), 0);
    let late = life.apply(Input::Finished { fence: 1, digest: [1; 32] }, 0);
    assert_eq!(late.effects, [Effect::RefuseLate { fence: 1 }]);
    assert_eq!(late.changes.len(), 1, "it is told");
    let done = life.apply(Input::Finished { fence: 2, digest: [1; 32] }, 0);
    assert_eq!(done.effects, [Effect::Settle { fence: 2 }]);
    let late = life.apply(Input::Finished { fence: 1, digest: [1; 32] }, 0);
    assert_eq!((late.effects, late.changes), (vec![Effect::RefuseLate { fence: 1 }], vec![]));
}

#[test]
fn refusals_are_no_tries_and_failures_are() {
    let mut life = Life::new(None, 2, EXPIRES);
    for fence in 1..=20 {
        life.apply(placed(1), 0);
        life.apply(Input::Refused { fence, reason: "full".into() }, 0);
    }
    assert_eq!((life.state, life.failures), (TaskState::Queued, 0));
    for fence in 21..=22 {
        life.apply(placed(1), 0);
        life.apply(Input::Failed { fence, reason: "died".into(), again: true }, 0);
    }
    assert_eq!(life.state, TaskState::Failed);
}

#[test]
fn a_restart_is_a_try_only_for_what_was_running() {
    let mut life = Life::new(None, 1, EXPIRES);
    life.apply(placed(1), 0);
    life.apply(Input::Interrupted { fence: 1 }, 0);
    assert_eq!((life.state, life.openings()), (TaskState::Queued, 1));
    life.apply(placed(1), 0);
    life.apply(Input::Running { fence: 2 }, 0);
    life.apply(Input::Interrupted { fence: 2 }, 0);
    assert_eq!(life.state, TaskState::Failed);
}

#[test]
fn a_comparison_that_nobody_can_make_is_left_out_unless_it_was_asked_for() {
    let mut life = Life::new(None, 3, EXPIRES);
    life.apply(placed(1), 0);
    life.apply(Input::Compare, 0);
    life.results.push(Gathered { fence: 1, node: node(1), digest: [1; 32] });
    life.leases.clear();
    let mut asked = Life { replicas: true, ..life.clone() };
    let nobody = Input::NoCandidate { reason: "no other node".into(), trusted: Vec::new() };
    let step = life.apply(nobody.clone(), 0);
    assert_eq!(step.effects, [Effect::Settle { fence: 1 }]);
    assert_eq!(asked.apply(nobody, 0), Step::default());
}

/// Two results that differ, of a task whose comparison this node chose.
fn differ(here: Option<NodeId>) -> (Life, Step) {
    let mut life = Life { here, ..Life::new(None, 3, EXPIRES) };
    life.apply(placed(1), 0);
    life.apply(Input::Compare, 0);
    life.apply(Input::Finished { fence: 1, digest: [1; 32] }, 0);
    life.apply(placed(2), 0);
    let step = life.apply(Input::Finished { fence: 2, digest: [2; 32] }, 0);
    (life, step)
}

#[test]
fn what_this_node_computed_itself_decides_at_once() {
    let (life, step) = differ(Some(node(2)));
    let judged = Effect::Judge { agreed: vec![node(2)], disagreed: vec![node(1)] };
    assert_eq!(step.effects, [judged, Effect::Settle { fence: 2 }]);
    assert_eq!(life.state, TaskState::Done);
    let mut asked = Life { here: Some(node(1)), ..Life::new(Some(3), 3, EXPIRES) };
    for n in 1..=3 {
        asked.apply(placed(n), 0);
    }
    for n in 1..=2 {
        asked.apply(Input::Finished { fence: n.into(), digest: [n; 32] }, 0);
        assert_eq!(asked.state, TaskState::Verifying, "three were asked for");
    }
    let step = asked.apply(Input::Finished { fence: 3, digest: [2; 32] }, 0);
    assert_eq!(step.effects.last(), Some(&Effect::Settle { fence: 1 }));
}

#[test]
fn a_tie_that_nobody_can_break_ends_without_blame() {
    let nobody = |trusted| Input::NoCandidate { reason: "nobody".into(), trusted };
    let (mut life, step) = differ(None);
    assert_eq!((life.openings(), step.effects.len()), (1, 1), "a third one is looked for");
    let mut trusting = life.clone();
    let step = life.apply(nobody(Vec::new()), 0);
    assert_eq!((life.state, step.effects), (TaskState::Failed, vec![]));
    let step = trusting.apply(nobody(vec![node(2)]), 0);
    assert_eq!(step.effects, [Effect::Settle { fence: 2 }]);
}

#[test]
fn one_node_that_says_it_fails_is_no_end_while_there_are_tries() {
    let mut life = Life::new(None, 2, EXPIRES);
    for fence in 1..=2 {
        life.apply(placed(1), 0);
        life.apply(Input::Compare, 0);
        life.apply(Input::Failed { fence, reason: "traps".into(), again: false }, 0);
        assert_eq!(life.state, TaskState::Verifying);
        life.apply(Input::NoCandidate { reason: "nobody".into(), trusted: Vec::new() }, 0);
        assert_eq!(life.failures, u32::try_from(fence).expect("fits"));
    }
    assert_eq!(life.state, TaskState::Failed);
}

fn input() -> impl Strategy<Value = Input> {
    let fence = 0_u64..12;
    let reason = || "because".to_owned();
    prop_oneof![
        4 => (0_u8..5).prop_map(placed),
        1 => fence.clone().prop_map(move |fence| Input::Refused { fence, reason: reason() }),
        1 => fence.clone().prop_map(move |fence| Input::Leased { fence, reason: reason() }),
        2 => fence.clone().prop_map(|fence| Input::Running { fence }),
        3 => (fence.clone(), 1_u8..3)
            .prop_map(|(fence, d)| Input::Finished { fence, digest: [d; 32] }),
        2 => (fence.clone(), any::<bool>())
            .prop_map(move |(fence, again)| Input::Failed { fence, reason: reason(), again }),
        1 => fence.prop_map(|fence| Input::Interrupted { fence }),
        1 => Just(Input::Compare),
        1 => Just(Input::NoCandidate { reason: "nobody".into(), trusted: vec![node(1)] }),
        1 => Just(Input::Cancel),
        1 => Just(Input::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_a_task_settles_at_most_once_and_fences_only_grow(
        replicas in prop_oneof![Just(None), (2_u8..5).prop_map(Some)],
        inputs in prop::collection::vec(input(), 0..80),
    ) {
        let mut life = Life::new(replicas, 3, EXPIRES);
        let (mut settled, mut fence) = (0, 0);
        for input in inputs {
            let before = life.clone();
            let step = life.apply(input, 0);
            for effect in &step.effects {
                match effect {
                    Effect::Settle { fence } => {
                        settled += 1;
                        prop_assert!(*fence <= life.fence);
                        prop_assert_eq!(life.state, TaskState::Done);
                    }
                    Effect::Offer { fence: new, .. } => {
                        prop_assert!(*new > fence, "fence {} after {}", new, fence);
                        fence = *new;
                    }
                    _ => {}
                }
            }
            if before.state.is_final() {
                prop_assert_eq!(&before, &life, "nothing follows an end");
                prop_assert!(step.changes.is_empty());
            }
            prop_assert!(life.fence >= before.fence);
            prop_assert!(!life.state.is_final() || life.leases.is_empty());
            let ended = step.changes.last().map(|change| change.state);
            prop_assert!(ended.is_none_or(|state| state == life.state));
        }
        prop_assert_eq!(settled, usize::from(life.state == TaskState::Done));
        life.apply(Input::Tick, EXPIRES);
        prop_assert!(life.state.is_final(), "every path ends");
    }

    #[test]
    fn after_a_crash_at_any_point_the_task_goes_on_and_ends_once(
        inputs in prop::collection::vec(input(), 0..40),
    ) {
        let mut life = Life::new(None, 20, EXPIRES);
        for input in inputs {
            life.apply(input, 0);
        }
        let was_final = life.state.is_final();
        // What was with a node is gone; what was gathered is in the database.
        for lease in life.leases.clone() {
            life.apply(Input::Interrupted { fence: lease.fence }, 0);
        }
        prop_assert_eq!(life.state.is_final(), was_final || life.failures >= 20);
        if !life.state.is_final() && life.wanted == 1 {
            prop_assert_eq!(life.openings(), 1);
            let step = life.apply(placed(9), 0);
            let offered = matches!(step.effects.as_slice(), [Effect::Offer { .. }]);
            prop_assert!(offered);
            let digest = [1; 32];
            let done = life.apply(Input::Finished { fence: life.fence, digest }, 0);
            prop_assert_eq!(done.effects, vec![Effect::Settle { fence: life.fence }]);
        }
    }
}
