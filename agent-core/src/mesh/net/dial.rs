//! Opening connections, from this side and from the other, up to their control stream.

use std::{net::IpAddr, sync::Arc};

use iroh::{
    Endpoint, EndpointAddr,
    endpoint::{Connection, Incoming, IncomingAddr},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use self::arrivals::{Arrivals, Origin};
use super::{
    ALPN, CONNECT_TIMEOUT, close,
    link::{Opened, cut},
};
use crate::mesh::membership::io::Side;

mod arrivals;

/// Handshakes with strangers at the same time; each costs a signature. More are told to come again.
const HANDSHAKES: usize = 32;
/// Connections whose key is proved and whose control stream is not open yet. They cost memory, no
/// work: several times as many as handshakes, so that silent ones hold up nobody.
const SILENT: usize = 128;

/// Connects and opens the control stream. The error is a reason for people.
pub(super) async fn dial(endpoint: Endpoint, to: EndpointAddr) -> Result<Opened, String> {
    if to.is_empty() {
        return Err("no address is known for it".to_owned());
    }
    let opening = async {
        let connection =
            endpoint.connect(to, ALPN).await.map_err(|error| cut(&error.to_string()).to_owned())?;
        let streams = connection.open_bi().await;
        let (send, recv) = streams.map_err(|error| super::link::reason_of(&error))?;
        Ok(Opened { connection, send, recv, side: Side::Dialed })
    };
    let nobody = || format!("nobody answered within {} s", CONNECT_TIMEOUT.as_secs());
    timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| Err(nobody()))
}

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept_all(
    endpoint: Endpoint,
    opened: mpsc::Sender<Opened>,
    tasks: TaskTracker,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let silent = Arc::new(Semaphore::new(SILENT));
    let arrivals = Arrivals::default();
    while let Some(incoming) = endpoint.accept().await {
        let Some(place) = arrivals.enter(origin(&incoming)) else {
            incoming.refuse();
            continue;
        };
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (opened, silent) = (opened.clone(), Arc::clone(&silent));
        tasks.spawn(async move {
            // What fails here is a stranger's: there is nobody to tell.
            let connection = timeout(CONNECT_TIMEOUT, shake_hands(incoming)).await;
            drop(permit);
            let Ok(Some(connection)) = connection else { return };
            let Ok(waits) = silent.try_acquire_owned() else {
                connection.close(close::FULL, b"this node has too many connections");
                return;
            };
            let ready = timeout(CONNECT_TIMEOUT, control_stream(connection)).await;
            drop((waits, place));
            if let Ok(Some(ready)) = ready {
                let _ = opened.send(ready).await;
            }
        });
    }
}

/// Who is told apart before keys are proved. A computer's own nodes and tests are not counted.
fn origin(incoming: &Incoming) -> Origin {
    match incoming.remote_addr() {
        IncomingAddr::Ip(at) => match at.ip().to_canonical() {
            ip if ip.is_loopback() => Origin::Here,
            IpAddr::V4(ip) => Origin::V4(ip),
            // A network gets a /64 and may use any address of it (RFC 4291, section 2.5.4).
            IpAddr::V6(ip) => Origin::V6(ip.to_bits() >> 64),
        },
        // Keys that come through a relay are as many as somebody likes.
        _ => Origin::Relay,
    }
}

async fn shake_hands(incoming: Incoming) -> Option<Connection> {
    incoming.accept().ok()?.await.ok()
}

async fn control_stream(connection: Connection) -> Option<Opened> {
    let (send, recv) = connection.accept_bi().await.ok()?;
    Some(Opened { connection, send, recv, side: Side::Accepted })
}
