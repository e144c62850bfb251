//! What the settings of tasks may be, and how a change is applied to them.

use std::ops::RangeInclusive;

use agent_api::tasks::{TaskKind, TaskSettings, TaskSettingsPatch};

use super::mesh_rules::replace;

/// More than the processor has cores only wait for each other.
const CONCURRENCY: RangeInclusive<u32> = 1..=256;
/// Waiting jobs hold their input in memory.
const WAITING: RangeInclusive<u32> = 0..=1_000;
const PER_PEER: RangeInclusive<u32> = 1..=1_000;
const WEIGHT: RangeInclusive<u32> = 1..=100;
/// Nodes with a weight of their own; the settings are one file.
const WEIGHTS: usize = 256;
const KEEP_DAYS: RangeInclusive<u32> = 1..=365;

pub(super) fn apply_task_patch(settings: &mut TaskSettings, patch: TaskSettingsPatch) {
    let TaskSettingsPatch {
        accept,
        kinds,
        concurrency,
        waiting,
        per_peer,
        weights,
        privacy,
        keep_days,
    } = patch;
    replace(&mut settings.accept, accept);
    replace(&mut settings.waiting, waiting);
    replace(&mut settings.per_peer, per_peer);
    replace(&mut settings.weights, weights);
    replace(&mut settings.privacy, privacy);
    replace(&mut settings.keep_days, keep_days);
    if let Some(kinds) = kinds {
        // In one order and once each, so that equal settings are equal.
        settings.kinds = TaskKind::ALL.into_iter().filter(|kind| kinds.contains(kind)).collect();
    }
    if let Some(count) = concurrency {
        settings.concurrency = (count > 0).then_some(count);
    }
}

pub(super) fn validate_tasks(settings: &TaskSettings) -> Result<(), String> {
    let within = |name: &str, value: u32, range: RangeInclusive<u32>| {
        if range.contains(&value) {
            return Ok(());
        }
        Err(format!("{name} is {} to {}, not {value}", range.start(), range.end()))
    };
    if let Some(count) = settings.concurrency {
        within("the number of tasks at the same time (tasks.concurrency)", count, CONCURRENCY)?;
    }
    within("the number of waiting tasks (tasks.waiting)", settings.waiting, WAITING)?;
    within("the number of tasks per node (tasks.per_peer)", settings.per_peer, PER_PEER)?;
    within("the days that tasks are kept (tasks.keep_days)", settings.keep_days, KEEP_DAYS)?;
    if settings.weights.len() > WEIGHTS {
        return Err(format!("at most {WEIGHTS} nodes may have a weight (tasks.weights)"));
    }
    for (node, weight) in &settings.weights {
        if node.0.len() != 64 || !node.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(format!(
                "{:?} in tasks.weights is no node's id (64 hexadecimal digits)",
                node.0
            ));
        }
        within(&format!("the weight of {} (tasks.weights)", node.fmt_short()), *weight, WEIGHT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_api::NodeId;

    use super::*;

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let mut settings = TaskSettings::default();
        let patch = TaskSettingsPatch {
            kinds: Some(vec![TaskKind::Wasm, TaskKind::Chat, TaskKind::Wasm]),
            concurrency: Some(3),
            ..TaskSettingsPatch::default()
        };
        apply_task_patch(&mut settings, patch);
        assert_eq!(settings.kinds, [TaskKind::Chat, TaskKind::Wasm]);
        assert_eq!(settings.concurrency, Some(3));
        assert_eq!(settings.waiting, TaskSettings::default().waiting);
        let automatic = TaskSettingsPatch { concurrency: Some(0), ..TaskSettingsPatch::default() };
        apply_task_patch(&mut settings, automatic);
        assert_eq!(settings.concurrency, None);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let wrong: [(&str, TaskSettings); 4] = [
            ("tasks.waiting", TaskSettings { waiting: 5_000, ..TaskSettings::default() }),
            ("tasks.per_peer", TaskSettings { per_peer: 0, ..TaskSettings::default() }),
            ("tasks.keep_days", TaskSettings { keep_days: 0, ..TaskSettings::default() }),
            (
                "tasks.weights",
                TaskSettings {
                    weights: [(NodeId("me".into()), 5)].into(),
                    ..TaskSettings::default()
                },
            ),
        ];
        for (name, settings) in wrong {
            let error = validate_tasks(&settings).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
        assert_eq!(validate_tasks(&TaskSettings::default()), Ok(()));
    }
}
