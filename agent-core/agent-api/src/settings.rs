//! The owner's settings: one JSON file, one shape, every field read by something.

use serde::{Deserialize, Serialize};

/// The version of the settings file this program writes. A newer file is refused, not guessed at.
pub const SETTINGS_VERSION: u32 = 1;

/// All settings, with their values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub version: u32,
    /// The node's name for people; the host name until the owner chooses one.
    pub node_name: String,
    /// Address and port of the API. Anything but loopback also needs `api_key`. Used at the next
    /// start of the node.
    pub listen: String,
    /// Key that requests from other computers must send as `Authorization: Bearer`.
    pub api_key: Option<String>,
    /// Host names, besides loopback and the listen address, that requests may name.
    pub allowed_hosts: Vec<String>,
    /// Web origins, besides our own page, that may call the API from a browser.
    pub allowed_origins: Vec<String>,
    /// Id of the model to load at start.
    pub active_model: Option<String>,
    /// Tokens per request, prompt and answer together; the model's own limit if smaller.
    pub context_length: u32,
    /// Requests served at the same time.
    pub parallel: u32,
    /// Threads for generation; `None`: one per physical core.
    pub threads: Option<u32>,
    /// Keep the node running in the tray when the window is closed.
    pub close_to_tray: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: SETTINGS_VERSION,
            node_name: String::new(),
            listen: "127.0.0.1:4301".into(),
            api_key: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            active_model: None,
            context_length: 4096,
            parallel: 4,
            threads: None,
            close_to_tray: true,
        }
    }
}

/// Body of `PATCH /settings`: only what changes. An unknown field is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SettingsPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// An empty string removes the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// 0 goes back to automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_to_tray: Option<bool>,
}

/// Answer of `GET` and `PATCH /settings`. The API key is never sent back, only whether one is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SettingsView {
    pub settings: Settings,
    pub api_key_set: bool,
    /// Where the file is.
    pub path: String,
    /// Changes that wait for the node to start again, by field name.
    pub after_restart: Vec<String>,
}
