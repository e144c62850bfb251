//! The HTTP server in front of iroh-relay's clients.
//!
//! iroh-relay's own server has one rate for all clients. This one does the same with iroh-relay's
//! parts (handshake, framing of packets, registry of clients), but knows whom a connection is of
//! before it decides how fast it may be. One thing is lost: the status `RateLimited`, by which that
//! server tells a client why it is slow, cannot be sent from outside of iroh-relay
//! (`client::Config::rate_limited` is its own). Clients only log and count it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use agent_api::{
    endpoint::{Endpoint as _, GetCoordinators},
    mesh::Coordinators,
};
use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT,
            SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
        },
        request::Parts,
    },
    response::{IntoResponse as _, Response},
    routing::get,
};
use data_encoding::BASE64;
use hyper::{server::conn::http1, upgrade::OnUpgrade};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use iroh_relay::{
    KeyCache,
    http::{CLIENT_AUTH_HEADER, ProtocolVersion, RELAY_PATH, RELAY_PROBE_PATH},
    protos::handshake,
    server::{
        ClientRequest, DynAccessControl, Metrics, client, clients::Clients, streams::RelayedStream,
    },
};
use sha1::{Digest as _, Sha1};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::{JoinError, JoinHandle},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    frames::Frames,
    gate::Gate,
    opening::{Opening, Place},
    pace::Pace,
};
use crate::mesh::{NodeKey, sources::Listing};

/// Until the requests of a connection are answered, and until the handshake after that is done. What
/// is no client's by then, as one that asks for nothing, is cut.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// A head of a request takes no longer.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Longest head of a request; browsers have a quarter of that.
const HEAD_BYTES: usize = 16 << 10;
/// Clients get so long to end; the rest is cut.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// After an accept that failed: out of descriptors, or the client went away.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);
/// Keys whose decoding is remembered: the directory's size.
const KEY_CACHE: usize = 4_096;
/// Longest challenge of a client that looks for a captive portal.
const CHALLENGE_BYTES: usize = 64;
/// For whoever watches the relay: the same as iroh-relay's own server says, without its version.
const HEALTH: &str = r#"{"status":"ok"}"#;
/// RFC 6455, section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET_VERSION: &str = "13";
/// By these a node knows that it was the relay that answered, and no captive portal.
const CHALLENGE: HeaderName = HeaderName::from_static("x-iroh-challenge");
const CHALLENGE_ANSWER: HeaderName = HeaderName::from_static("x-iroh-response");

/// A relay that listens. Dropping it ends it, too, in the background.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    door: Door,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(super) async fn spawn(
        address: SocketAddr,
        gate: Gate,
        listing: Listing,
    ) -> io::Result<Self> {
        Self::with(address, Arc::new(gate), Opening::default(), listing).await
    }

    pub(super) async fn with(
        address: SocketAddr,
        gate: Arc<Gate>,
        opening: Opening,
        listing: Listing,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let door = Door {
            gate,
            listing,
            opening,
            clients: Clients::default(),
            key_cache: KeyCache::new(KEY_CACHE),
            metrics: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let accepting = door.tasks.spawn(door.clone().accept(listener));
        Ok(Self { address, door, accepting })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it accepts no more, which only a fault brings about.
    pub(super) async fn ended(&mut self) -> Result<(), JoinError> {
        (&mut self.accepting).await
    }

    /// Ends every client and whatever is opening.
    pub(super) async fn shutdown(&self) {
        self.door.clone().end().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.door.stop.cancel();
        // Outside of a runtime its tasks are gone already.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.door.clone().end());
        }
    }
}

/// What a connection needs to become a client.
#[derive(Clone, Debug)]
struct Door {
    gate: Arc<Gate>,
    listing: Listing,
    opening: Opening,
    clients: Clients,
    key_cache: KeyCache,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Why a connection became no client's.
#[derive(Debug, thiserror::Error)]
enum DoorError {
    #[error("the connection was not handed over: {0}")]
    Upgrade(#[from] hyper::Error),
    #[error("{0}")]
    Handshake(#[from] handshake::Error),
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, from)) => {
                    let place = self.opening.enter(from.ip(), &self.stop);
                    self.tasks.spawn(self.clone().answer(stream, place));
                }
                Err(error) => {
                    tracing::warn!("the relay cannot accept a connection: {error}");
                    sleep(ACCEPT_WAIT).await;
                }
            }
        }
    }

    /// Answers the requests of one connection; it is at an end when it was handed over.
    async fn answer(self, stream: TcpStream, place: Place) {
        // Packets must not wait for each other.
        let _ = stream.set_nodelay(true);
        let cut = place.cut.clone();
        let service = TowerToHyperService::new(router(self).layer(Extension(Arc::new(place))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // Errors are clients that went away or did not speak HTTP.
        let _ = cut.run_until_cancelled(timeout(OPENING_TIME, connection)).await;
    }

    /// In this order: until its task has ended, what is opening may become a client.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        let ending = async {
            self.tasks.wait().await;
            self.clients.shutdown().await;
        };
        let _ = timeout(STOP_TIMEOUT, ending).await;
    }

    /// From the answered request to a client that sends and receives.
    async fn enter(
        self,
        upgrade: OnUpgrade,
        request: Parts,
        version: ProtocolVersion,
    ) -> Result<(), DoorError> {
        let connection = TokioIo::new(upgrade.await?);
        let mut frames = Frames::new(connection, Pace::new(Arc::clone(&self.gate)));
        let signed = request.headers.get(CLIENT_AUTH_HEADER).cloned();
        let authenticated = handshake::serverside(&mut frames, signed).await?;
        frames.is_of(NodeKey(*authenticated.client_key.as_bytes()));
        let request = ClientRequest::new(authenticated.client_key, version, request);
        let access: Arc<dyn DynAccessControl> = self.gate;
        let guard = authenticated.authorize_with(&request, &access, &mut frames).await?;
        let stream = RelayedStream::new(frames, self.key_cache);
        self.clients.register(client::Config::new(guard, stream, version), self.metrics);
        Ok(())
    }
}

