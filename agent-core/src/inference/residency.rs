//! Who may be in memory: pure policy, from numbers to a decision.
//!
//! A model is loaded when its estimated need fits beside the models that are there. Otherwise
//! models that may leave make room: idle ones at once, the one that was not used for the longest
//! time first; busy ones after the requests they have accepted. The active model and pinned ones
//! do not leave for others. What can never fit is refused with both numbers.
//!
//! Weights are mapped from their file, so the system counts them as memory that can be had even
//! while a model uses them; what a model needs beyond them it really takes. Both are put right
//! here: a loaded model's weights are taken off what the system says, and a model that leaves
//! gives back only what it took beyond them.

/// How far a model in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its memory is promised, and taken only in part.
    Loading,
    Loaded,
    /// Told to go; its memory is not free yet.
    Leaving,
}

/// A model in memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resident {
    pub(super) id: String,
    pub(super) stage: Stage,
    /// Bytes of RAM, estimated.
    pub(super) needs: u64,
    /// Bytes of them that are mapped from the file.
    pub(super) weights: u64,
    /// Does not leave for others: the active model, and pinned ones.
    pub(super) stays: bool,
    /// Leaves anyway as soon as it is idle: the model that was active before a swap.
    pub(super) expendable: bool,
    /// Has requests that it has to finish first.
    pub(super) busy: bool,
    /// Larger is later.
    pub(super) last_used: u64,
}

/// Memory in bytes; `u64::MAX` where it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// What the system says can be had now.
    pub(super) available: u64,
    /// What all models together may take: all RAM minus the owner's reserve.
    pub(super) limit: u64,
}

/// What to do about a model that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    Load,
    /// Not yet. `evict` leaves now, `drain` after the requests it has accepted. With both empty
    /// something that is leaving has to be gone first.
    Wait {
        evict: Vec<String>,
        drain: Vec<String>,
    },
    /// More than `has` bytes can never be had, whatever may leave.
    NoRoom {
        has: u64,
    },
    /// As many models as may be in memory are there, and none of them may leave.
    NoSeat,
}

/// Decides about a model that needs `needs` bytes and is not among `residents`.
pub(super) fn decide(
    needs: u64,
    residents: &[Resident],
    memory: Memory,
    max_loaded: usize,
) -> Decision {
    let leaving = |r: &Resident| r.stage == Stage::Leaving;
    let may_leave = |r: &Resident| !r.stays && !leaving(r);
    let fits = |gone: &dyn Fn(&Resident) -> bool| {
        let seats = residents.iter().filter(|r| !gone(r) && !leaving(r)).count();
        i128::from(needs) <= room(residents, memory, gone) && seats < max_loaded
    };
    let has = room(residents, memory, &|r| may_leave(r) || leaving(r));
    if i128::from(needs) > has {
        return Decision::NoRoom { has: u64::try_from(has).unwrap_or(0) };
    }
    if residents.iter().filter(|r| r.stays && !leaving(r)).count() >= max_loaded {
        return Decision::NoSeat;
    }
    if fits(&|_| false) {
        return Decision::Load;
    }
    let mut candidates: Vec<&Resident> = residents.iter().filter(|r| may_leave(r)).collect();
    candidates.sort_by_key(|r| (r.busy, !r.expendable, r.last_used));
    let without = |out: &[&Resident]| fits(&|r| leaving(r) || out.iter().any(|o| o.id == r.id));
    let enough = (0..=candidates.len()).find(|&n| without(&candidates[..n]));
    let mut out = candidates[..enough.unwrap_or(candidates.len())].to_vec();
    // A large one at the end may make a small one before it unnecessary.
    for candidate in out.clone() {
        let others: Vec<&Resident> = out.iter().copied().filter(|r| r.id != candidate.id).collect();
        if without(&others) {
            out = others;
        }
    }
    let (drain, evict): (Vec<&Resident>, Vec<&Resident>) = out.into_iter().partition(|r| r.busy);
    let ids = |list: Vec<&Resident>| list.into_iter().map(|r| r.id.clone()).collect();
    Decision::Wait { evict: ids(evict), drain: ids(drain) }
}

