//! Mesh: how nodes are found, what they see of this one, and what they may fetch from it.

use agent_api::{
    Settings,
    mesh::{DhtUse, LanJoin, MeshSettingsPatch},
    settings::SettingsPatch,
};
use leptos::prelude::*;

use super::{
    View,
    region::RegionRow,
    row::{ListRow, NumberRow, SelectRow, SizeRow, SwitchRow, known},
};

const MB: u64 = 1_000_000;
/// As the node checks them.
const MAX_SEEDS: usize = 16;
const MAX_RELAYS: usize = 8;

const LAN_JOINS: [(LanJoin, &str, &str); 3] = [
    (LanJoin::Automatic, "automatic", "By themselves, while nobody was invited"),
    (LanJoin::Ask, "ask", "They ask, you let them in"),
    (LanJoin::Never, "never", "Never"),
];
const DHT_USES: [(DhtUse, &str, &str); 3] = [
    (DhtUse::Off, "off", "Off"),
    (DhtUse::Seeds, "seeds", "Of the mesh’s seeds"),
    (DhtUse::Public, "public", "Also the public one"),
];

/// A change of one setting.
fn change(set: impl FnOnce(&mut MeshSettingsPatch)) -> SettingsPatch {
    let mut mesh = MeshSettingsPatch::default();
    set(&mut mesh);
    SettingsPatch { mesh: Some(mesh), ..SettingsPatch::default() }
}

/// A row that turns something on and off.
fn switch(
    view: View,
    field: &'static str,
    label: &'static str,
    hint: &'static str,
    read: fn(&Settings) -> bool,
    patch: fn(bool) -> SettingsPatch,
) -> AnyView {
    view! { <SwitchRow view field label hint read patch/> }.into_any()
}

fn card(title: &'static str, rows: impl IntoView) -> impl IntoView {
    view! {
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">{title}</h3></div>
            <div class="sets">{rows}</div>
        </section>
    }
}

