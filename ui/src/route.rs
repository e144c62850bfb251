//! The panels and their addresses. The location's hash carries the panel, so that the same page
//! works from `tauri://` and over HTTP without a server that knows about panels.

use agent_api::NodeId;

use crate::components::icon::Icon;

const PEER: &str = "/mesh/peer/";

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
