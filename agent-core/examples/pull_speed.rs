//! How fast a GGUF is pulled: `pull_speed URL-or-name [FOLDER]`. Prints MB/s and the peak of memory.
//!
//! Compare with `curl URL | tee file | sha256sum` into the same folder.

use std::{io::Write as _, path::PathBuf, sync::Arc, time::Instant};

use agent_core::{
    agent_api::{pull::PullRequest, pull::PullState, settings::Settings},
    models::{
        pull::{Pulls, PullsConfig, Tuning},
        registry::credentials::Credentials,
        store::Store,
    },
    storage::Storage,
};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: pull_speed URL-or-name [FOLDER]")?;
    let own = tempfile::tempdir()?;
    let folder = arguments.next().map_or_else(|| own.path().to_path_buf(), PathBuf::from);
    let storage = Storage::open(&own.path().join("edgecoder.db")).await?.storage;
    let config = PullsConfig {
        store: Store::open(folder)?,
        storage,
        credentials: Credentials::new(own.path().join("credentials.json")),
        usage: Arc::new(|| 0),
        tuning: Tuning::default(),
        owner: "speed".to_owned(),
        places: None,
        hold: None,
    };
    let (_keep, settings) = watch::channel(Settings::default());
    let (pulls, _hearing) = Pulls::start(config, settings);
    let started = Instant::now();
    let pull = pulls.add(PullRequest { model, swap_when_done: false }).await?;
    let mut watching = pulls.watch();
    let ended = |list: &Arc<Vec<_>>| {
        list.iter().any(|p: &agent_core::agent_api::pull::Pull| {
            p.id == pull.id && (p.state.is_settled() || p.state == PullState::Retrying)
        })
    };
    let list = Arc::clone(&*watching.wait_for(ended).await?);
    let seconds = started.elapsed().as_secs_f64();
    let found = list.iter().find(|p| p.id == pull.id).ok_or("the pull is gone")?;
    if found.state != PullState::Done {
        return Err(found.reason.clone().into());
    }
    let bytes = found.size_bytes.unwrap_or(0) as f64;
    writeln!(
        std::io::stdout(),
        "{:.0} MB in {seconds:.2} s: {:.0} MB/s, peak memory {}",
        bytes / 1e6,
        bytes / 1e6 / seconds,
        peak_memory().unwrap_or_else(|| "unknown".to_owned())
    )?;
    pulls.shutdown().await;
    Ok(())
}

/// `VmHWM` of Linux.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().to_owned())
}
