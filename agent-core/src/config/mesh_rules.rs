//! What the mesh's settings may be, and how a change is applied to them.

use agent_api::mesh::{MeshSettings, MeshSettingsPatch};
use jiff::tz;
use reqwest::Url;

use super::limits;

/// Slowest upload that may be asked for: below it a model file would take weeks.
const MIN_UPLOAD: u64 = 10_000;
/// A number of bytes per second that no network reaches, and JavaScript can count.
const MAX_UPLOAD: u64 = 1 << 50;

/// Puts a patch's fields in place. `Err` says which one is wrong; the rest is for
/// [`validate_mesh`].
pub(super) fn apply_mesh_patch(
    settings: &mut MeshSettings,
    patch: MeshSettingsPatch,
) -> Result<(), String> {
    let MeshSettingsPatch {
        enabled,
        port,
        region,
        lan,
        lan_join,
        seeds,
        dht,
        relays,
        port_mapping,
        share_models,
        fetch_from_peers,
        upload_limit,
    } = patch;
    replace(&mut settings.enabled, enabled);
    replace(&mut settings.port, port);
    replace(&mut settings.lan, lan);
    replace(&mut settings.lan_join, lan_join);
    replace(&mut settings.dht, dht);
    replace(&mut settings.port_mapping, port_mapping);
    replace(&mut settings.share_models, share_models);
    replace(&mut settings.fetch_from_peers, fetch_from_peers);
    if let Some(region) = region {
        settings.region = match region.trim() {
            "auto" => None,
            "" => Some(String::new()),
            name => Some(known_zone(name)?),
        };
    }
    if let Some(urls) = seeds {
        settings.seeds = tidy(&urls);
    }
    if let Some(urls) = relays {
        settings.relays = tidy(&urls);
    }
    if let Some(rate) = upload_limit {
        settings.upload_limit = (rate > 0).then_some(rate);
    }
    Ok(())
}

pub(super) fn replace<T>(old: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *old = new;
    }
}

/// Without what does not make them different: spaces, a slash at the end, repetitions.
fn tidy(urls: &[String]) -> Vec<String> {
    let mut tidied: Vec<String> = Vec::new();
    for url in urls {
        let url = url.trim().trim_end_matches('/');
        if !url.is_empty() && !tidied.iter().any(|known| known == url) {
            tidied.push(url.to_owned());
        }
    }
    tidied
}

/// The zone as the time zone database spells it. Where the computer has no such database, what
/// looks like a zone is believed.
fn known_zone(name: &str) -> Result<String, String> {
    if let Ok(zone) = tz::TimeZone::get(name) {
        return Ok(zone.iana_name().unwrap_or(name).to_owned());
    }
    if tz::db().is_definitively_empty() && is_zone(name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "mesh.region is a time zone name such as Europe/Berlin, \"auto\" for this computer's, or empty to show none; {name:?} is not known"
    ))
}

fn is_zone(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    name.len() <= limits::REGION_BYTES && name.chars().all(letters)
}

/// Every bound. A region is only looked at for its shape: a settings file may come from a computer
/// that knows more zones.
pub(super) fn validate_mesh(settings: &MeshSettings) -> Result<(), String> {
    if settings.region.as_deref().is_some_and(|region| !is_zone(region)) {
        return Err("mesh.region is a time zone name such as Europe/Berlin".into());
    }
    for (name, urls, most) in [
        ("seeds", &settings.seeds, limits::MESH_SEEDS),
        ("relays", &settings.relays, limits::MESH_RELAYS),
    ] {
        if urls.len() > most {
            return Err(format!("mesh.{name} has {most} addresses at most"));
        }
        if let Some(bad) = urls.iter().find(|url| !is_url(url)) {
            return Err(format!(
                "mesh.{name} are addresses such as https://seed.example or http://203.0.113.7:4303, not {bad:?}"
            ));
        }
    }
    match settings.upload_limit {
        Some(rate) if rate < MIN_UPLOAD => {
            Err("mesh.upload_limit is at least 10,000 bytes per second, or 0 for none".into())
        }
        Some(rate) if rate > MAX_UPLOAD => Err(format!(
            "mesh.upload_limit of {rate} bytes per second is more than any network has"
        )),
        _ => Ok(()),
    }
}

