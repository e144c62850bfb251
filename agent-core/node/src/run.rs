//! `edgecoder-node run`.

use std::io::Write as _;

use agent_core::{
    config::{Config, limits},
    logging::{self, LogOutput},
    node::Node,
};
use anyhow::Context as _;

use crate::args::Run;

pub(crate) fn run(args: Run) -> anyhow::Result<()> {
    if args.seed || args.ticket.is_some() {
        // Refused rather than ignored: a script that asks for a seed must not believe it got one.
        anyhow::bail!(
            "--seed and --ticket need a mesh, and this version serves this computer only. Leave them out"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The node waits; the runner computes. Two threads keep an idle node small.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(serve(args));
    // A blocking read of the machine's meters may still be running; it need not be waited for.
    runtime.shutdown_background();
    result
}

async fn serve(args: Run) -> anyhow::Result<()> {
    let logs = logging::init(LogOutput::Stderr);
    let mut config = Config::resolve(args.data.data_dir, args.listen)?;
    config.logs = logs;
    let mut stop = std::pin::pin!(stop_signal()?);
    let node = tokio::select! {
        node = Node::start(config) => node?,
        _ = &mut stop => return Ok(()),
    };
    agent_core::api::serve(&node);
    announce(&node, args.json)?;
    let failed = tokio::select! {
        signal = &mut stop => {
            tracing::info!("{signal}: finishing what runs, then stopping (at most {} s)", limits::SHUTDOWN.as_secs());
            None
        }
        reason = node.failed() => Some(reason),
    };
    node.shutdown().await;
    match failed {
        None => Ok(()),
        // Whoever started us (systemd, a container) starts us again.
        Some(reason) => anyhow::bail!("{reason}"),
    }
}

fn announce(node: &Node, json: bool) -> anyhow::Result<()> {
    let url = node.url();
    let mut out = std::io::stdout().lock();
    if json {
        let ready = serde_json::json!({"url": url, "token": node.token(), "node_id": node.id()});
        writeln!(out, "{ready}")?;
    } else {
        writeln!(out, "EdgeCoder node {} is running.", node.id().fmt_short())?;
        if node.ui_dir().is_some() {
            writeln!(out, "  Page:     {url}/#token={}", node.token())?;
        } else {
            writeln!(out, "  Page:     not built here (in a checkout: cargo xtask ui)")?;
        }
        writeln!(out, "  Editors:  {url}/v1 (OpenAI API, any key)")?;
        writeln!(out, "  Data:     {}", node.config().paths.data_dir.display())?;
        writeln!(out, "Stop it with Ctrl+C.")?;
    }
    out.flush()?;
    Ok(())
}

/// Resolves with the name of the signal that asked us to stop.
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl+C")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl+C",
        }
    })
}
