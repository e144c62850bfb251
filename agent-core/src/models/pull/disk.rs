//! Whether there is room, and what a failed write means.

use std::{io, path::Path};

use crate::text::size;

/// What pulls leave free for everything else on the disk, the node's database among it.
pub(super) const HEADROOM_BYTES: u64 = 512 << 20;

/// Why a pull does not go on although its source is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes still to come.
    pub needs: u64,
    /// Bytes that other pulls under way will still write.
    pub others: u64,
    pub free: Option<u64>,
    pub headroom: u64,
    /// The owner's limit and what counts against it now.
    pub budget: Option<(u64, u64)>,
}

impl Room {
    /// What is missing, as a sentence; `None` if there is room.
    pub(super) fn problem(self) -> Option<String> {
        let Self { needs, others, free, headroom, budget } = self;
        if needs == 0 {
            return None;
        }
        let also = match others {
            0 => String::new(),
            _ => format!(" (and other pulls under way {} more)", size(others)),
        };
        let rest = size(needs);
        let needs = needs.saturating_add(others);
        if let Some(free) = free.filter(|free| needs.saturating_add(headroom) > *free) {
            return Some(format!(
                "The disk has {} free; the rest needs {rest}{also} and {} are kept free for other programs. Free some space or remove a model, then resume.",
                size(free),
                size(headroom)
            ));
        }
        let (budget, used) = budget?;
        (used.saturating_add(needs) > budget).then(|| {
            format!(
                "Models take {} of the {} you allow, and the rest needs {rest}{also}. Remove a model or raise the disk budget, then resume.",
                size(used),
                size(budget)
            )
        })
    }
}

/// What a failed write means for a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriteProblem {
    /// It pauses and goes on once there is room.
    Full(String),
    /// It failed.
    Broken(String),
    NotGguf,
}

impl WriteProblem {
    pub(super) fn of(error: &io::Error, folder: &Path) -> Self {
        let folder = folder.display();
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full(format!(
                "The disk with {folder} is full. What is here is kept. Free some space or remove a model, then resume."
            )),
            io::ErrorKind::QuotaExceeded => Self::Full(format!(
                "Your disk quota for {folder} is used up. What is here is kept. Free some space or remove a model, then resume."
            )),
            io::ErrorKind::ReadOnlyFilesystem => Self::Broken(format!(
                "The disk with {folder} cannot be written to: it is mounted read-only. Check the disk, then resume."
            )),
            io::ErrorKind::PermissionDenied => Self::Broken(format!(
                "{folder} may not be written to. Change its permissions, then resume."
            )),
            _ => Self::Broken(format!(
                "Writing to {folder} failed: {error}. Check the disk, then resume."
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_numbers() {
        let room =
            Room { needs: 4 << 30, others: 0, free: Some(3 << 30), headroom: 0, budget: None };
        let problem = room.problem().expect("no room");
        assert!(problem.contains("3.2 GB free") && problem.contains("needs 4.3 GB"), "{problem}");
        assert_eq!(Room { needs: 3 << 30, ..room }.problem(), None);
        assert!(Room { needs: 3 << 30, headroom: 1, ..room }.problem().is_some());
        let budget = Room { free: None, budget: Some((10, 7)), needs: 4, ..room };
        assert!(budget.problem().expect("over").contains("7 bytes of the 10 bytes"));
        assert_eq!(Room { needs: 3, ..budget }.problem(), None);
        let together = Room { needs: 2, others: 2, ..budget }.problem().expect("over");
        assert!(together.contains("2 bytes (and other pulls under way 2 bytes"), "{together}");
        let none = Room { needs: 0, free: Some(0), headroom: 9, budget: Some((0, 9)), ..room };
        assert_eq!(none.problem(), None);
    }

    #[test]
    fn a_full_disk_is_not_a_broken_one() {
        let of = |code| WriteProblem::of(&io::Error::from_raw_os_error(code), Path::new("/models"));
        assert!(matches!(of(28), WriteProblem::Full(text) if text.contains("is full")));
        assert!(matches!(of(5), WriteProblem::Broken(_)));
        #[cfg(target_os = "linux")]
        {
            assert!(matches!(of(122), WriteProblem::Full(text) if text.contains("quota")));
            assert!(matches!(of(30), WriteProblem::Broken(text) if text.contains("read-only")));
        }
    }
}