/// Whether this is the address of a seed or a relay: HTTP, a host, and nothing that would be lost
/// or give something away when others hear of it.
pub fn is_url(text: &str) -> bool {
    if text.len() > limits::MESH_URL_BYTES {
        return false;
    }
    let Ok(url) = Url::parse(text) else { return false };
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use agent_api::settings::{Settings, SettingsPatch};

    use super::*;
    use crate::config::apply_patch;

    fn patched(mesh: MeshSettingsPatch) -> Result<MeshSettings, String> {
        let patch = SettingsPatch { mesh: Some(mesh), ..SettingsPatch::default() };
        let new = apply_patch(&Settings::default(), &patch);
        new.map(|settings| settings.mesh).map_err(|e| e.to_string())
    }

    fn seeds(urls: &[&str]) -> Result<MeshSettings, String> {
        let seeds = Some(urls.iter().map(|&url| url.to_owned()).collect());
        patched(MeshSettingsPatch { seeds, ..MeshSettingsPatch::default() })
    }

    fn region(name: &str) -> Result<Option<String>, String> {
        let region = Some(name.to_owned());
        let patch = MeshSettingsPatch { region, ..MeshSettingsPatch::default() };
        patched(patch).map(|settings| settings.region)
    }

    #[test]
    fn seeds_are_web_addresses_and_few() {
        let urls = ["https://seed.example/", " http://203.0.113.7:4303", "https://seed.example"];
        let kept = seeds(&urls).expect("accepted").seeds;
        assert_eq!(kept, ["https://seed.example", "http://203.0.113.7:4303"]);
        for bad in [
            "seed.example",
            "ftp://seed.example",
            "https://",
            "https://me:secret@seed.example",
            "https://seed.example/?a=1",
        ] {
            let error = seeds(&[bad]).expect_err("refused");
            assert!(error.contains("mesh.seeds") && error.contains(bad), "{error}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("https://seed{n}.example")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(seeds(&many).expect_err("refused").contains("16"));
        assert!(seeds(&many[..16]).is_ok());
        let long = format!("https://{}.example", "a".repeat(200));
        assert!(seeds(&[&long]).is_err());
    }

    #[test]
    fn relays_are_eight_at_most() {
        let relays = |n: usize| {
            let relays = Some((0..n).map(|n| format!("https://relay{n}.example")).collect());
            patched(MeshSettingsPatch { relays, ..MeshSettingsPatch::default() })
        };
        assert!(relays(8).is_ok());
        assert!(relays(9).expect_err("refused").contains("mesh.relays"));
    }

    #[test]
    fn a_region_is_a_zone_or_automatic_or_none() {
        assert_eq!(region("auto"), Ok(None));
        assert_eq!(region("  "), Ok(Some(String::new())));
        assert!(region("Middle/Of nowhere").expect_err("refused").contains("mesh.region"));
        if !tz::db().is_definitively_empty() {
            assert_eq!(region("europe/berlin"), Ok(Some("Europe/Berlin".to_owned())));
            assert!(region("Europe/Atlantis").is_err());
        }
    }

    #[test]
    fn an_upload_limit_of_nothing_is_no_limit() {
        let limit = |rate| {
            let upload_limit = Some(rate);
            patched(MeshSettingsPatch { upload_limit, ..MeshSettingsPatch::default() })
        };
        assert_eq!(limit(0).expect("accepted").upload_limit, None);
        assert_eq!(limit(5_000_000).expect("accepted").upload_limit, Some(5_000_000));
        assert!(limit(9_999).expect_err("refused").contains("10,000"));
    }

    #[test]
    fn what_a_patch_leaves_out_stays() {
        let off = patched(MeshSettingsPatch { enabled: Some(false), ..Default::default() });
        let expected = MeshSettings { enabled: false, ..MeshSettings::default() };
        assert_eq!(off, Ok(expected));
    }
}
