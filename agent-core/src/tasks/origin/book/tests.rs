//! The book by itself, with a database that is a sorted set.

use super::*;

const NEED: i64 = 7;

fn id(n: usize) -> TaskId {
    TaskId(format!("t_{n:026}"))
}

fn node(n: u8) -> NodeId {
    NodeId(format!("{n:064x}"))
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_is_drained_to_its_last_task_while_as_many_fly_as_may() {
    let total = LANE + 700;
    let mut queued: BTreeSet<TaskId> = (0..total).map(id).collect();
    let (mut flying, mut started) = (VecDeque::new(), HashSet::new());
    let mut book = Book::default();
    book.know(NEED);
    while started.len() < total {
        match book.next(Instant::now(), false) {
            Next::Start { id, lane } => {
                assert_eq!(lane, Some(NEED));
                // It is placed at once: its row waits no more.
                assert!(queued.remove(&id), "{id} twice");
                flying.push_back(id.clone());
                started.insert(id);
            }
            Next::Fill { need, limit } => {
                let rows = queued.iter().take(limit as usize);
                let rows = rows.map(|id| QueuedTask { id: id.0.clone(), priority: 5 }).collect();
                book.fill(need, rows, limit);
            }
            Next::Wait(_) => {
                let landed = flying.pop_front();
                let landed = landed.unwrap_or_else(|| panic!("{} are stranded", queued.len()));
                book.release(&landed, Some(NEED));
            }
        }
        assert!(flying.len() <= IN_FLIGHT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_may_start_nothing_waits_for_what_is_ahead() {
    let now = Instant::now();
    let mut book = Book::default();
    book.enqueue(NEED, 5, id(1));
    book.park(NEED, now);
    let later = now + PARK.1 * 2;
    assert_eq!(book.next(later, true), Next::Wait(None), "draining");
    let due = later + PARK.1;
    book.delay(due, NEED, 5, id(2));
    assert_eq!(book.next(later, true), Next::Wait(Some(due)));
    for n in 0..IN_FLIGHT {
        assert!(book.claim(&id(10 + n)));
    }
    assert_eq!(book.next(later, false), Next::Wait(Some(due)), "full");
    book.release(&id(10), None);
    assert_eq!(book.next(later, false), Next::Start { id: id(1), lane: Some(NEED) });
}

#[tokio::test(start_paused = true)]
async fn one_need_with_all_its_flights_leaves_the_dispatcher_asleep() {
    let now = Instant::now();
    let mut book = Book::default();
    for n in 0..=LANE_FLIGHT {
        book.enqueue(NEED, 5, id(n));
    }
    for n in 0..LANE_FLIGHT {
        assert_eq!(book.next(now, false), Next::Start { id: id(n), lane: Some(NEED) });
    }
    book.enqueue(NEED + 1, 5, id(5_000));
    assert!(matches!(book.next(now, false), Next::Start { lane: Some(8), .. }));
    book.park(NEED, now);
    book.took(&node(1), NEED, now);
    assert_eq!(book.next(now, false), Next::Wait(None));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_keeps_saying_no_is_asked_ever_less_often() {
    let mut now = Instant::now();
    let mut book = Book::default();
    let mut waits = Vec::new();
    for _ in 0..8 {
        // Two that were asked together count once.
        for _ in 0..2 {
            book.refused(node(1), NEED, (Some(Duration::from_millis(1)), 1), now);
        }
        let begun = now;
        while book.is_busy(&node(1), NEED, 0, now) {
            now += Duration::from_millis(50);
        }
        waits.push(now - begun);
    }
    assert!(waits[0] >= Duration::from_millis(400), "{waits:?}");
    assert!(waits[4] > waits[0] * 8 && waits[7] <= PARK.1 * 2, "{waits:?}");
    book.took(&node(1), NEED, now);
    book.refused(node(1), NEED, (None, 1), now);
    assert!(!book.is_busy(&node(1), NEED, 0, now + Duration::from_secs(1)), "it begins again");
}

#[tokio::test(start_paused = true)]
async fn lanes_that_were_not_read_are_looked_for_when_there_is_room() {
    let mut book = Book::default();
    assert!(!book.look_for_lanes());
    book.lose_lanes();
    assert!(book.look_for_lanes() && !book.look_for_lanes());
}
