//! Installed models in words.

use agent_api::{
    hardware::{Tier, WorkerClass},
    models::{Capability, InstalledModel, ModelSource, ModelState},
};

use super::{Badge, Tone};
use crate::{
    components::icon::Icon,
    format::{self, LocalTime},
};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Seconds that models loaded on request may stay, as offered.
pub const KEEP_ALIVE: [(i64, &str); 5] = [
    (0, "at once"),
    (300, "5 min unused"),
    (3_600, "1 h unused"),
    (86_400, "1 day unused"),
    (-1, "never"),
];

/// What a model is doing now, beside its name.
pub fn states(model: &InstalledModel) -> Vec<Badge> {
    let badge = |tone, icon, text: &str, hint: &str| Badge {
        tone,
        icon,
        text: text.into(),
        hint: hint.into(),
    };
    let mut list = Vec::new();
    if model.active {
        list.push(badge(
            Tone::Good,
            Some(Icon::Check),
            "Active",
            "Answers requests that name no model",
        ));
    }
    if let Some(held) = &model.residency {
        let reason = held.reason.as_str();
        match held.state {
            ModelState::Ready if held.leaving => {
                list.push(badge(
                    Tone::Busy,
                    None,
                    "Leaving",
                    "Finishes its requests, then leaves memory",
                ));
            }
            ModelState::Ready if !model.active => {
                list.push(badge(Tone::Busy, None, "Loaded", "In memory"))
            }
            ModelState::Loading => list.push(badge(Tone::Busy, None, "Loading", reason)),
            ModelState::Restarting => {
                list.push(badge(Tone::Attention, Some(Icon::Refresh), "Starting again", reason));
            }
            ModelState::Failed => {
                list.push(badge(Tone::Bad, Some(Icon::Error), "Not loaded", reason));
            }
            ModelState::Ready | ModelState::None | ModelState::Unloaded => {}
        }
    }
    list
}

/// What holds about it for longer: the owner's choice, and where it is from.
pub fn traits(model: &InstalledModel) -> Vec<Badge> {
    let pinned = model.options.pinned.then_some(("Pinned", "Never evicted for another model"));
    let from = match model.source {
        ModelSource::Demo => Some(("Demo", "Shipped so that a fresh node answers offline")),
        ModelSource::OllamaFolder => Some(("from Ollama", "Read in place from Ollama’s folder")),
        ModelSource::OllamaDaemon => {
            Some(("run by Ollama", "The Ollama program on this computer runs it"))
        }
        ModelSource::File => Some(("your file", "A GGUF file in the models folder")),
        ModelSource::Store => None,
    };
    let badge = |(text, hint): (&str, &str)| Badge {
        tone: Tone::Plain,
        icon: None,
        text: text.into(),
        hint: hint.into(),
    };
    pinned.into_iter().chain(from).map(badge).collect()
}

/// Why it cannot be removed here, if it cannot.
pub fn why_kept(model: &InstalledModel) -> Option<&'static str> {
    if model.removable_bytes.is_some() {
        return None;
    }
    Some(match model.source {
        ModelSource::Demo => "It ships with EdgeCoder",
        ModelSource::OllamaFolder | ModelSource::OllamaDaemon => "It is Ollama’s; remove it there",
        ModelSource::File => "It is your own file; delete it in its folder",
        ModelSource::Store => "The node does not offer to remove it",
    })
}

/// In memory, or on its way there.
pub fn in_memory(model: &InstalledModel) -> bool {
    model.residency.as_ref().is_some_and(|r| {
        matches!(r.state, ModelState::Ready | ModelState::Loading | ModelState::Restarting)
    })
}

/// It turns text into vectors and cannot answer.
pub fn only_embeds(model: &InstalledModel) -> bool {
    model.capabilities.contains(&Capability::Embedding)
        && !model.capabilities.contains(&Capability::Completion)
}

/// The action that a row offers beside its menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primary {
    Swap,
    Load,
    Unload,
}

pub fn primary(model: &InstalledModel) -> Option<Primary> {
    match (model.active, in_memory(model)) {
        _ if model.problem.is_some() => None,
        (true, true) => None,
        (true, false) => Some(Primary::Load),
        (false, true) => Some(Primary::Unload),
        (false, false) if only_embeds(model) => Some(Primary::Load),
        (false, false) => Some(Primary::Swap),
    }
}

/// Tokens per request as it runs now, or would.
pub fn context_in_force(model: &InstalledModel) -> u32 {
    let loaded = model.residency.as_ref().and_then(|r| r.loaded.as_ref()).map(|l| l.context);
    loaded.or(model.fit.as_ref().map(|f| f.context)).unwrap_or(model.context_train)
}

