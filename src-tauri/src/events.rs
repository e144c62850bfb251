//! What the page hears: the node's events and the supervisor's, over the one channel that the page
//! opened.
//!
//! Events flow only while the window is visible: a subscriber makes the node take readings, and
//! nobody looks at a hidden window. Showing it subscribes anew, and a subscription starts with a
//! snapshot. A page that is slower than the node gets the newest status instead of every one: the
//! forwarder waits until the page has run what it was sent, then sends what has gathered since.

use std::{
    cell::Cell,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent_api::{ApiError, ErrorCode, Event, host::HostMessage};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tauri::{WebviewWindow, async_runtime::JoinHandle, ipc::Channel};
use tokio::sync::{oneshot, watch};

use crate::streams::{OpenStream, Streams};

/// Events sent before the page has to catch up. More wait in the node's own bounded queue.
const BATCH: usize = 64;

/// A page that has not caught up by then (it hangs, or is being loaded) is sent the next batch
/// anyway: nothing here may wait for it forever.
const PAGE_STUCK: Duration = Duration::from_secs(2);

/// Where messages for the page go.
pub(crate) trait Outlet: Send + Sync {
    /// Hands a message over; one for a page that is gone is dropped.
    fn send(&self, message: HostMessage);
    /// Resolves when the page has run everything that was sent.
    fn drained(&self) -> impl Future<Output = ()> + Send;
}

/// The page in the window, through the channel that it opened.
#[derive(Clone)]
pub(crate) struct PageOutlet {
    channel: Channel<HostMessage>,
    window: WebviewWindow,
}

impl Outlet for PageOutlet {
    fn send(&self, message: HostMessage) {
        if let Err(error) = self.channel.send(message) {
            tracing::debug!(%error, "the page is gone");
        }
    }

    async fn drained(&self) {
        let (done, page_ran) = oneshot::channel();
        let done = Cell::new(Some(done));
        // Scripts run in order: when this one answers, the page has run those before it.
        let asked = self.window.eval_with_callback("0", move |_| {
            if let Some(done) = done.take() {
                let _ = done.send(());
            }
        });
        if asked.is_ok() {
            let _ = tokio::time::timeout(PAGE_STUCK, page_ran).await;
        }
    }
}

/// What the shell knows of the page: its channel once it has one, and whether anybody sees it.
#[derive(Debug)]
pub(crate) struct Page {
    link: Mutex<Option<Link>>,
    visible: watch::Sender<bool>,
}

/// Everything that ends when the page is loaded again.
struct Link {
    outlet: PageOutlet,
    streams: Streams,
    forwarder: JoinHandle<()>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.forwarder.abort();
        self.streams.cancel_all();
    }
}

impl Page {
    pub(crate) fn new() -> Self {
        Self { link: Mutex::new(None), visible: watch::Sender::new(false) }
    }

    /// A page was loaded and opened a channel. The one before it, if any, is gone.
    pub(crate) fn connect<S>(
        &self,
        channel: Channel<HostMessage>,
        window: WebviewWindow,
        subscribe: impl Fn() -> S + Send + 'static,
    ) where
        S: Stream<Item = Event> + Send,
    {
        let outlet = PageOutlet { channel, window };
        let visible = self.visible.subscribe();
        let to = outlet.clone();
        let forwarder = tauri::async_runtime::spawn(async move {
            forward(subscribe, visible, &to).await;
        });
        let link = Link { outlet, streams: Streams::default(), forwarder };
        let before = self.lock().replace(link);
        drop(before);
    }

    /// Takes a number for a streamed answer.
    pub(crate) fn open_stream(&self, id: u32) -> Result<(OpenStream, PageOutlet), ApiError> {
        let link = self.lock();
        let Some(link) = link.as_ref() else {
            let what = "There is no channel to stream over. Call connect first.";
            return Err(ApiError::new(ErrorCode::Conflict, what));
        };
        Ok((link.streams.open(id)?, link.outlet.clone()))
    }

    pub(crate) fn cancel_stream(&self, id: u32) {
        if let Some(link) = self.lock().as_ref() {
            link.streams.cancel(id);
        }
    }

    /// Sends the page to a panel. A page that is still being loaded starts at its own first panel.
    pub(crate) fn navigate(&self, path: &str) {
        if let Some(link) = self.lock().as_ref() {
            link.outlet.send(HostMessage::Navigate { path: path.to_owned() });
        }
    }

