//! What a text names and where that is fetched from.

use std::{fmt, net::IpAddr};

use agent_api::settings::Registry;
use reqwest::Url;

use super::{
    super::name::{LOCAL, ModelRef, NameError},
    RegistryError,
};

/// Hugging Face's short name; `huggingface.co` is the same host.
const HUGGING_FACE: &str = "hf.co";
const HUGGING_FACE_LONG: &str = "huggingface.co";
/// Longest address; the common limit of servers.
const MAX_URL: usize = 8 << 10;

/// What a pull fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A model of a registry.
    Registry(ModelRef),
    /// A GGUF file anywhere.
    File(FileSource),
}

/// A GGUF file at an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSource {
    pub url: Url,
    /// What it will be called here.
    pub name: ModelRef,
}

impl Source {
    /// Reads a model's name or the address of a GGUF file.
    pub fn parse(text: &str, default_host: &str) -> Result<Self, NameError> {
        let text = text.trim();
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let invalid = |why: &str| NameError::Invalid {
            name: text.chars().take(120).collect(),
            why: why.into(),
        };
        match scheme.as_deref() {
            Some("http" | "https") if text.len() > MAX_URL => {
                return Err(invalid("the address is too long"));
            }
            Some("http" | "https") => {
                if let Ok(url) = Url::parse(text)
                    && has_ending(url.path(), ".gguf")
                {
                    return FileSource::of(url).map(Self::File).map_err(|why| invalid(&why));
                }
            }
            Some(_) => return Err(invalid("only http and https addresses can be pulled from")),
            None => {}
        }
        let mut name = ModelRef::parse(text, default_host)?;
        if name.host == HUGGING_FACE_LONG {
            name.host = HUGGING_FACE.to_owned();
        }
        Ok(Self::Registry(name))
    }

    /// What the model is called here.
    pub fn name(&self) -> &ModelRef {
        match self {
            Self::Registry(name) => name,
            Self::File(file) => &file.name,
        }
    }

    /// The host it comes from.
    pub fn host(&self) -> String {
        match self {
            Self::Registry(name) => name.host.clone(),
            Self::File(file) => authority(&file.url),
        }
    }
}

/// Complete, so that it means the same after the settings changed.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => f.write_str(&String::from(name.clone())),
            Self::File(file) => f.write_str(file.url.as_str()),
        }
    }
}

impl FileSource {
    fn of(mut url: Url) -> Result<Self, String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a password in it; log in to the host instead".into());
        }
        url.set_fragment(None);
        let hugging_face = matches!(url.host_str(), Some(HUGGING_FACE | HUGGING_FACE_LONG));
        if hugging_face && url.path().contains("/blob/") {
            // The page about the file; the file itself is beside it.
            let path = url.path().replacen("/blob/", "/resolve/", 1);
            url.set_path(&path);
        }
        let stem = url.path().rsplit('/').next().unwrap_or_default();
        let stem = &stem[..stem.len().saturating_sub(".gguf".len())];
        if is_one_of_several(stem) {
            return Err("it is one piece of a split model, which is of no use alone".into());
        }
        let letters = stem.chars().map(|c| {
            let kept = c.is_ascii_alphanumeric() || "-_.".contains(c);
            if kept { c.to_ascii_lowercase() } else { '-' }
        });
        let letters: String = letters.take(96).collect();
        let name = letters.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let name = if name.is_empty() { "model" } else { name };
        let name = ModelRef::local(name).map_err(|e| e.to_string())?;
        Ok(Self { url, name })
    }
}

fn has_ending(path: &str, ending: &str) -> bool {
    let at = path.len().checked_sub(ending.len());
    at.and_then(|at| path.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// `...-00001-of-00003`, as llama.cpp splits files.
fn is_one_of_several(stem: &str) -> bool {
    let mut parts = stem.rsplit('-');
    let (count, of, number) = (parts.next(), parts.next(), parts.next());
    let digits = |text: Option<&str>| {
        text.is_some_and(|t| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit()))
    };
    of == Some("of") && digits(count) && digits(number) && count != Some("00001")
}

/// Where a registry really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Ends with `/`.
    pub base: Url,
    /// As names write it, for messages.
    pub host: String,
}

