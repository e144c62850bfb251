//! The keys of the page, as a pure function from a key press to what it asks for.

use crate::route::Panel;

/// A key press, without the browser around it.
#[derive(Clone, Debug, Default)]
pub struct Press {
    /// As `KeyboardEvent.key`.
    pub key: String,
    /// Ctrl, or Cmd on macOS.
    pub command: bool,
    pub alt: bool,
    pub shift: bool,
    /// A field has the focus, or a dialog is open.
    pub typing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Open(Panel),
    Palette,
    Shortcuts,
    PauseOrResume,
    Theme,
    /// The dialog of a new task.
    NewTask,
    /// The field that the panel is about: on the Dashboard, Ask; on Models, the catalogue's; on Mesh,
    /// the filter of the peers; on Tasks, theirs.
    Search,
    NextRow,
    PreviousRow,
}

/// What the press asks for. `single_keys` is the owner's choice to have keys without Ctrl.
pub fn action(press: &Press, single_keys: bool) -> Option<Action> {
    if press.alt {
        return None;
    }
    if press.command {
        return match press.key.as_str() {
            "k" | "K" => Some(Action::Palette),
            "," => Some(Action::Open(Panel::Settings)),
            _ => None,
        };
    }
    if press.typing || !single_keys {
        return None;
    }
    match press.key.as_str() {
        "p" | "P" => Some(Action::PauseOrResume),
        "t" | "T" => Some(Action::Theme),
        "n" | "N" => Some(Action::NewTask),
        "/" => Some(Action::Search),
        "?" => Some(Action::Shortcuts),
        "j" | "J" => Some(Action::NextRow),
        "k" | "K" => Some(Action::PreviousRow),
        key if !press.shift => {
            Panel::ALL.into_iter().find(|p| key == p.key().to_string()).map(Action::Open)
        }
        _ => None,
    }
}

/// Moves a choice through a list with the arrow keys, around the ends.
pub fn moved(key: &str, current: usize, len: usize) -> Option<usize> {
    if len == 0 {
        return None;
    }
    match key {
        "ArrowDown" => Some((current + 1) % len),
        "ArrowUp" => Some((current + len - 1) % len),
        "Home" => Some(0),
        "End" => Some(len - 1),
        _ => None,
    }
}

/// The row after or before the current one, stopping at the ends; without one, the first.
pub fn stepped(current: Option<usize>, forward: bool, len: usize) -> Option<usize> {
    let last = len.checked_sub(1)?;
    Some(match current {
        None => 0,
        Some(at) if forward => (at + 1).min(last),
        Some(at) => at.saturating_sub(1),
    })
}

/// The rows of the shortcut sheet: keys, what they do.
pub const SHEET: [(&[&str], &str); 12] = [
    (&["1", "–", "6"], "Open a panel"),
    (&["Ctrl", "K"], "Jump to a panel or an action"),
    (&["Ctrl", ","], "Settings"),
    (&["P"], "Pause or resume this node"),
    (&["N"], "Submit a task"),
    (&["/"], "Ask; on Models, Mesh and Tasks, search"),
    (&["J", "K"], "Next and previous row"),
    (&["Enter"], "Open the row"),
    (&["Ctrl", "Enter"], "Send the question, submit the task"),
    (&["T"], "Light or dark"),
    (&["Esc"], "Close what is open"),
    (&["?"], "This list"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn press(key: &str) -> Press {
        Press { key: key.into(), ..Press::default() }
    }

    #[test]
    fn digits_open_panels_unless_somebody_types() {
        assert_eq!(action(&press("1"), true), Some(Action::Open(Panel::Dashboard)));
        assert_eq!(action(&press("6"), true), Some(Action::Open(Panel::Settings)));
        assert_eq!(action(&press("7"), true), None);
        assert_eq!(action(&Press { typing: true, ..press("1") }, true), None);
        assert_eq!(action(&press("p"), false), None);
        assert_eq!(action(&press("?"), true), Some(Action::Shortcuts));
        assert_eq!(action(&press("n"), true), Some(Action::NewTask));
    }

    #[test]
    fn ctrl_keys_work_while_typing_and_leave_the_rest_to_the_browser() {
        let ctrl = |key: &str| Press { command: true, typing: true, ..press(key) };
        assert_eq!(action(&ctrl("k"), false), Some(Action::Palette));
        assert_eq!(action(&ctrl(","), true), Some(Action::Open(Panel::Settings)));
        assert_eq!(action(&ctrl("p"), true), None);
        assert_eq!(action(&ctrl("t"), true), None);
        assert_eq!(action(&Press { alt: true, ..press("t") }, true), None);
    }

    #[test]
    fn arrows_go_around() {
        assert_eq!(moved("ArrowDown", 2, 3), Some(0));
        assert_eq!(moved("ArrowUp", 0, 3), Some(2));
        assert_eq!(moved("End", 0, 3), Some(2));
        assert_eq!(moved("ArrowDown", 0, 0), None);
        assert_eq!(moved("x", 0, 3), None);
    }

    #[test]
    fn rows_are_stepped_through_and_end_at_the_ends() {
        assert_eq!(action(&press("j"), true), Some(Action::NextRow));
        assert_eq!(stepped(None, true, 3), Some(0));
        assert_eq!(stepped(Some(2), true, 3), Some(2));
        assert_eq!(stepped(Some(0), false, 3), Some(0));
        assert_eq!(stepped(None, true, 0), None);
    }
}