/// `Q5_K_M, 32k`
pub fn quant_and_context(model: &InstalledModel) -> String {
    let context = context_in_force(model);
    let mut parts = vec![model.quantization.clone()];
    if context > 0 {
        parts.push(format::context(context));
    }
    parts.retain(|p| !p.is_empty());
    if parts.is_empty() { format::UNKNOWN.into() } else { parts.join(", ") }
}

/// `now`, `12 min ago`, `2 h ago`, `yesterday`, `3 Nov`
pub fn last_used(model: &InstalledModel, now_ms: i64, offset_ms: i64) -> String {
    if model.residency.as_ref().is_some_and(|r| r.running > 0) {
        return "now".into();
    }
    let Some(at) = model.last_used_ms else { return format::UNKNOWN.into() };
    let passed = (now_ms - at).max(0);
    let day = |ms: i64| (ms + offset_ms).div_euclid(24 * HOUR_MS);
    match day(now_ms) - day(at) {
        _ if passed < MINUTE_MS => "now".into(),
        _ if passed < HOUR_MS => format!("{}\u{202f}min ago", passed / MINUTE_MS),
        0 => format!("{}\u{202f}h ago", passed / HOUR_MS),
        1 => "yesterday".into(),
        _ => LocalTime::new(at, offset_ms).date(),
    }
}

/// Ids in the order of the table. Rows that are there keep their places while the panel is open;
/// new ones come last. At first: the active one, then what is in memory, then the last used.
pub fn order(before: &[String], models: &[InstalledModel]) -> Vec<String> {
    let mut rows: Vec<&InstalledModel> = models.iter().collect();
    rows.sort_by(|a, b| {
        let place =
            |m: &InstalledModel| before.iter().position(|id| *id == m.id).unwrap_or(usize::MAX);
        let rank = |m: &InstalledModel| (!m.active, m.residency.is_none());
        place(a)
            .cmp(&place(b))
            .then(rank(a).cmp(&rank(b)))
            .then(b.last_used_ms.cmp(&a.last_used_ms))
            .then_with(|| a.name.to_lowercase().cmp(&b.name.to_lowercase()))
            .then_with(|| a.id.cmp(&b.id))
    });
    rows.into_iter().map(|m| m.id.clone()).collect()
}

/// `completion`, `tools`: what it can do, in words.
pub fn capability(capability: Capability) -> &'static str {
    match capability {
        Capability::Completion => "answers",
        Capability::Tools => "tools",
        Capability::Insert => "fill in the middle",
        Capability::Vision => "images",
        Capability::Embedding => "embeddings",
        Capability::Thinking => "thinking",
    }
}

pub fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::StudioPremium => "studio-premium",
        Tier::MiniStandard => "mini-standard",
        Tier::MiniEconomy => "mini-economy",
    }
}

pub fn class(class: WorkerClass) -> &'static str {
    match class {
        WorkerClass::Gpu => "GPU inference",
        WorkerClass::Cpu => "CPU inference",
        WorkerClass::Storage => "Storage",
        WorkerClass::Edge => "Small tasks",
    }
}

/// `4 installed, 2 downloading`
pub fn summary(installed: usize, downloading: Option<usize>) -> String {
    match downloading {
        Some(n) => format!("{installed} installed, {n} downloading"),
        None => format!("{installed} installed"),
    }
}

/// The figure beside the panel's name in the sidebar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NavCount {
    pub text: String,
    pub hint: String,
    /// Something is under way, not just there.
    pub moving: bool,
}

