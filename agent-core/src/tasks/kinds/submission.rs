//! A submission's own fields: all but the input.

use std::net::IpAddr;

use agent_api::tasks::{Privacy, TaskKind};
use serde_json::{Map, Value};

use super::{Fields, name_of};

/// Bounds that `SubmitTask` documents.
const PRIORITY: u32 = 9;
const KEY_BYTES: usize = 200;
const EXPIRES_S: u64 = 30 * 24 * 60 * 60;
const ATTEMPTS: u32 = 10;
const LABEL: usize = 80;
/// A node's id has 64 digits, its name up to 64 bytes.
const NODE_BYTES: usize = 64;
/// Longer addresses are refused by many servers.
const URL_BYTES: usize = 2_048;
/// Longer keys add nothing to HMAC-SHA-256.
const SECRET_BYTES: usize = 256;

/// The kind, if it is one.
pub(super) fn check(own: &Map<String, Value>, problems: &mut Vec<String>) -> Option<TaskKind> {
    let mut fields = Fields::new("", own, problems);
    let kind = fields.need("kind").and_then(|value| {
        let kind = serde_json::from_value::<TaskKind>(value.clone()).ok();
        if kind.is_none() {
            let kinds = TaskKind::ALL.map(TaskKind::as_str).join(", ");
            fields.wrong("kind", format_args!("it is one of {kinds}"));
        }
        kind
    });
    fields.get("input");
    if let Some(value) = fields.get("privacy")
        && serde_json::from_value::<Privacy>(value.clone()).is_err()
    {
        fields.wrong("privacy", "it is one of this_node, my_nodes, trusted, mesh");
    }
    fields.small("priority", 0..=PRIORITY);
    fields.text("node", 1..=NODE_BYTES);
    fields.text("idempotency_key", 1..=KEY_BYTES);
    fields.integer("expires_in_s", 1..=EXPIRES_S);
    fields.small("max_attempts", 1..=ATTEMPTS);
    if fields.small("replicas", 2..=5).is_some() && kind.is_some_and(|kind| kind != TaskKind::Wasm)
    {
        fields.wrong("replicas", "only wasm tasks give the same result on every node");
    }
    fields.line("label", LABEL);
    let webhook = fields.get("webhook");
    fields.finish();
    match webhook {
        None => {}
        Some(Value::Object(map)) => check_webhook(map, problems),
        Some(other) => {
            problems.push(format!("webhook: an object is expected, not {}", name_of(other)));
        }
    }
    kind
}

fn check_webhook(map: &Map<String, Value>, problems: &mut Vec<String>) {
    let mut fields = Fields::new("webhook.", map, problems);
    if let Some(text) = fields.need_text("url", 1..=URL_BYTES)
        && let Err(why) = check_url(text)
    {
        fields.wrong("url", why);
    }
    fields.text("secret", 1..=SECRET_BYTES);
    fields.finish();
}

/// Results are the owner's words: over the internet they travel encrypted.
fn check_url(text: &str) -> Result<(), &'static str> {
    let url = reqwest::Url::parse(text).map_err(|_| "it is not a URL")?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it names no host")?;
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_near(host) => Ok(()),
        "http" => Err("http:// is for this computer and network only; use https://"),
        _ => Err("it begins with https:// or http://"),
    }
}

/// This computer, or by its name or address one of this network.
fn is_near(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
        Err(_) => !host.contains('.') || host.ends_with(".local") || host.ends_with(".localhost"),
    }
}
