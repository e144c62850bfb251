//! Requesters that read slowly or not at all. Time passes only where everything waits for it.

use super::*;
use crate::tasks::worker::{
    line::{Class, Wish},
    serving::{Serving, Task as Taken},
    sink::Heard,
};

/// Shorter than one frame may take.
const PERIOD: Duration = Duration::from_secs(29);

/// Reads a frame now and then, or never, and renews.
async fn read(mut frames: mpsc::Receiver<Vec<u8>>, tell: mpsc::Sender<Heard>, reads: bool) {
    loop {
        tokio::time::sleep(PERIOD).await;
        if tell.send(Heard::Renew).await.is_err() || (reads && frames.recv().await.is_none()) {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_keeps_no_place() {
    for reads in [false, true] {
        let dir = tempfile::tempdir().expect("temp dir");
        let Alone { worker, mut asked, settings: _settings, noted } = alone(&dir);
        let inner = Arc::clone(&worker.inner);
        let peer = NodeKey([1; 32]);
        let seat = inner.line.seat(peer, |_, _| Ok::<_, ()>(())).expect("a seat");
        let held = inner.memory.hold(peer, 1).expect("room");
        let Offer { task, fence, job, lease, .. } = offer(0);
        let task = Taken { key: Key { origin: peer, task, fence }, job, lease, seat, held };
        let wish = Wish { peer, class: Class::Model, weight: 10, cost: 1, priority: 5 };
        let (frames, to_read) = mpsc::channel(1);
        let (tell, heard) = mpsc::channel(1);
        let (_attach, attached) = mpsc::channel(1);
        let sink = Sink::played(frames, heard);
        let serving = Serving::new(Arc::clone(&inner), &task, sink, attached);
        let serving = tokio::spawn(serving.run(task, wish));
        tokio::spawn(read(to_read, tell, reads));
        let asked = asked.recv().await.expect("is asked");
        let text = || Piece::Text { text: "x".to_owned(), logprobs: Vec::new() };
        tokio::spawn(async move { while asked.pieces.send(text()).await.is_ok() {} });
        let ended = timeout(Duration::from_secs(300), serving).await;
        ended.expect("is given up in time").expect("does not panic");
        assert_eq!(worker.counts(), (0, 0));
        let ended = noted.ended.lock().expect("no test panics with it").clone();
        assert_eq!((ended.len(), ended[0].state), (1, TaskState::Cancelled));
        assert!(ended[0].reason.contains("does not read"), "{}", ended[0].reason);
    }
}
