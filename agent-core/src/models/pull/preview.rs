//! What a pull would do, before its first byte is kept.

use std::{sync::Arc, time::Duration};

use super::{
    disk::Room,
    fetch::{Context, file_key, name_problem, survey},
    progress::{HeadSlot, Progress, parse_head},
    queue::PullError,
    resolve::resolve,
};
use crate::models::{
    gguf::{GgufInfo, read_gguf},
    manifest::{LayerKind, Manifest},
    name::ModelRef,
    registry::{RemoteBlob, Source},
    store::free_bytes,
};

/// Whoever asks is looking at a window.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Licences are some ten kilobytes; the first line is wanted.
const MAX_LICENCE_BYTES: u64 = 256 << 10;
const MAX_LICENCE_LINE: usize = 120;

/// Facts about a model that is not here yet.
#[derive(Clone, Debug)]
pub struct PreviewFacts {
    /// The name it will have here.
    pub name: ModelRef,
    /// Host that it comes from.
    pub source: String,
    /// For a plain file: made up, with a digest that is not the file's.
    pub manifest: Arc<Manifest>,
    pub size_bytes: u64,
    /// What must still be fetched: layers that are here are shared, parts are kept.
    pub download_bytes: u64,
    pub files: u32,
    /// First line of the licence.
    pub license: Option<String>,
    /// From the head of the file, where it could be read in time.
    pub info: Option<Arc<GgufInfo>>,
    pub disk_free_bytes: Option<u64>,
    /// Why a pull would pause at once.
    pub problem: Option<String>,
    pub already_installed: bool,
}

/// Cancel-safe: nothing is kept.
pub(super) async fn preview(context: &Arc<Context>, text: &str) -> Result<PreviewFacts, PullError> {
    let default_host = context.settings.borrow().default_registry.clone();
    let source = Source::parse(text, &default_host)?;
    let host = source.host();
    tokio::time::timeout(TIMEOUT, look(context, source))
        .await
        .unwrap_or(Err(PullError::Slow { host, seconds: TIMEOUT.as_secs() }))
}

async fn look(context: &Arc<Context>, source: Source) -> Result<PreviewFacts, PullError> {
    let client = &context.client;
    let manifest = match &source {
        Source::Registry(name) => resolve(context, name).await?.manifest,
        Source::File(file) => {
            let head = client.file(&file.url).head().await?;
            Manifest::of_gguf(file_key(&source), head.size)
        }
    };
    let manifest = Arc::new(manifest);
    let OnDisk { done, already_installed, local, taken } =
        on_disk(context, &source, &manifest).await?;
    let info = match local {
        Some(info) => Some(Arc::new(info)),
        None => remote_head(context, &source, &manifest).await,
    };
    let from_layer = licence(context, &source, &manifest).await;
    let license = from_layer.or_else(|| info.as_ref().and_then(|info| info.license.clone()));
    let size_bytes = manifest.size();
    let download_bytes = size_bytes.saturating_sub(done);
    let free = free_bytes(context.store.root());
    let budget = context.settings.borrow().disk_budget_bytes;
    let room = Room {
        needs: download_bytes,
        others: 0,
        free,
        headroom: context.tuning.headroom,
        budget: budget.map(|budget| (budget, (context.usage)())),
    };
    Ok(PreviewFacts {
        name: source.name().clone(),
        source: source.host(),
        files: u32::try_from(manifest.layers.len()).unwrap_or(u32::MAX),
        manifest,
        size_bytes,
        download_bytes,
        license,
        info,
        disk_free_bytes: free,
        problem: taken.or_else(|| room.problem()),
        already_installed,
    })
}

struct OnDisk {
    /// Bytes that are here.
    done: u64,
    /// Exactly this.
    already_installed: bool,
    /// The head, if the file is here.
    local: Option<GgufInfo>,
    /// Another model has the name.
    taken: Option<String>,
}

async fn on_disk(
    context: &Arc<Context>,
    source: &Source,
    manifest: &Arc<Manifest>,
) -> Result<OnDisk, PullError> {
    let (store, manifest) = (context.store.clone(), Arc::clone(manifest));
    let (source, is_file) = (source.clone(), matches!(source, Source::File(_)));
    let looked = tokio::task::spawn_blocking(move || {
        let progress = Progress::default();
        survey(&store, &manifest, &progress);
        let installed = store.manifest(source.name()).ok().flatten();
        // A plain file has no digest to compare before it is here.
        let same = installed.is_some_and(|installed| {
            installed.digest == manifest.digest || (is_file && installed.size() == manifest.size())
        });
        let model = manifest.model();
        let model = model.filter(|model| store.blob_size(model.digest) == Some(model.size));
        let info = model.and_then(|model| read_gguf(&store.blob_path(model.digest)).ok());
        let taken = name_problem(&store, &source, |known| known.size() == manifest.size());
        OnDisk { done: progress.total_done(&manifest), already_installed: same, local: info, taken }
    });
    looked.await.map_err(|_| PullError::Closed)
}

/// The head of the weights, from as few bytes as it takes.
async fn remote_head(
    context: &Context,
    source: &Source,
    manifest: &Manifest,
) -> Option<Arc<GgufInfo>> {
    let model = manifest.model()?;
    let remote = remote(context, source, model.digest);
    for step in HeadSlot::STEPS {
        let limit = usize::try_from(step.min(model.size)).ok()?;
        let bytes = remote.first_bytes(limit).await.ok()?;
        if let Some(info) = parse_head(&bytes, model.size) {
            return Some(Arc::new(info));
        }
        if !bytes.starts_with(b"GGUF") || step >= model.size {
            return None;
        }
    }
    None
}

fn remote(
    context: &Context,
    source: &Source,
    digest: crate::models::manifest::Digest,
) -> RemoteBlob {
    match source {
        Source::Registry(name) => context.client.layer(name, digest),
        Source::File(file) => context.client.file(&file.url),
    }
}

async fn licence(context: &Context, source: &Source, manifest: &Manifest) -> Option<String> {
    let layer = manifest.layer(LayerKind::License)?;
    if layer.size > MAX_LICENCE_BYTES {
        return None;
    }
    let limit = usize::try_from(layer.size).ok()?;
    let bytes = remote(context, source, layer.digest).whole(limit).await.ok()?;
    first_line(&String::from_utf8_lossy(&bytes))
}

/// The first line with words in it.
fn first_line(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| line.chars().any(char::is_alphanumeric))?;
    Some(line.chars().filter(|c| !c.is_control()).take(MAX_LICENCE_LINE).collect())
}

#[cfg(test)]
mod tests {
    use super::first_line;

    #[test]
    fn a_licence_is_named_by_its_first_words() {
        let text = "\n   ----\n      Apache License  \n Version 2.0";
        assert_eq!(first_line(text).as_deref(), Some("Apache License"));
        assert_eq!(first_line("\n \n"), None);
    }
}