fn options<T>(all: &[(T, &str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(_, word, name)| ((*word).to_owned(), (*name).to_owned())).collect()
}

fn word<T: PartialEq>(all: &[(T, &'static str, &str)], value: &T) -> String {
    all.iter().find(|(other, ..)| other == value).map_or("", |(_, word, _)| word).to_owned()
}

fn value<T: Copy>(all: &[(T, &str, &str)], word: &str) -> Option<T> {
    all.iter().find(|(_, other, _)| *other == word).map(|(value, ..)| *value)
}

#[component]
pub(super) fn Mesh(view: View) -> impl IntoView {
    let enabled = switch(
        view,
        "mesh.enabled",
        "Take part in the mesh",
        "Off: no packet leaves for other nodes, and none can find this one.",
        |s| s.mesh.enabled,
        |v| change(|m| m.enabled = Some(v)),
    );
    view! {
        <section class="card">
            <div class="sets">{enabled}<RegionRow view/></div>
        </section>
        {lan(view)}
        {internet(view)}
        {files(view)}
    }
}

fn lan(view: View) -> impl IntoView {
    let find = switch(
        view,
        "mesh.lan",
        "Find nodes on this network",
        "By multicast DNS, and be found by it. Names and keys are sent, never a secret.",
        |s| s.mesh.lan,
        |v| change(|m| m.lan = Some(v)),
    );
    let join = view! {
        <SelectRow
            view
            field="mesh.lan_join"
            label="New nodes here join"
            hint="By themselves only as long as nobody was invited by ticket; after that they ask."
            options=options(&LAN_JOINS)
            read=|s| word(&LAN_JOINS, &s.mesh.lan_join)
            patch=|v| value(&LAN_JOINS, v).map(|v| change(|m| m.lan_join = Some(v)))
        />
    };
    card("This network", (find, join))
}

fn dht_hint(dht: DhtUse) -> &'static str {
    match dht {
        DhtUse::Off => "No hash table is asked. Peers are found by the other ways only.",
        DhtUse::Seeds => {
            "The hash table that the seeds of this mesh run. Strangers see nothing of it."
        }
        DhtUse::Public => {
            "Also BitTorrent’s: strangers can see that this address looks for a mesh, not which one or what for."
        }
    }
}

fn internet(view: View) -> impl IntoView {
    let dht =
        move || known(view).map(|v| dht_hint(v.settings.mesh.dht).to_owned()).unwrap_or_default();
    let rows = view! {
        <ListRow
            view
            field="mesh.seeds"
            label="Seeds"
            hint="Asked for peers. Tickets bring those of their mesh along."
            example="https://seed.example"
            most=MAX_SEEDS
            read=|s| s.mesh.seeds.clone()
            patch=|v| change(|m| m.seeds = Some(v))
        />
        <SelectRow
            view
            field="mesh.dht"
            label="Hash table (DHT)"
            hint=Signal::derive(dht)
            options=options(&DHT_USES)
            read=|s| word(&DHT_USES, &s.mesh.dht)
            patch=|v| value(&DHT_USES, v).map(|v| change(|m| m.dht = Some(v)))
        />
        <ListRow
            view
            field="mesh.relays"
            label="Relays"
            hint="Besides those of the mesh’s seeds, where no straight path works. A relay cannot read what it passes on."
            example="https://relay.example"
            most=MAX_RELAYS
            read=|s| s.mesh.relays.clone()
            patch=|v| change(|m| m.relays = Some(v))
        />
        <NumberRow
            view
            field="mesh.port"
            label="Port"
            hint="UDP, used at the next start. Empty: any free one."
            unit=""
            min=0
            max=65_535
            read=|s| (s.mesh.port != 0).then_some(u32::from(s.mesh.port))
            patch=|v| change(|m| m.port = u16::try_from(v).ok())
        />
    };
    let mapping = switch(
        view,
        "mesh.port_mapping",
        "Ask the router for a port",
        "By UPnP, PCP or NAT-PMP, so that peers reach this node straight. Used at the next start.",
        |s| s.mesh.port_mapping,
        |v| change(|m| m.port_mapping = Some(v)),
    );
    card("Internet", (rows, mapping))
}

fn files(view: View) -> impl IntoView {
    let share = switch(
        view,
        "mesh.share_models",
        "Share models",
        "Peers may fetch model files from this node.",
        |s| s.mesh.share_models,
        |v| change(|m| m.share_models = Some(v)),
    );
    let upload = view! {
        <SizeRow
            view
            field="mesh.upload_limit"
            label="Upload"
            hint=Signal::derive(|| "For all peers together.".to_owned())
            unit="MB/s"
            scale=MB
            empty="no limit"
            read=|s| s.mesh.upload_limit
            patch=|v| change(|m| m.upload_limit = Some(v))
        />
    };
    let fetch = switch(
        view,
        "mesh.fetch_from_peers",
        "Fetch from peers first",
        "A pull asks peers that have the file before the registry. Digests are checked either way.",
        |s| s.mesh.fetch_from_peers,
        |v| change(|m| m.fetch_from_peers = Some(v)),
    );
    card("Model files", (share, upload, fetch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_word_leads_back_to_its_value() {
        for (lan_join, name, _) in LAN_JOINS {
            assert_eq!(value(&LAN_JOINS, &word(&LAN_JOINS, &lan_join)), Some(lan_join));
            assert_eq!(serde_json::json!(lan_join), name);
        }
        for (dht, name, _) in DHT_USES {
            assert_eq!(value(&DHT_USES, &word(&DHT_USES, &dht)), Some(dht));
            assert_eq!(serde_json::json!(dht), name);
        }
        assert_eq!(value(&DHT_USES, "else"), None);
    }

    #[test]
    fn the_public_table_says_what_strangers_see() {
        assert!(dht_hint(DhtUse::Public).contains("strangers can see"));
    }
}
