//! Opening connections, from this side and from the other, up to their control stream.

use std::sync::Arc;

use iroh::{Endpoint, EndpointAddr, endpoint::Incoming};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    ALPN, CONNECT_TIMEOUT,
    link::{Opened, cut},
};
use crate::mesh::membership::io::Side;

/// Handshakes with strangers at the same time; each costs a signature. More are told to come again.
const HANDSHAKES: usize = 32;

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
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let opened = opened.clone();
        tasks.spawn(async move {
            // What fails here is a stranger's: there is nobody to tell.
            let ready = timeout(CONNECT_TIMEOUT, receive(incoming)).await;
            drop(permit);
            if let Ok(Some(ready)) = ready {
                let _ = opened.send(ready).await;
            }
        });
    }
}

async fn receive(incoming: Incoming) -> Option<Opened> {
    let connection = incoming.accept().ok()?.await.ok()?;
    let (send, recv) = connection.accept_bi().await.ok()?;
    Some(Opened { connection, send, recv, side: Side::Accepted })
}