fn router(door: Door) -> Router {
    Router::new()
        .route("/", get(async || "A relay of EdgeCoder. It cannot read what it passes on.\n"))
        .route("/healthz", get(async || ([(CONTENT_TYPE, "application/json")], HEALTH)))
        .route(RELAY_PROBE_PATH, get(async || [(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]))
        .route("/generate_204", get(no_content))
        .route(GetCoordinators::PATH, get(coordinators))
        .route(RELAY_PATH, get(relay))
        .with_state(door)
}

/// One to a connection, of which everybody has a few.
async fn coordinators(
    State(door): State<Door>,
) -> ([(HeaderName, &'static str); 1], Json<Coordinators>) {
    ([(CONNECTION, "close")], Json(door.listing.for_strangers()))
}

/// Only the relay itself gives back the challenge.
async fn no_content(headers: HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let is_plain = |text: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        !text.is_empty() && text.len() < CHALLENGE_BYTES && text.bytes().all(plain)
    };
    let challenge = headers.get(CHALLENGE).and_then(|value| value.to_str().ok()).filter(is_plain);
    let answer = challenge.and_then(|text| HeaderValue::try_from(format!("response {text}")).ok());
    if let Some(answer) = answer {
        response.headers_mut().insert(CHALLENGE_ANSWER, answer);
    }
    response
}

/// A WebSocket (RFC 6455, section 4.2) with a version of the relay's protocol.
async fn relay(
    State(door): State<Door>,
    Extension(place): Extension<Arc<Place>>,
    mut request: Request,
) -> Response {
    let wanted = match wanted(request.headers()) {
        Ok(wanted) => wanted,
        Err(reason) => {
            let version = [(SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION)];
            return (StatusCode::BAD_REQUEST, version, reason).into_response();
        }
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    let (request, _) = request.into_parts();
    let tasks = door.tasks.clone();
    tasks.spawn(async move {
        let entering = timeout(OPENING_TIME, door.enter(upgrade, request, wanted.version));
        match place.cut.run_until_cancelled(entering).await {
            Some(Ok(Err(error))) => tracing::debug!("no client of the relay: {error}"),
            Some(Err(_)) => tracing::debug!("no client of the relay: it took too long"),
            Some(Ok(Ok(()))) | None => {}
        }
    });
    let headers = [
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (SEC_WEBSOCKET_ACCEPT, wanted.accept),
        (SEC_WEBSOCKET_PROTOCOL, wanted.version.to_header_value()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[derive(Debug)]
struct Wanted {
    version: ProtocolVersion,
    /// Proves to the client that its request was understood.
    accept: HeaderValue,
}

/// The error is a reason for people.
fn wanted(headers: &HeaderMap) -> Result<Wanted, &'static str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if !text(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err("this is a relay: it wants a WebSocket");
    }
    if text(SEC_WEBSOCKET_VERSION) != Some(WEBSOCKET_VERSION) {
        return Err("this WebSocket version is not spoken here");
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("the WebSocket's key is missing")?;
    let offered = text(SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let known = offered.split(',').filter_map(|v| ProtocolVersion::match_from_str(v.trim()));
    let version = known.max().ok_or("no version of the relay's protocol that is spoken here")?;
    let proof = Sha1::new().chain_update(key.as_bytes()).chain_update(WEBSOCKET_GUID).finalize();
    let accept = HeaderValue::try_from(BASE64.encode(&proof));
    Ok(Wanted { version, accept: accept.map_err(|_| "the WebSocket's key is damaged")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(change: impl FnOnce(&mut HeaderMap)) -> HeaderMap {
        // The example of RFC 6455, section 1.3.
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (UPGRADE, "websocket"),
            (CONNECTION, "Upgrade"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_PROTOCOL, "iroh-relay-v1, iroh-relay-v2"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        change(&mut headers);
        headers
    }

    #[test]
    fn a_websocket_is_accepted_as_the_standard_says_with_the_newest_common_version() {
        let wanted = wanted(&headers(|_| {})).expect("accepted");
        assert_eq!(wanted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(wanted.version, ProtocolVersion::V2);
    }

    #[test]
    fn what_is_no_client_of_a_relay_is_told_so() {
        for (missing, reason) in [
            (UPGRADE, "WebSocket"),
            (SEC_WEBSOCKET_VERSION, "version"),
            (SEC_WEBSOCKET_KEY, "key"),
            (SEC_WEBSOCKET_PROTOCOL, "protocol"),
        ] {
            let headers = headers(|headers| {
                headers.remove(&missing);
            });
            let refused = wanted(&headers).expect_err("something is missing");
            assert!(refused.contains(reason), "{missing}: {refused}");
        }
    }
}
