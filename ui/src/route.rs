//! The panels and their addresses. The location's hash carries the panel, so that the same page
//! works from `tauri://` and over HTTP without a server that knows about panels.

use agent_api::{NodeId, tasks::TaskId};

use crate::components::icon::Icon;

const PEER: &str = "/mesh/peer/";
const TASK: &str = "/tasks/task/";
/// The address of the schedules.
pub const SCHEDULES: &str = "/tasks/schedules";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Panel {
    #[default]
    Dashboard,
    Mesh,
    Models,
    Credits,
    Tasks,
    Settings,
}

impl Panel {
    /// In the order of the sidebar and of the keys 1 to 6.
    pub const ALL: [Self; 6] =
        [Self::Dashboard, Self::Mesh, Self::Models, Self::Credits, Self::Tasks, Self::Settings];

    pub fn title(self) -> &'static str {
        match self {
            Self::Dashboard => "Dashboard",
            Self::Mesh => "Mesh",
            Self::Models => "Models",
            Self::Credits => "Credits",
            Self::Tasks => "Tasks",
            Self::Settings => "Settings",
        }
    }

    pub fn icon(self) -> Icon {
        match self {
            Self::Dashboard => Icon::Dashboard,
            Self::Mesh => Icon::Mesh,
            Self::Models => Icon::Models,
            Self::Credits => Icon::Credits,
            Self::Tasks => Icon::Tasks,
            Self::Settings => Icon::Settings,
        }
    }

    /// The path, also used by the desktop shell to open a panel.
    pub fn path(self) -> &'static str {
        match self {
            Self::Dashboard => "/",
            Self::Mesh => "/mesh",
            Self::Models => "/models",
            Self::Credits => "/credits",
            Self::Tasks => "/tasks",
            Self::Settings => "/settings",
        }
    }

    pub fn href(self) -> String {
        format!("#{}", self.path())
    }

    /// The panel of a path; the Dashboard for anything unknown.
    pub fn from_path(path: &str) -> Self {
        let path = path.trim_start_matches('#').trim_end_matches('/');
        if peer_of(path).is_some() {
            return Self::Mesh;
        }
        if task_of(path).is_some() || path == SCHEDULES {
            return Self::Tasks;
        }
        Self::ALL.into_iter().find(|p| p.path() == path).unwrap_or_default()
    }

    /// The key that opens the panel.
    pub fn key(self) -> char {
        let place = Self::ALL.iter().position(|p| *p == self).unwrap_or(0) as u8;
        char::from(b'1' + place)
    }
}

/// The peer of an address of its details: `#/mesh/peer/ID`.
pub fn peer_of(hash: &str) -> Option<NodeId> {
    let id = hash.trim_start_matches('#').strip_prefix(PEER)?;
    // An identity is in hexadecimal digits; anything else is a mistyped address.
    let valid = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| NodeId(id.to_ascii_lowercase()))
}

/// The address of a peer's details.
pub fn peer_href(id: &NodeId) -> String {
    format!("#{PEER}{id}")
}

/// The task of an address of its details: `#/tasks/task/ID`.
pub fn task_of(hash: &str) -> Option<TaskId> {
    let id = hash.trim_start_matches('#').strip_prefix(TASK)?;
    let digits = id.strip_prefix("t_")?;
    let valid = digits.len() == 26 && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    valid.then(|| TaskId(id.to_owned()))
}

/// The address of a task's details.
pub fn task_href(id: &TaskId) -> String {
    format!("#{TASK}{id}")
}

/// The token of an address that `edgecoder-node run` printed: `#token=...`.
pub fn token_of(hash: &str) -> Option<String> {
    let token = hash.trim_start_matches('#').trim_start_matches('/').strip_prefix("token=")?;
    let token = token.split('&').next().unwrap_or_default().trim();
    (!token.is_empty()).then(|| token.into())
}

/// The token in what somebody pasted: the token itself, or the whole address.
pub fn token_in(pasted: &str) -> Option<String> {
    let pasted = pasted.trim();
    match pasted.find("token=") {
        Some(at) => token_of(&pasted[at..]),
        // A token is one word; an address without one is not a token.
        None => (!pasted.is_empty() && !pasted.contains([' ', '/', '\n'])).then(|| pasted.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_has_an_address_that_leads_back_to_it() {
        for panel in Panel::ALL {
            assert_eq!(Panel::from_path(&panel.href()), panel);
            assert_eq!(Panel::from_path(panel.path()), panel);
        }
        assert_eq!(Panel::from_path("#/models/"), Panel::Models);
        assert_eq!(Panel::from_path("#/nothing"), Panel::Dashboard);
        assert_eq!(Panel::from_path(""), Panel::Dashboard);
        assert_eq!((Panel::Dashboard.key(), Panel::Settings.key()), ('1', '6'));
    }

    #[test]
    fn a_peer_has_an_address_in_the_mesh() {
        let id = NodeId("ab".repeat(32));
        assert_eq!(peer_of(&peer_href(&id)), Some(id.clone()));
        assert_eq!(Panel::from_path(&peer_href(&id)), Panel::Mesh);
        assert_eq!(peer_of("#/mesh"), None);
        assert_eq!(peer_of("#/mesh/peer/short"), None);
    }

    #[test]
    fn a_task_and_the_schedules_have_addresses_in_the_panel() {
        let id = TaskId(format!("t_{:026}", 7));
        assert_eq!(task_of(&task_href(&id)), Some(id.clone()));
        assert_eq!(Panel::from_path(&task_href(&id)), Panel::Tasks);
        assert_eq!(Panel::from_path(SCHEDULES), Panel::Tasks);
        assert_eq!((task_of("#/tasks"), task_of("#/tasks/task/t_1")), (None, None));
    }

    #[test]
    fn tokens_are_found_in_addresses_and_in_what_people_paste() {
        assert_eq!(token_of("#token=abc"), Some("abc".into()));
        assert_eq!(token_of("#/token=abc&x=1"), Some("abc".into()));
        assert_eq!(token_of("#/mesh"), None);
        assert_eq!(token_of("#token="), None);
        assert_eq!(token_in("  abc\n"), Some("abc".into()));
        assert_eq!(token_in("http://127.0.0.1:4301/#token=abc"), Some("abc".into()));
        assert_eq!(token_in("http://127.0.0.1:4301/"), None);
        assert_eq!(token_in("  "), None);
    }
}