    pub(crate) fn set_visible(&self, visible: bool) {
        self.visible.send_replace(visible);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends events while `visible`, until the source or the window ends.
async fn forward<S: Stream<Item = Event>>(
    subscribe: impl Fn() -> S,
    mut visible: watch::Receiver<bool>,
    outlet: &impl Outlet,
) {
    while visible.wait_for(|visible| *visible).await.is_ok() {
        let mut events = pin!(subscribe());
        loop {
            let first = tokio::select! {
                biased;
                _ = visible.wait_for(|visible| !*visible) => break,
                event = events.next() => event,
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Some(Some(event)) = events.next().now_or_never()
            {
                batch.push(event);
            }
            for event in coalesced(batch) {
                outlet.send(HostMessage::Event { event });
            }
            outlet.drained().await;
        }
    }
}

/// The same news in fewer events: of several readings of the status only the newest counts.
fn coalesced(mut events: Vec<Event>) -> Vec<Event> {
    let newest = events.iter().rposition(|event| {
        matches!(event, Event::Status { .. } | Event::Snapshot { .. } | Event::Resync)
    });
    let mut index = 0;
    events.retain(|event| {
        let keep = !matches!(event, Event::Status { .. }) || Some(index) == newest;
        index += 1;
        keep
    });
    events
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use agent_api::{Activity, ActivityKind, host::HostState};
    use tokio::sync::{Notify, mpsc};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A page that keeps what it is sent, and runs it at once unless told to hang.
    #[derive(Clone, Default)]
    pub(crate) struct Recorder {
        messages: Arc<Mutex<Vec<HostMessage>>>,
        sent: Arc<Notify>,
        busy: Option<Arc<Notify>>,
    }

    impl Recorder {
        pub(crate) fn messages(&self) -> Vec<HostMessage> {
            self.messages.lock().expect("no panic").clone()
        }

        async fn heard(&self, count: usize) -> Vec<HostMessage> {
            loop {
                let messages = self.messages();
                if messages.len() >= count {
                    return messages;
                }
                self.sent.notified().await;
            }
        }
    }

    impl Outlet for Recorder {
        fn send(&self, message: HostMessage) {
            self.messages.lock().expect("no panic").push(message);
            self.sent.notify_one();
        }

        async fn drained(&self) {
            if let Some(busy) = &self.busy {
                busy.notified().await;
            }
        }
    }

    fn activity(id: i64) -> Event {
        let item = Activity { id, at_ms: 0, kind: ActivityKind::Warning, text: String::new() };
        Event::Activity { item }
    }

    fn status(at_ms: i64) -> Event {
        let status: agent_api::Status = serde_json::from_value(serde_json::json!({
            "at_ms": at_ms,
            "node": { "node_id": "ab", "name": "n", "version": "1", "data_dir": "/d", "pid": 1,
                      "started_at_ms": 0, "url": "http://127.0.0.1:1", "exposed": false },
            "serving": { "state": "idle", "reason": "Ready", "until_ms": null },
            "model": { "state": "none", "reason": "", "active": null, "loaded": null,
                       "retry_at_ms": null, "runner_crashes": 0, "runner_pid": null, "resident": [] },
            "speed": { "tokens_per_s": 0.0, "history": [] },
            "requests": { "running": 0, "queued": 0, "oldest_wait_ms": null, "slots": 0,
                          "done_today": 0, "failed_today": 0, "tokens_today": 0 },
            "machine": { "cpu_percent": null, "cpu_cores": 1, "cpu_name": "",
                         "memory_used_bytes": 0, "memory_total_bytes": 0, "disk_used_bytes": null,
                         "disk_total_bytes": null, "gpus": [], "node_memory_bytes": 0,
                         "runner_memory_bytes": null },
            "notices": []
        }))
        .expect("a status");
        Event::Status { status: Box::new(status) }
    }

    #[test]
    fn only_the_newest_status_of_a_batch_is_sent() {
        let batch = vec![status(1), activity(1), status(2), activity(2), status(3), activity(3)];
        assert_eq!(coalesced(batch), [activity(1), activity(2), status(3), activity(3)]);
    }

    #[test]
    fn a_status_from_before_a_resync_is_old_news() {
        assert_eq!(coalesced(vec![status(1), Event::Resync]), [Event::Resync]);
        assert_eq!(coalesced(vec![Event::Resync, status(2)]), [Event::Resync, status(2)]);
    }

    #[tokio::test]
    async fn a_hidden_window_hears_nothing_and_subscribes_anew_when_shown() {
        let (show, visible) = watch::channel(false);
        let (subscribed, mut subscriptions) = mpsc::channel(4);
        let page = Recorder::default();
        let to = page.clone();
        let subscribe = move || {
            let ended = CancellationToken::new();
            subscribed.try_send(ended.clone()).expect("few subscriptions");
            let held = ended.drop_guard();
            let snapshot = futures_util::stream::iter([activity(0)]);
            snapshot.chain(futures_util::stream::pending()).inspect(move |_| {
                let _ended_with_the_stream = &held;
            })
        };
        let forwarder = tokio::spawn(async move { forward(subscribe, visible, &to).await });
        assert!(subscriptions.try_recv().is_err());

        show.send_replace(true);
        let first = subscriptions.recv().await.expect("subscribed");
        page.heard(1).await;
        show.send_replace(false);
        first.cancelled().await;

        show.send_replace(true);
        subscriptions.recv().await.expect("subscribed again");
        page.heard(2).await;
        drop(show);
        forwarder.abort();
    }

    #[tokio::test]
    async fn a_slow_page_gets_the_newest_status_when_it_has_caught_up() {
        let (_show, visible) = watch::channel(true);
        let (send, events) = mpsc::channel(16);
        let caught_up = Arc::new(Notify::new());
        let page = Recorder { busy: Some(Arc::clone(&caught_up)), ..Recorder::default() };
        let to = page.clone();
        let events = Mutex::new(Some(events));
        let subscribe = move || {
            let mut events = events.lock().expect("no panic").take().expect("subscribed once");
            futures_util::stream::poll_fn(move |context| events.poll_recv(context))
        };
        let forwarder = tokio::spawn(async move { forward(subscribe, visible, &to).await });
        let host = Event::Host { state: HostState::Running };
        send.send(host.clone()).await.expect("open");
        page.heard(1).await;
        for n in 1..=5 {
            send.send(status(n)).await.expect("open");
        }
        caught_up.notify_one();
        let got = page.heard(2).await;
        let expected = [host, status(5)].map(|event| HostMessage::Event { event });
        assert_eq!(got, expected);
        forwarder.abort();
    }
}