impl Place {
    pub(super) fn of(host: &str, registries: &[Registry]) -> Result<Self, RegistryError> {
        let bad = |why: &str| RegistryError::Place { host: host.to_owned(), why: why.to_owned() };
        if host == LOCAL {
            return Err(bad("models with this name were imported from a file"));
        }
        let entry = registries.iter().find(|entry| entry.host.eq_ignore_ascii_case(host));
        let mirror = entry.and_then(|entry| entry.mirror.as_deref()).filter(|m| !m.is_empty());
        let target = mirror.unwrap_or(host).trim_end_matches('/');
        let text = if target.contains("://") {
            format!("{target}/")
        } else {
            let name = target.split('/').next().unwrap_or_default();
            let plain = entry.is_some_and(|entry| entry.plain_http) || is_loopback_name(name);
            format!("{}://{target}/", if plain { "http" } else { "https" })
        };
        let base = Url::parse(&text).map_err(|e| bad(&e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad("only http and https are spoken"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(bad("a login does not belong into a mirror's address; log in instead"));
        }
        Ok(Self { base, host: host.to_owned() })
    }

    pub(super) fn join(&self, segments: &[&str]) -> Result<Url, RegistryError> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| RegistryError::Place {
                host: self.host.clone(),
                why: "it has no path".into(),
            })?
            .pop_if_empty()
            // A namespace may be written with slashes on some hosts; ours never is.
            .extend(segments);
        Ok(url)
    }
}

/// `host` or `host:port`, the port only where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = if host == HUGGING_FACE_LONG { HUGGING_FACE } else { host };
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether an address is this computer.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(is_loopback_host)
}

/// The same for `host` or `host:port`.
fn is_loopback_name(name: &str) -> bool {
    let host = match name.rsplit_once(':') {
        Some((host, _)) if !name.ends_with(']') => host,
        _ => name,
    };
    is_loopback_host(host)
}

fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse(text, "registry.ollama.ai").expect(text)
    }

    #[test]
    fn addresses_of_files_and_names_of_models_are_told_apart() {
        let page = "https://huggingface.co/Org/Repo/blob/main/My%20Model_Q4_K_M.gguf";
        let Source::File(file) = source(page) else { panic!("a file") };
        assert_eq!(file.url.path(), "/Org/Repo/resolve/main/My%20Model_Q4_K_M.gguf");
        assert_eq!(file.name.id(), "my-20model_q4_k_m:latest");
        let Source::Registry(name) = source("https://huggingface.co/Org/Repo:Q4") else {
            panic!("a name")
        };
        assert_eq!(name.id(), "hf.co/Org/Repo:Q4");
        assert_eq!(source("llama3.2").to_string(), "registry.ollama.ai/library/llama3.2:latest");
    }

    #[test]
    fn other_schemes_passwords_and_pieces_are_refused_with_the_reason() {
        for (text, why) in [
            ("file:///etc/passwd.gguf", "only http and https"),
            ("ftp://host/x.gguf", "only http and https"),
            ("https://me:secret@host/x.gguf", "password"),
            ("https://host/x-00002-of-00003.gguf", "one piece"),
        ] {
            let error = Source::parse(text, "d.example").expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn hosts_are_reached_where_the_settings_say() {
        let mirrored = |mirror: &str| Registry {
            host: "r.example".into(),
            mirror: Some(mirror.into()),
            ..Registry::default()
        };
        let plain = Registry { host: "r.example".into(), plain_http: true, ..Registry::default() };
        for (host, entries, expected) in [
            ("r.example", vec![], "https://r.example/"),
            ("r.example:5000", vec![plain.clone()], "https://r.example:5000/"),
            ("r.example", vec![plain], "http://r.example/"),
            ("r.example", vec![mirrored("https://m.example/cache")], "https://m.example/cache/"),
            ("r.example", vec![mirrored("127.0.0.1:5000")], "http://127.0.0.1:5000/"),
            ("localhost:5000", vec![], "http://localhost:5000/"),
            ("127.3.2.1:5000", vec![], "http://127.3.2.1:5000/"),
            ("[::1]:5000", vec![], "http://[::1]:5000/"),
            ("10.0.0.1:5000", vec![], "https://10.0.0.1:5000/"),
        ] {
            let place = Place::of(host, &entries).expect(host);
            assert_eq!(place.base.as_str(), expected);
        }
        assert!(Place::of("r.example", &[mirrored("file:///tmp")]).is_err());
        assert!(Place::of("local", &[]).is_err());
        let place = Place::of("r.example", &[mirrored("m.example/cache")]).expect("a place");
        let joined = place.join(&["v2", "a", "b"]).expect("joins");
        assert_eq!(joined.as_str(), "https://m.example/cache/v2/a/b");
    }
}