/// Downloads while there are any, else how many models are installed.
pub fn nav_count(
    installed: Option<usize>,
    pulls: Option<(usize, Option<u64>)>,
) -> Option<NavCount> {
    if let Some((count, percent)) = pulls {
        let hint = super::pull::overall_text(count, percent);
        let text = percent.map_or_else(|| count.to_string(), |p| format!("{p}%"));
        return Some(NavCount { text, hint, moving: true });
    }
    let installed = installed.filter(|n| *n > 0)?;
    let hint = format!("{} installed", format::counted(installed as u64, "model", "models"));
    Some(NavCount { text: installed.to_string(), hint, moving: false })
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::models::{Backend, ModelOptions, Residency};

    use super::*;

    pub(crate) fn model(id: &str) -> InstalledModel {
        InstalledModel {
            id: id.into(),
            name: id.to_uppercase(),
            path: String::new(),
            size_bytes: 4_900_000_000,
            architecture: "llama".into(),
            parameters: None,
            quantization: "Q4_K_M".into(),
            context_train: 131_072,
            license: None,
            demo: false,
            active: false,
            problem: None,
            source: ModelSource::Store,
            digest: None,
            modified_at_ms: None,
            capabilities: vec![Capability::Completion],
            options: ModelOptions::default(),
            residency: None,
            fit: None,
            tokens_per_s: None,
            last_used_ms: None,
            removable_bytes: Some(4_900_000_000),
        }
    }

    pub(crate) fn residency(id: &str) -> Residency {
        Residency {
            id: id.into(),
            state: ModelState::Ready,
            backend: Backend::Runner,
            reason: String::new(),
            loaded: None,
            needs_bytes: 0,
            pid: None,
            running: 0,
            queued: 0,
            pinned: false,
            leaving: false,
            expires_at_ms: None,
        }
    }

    fn words(model: &InstalledModel) -> Vec<String> {
        states(model).into_iter().chain(traits(model)).map(|b| b.text).collect()
    }

    #[test]
    fn badges_say_what_it_does_and_where_it_is_from() {
        let mut m = model("a");
        assert!(words(&m).is_empty());
        m.residency = Some(residency("a"));
        m.options.pinned = true;
        m.source = ModelSource::OllamaFolder;
        assert_eq!(words(&m), ["Loaded", "Pinned", "from Ollama"]);
        m.active = true;
        assert_eq!(words(&m)[0], "Active");
        assert!(!words(&m).contains(&"Loaded".to_owned()));
    }

    #[test]
    fn a_row_offers_what_makes_sense_now() {
        let mut m = model("a");
        assert_eq!(primary(&m), Some(Primary::Swap));
        m.residency = Some(residency("a"));
        assert_eq!(primary(&m), Some(Primary::Unload));
        m.active = true;
        assert_eq!(primary(&m), None);
        m.residency = None;
        assert_eq!(primary(&m), Some(Primary::Load));
        let mut embeds = model("e");
        embeds.capabilities = vec![Capability::Embedding];
        assert_eq!(primary(&embeds), Some(Primary::Load));
        embeds.problem = Some("It is damaged.".into());
        assert_eq!(primary(&embeds), None);
    }

    #[test]
    fn what_is_not_ours_is_not_removed() {
        let mut m = model("a");
        assert_eq!(why_kept(&m), None);
        m.removable_bytes = None;
        m.source = ModelSource::Demo;
        assert_eq!(why_kept(&m), Some("It ships with EdgeCoder"));
    }

    #[test]
    fn rows_keep_their_places_and_new_ones_come_last() {
        let (mut a, mut b, c) = (model("a"), model("b"), model("c"));
        a.last_used_ms = Some(1);
        b.last_used_ms = Some(2);
        let mut active = model("z");
        active.active = true;
        let first = order(&[], &[a.clone(), b.clone(), active.clone()]);
        assert_eq!(first, ["z", "b", "a"]);
        a.last_used_ms = Some(9);
        assert_eq!(order(&first, &[a, c, b, active]), ["z", "b", "a", "c"]);
    }

    #[test]
    fn the_sidebar_shows_downloads_first_and_no_zero() {
        let text = |installed, pulls| nav_count(installed, pulls).map(|c| c.text);
        assert_eq!(text(Some(4), Some((2, Some(62)))), Some("62%".into()));
        assert_eq!(text(Some(4), Some((2, None))), Some("2".into()));
        assert_eq!(text(Some(4), None), Some("4".into()));
        assert_eq!((text(Some(0), None), text(None, None)), (None, None));
        assert_eq!(summary(4, Some(2)), "4 installed, 2 downloading");
    }

    #[test]
    fn the_last_use_is_told_as_people_tell_it() {
        let now = 1_795_217_405_000;
        let at = |ms: Option<i64>| {
            let mut m = model("a");
            m.last_used_ms = ms;
            last_used(&m, now, 0).replace('\u{202f}', " ")
        };
        assert_eq!(at(None), "–");
        assert_eq!(at(Some(now - 5_000)), "now");
        assert_eq!(at(Some(now - 12 * MINUTE_MS)), "12 min ago");
        assert_eq!(at(Some(now - 2 * HOUR_MS)), "2 h ago");
        assert_eq!(at(Some(now - 24 * HOUR_MS)), "yesterday");
        assert_eq!(at(Some(now - 72 * HOUR_MS)), "17 Nov");
    }
}
