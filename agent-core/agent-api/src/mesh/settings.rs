//! The owner's settings of the mesh.

use super::{Deserialize, Serialize};

/// Field `mesh` of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MeshSettings {
    /// False: no packet leaves for other nodes.
    pub enabled: bool,
    /// UDP port of the mesh; 0: any free one. Used at the next start.
    pub port: u16,
    /// Time zone name that others see; absent: this computer's; empty: none.
    pub region: Option<String>,
    /// Find nodes on this network by multicast DNS, and be found.
    pub lan: bool,
    pub lan_join: LanJoin,
    /// Seeds to ask for peers: `https://seed.example`, at most 16.
    pub seeds: Vec<String>,
    pub dht: DhtUse,
    /// Relays to use besides those that seeds of the mesh offer, at most 8.
    pub relays: Vec<String>,
    /// Ask the router for a port (UPnP, PCP, NAT-PMP).
    pub port_mapping: bool,
    /// Let peers fetch model files from this node.
    pub share_models: bool,
    /// Fetch model files from peers that have them before asking the registry.
    pub fetch_from_peers: bool,
    /// Bytes per second that all peers together may fetch; absent: no limit.
    pub upload_limit: Option<u64>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            port: 0,
            region: None,
            lan: true,
            lan_join: LanJoin::Automatic,
            seeds: Vec::new(),
            dht: DhtUse::Seeds,
            relays: Vec::new(),
            port_mapping: true,
            share_models: true,
            fetch_from_peers: true,
            upload_limit: None,
        }
    }
}

/// What to do about nodes on the same network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LanJoin {
    /// New nodes merge by themselves as long as nobody was invited by ticket; after that they ask.
    #[default]
    Automatic,
    /// They ask, and the owner lets them in.
    Ask,
    /// They cannot.
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DhtUse {
    Off,
    /// Only the DHT that the mesh's seeds run.
    #[default]
    Seeds,
    /// Also BitTorrent's public DHT: strangers can see that this address looks for a mesh.
    Public,
}

/// Field `mesh` of a settings patch: only what changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MeshSettingsPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `auto` goes back to this computer's time zone; an empty string shows none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan_join: Option<LanJoin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dht: Option<DhtUse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_mapping: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_models: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch_from_peers: Option<bool>,
    /// 0 removes the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_limit: Option<u64>,
}
