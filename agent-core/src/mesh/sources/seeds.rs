//! Seeds: computers whose address the owner knows, and which tell who else helps to meet.

use std::{
    net::{SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use agent_api::{
    NodeId,
    mesh::{Coordinator, Coordinators, SourceKind, SourceState},
};
use futures_util::{StreamExt as _, stream};
use reqwest::{Client, Response, Url, redirect};
use tokio::sync::watch;

use super::turn::{Turn, Woken};
use crate::{
    backoff::Backoff,
    mesh::{Addresses, NodeKey, addr::Loopback, coordinators::MAX_COORDINATORS},
    tls::install_crypto,
};

const KIND: SourceKind = SourceKind::Seed;
/// Between two rounds while this node is alone.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LAST_WAIT: Duration = Duration::from_secs(10 * 60);
/// While peers are connected: only to learn of new DHT nodes and of seeds that came back.
const JOINED_WAIT: Duration = Duration::from_secs(60 * 60);
/// Seeds in the settings; more are refused there.
const MAX_SEEDS: usize = 16;
/// Asked at the same time.
const AT_ONCE: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// 64 entries of a few hundred bytes each are a tenth of it.
const MAX_BODY: usize = 256 << 10;
const MAX_REDIRECTS: usize = 3;
/// DHT addresses that are kept of all answers.
const MAX_DHT: usize = 16;
/// Reasons shown at once; more do not fit a line.
const SHOWN_PROBLEMS: usize = 3;

/// Why a seed did not help. Shown to the owner as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeedError {
    #[error("it is not an http or https address")]
    Address,
    #[error("its address cannot be found or nobody listens there")]
    Unreachable,
    #[error("it did not answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Slow,
    #[error("it answered {0}; is it an EdgeCoder seed?")]
    Status(u16),
    #[error("its answer is not a list of coordinators; is it an EdgeCoder seed?")]
    NotCoordinators,
    #[error("its answer is larger than {} KiB", MAX_BODY >> 10)]
    TooLarge,
    #[error("the connection failed: {0}")]
    Failed(String),
    #[error("HTTPS cannot be used: {0}")]
    Setup(String),
}

/// What one round brought.
#[derive(Debug, Default)]
struct Round {
    answered: usize,
    coordinators: usize,
    /// Seed and reason.
    problems: Vec<(String, SeedError)>,
    dht: Vec<SocketAddrV4>,
}

/// Asks the seeds of the settings. Seeds that the mesh itself made known need no asking: they are in
/// the directory and among the saved peers, with keys and addresses.
pub(super) async fn run(mut turn: Turn, dht: watch::Sender<Vec<SocketAddrV4>>) {
    let mut rounds = Backoff::new(FIRST_WAIT, LAST_WAIT);
    let mut due = Instant::now();
    loop {
        let settings = turn.settings();
        let seeds: Vec<String> = settings.seeds.into_iter().take(MAX_SEEDS).collect();
        turn.board.name(KIND, seeds.iter().map(|seed| host(seed)).collect());
        if !settings.enabled {
            turn.say(KIND, SourceState::Off, "The mesh is off.");
            due = Instant::now() + JOINED_WAIT;
        } else if seeds.is_empty() {
            let reason =
                "No seed is set. A mesh on one network, and one joined by ticket, needs none.";
            turn.say(KIND, SourceState::Waiting, reason);
            due = Instant::now() + JOINED_WAIT;
        } else if Instant::now() >= due {
            let stop = turn.stop.clone();
            let round = tokio::select! {
                () = stop.cancelled() => return,
                round = ask_all(&turn, &seeds) => round,
            };
            dht.send_if_modified(|kept| {
                let changed = !round.dht.is_empty() && *kept != round.dht;
                if changed {
                    kept.clone_from(&round.dht);
                }
                changed
            });
            let (state, reason) = describe(&round, seeds.len());
            turn.say(KIND, state, reason);
            due = Instant::now() + if turn.alone() { rounds.next_wait() } else { JOINED_WAIT };
        }
        match turn.wait(due.saturating_duration_since(Instant::now())).await {
            Woken::Stop => return,
            Woken::Time | Woken::Addresses => {}
            Woken::Asked | Woken::Settings => {
                rounds.reset();
                due = Instant::now();
            }
            // The last peer is gone: soon, not at once, for one that comes and goes.
            Woken::Company if turn.alone() => {
                rounds.reset();
                due = due.min(Instant::now() + FIRST_WAIT);
            }
            Woken::Company => due = Instant::now() + JOINED_WAIT,
        }
    }
}

async fn ask_all(turn: &Turn, seeds: &[String]) -> Round {
    let ask_one = |seed: String| async move {
        let answer = ask(&seed).await;
        (seed, answer)
    };
    let mut answers = stream::iter(seeds.to_vec()).map(ask_one).buffered(AT_ONCE);
    let loopback = Loopback::from_afar(&turn.own.borrow().addresses);
    let mut round = Round::default();
    while let Some((seed, answer)) = answers.next().await {
        let list = match answer {
            Ok(list) => list,
            Err(error) => {
                tracing::debug!(seed, %error, "a seed did not help");
                round.problems.push((host(&seed), error));
                continue;
            }
        };
        round.answered += 1;
        for coordinator in list.coordinators.into_iter().take(MAX_COORDINATORS) {
            let here = if is_loopback_seed(&seed) { Loopback::Allowed } else { loopback };
            let Some(parsed) = parse(coordinator, here) else { continue };
            if let Some(address) = parsed.dht
                && round.dht.len() < MAX_DHT
                && !round.dht.contains(&address)
            {
                round.dht.push(address);
            }
            if turn.offer(KIND, parsed.peer, parsed.addresses, None) {
                round.coordinators += 1;
            }
        }
    }
    round
}

struct Parsed {
    peer: NodeKey,
    addresses: Addresses,
    dht: Option<SocketAddrV4>,
}

fn parse(coordinator: Coordinator, loopback: Loopback) -> Option<Parsed> {
    let Coordinator { node_id: NodeId(id), addresses, relay, dht, .. } = coordinator;
    let peer = NodeKey::from_id(&NodeId(id))?;
    let direct = addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let relays = relay.into_iter().collect();
    let addresses = Addresses { direct, relays }.cleaned(loopback);
    let dht = dht.and_then(|text| text.parse().ok());
    let dht = dht.and_then(|address| {
        let one = Addresses { direct: vec![address], relays: Vec::new() };
        one.cleaned(loopback).direct.into_iter().find_map(|address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        })
    });
    Some(Parsed { peer, addresses, dht })
}

