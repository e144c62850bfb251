//! Light, dark, or as the system. `static/theme.js` sets it before the first paint and follows the
//! system while the choice is `auto`; both use the same key.

use crate::storage;

const KEY: &str = "edgecoder-theme";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    #[default]
    Auto,
    Light,
    Dark,
}

impl Theme {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Light, Self::Dark];

    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Auto => "System",
            Self::Light => "Light",
            Self::Dark => "Dark",
        }
    }

    fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|t| t.name() == name).unwrap_or_default()
    }

    /// The choice of last time.
    pub fn remembered() -> Self {
        storage::get(KEY).map_or_else(Self::default, |name| Self::from_name(&name))
    }

    /// What the choice means while the system is dark or not.
    fn shown(self, system_dark: bool) -> Self {
        match self {
            Self::Auto if system_dark => Self::Dark,
            Self::Auto => Self::Light,
            chosen => chosen,
        }
    }

    /// The other one than what is shown.
    pub fn toggled(self, system_dark: bool) -> Self {
        match self.shown(system_dark) {
            Self::Dark => Self::Light,
            Self::Light | Self::Auto => Self::Dark,
        }
    }

    /// Shows the theme and remembers the choice.
    pub fn apply(self) {
        storage::set(KEY, self.name());
        let root = web_sys::window().and_then(|w| w.document()).and_then(|d| d.document_element());
        if let Some(root) = root {
            // Fails only for a bad attribute name.
            let _ = root.set_attribute("data-theme", self.shown(system_dark()).name());
        }
    }
}

pub fn system_dark() -> bool {
    let query = web_sys::window()
        .and_then(|w| w.match_media("(prefers-color-scheme: dark)").ok().flatten());
    query.is_some_and(|q| q.matches())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toggling_always_changes_what_is_shown() {
        for theme in Theme::ALL {
            for dark in [false, true] {
                assert_ne!(theme.toggled(dark), theme.shown(dark));
            }
            assert_eq!(Theme::from_name(theme.name()), theme);
        }
        assert_eq!(Theme::from_name("sepia"), Theme::Auto);
        assert_eq!(Theme::Auto.shown(true), Theme::Dark);
    }

    #[test]
    fn the_script_before_the_first_paint_uses_the_same_key() {
        assert!(include_str!("../static/theme.js").contains(KEY));
    }
}
