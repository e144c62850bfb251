//! The catalogue in words, and what somebody who types into it means.

use agent_api::{
    catalogue::{CatalogueEntry, CatalogueVariant},
    models::DiskUse,
};

use super::fit;
use crate::format;

/// Narrows the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    Fits,
    Code,
    General,
    Thinking,
    Embedding,
    Small,
}

impl Filter {
    pub const ALL: [Self; 6] =
        [Self::Fits, Self::Code, Self::General, Self::Thinking, Self::Embedding, Self::Small];

    pub fn label(self) -> &'static str {
        match self {
            Self::Fits => "Fits this computer",
            Self::Code => "Code",
            Self::General => "General",
            Self::Thinking => "Thinking",
            Self::Embedding => "Embedding",
            Self::Small => "Small",
        }
    }

    pub fn keeps(self, entry: &CatalogueEntry) -> bool {
        let used_for = |what: &str| entry.uses.iter().any(|u| u == what);
        match self {
            Self::Fits => entry.variants.iter().any(|v| fit::fits(&v.fit)),
            Self::Code => used_for("code"),
            Self::General => used_for("general"),
            Self::Thinking => used_for("thinking"),
            Self::Embedding => used_for("embedding"),
            Self::Small => used_for("small"),
        }
    }
}

/// The recommended one, unless only another one fits.
pub fn first_choice(variants: &[CatalogueVariant]) -> usize {
    variants.iter().position(|v| fit::fits(&v.fit)).unwrap_or(0)
}

/// `14.8 B, general, thinking`: what matters most first, because the line may be cut.
pub fn facts(entry: &CatalogueEntry) -> String {
    let size = format::parameters(entry.parameters);
    let first = std::iter::once(size).chain(entry.license.clone());
    first.chain(entry.uses.iter().cloned()).collect::<Vec<_>>().join(", ")
}

/// `9.0 GB`, or `about 9.0 GB` where the size is as published, rounded.
pub fn size(variant: &CatalogueVariant) -> String {
    let size = format::file_size(variant.size_bytes);
    if variant.size_exact { size } else { format!("about {size}") }
}

/// `Pull 9.0 GB`, `Pull about 9.0 GB`
pub fn button(variant: &CatalogueVariant) -> String {
    format!("Pull {}", size(variant))
}

/// Nothing speaks against pulling it without another look: it runs here and there is room.
pub fn no_question(variant: &CatalogueVariant, disk: &DiskUse) -> bool {
    let room = room(disk);
    fit::fits(&variant.fit) && room.is_none_or(|room| variant.size_bytes < room)
}

/// Bytes that may still come: the budget's rest or the disk's, whichever is less.
pub fn room(disk: &DiskUse) -> Option<u64> {
    let used = disk.installed_bytes + disk.partial_bytes;
    let budget = disk.budget_bytes.map(|b| b.saturating_sub(used));
    match (budget, disk.free_bytes) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// What was typed can be pulled as it stands: one word made of what names and addresses are made
/// of.
pub fn could_be_name(typed: &str) -> bool {
    let typed = typed.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:/@%?=&+".contains(c);
    typed.len() >= 2
        && typed.starts_with(|c: char| c.is_ascii_alphanumeric())
        && typed.chars().all(allowed)
}

/// It is a name for sure, not a word to search for: `llama3.2:1b`, `hf.co/ORG/REPO`, an address.
pub fn is_name(typed: &str) -> bool {
    let typed = typed.trim();
    could_be_name(typed)
        && (typed.contains('/') || typed.split_once(':').is_some_and(|(_, tag)| !tag.is_empty()))
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::fit::Verdict;

    use super::*;
    use crate::words::fit::tests::fit;

    fn variant(verdict: Verdict, size_exact: bool) -> CatalogueVariant {
        CatalogueVariant {
            quantization: "Q4_K_M".into(),
            pull: "x:14b".into(),
            size_bytes: 9_000_000_000,
            size_exact,
            digest: None,
            fit: fit(verdict),
            installed: false,
        }
    }

    fn entry(uses: &[&str], variants: Vec<CatalogueVariant>) -> CatalogueEntry {
        CatalogueEntry {
            id: "x".into(),
            title: "X 14B".into(),
            summary: String::new(),
            uses: uses.iter().map(|u| (*u).to_owned()).collect(),
            parameters: 14_800_000_000,
            license: None,
            context: None,
            variants,
        }
    }

    fn plain(text: &str) -> String {
        text.replace('\u{202f}', " ")
    }

    #[test]
    fn the_button_carries_the_size_and_says_when_it_is_rounded() {
        assert_eq!(plain(&button(&variant(Verdict::FitsGpu, true))), "Pull 9.0 GB");
        assert_eq!(plain(&button(&variant(Verdict::FitsGpu, false))), "Pull about 9.0 GB");
        assert_eq!(
            plain(&facts(&entry(&["general", "thinking"], Vec::new()))),
            "14.8 B, general, thinking"
        );
    }

    #[test]
    fn the_first_choice_is_the_recommended_one_that_runs_here() {
        let list = [variant(Verdict::WontFit, true), variant(Verdict::FitsRam, true)];
        assert_eq!(first_choice(&list), 1);
        assert_eq!(first_choice(&list[..1]), 0);
        assert!(Filter::Fits.keeps(&entry(&[], list.to_vec())));
        assert!(!Filter::Fits.keeps(&entry(&[], list[..1].to_vec())));
        assert!(Filter::Code.keeps(&entry(&["code"], Vec::new())));
    }

    #[test]
    fn names_are_told_from_words() {
        for name in
            ["llama3.2:1b", "hf.co/org/repo:Q4_K_M", "https://x.example/m.gguf", "host:5000/m"]
        {
            assert!(is_name(name), "{name}");
        }
        for word in ["qwen", "coding model", "qwen:", ":1b", ""] {
            assert!(!is_name(word), "{word}");
        }
        assert!(could_be_name("mixtral"));
        assert!(!could_be_name("small coding model"));
        assert!(!could_be_name("x"));
    }

    #[test]
    fn what_does_not_fit_or_has_no_room_is_looked_at_first() {
        let disk = |budget, free| DiskUse {
            installed_bytes: 30_000_000_000,
            partial_bytes: 5_000_000_000,
            budget_bytes: budget,
            free_bytes: free,
        };
        let fits = variant(Verdict::FitsRam, true);
        assert!(no_question(&fits, &disk(None, None)));
        assert!(no_question(&fits, &disk(Some(50_000_000_000), Some(90_000_000_000))));
        assert!(!no_question(&fits, &disk(Some(40_000_000_000), Some(90_000_000_000))));
        assert!(!no_question(&fits, &disk(None, Some(8_000_000_000))));
        assert!(!no_question(&variant(Verdict::WontFit, true), &disk(None, None)));
    }
}