fn describe(round: &Round, seeds: usize) -> (SourceState, String) {
    let problems: Vec<String> = round
        .problems
        .iter()
        .take(SHOWN_PROBLEMS)
        .map(|(seed, error)| format!("{seed}: {error}"))
        .collect();
    let problems = problems.join(". ");
    if round.answered == 0 {
        let what = if seeds == 1 { "The seed does not help" } else { "None of the seeds helps" };
        return (SourceState::Failed, format!("{what}. {problems}."));
    }
    let answered = round.answered;
    let found = round.coordinators;
    let mut text = format!("{answered} of {seeds} seeds answered and named {found} coordinators.");
    if !problems.is_empty() {
        text = format!("{text} {problems}.");
    }
    (SourceState::Working, text)
}

/// `GET {seed}/network/coordinators`.
pub(super) async fn ask(seed: &str) -> Result<Coordinators, SeedError> {
    let url = coordinators_url(seed)?;
    let client = client(&url)?;
    let answer = client.get(url).send().await.map_err(|error| readable(&error))?;
    if !answer.status().is_success() {
        return Err(SeedError::Status(answer.status().as_u16()));
    }
    let body = read(answer).await?;
    decode(&body)
}

fn decode(body: &[u8]) -> Result<Coordinators, SeedError> {
    serde_json::from_slice(body).map_err(|_| SeedError::NotCoordinators)
}

fn coordinators_url(seed: &str) -> Result<Url, SeedError> {
    let text = format!("{}/network/coordinators", seed.trim().trim_end_matches('/'));
    let url = Url::parse(&text).map_err(|_| SeedError::Address)?;
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    if web { Ok(url) } else { Err(SeedError::Address) }
}

fn client(url: &Url) -> Result<Client, SeedError> {
    install_crypto();
    // To another scheme: what was asked over TLS must not go on in the clear, nor to a file.
    let scheme = url.scheme().to_owned();
    let redirects = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS || attempt.url().scheme() != scheme {
            attempt.stop()
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("EdgeCoder/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects)
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT);
    if url.scheme() == "http" {
        // Reading the system's certificates would be for nothing, and fails where there are none.
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.tls_backend_preconfigured(config);
    }
    if url.host_str().is_some_and(is_loopback_host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| SeedError::Setup(error.to_string()))
}

async fn read(mut answer: Response) -> Result<Vec<u8>, SeedError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| readable(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(SeedError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn readable(error: &reqwest::Error) -> SeedError {
    if error.is_timeout() {
        return SeedError::Slow;
    }
    if error.is_connect() {
        return SeedError::Unreachable;
    }
    // The innermost says what happened; the outer ones repeat the address.
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    SeedError::Failed(inner.to_string())
}

fn host(seed: &str) -> String {
    let url = Url::parse(seed.trim());
    url.ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| seed.to_owned())
}

fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_loopback_seed(seed: &str) -> bool {
    is_loopback_host(&host(seed))
}

#[cfg(test)]
mod tests;