/// Bytes that one more model may take beside those that are not `gone`.
pub(super) fn room(
    residents: &[Resident],
    memory: Memory,
    gone: &dyn Fn(&Resident) -> bool,
) -> i128 {
    let mut available = i128::from(memory.available);
    let mut limit = i128::from(memory.limit);
    for resident in residents {
        let (needs, weights) = (i128::from(resident.needs), i128::from(resident.weights));
        let gone = gone(resident);
        available += match resident.stage {
            // What it took so far is not known; nothing is counted on.
            Stage::Loading if gone => 0,
            Stage::Loading => -needs,
            Stage::Loaded | Stage::Leaving if gone => (needs - weights).max(0),
            Stage::Loaded | Stage::Leaving => -weights,
        };
        if !gone {
            limit -= needs;
        }
    }
    available.min(limit).max(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn resident(id: &str, gigabytes: u64, last_used: u64) -> Resident {
        Resident {
            id: id.into(),
            stage: Stage::Loaded,
            needs: gigabytes * GB,
            weights: gigabytes * GB,
            stays: false,
            expendable: false,
            busy: false,
            last_used,
        }
    }

    fn memory(gigabytes: u64) -> Memory {
        Memory { available: gigabytes * GB, limit: gigabytes * GB }
    }

    fn wait(evict: &[&str], drain: &[&str]) -> Decision {
        let ids = |list: &[&str]| list.iter().map(|&id| id.to_owned()).collect();
        Decision::Wait { evict: ids(evict), drain: ids(drain) }
    }

    #[test]
    fn a_model_that_fits_beside_the_others_is_loaded() {
        let residents = [resident("a", 4, 1)];
        assert_eq!(decide(4 * GB, &residents, memory(8), 3), Decision::Load);
        assert_eq!(decide(5 * GB, &residents, memory(8), 3), wait(&["a"], &[]));
    }

    #[test]
    fn the_idle_one_not_used_for_the_longest_time_leaves_first_and_no_more_than_needed() {
        let residents = [resident("new", 3, 9), resident("old", 3, 2), resident("older", 1, 1)];
        // 1 GB is free; 3 GB need "old" alone, although "older" was used before it.
        assert_eq!(decide(3 * GB, &residents, memory(8), 9), wait(&["old"], &[]));
        assert_eq!(decide(2 * GB, &residents, memory(8), 9), wait(&["older"], &[]));
    }

    #[test]
    fn a_busy_model_is_waited_for_only_when_idle_ones_are_not_enough() {
        let busy = Resident { busy: true, ..resident("busy", 4, 1) };
        let residents = [busy.clone(), resident("idle", 2, 5)];
        assert_eq!(decide(3 * GB, &residents, memory(8), 9), wait(&["idle"], &[]));
        assert_eq!(decide(7 * GB, &residents, memory(8), 9), wait(&["idle"], &["busy"]));
        assert_eq!(decide(5 * GB, &[busy], memory(8), 9), wait(&[], &["busy"]));
    }

    #[test]
    fn what_stays_is_never_asked_to_leave_and_the_refusal_says_how_much_there_is() {
        let stays = Resident { stays: true, ..resident("active", 5, 1) };
        let residents = [stays, resident("b", 1, 2)];
        assert_eq!(decide(4 * GB, &residents, memory(8), 9), Decision::NoRoom { has: 3 * GB });
        assert_eq!(decide(3 * GB, &residents, memory(8), 9), wait(&["b"], &[]));
    }

    #[test]
    fn the_number_of_models_is_limited_too() {
        let residents = [resident("a", 1, 1), resident("b", 1, 2)];
        assert_eq!(decide(GB, &residents, memory(80), 2), wait(&["a"], &[]));
        let stays = [Resident { stays: true, ..resident("a", 1, 1) }];
        assert_eq!(decide(GB, &stays, memory(80), 1), Decision::NoSeat);
    }

    #[test]
    fn the_model_before_a_swap_leaves_before_others() {
        let before = Resident { expendable: true, ..resident("before", 2, 9) };
        let residents = [resident("other", 2, 1), before];
        assert_eq!(decide(4 * GB, &residents, memory(6), 9), wait(&["before"], &[]));
    }

    #[test]
    fn memory_of_a_model_on_its_way_out_is_waited_for() {
        let leaving = Resident { stage: Stage::Leaving, ..resident("a", 6, 1) };
        let leaving = [leaving];
        assert_eq!(decide(4 * GB, &leaving, memory(8), 1), wait(&[], &[]));
        assert_eq!(decide(2 * GB, &leaving, memory(8), 1), Decision::Load);
    }

    #[test]
    fn mapped_weights_are_not_counted_as_free_and_only_the_rest_comes_back() {
        // 10 GB of RAM, one model of 6 GB of which 4 are weights: the system says 8 are available.
        let loaded = [Resident { weights: 4 * GB, ..resident("a", 6, 1) }];
        let now = Memory { available: 8 * GB, limit: 10 * GB };
        assert_eq!(decide(4 * GB, &loaded, now, 9), Decision::Load);
        assert_eq!(decide(5 * GB, &loaded, now, 9), wait(&["a"], &[]));
        assert_eq!(decide(11 * GB, &loaded, now, 9), Decision::NoRoom { has: 10 * GB });
    }

    fn residents() -> impl Strategy<Value = Vec<Resident>> {
        let one = (0_u8..3, 0_u64..20, 0_u64..=10, any::<[bool; 3]>(), 0_u64..5);
        prop::collection::vec(one, 0..7).prop_map(|list| {
            let each = list.into_iter().enumerate();
            each.map(|(n, (stage, needs, tenths, [stays, expendable, busy], last_used))| Resident {
                id: n.to_string(),
                stage: [Stage::Loading, Stage::Loaded, Stage::Leaving][usize::from(stage)],
                needs: needs * GB,
                weights: needs * GB * tenths / 10,
                stays,
                expendable,
                busy,
                last_used,
            })
            .collect()
        })
    }

    proptest! {
        #[test]
        fn whatever_is_there_the_decision_keeps_its_promises(
            residents in residents(),
            needs in 0_u64..30,
            available in 0_u64..60,
            limit in 0_u64..60,
            max_loaded in 1_usize..5,
        ) {
            let needs = needs * GB;
            let memory = Memory { available: available * GB, limit: limit * GB };
            let find = |id: &String| residents.iter().find(|r| r.id == *id).expect("a resident");
            match decide(needs, &residents, memory, max_loaded) {
                Decision::Load => {
                    let taken: u64 = residents.iter().map(|r| r.needs).sum();
                    prop_assert!(needs == 0 || taken + needs <= memory.limit);
                    prop_assert!(needs <= memory.available);
                    let seats = residents.iter().filter(|r| r.stage != Stage::Leaving).count();
                    prop_assert!(seats < max_loaded);
                }
                Decision::Wait { evict, drain } => {
                    prop_assert!(evict.iter().all(|id| !find(id).busy));
                    prop_assert!(drain.iter().all(|id| find(id).busy));
                    let out: Vec<&String> = evict.iter().chain(&drain).collect();
                    prop_assert!(out.iter().all(|id| !find(id).stays));
                    // Once they are gone the answer is yes, at the memory that is then free.
                    let (gone, left): (Vec<_>, Vec<_>) = residents
                        .iter()
                        .cloned()
                        .partition(|r| r.stage == Stage::Leaving || out.contains(&&r.id));
                    let freed: u64 = gone
                        .iter()
                        .filter(|r| r.stage != Stage::Loading)
                        .map(|r| r.needs - r.weights)
                        .sum();
                    let then = Memory { available: memory.available + freed, ..memory };
                    prop_assert_eq!(decide(needs, &left, then, max_loaded), Decision::Load);
                }
                Decision::NoRoom { has } => prop_assert!(has < needs),
                Decision::NoSeat => {
                    let staying = residents.iter().filter(|r| r.stays && r.stage != Stage::Leaving);
                    prop_assert!(staying.count() >= max_loaded);
                }
            }
        }
    }
}
