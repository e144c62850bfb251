//! The owner's settings: one JSON file, one shape, every field read by something.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    hardware::{Tier, WorkerClass},
    mesh::{MeshSettings, MeshSettingsPatch},
    models::ModelOptions,
    tasks::{TaskSettings, TaskSettingsPatch},
};

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
    /// Folder of the models; absent: `models` in the data directory. Used at the next start.
    pub models_dir: Option<String>,
    /// An Ollama model folder that is read in place; absent: where Ollama keeps it; empty: none.
    pub ollama_dir: Option<String>,
    /// A running Ollama daemon whose models are offered here; empty: none.
    pub ollama_url: String,
    /// Bytes that models and parts of pulls may take; `None`: no limit.
    pub disk_budget_bytes: Option<u64>,
    /// Bytes per second that all pulls together may take; `None`: no limit.
    pub download_limit: Option<u64>,
    /// Host that plain model names are pulled from.
    pub default_registry: String,
    /// Hosts that need to be told apart from the usual HTTPS ones: mirrors, private registries.
    pub registries: Vec<Registry>,
    /// RAM that models leave to the owner's own programs.
    pub ram_reserve_bytes: u64,
    /// GPU memory that models leave to the owner's own programs.
    pub gpu_reserve_bytes: u64,
    /// Load a model when a request names it. Otherwise only the active model answers.
    pub load_on_request: bool,
    /// Seconds that a model loaded on request stays after its last request; -1: until something
    /// needs the memory. The active model stays.
    pub keep_alive_s: i64,
    /// Models in memory at the same time.
    pub max_loaded_models: u32,
    /// Overrides the computed tier.
    pub tier: Option<Tier>,
    /// Overrides the computed worker class.
    pub worker_class: Option<WorkerClass>,
    /// How single models are to run, by id.
    pub models: BTreeMap<String, ModelOptions>,
    pub mesh: MeshSettings,
    pub tasks: TaskSettings,
}

/// A registry host that is not reached at `https://` its own name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// As in model names: `registry.example:5000`.
    pub host: String,
    /// Where it is really fetched from: `https://mirror.example`. Absent: the host itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Without TLS. Loopback hosts never need it.
    pub plain_http: bool,
    /// A PEM file with the certificate authority to trust for this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Set by the node when it shows settings: credentials are kept for it. Ignored on the way in.
    pub logged_in: bool,
}

/// Body of `POST /model/registry/login`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    pub host: String,
    /// Empty: `secret` is a token that is sent as it is (`Authorization: Bearer`).
    #[serde(default)]
    pub username: String,
    /// Password or token; empty forgets the credentials.
    pub secret: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin").field("host", &self.host).finish_non_exhaustive()
    }
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
            models_dir: None,
            ollama_dir: None,
            ollama_url: "http://127.0.0.1:11434".into(),
            disk_budget_bytes: None,
            download_limit: None,
            default_registry: "registry.ollama.ai".into(),
            registries: Vec::new(),
            ram_reserve_bytes: 1_000_000_000,
            gpu_reserve_bytes: 500_000_000,
            load_on_request: true,
            keep_alive_s: 300,
            max_loaded_models: 3,
            tier: None,
            worker_class: None,
            models: BTreeMap::new(),
            mesh: MeshSettings::default(),
            tasks: TaskSettings::default(),
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
    /// An empty string goes back to the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models_dir: Option<String>,
    /// `auto` goes back to where Ollama keeps it; an empty string reads none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ollama_dir: Option<String>,
    /// An empty string uses no daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ollama_url: Option<String>,
    /// 0 removes the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_budget_bytes: Option<u64>,
    /// 0 removes the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_registry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries: Option<Vec<Registry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_reserve_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_reserve_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_on_request: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_s: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loaded_models: Option<u32>,
    /// `computed` goes back to the computed tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Override<Tier>>,
    /// `computed` goes back to the computed class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_class: Option<Override<WorkerClass>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshSettingsPatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TaskSettingsPatch>,
}

/// A chosen value, or the word `computed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Override<T> {
    Computed(Computed),
    Chosen(T),
}

/// The word `computed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Computed {
    Computed,
}

impl<T> Override<T> {
    pub fn chosen(self) -> Option<T> {
        match self {
            Self::Computed(_) => None,
            Self::Chosen(value) => Some(value),
        }
    }
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
