//! Checking a catalogue whole before any of it is believed.

use std::collections::HashSet;

use super::{CatalogueError, Data, Entry, MAX_CATALOGUE_BYTES, VERSION, Variant};
use crate::models::{
    manifest::Digest,
    name::{ModelRef, OLLAMA_REGISTRY},
};

/// Twenty times what ships.
const MAX_ENTRIES: usize = 2_000;
/// Quantizations of one model.
const MAX_VARIANTS: usize = 64;
/// Words, sources.
const MAX_LIST: usize = 64;
const MAX_SHORT_TEXT: usize = 200;
const MAX_LONG_TEXT: usize = 2_000;
/// No model of today is near.
const MAX_MODEL_BYTES: u64 = 8 << 40;

pub(super) fn read(bytes: &[u8]) -> Result<Data, CatalogueError> {
    if bytes.len() as u64 > MAX_CATALOGUE_BYTES {
        return Err(CatalogueError::TooLarge);
    }
    // A later form may have other fields, so the version is looked at first.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(bytes)?;
    if version != VERSION {
        return Err(CatalogueError::Version(version));
    }
    let data: Data = serde_json::from_slice(bytes)?;
    check(&data).map_err(CatalogueError::Invalid)?;
    Ok(data)
}

fn check(data: &Data) -> Result<(), String> {
    let updated = &data.updated;
    if updated.len() != 10 || updated.parse::<jiff::civil::Date>().is_err() {
        return Err(format!("its date is {updated:?}, not like 2026-11-20"));
    }
    if data.entries.is_empty() || data.entries.len() > MAX_ENTRIES {
        return Err(format!("it has {} entries, not 1 to {MAX_ENTRIES}", data.entries.len()));
    }
    let mut ids = HashSet::new();
    let mut pulls = HashSet::new();
    for entry in &data.entries {
        if !ids.insert(&entry.id) {
            return Err(format!("it has two entries {:?}", entry.id));
        }
        let in_entry = |why: String| format!("in its entry {:?} {why}", entry.id);
        check_entry(entry).map_err(in_entry)?;
        for variant in &entry.variants {
            if !pulls.insert(&variant.pull) {
                return Err(in_entry(format!("{:?} is pulled a second time", variant.pull)));
            }
        }
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), String> {
    let Entry { id, title, summary, uses, family, license, variants, sources, .. } = entry;
    for (what, text) in [("id", id), ("title", title), ("family", family)] {
        check_text(what, text, MAX_SHORT_TEXT)?;
    }
    check_text("summary", summary, MAX_LONG_TEXT)?;
    license.iter().try_for_each(|text| check_text("licence", text, MAX_SHORT_TEXT))?;
    if uses.len() > MAX_LIST || sources.len() > MAX_LIST {
        return Err(format!("there are more than {MAX_LIST} uses or sources"));
    }
    uses.iter().try_for_each(|text| check_text("use", text, MAX_SHORT_TEXT))?;
    sources.iter().try_for_each(|text| check_text("source", text, MAX_LONG_TEXT))?;
    if entry.parameters == 0 || entry.context == Some(0) {
        return Err("the number of weights or tokens is 0".to_owned());
    }
    if variants.is_empty() || variants.len() > MAX_VARIANTS {
        return Err(format!("there are {} variants, not 1 to {MAX_VARIANTS}", variants.len()));
    }
    variants.iter().try_for_each(check_variant)
}

fn check_variant(variant: &Variant) -> Result<(), String> {
    let Variant { quantization, pull, size_bytes, digest, .. } = variant;
    check_text("quantization", quantization, MAX_SHORT_TEXT)?;
    ModelRef::parse(pull, OLLAMA_REGISTRY).map_err(|e| e.to_string())?;
    if *size_bytes == 0 || *size_bytes > MAX_MODEL_BYTES {
        return Err(format!("{pull} has {size_bytes} bytes, which cannot be"));
    }
    match digest {
        Some(digest) if Digest::parse(&full_digest(digest)).is_none() => {
            Err(format!("{pull} has {digest:?} where a sha256 digest belongs"))
        }
        _ => Ok(()),
    }
}

/// Control characters would let a text pretend to be something else in a terminal.
fn check_text(what: &str, text: &str, longest: usize) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if text.len() > longest {
        return Err(format!("the {what} is longer than {longest} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("the {what} has a control character in it"));
    }
    Ok(())
}

/// With `sha256:` before it.
pub(super) fn full_digest(digest: &str) -> String {
    if digest.starts_with("sha256:") { digest.to_owned() } else { format!("sha256:{digest}") }
}
