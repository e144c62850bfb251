//! `edgecoder-node run`.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use agent_api::mesh::TicketText;
use agent_core::{
    config::{Config, SeedConfig, limits},
    logging::{self, LogOutput},
    node::Node,
};
use anyhow::Context as _;

use crate::{
    args::{MeshOptions, Run},
    mesh, words,
};

/// Where a seed's relay listens. TLS is for a proxy in front of it.
const RELAY_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4303);
/// Where a seed's DHT node listens; `mainline` speaks IPv4 only.
const DHT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8468);

pub(crate) fn run(args: Run) -> anyhow::Result<()> {
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
    config.seed = seed(&args.mesh);
    config.mesh_bind = args.mesh.mesh_listen;
    config.mesh_seeds = args.mesh.seeds;
    let mut stop = std::pin::pin!(stop_signal()?);
    let node = tokio::select! {
        node = Node::start(config) => node?,
        _ = &mut stop => return Ok(()),
    };
    if let Some(ticket) = args.mesh.ticket
        && let Err(error) = join(&node, ticket).await
    {
        // A script that asks for a mesh must not believe that it got one.
        node.shutdown().await;
        return Err(error);
    }
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

fn seed(options: &MeshOptions) -> Option<SeedConfig> {
    options.seed.then(|| SeedConfig {
        relay: (!options.no_relay).then(|| options.relay_listen.unwrap_or(RELAY_LISTEN)),
        relay_url: options.relay_url.clone(),
        dht: (!options.no_dht).then(|| options.dht_listen.unwrap_or(DHT_LISTEN)),
    })
}

/// Joins the ticket's mesh. A node that is in it already stays and tries the ticket's nodes, so that
/// the same command line starts it again; also when the ticket expired in the meantime.
async fn join(node: &Node, ticket: String) -> anyhow::Result<()> {
    let ticket = TicketText { ticket };
    match node.read_ticket(&ticket) {
        Ok(info) => {
            let mesh = node.join_mesh(&ticket).await?;
            if !info.joined {
                tracing::info!("joined the mesh {}", mesh.name);
            }
        }
        Err(error) if node.mesh().settled => {
            tracing::warn!("the node stays in the mesh {}: {error}", node.mesh().name);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
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
        let mesh = node.mesh();
        writeln!(out, "  Mesh:     {}", words::printable(&mesh::summary(&mesh)))?;
        if node.is_seed() {
            writeln!(out, "  Seed:     {url}/network/coordinators")?;
        }
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
