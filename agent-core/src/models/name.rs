//! Names of models, as Ollama and the container world write them.
//!
//! `[host/][namespace/]model[:tag]`. A first part with a dot or a colon in it, or `localhost`, is a
//! host; anything else is a namespace. Parts become folder names, so what may stand in them is
//! narrow: path tricks and lookalike letters end here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The host that plain names mean, and the only one that is left out when a name is shown.
pub const OLLAMA_REGISTRY: &str = "registry.ollama.ai";
/// In place of a host for models that were imported from a file.
pub const LOCAL: &str = "local";
const LIBRARY: &str = "library";
const LATEST: &str = "latest";
/// Longest part; Hugging Face allows 96.
const MAX_PART: usize = 128;

/// A complete name: nothing is left to defaults.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ModelRef {
    pub host: String,
    pub namespace: String,
    pub model: String,
    pub tag: String,
}

/// Why a name is not one. The text is for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the model's name is empty")]
    Empty,
    #[error(
        "{name:?} is not a model's name: {why}. Names look like llama3.2:1b, host/namespace/model:tag or hf.co/ORG/REPO:QUANT"
    )]
    Invalid { name: String, why: String },
}

impl ModelRef {
    /// Reads a name; parts that are left out are `default_host`, `library` and `latest`.
    pub fn parse(text: &str, default_host: &str) -> Result<Self, NameError> {
        let text = text.trim();
        let invalid = |why: String| NameError::Invalid { name: shorten(text), why };
        let bare =
            ["https://", "http://"].iter().find_map(|s| text.strip_prefix(s)).unwrap_or(text);
        if bare.is_empty() {
            return Err(NameError::Empty);
        }
        let parts: Vec<&str> = bare.split('/').collect();
        let (host, namespace, last) = match parts.as_slice() {
            [model] => (default_host, LIBRARY, *model),
            [first, model] if is_host(first) => (*first, LIBRARY, *model),
            [namespace, model] => (default_host, *namespace, *model),
            [host, namespace, model] => (*host, *namespace, *model),
            _ => return Err(invalid("it has more than three parts".into())),
        };
        let (model, tag) = last.split_once(':').unwrap_or((last, LATEST));
        check_host(host).map_err(&invalid)?;
        for (what, part) in [("namespace", namespace), ("name", model), ("tag", tag)] {
            check_part(what, part).map_err(&invalid)?;
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            namespace: namespace.into(),
            model: model.into(),
            tag: tag.into(),
        })
    }

    /// The name of a model imported from a file.
    pub fn local(text: &str) -> Result<Self, NameError> {
        Self::parse(text, LOCAL)
    }

    /// As requests and people write it: parts that go without saying are left out.
    pub fn id(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, namespace, model, tag } = self;
        let short_host = host == OLLAMA_REGISTRY || host == LOCAL;
        match (short_host, namespace == LIBRARY) {
            (true, true) => write!(f, "{model}:{tag}"),
            (true, false) => write!(f, "{namespace}/{model}:{tag}"),
            (false, _) => write!(f, "{host}/{namespace}/{model}:{tag}"),
        }
    }
}

impl From<ModelRef> for String {
    /// Complete, with the host: what is kept on disk must not depend on defaults.
    fn from(name: ModelRef) -> Self {
        format!("{}/{}/{}:{}", name.host, name.namespace, name.model, name.tag)
    }
}

impl TryFrom<String> for ModelRef {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text, OLLAMA_REGISTRY)
    }
}

fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.rsplit_once(':') {
        // `[::1]:5000` is the only form with more colons.
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("{:?} is not a port", port.unwrap_or_default()));
    }
    let inside = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = inside {
        let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
        return if valid { Ok(()) } else { Err(format!("{address:?} is not an IPv6 address")) };
    }
    check_part("host", name)
}

fn check_part(what: &str, part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if part.len() > MAX_PART {
        return Err(format!("the {what} is longer than {MAX_PART} letters"));
    }
    if let Some(odd) = part.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(*c))) {
        return Err(format!("the {what} has {odd:?} in it"));
    }
    if !part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("the {what} begins with {:?}", &part[..1]));
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ModelRef, NameError> {
        ModelRef::parse(text, OLLAMA_REGISTRY)
    }

    #[test]
    fn names_of_every_form_are_read_and_shown_again() {
        for (text, full, id) in [
            ("llama3.2", "registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
            ("llama3.2:1b", "registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
            ("me/mine:q4", "registry.ollama.ai/me/mine:q4", "me/mine:q4"),
            (
                "localhost:5000/m",
                "localhost:5000/library/m:latest",
                "localhost:5000/library/m:latest",
            ),
            ("[::1]:5000/a/m:t", "[::1]:5000/a/m:t", "[::1]:5000/a/m:t"),
            (
                "hf.co/Org/Repo-GGUF:Q4_K_M",
                "hf.co/Org/Repo-GGUF:Q4_K_M",
                "hf.co/Org/Repo-GGUF:Q4_K_M",
            ),
            (
                "https://Registry.Example/a/m",
                "registry.example/a/m:latest",
                "registry.example/a/m:latest",
            ),
        ] {
            let name = parse(text).expect(text);
            assert_eq!(String::from(name.clone()), full);
            assert_eq!(name.id(), id);
            assert_eq!(ModelRef::try_from(full.to_owned()).expect("again"), name);
        }
    }

    #[test]
    fn path_tricks_and_odd_letters_are_refused_with_the_reason() {
        for (text, why) in [
            ("", "empty"),
            ("..", "begins with"),
            ("../../etc/passwd", "three parts"),
            ("../etc/passwd", "begins with"),
            ("a/../b", "begins with"),
            ("a//b", "empty"),
            ("a/b/c/d", "three parts"),
            ("модель", "has"),
            ("llama\u{202e}3", "has"),
            ("x:\0", "has"),
            ("x:", "the tag is empty"),
            ("host:99999/a/b", "not a port"),
            ("a\\b", "has"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_safe_in_a_path_and_survives_a_round_trip(text in ".{0,60}") {
            if let Ok(name) = parse(&text) {
                for part in [&name.host, &name.namespace, &name.model, &name.tag] {
                    prop_assert!(!part.contains(['/', '\\', '\0']) && part != ".." && part != ".");
                }
                prop_assert_eq!(ModelRef::try_from(String::from(name.clone())).expect("again"), name);
            }
        }
    }
}
