//! Names of models and nodes, as requests write them.

use agent_api::mesh::Hash;

use super::{ModelView, NodeView};
use crate::models::name::OLLAMA_REGISTRY;

/// Fewer digits of an id fit too many nodes of a large mesh by chance.
const ID_DIGITS: usize = 6;
const DIGEST: &str = "sha256:";
const LIBRARY: &str = "library";
const LATEST: &str = "latest";

/// `model@node` taken apart. A digest (`name@sha256:…`) is part of the model's name, and may itself
/// be followed by a node. A node's name may have `@` in it; a model's does not.
pub fn split_model(name: &str) -> (&str, Option<&str>) {
    let name = name.trim();
    let Some(at) = name.find('@') else { return (name, None) };
    let rest = &name[at + 1..];
    let end = match rest.starts_with(DIGEST) {
        false => at,
        true => match rest.find('@') {
            Some(second) => at + 1 + second,
            None => return (name, None),
        },
    };
    let node = name[end + 1..].trim();
    if node.is_empty() { (name, None) } else { (name[..end].trim_end(), Some(node)) }
}

/// Whether two names mean the same model: the tag `latest`, the default host and the namespace
/// `library` may be left out, and letters' case does not count.
pub fn same_model(asked: &str, has: &str) -> bool {
    has.eq_ignore_ascii_case(asked.trim()) || Name::read(asked).is(&Name::read(has))
}

/// A name with its defaults filled in, without allocating: thousands are compared per request.
#[derive(Clone, Copy, Debug)]
pub(in crate::tasks) struct Name<'a> {
    text: &'a str,
    host: &'a str,
    namespace: &'a str,
    model: &'a str,
    tag: &'a str,
    /// Hexadecimal digits after `@sha256:`.
    digest: Option<&'a str>,
}

impl<'a> Name<'a> {
    pub(in crate::tasks) fn read(text: &'a str) -> Self {
        let text = text.trim();
        let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let (bare, digest) = match bare.unwrap_or(text).split_once("@sha256:") {
            Some((bare, digest)) => (bare, Some(digest)),
            None => (bare.unwrap_or(text), None),
        };
        let (path, last) = bare.rsplit_once('/').unwrap_or(("", bare));
        let (model, tag) = last.split_once(':').unwrap_or((last, LATEST));
        let (host, namespace) = match path.split_once('/') {
            _ if path.is_empty() => (OLLAMA_REGISTRY, LIBRARY),
            Some((host, namespace)) => (host, namespace),
            None if path.contains(['.', ':']) || path == "localhost" => (path, LIBRARY),
            None => (OLLAMA_REGISTRY, path),
        };
        let host = if host.eq_ignore_ascii_case("huggingface.co") { "hf.co" } else { host };
        Self { text, host, namespace, model, tag, digest }
    }

    pub(in crate::tasks) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    fn is(&self, other: &Name<'_>) -> bool {
        let digest = match (self.digest, other.digest) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (None, None) => true,
            _ => false,
        };
        digest && self.is_but_for_digest(other)
    }

    fn is_but_for_digest(&self, other: &Name<'_>) -> bool {
        // The model first: it differs most often.
        self.model.eq_ignore_ascii_case(other.model)
            && self.tag.eq_ignore_ascii_case(other.tag)
            && self.namespace.eq_ignore_ascii_case(other.namespace)
            && self.host.eq_ignore_ascii_case(other.host)
    }

    /// Whether an announced or installed model is the one that is asked for. A digest that was
    /// asked for must be that of its weights.
    pub(in crate::tasks) fn means(&self, id: &str, digest: Option<&Hash>) -> bool {
        match self.digest {
            None => id.eq_ignore_ascii_case(self.text) || self.is(&Name::read(id)),
            Some(wanted) => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(wanted, &mut bytes).is_ok()
                    && digest.is_some_and(|digest| digest.0 == bytes)
                    && (self.model.is_empty() || self.is_but_for_digest(&Name::read(id)))
            }
        }
    }

    /// The best model of a node: by its exact name first, then one in memory.
    pub(super) fn pick<'v>(&self, models: &'v [ModelView]) -> Option<&'v ModelView> {
        let fits = models.iter().filter(|model| self.means(&model.id, model.digest.as_ref()));
        fits.max_by_key(|model| (model.id == self.text, model.resident))
    }
}

/// What the name or id of a node leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    One(usize),
    Nobody,
    /// So many have that name.
    Several(usize),
}

/// Finds a node by its whole id, at least six digits from its start, or its name. An id counts more
/// than a name, which anybody can give itself; among nodes of one name this computer and the
/// owner's own count more than strangers.
pub fn find_node(wanted: &str, nodes: &[NodeView]) -> Found {
    let wanted = wanted.trim();
    let is_digits = wanted.len() >= ID_DIGITS
        && wanted.len() <= 64
        && wanted.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digits {
        let begins = |id: &str| {
            id.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted))
        };
        match only(nodes, |node| begins(&node.id.0)) {
            Found::Nobody => {}
            found => return found,
        }
    }
    let named = |node: &NodeView| !wanted.is_empty() && node.name == wanted;
    for close in [|node: &NodeView| node.here, |node: &NodeView| node.mine, |_: &NodeView| true] {
        match only(nodes, |node| close(node) && named(node)) {
            Found::Nobody => {}
            found => return found,
        }
    }
    only(nodes, |node| !wanted.is_empty() && node.name.eq_ignore_ascii_case(wanted))
}

fn only(nodes: &[NodeView], fits: impl Fn(&NodeView) -> bool) -> Found {
    let mut found = nodes.iter().enumerate().filter(|(_, node)| fits(node)).map(|(at, _)| at);
    match (found.next(), found.count()) {
        (None, _) => Found::Nobody,
        (Some(at), 0) => Found::One(at),
        (Some(_), more) => Found::Several(1 + more),
    }
}
