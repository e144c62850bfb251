//! The origin with nodes that exist only in memory: they die, refuse, come back and answer late.

mod fakes;

use agent_api::tasks::{AttemptOutcome, Privacy, Role, TaskEvent, TaskKind};
use fakes::{Fakes, Script, job, text_job};

use super::*;
use crate::{
    storage::tasks::{Filter, list_tasks, task_attempts, task_events, task_words},
    tasks::{
        job::{Job, Offer},
        reputation::Experience,
    },
};

struct Bench {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    storage: Storage,
    fakes: Arc<Fakes>,
    origin: Origin,
    stop: CancellationToken,
    drain: watch::Sender<bool>,
}

impl Bench {
    async fn start(nodes: usize) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("edgecoder.db");
        let storage = Storage::open(&path).await.expect("opens").storage;
        let fakes = Arc::new(Fakes::new(nodes));
        let (origin, stop, drain) = begin(&storage, &fakes).await;
        Self { _dir: dir, path, storage, fakes, origin, stop, drain }
    }

    /// As after kill -9: nothing is told to anybody, and what is in memory is gone.
    async fn restart(&mut self) {
        self.stop.cancel();
        self.storage.close().await;
        self.storage = Storage::open(&self.path).await.expect("opens").storage;
        (self.origin, self.stop, self.drain) = begin(&self.storage, &self.fakes).await;
    }

    async fn add(&self, n: usize, job: &Job) -> TaskId {
        let new = new_task(n, job);
        let id = task_id(n);
        assert_eq!(self.origin.add(new).await.expect("writes"), Added::New);
        id
    }

    async fn task(&self, id: &TaskId) -> Task {
        self.row(id).await.task
    }

    async fn row(&self, id: &TaskId) -> TaskRow {
        get_task(self.storage.readers(), id).await.expect("reads").expect("is there")
    }

    /// Waits until it is in one of these states.
    async fn reaches(&self, id: &TaskId, states: &[TaskState]) -> Task {
        let reached = async {
            loop {
                let task = self.task(id).await;
                if states.contains(&task.state) {
                    return task;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(120), reached).await {
            Ok(task) => task,
            Err(_) => panic!("does not go on: {}", self.story(id).await),
        }
    }

    async fn ended(&self, id: &TaskId) -> Task {
        use TaskState::{Cancelled, Done, Expired, Failed};
        self.reaches(id, &[Done, Failed, Cancelled, Expired]).await
    }

    /// Where a task stands and how it came there, for whoever reads that a test failed.
    async fn story(&self, id: &TaskId) -> String {
        let (task, outcomes) = (self.task(id).await, self.outcomes(id).await);
        let settled = self.fakes.settled(id);
        let events = self.events(id).await;
        format!(
            "{id} is {:?} ({}); results {settled}, tries {outcomes:?}, {events:#?}",
            task.state, task.reason
        )
    }

    async fn outcomes(&self, id: &TaskId) -> Vec<Option<AttemptOutcome>> {
        let task = self.task(id).await;
        let tries = task_attempts(self.storage.readers(), &task).await.expect("reads");
        let fences: Vec<u64> = tries.iter().map(|kept| kept.attempt.fence).collect();
        assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
        tries.into_iter().map(|kept| kept.attempt.outcome).collect()
    }

    async fn first_node(&self, id: &TaskId) -> NodeId {
        let task = self.task(id).await;
        let tries = task_attempts(self.storage.readers(), &task).await.expect("reads");
        tries[0].attempt.node.clone()
    }

    async fn events(&self, id: &TaskId) -> Vec<TaskEvent> {
        task_events(self.storage.readers(), id).await.expect("reads")
    }
}

async fn begin(
    storage: &Storage,
    fakes: &Arc<Fakes>,
) -> (Origin, CancellationToken, watch::Sender<bool>) {
    let stop = CancellationToken::new();
    let drain = watch::Sender::new(false);
    let origin = Origin::start(OriginSetup {
        storage: storage.clone(),
        board: Board::default(),
        workers: Arc::clone(fakes) as _,
        in_flight: fakes.in_flight.clone(),
        draining: drain.subscribe(),
        stop: stop.clone(),
        tracker: TaskTracker::new(),
    });
    (origin.await.expect("starts"), stop, drain)
}

fn task_id(n: usize) -> TaskId {
    TaskId(format!("t_{n:026}"))
}

fn new_task(n: usize, job: &Job) -> NewTask {
    let now = now_ms();
    let task = Task {
        id: task_id(n),
        kind: job.kind(),
        state: TaskState::Queued,
        reason: "Waits for a node.".into(),
        role: Role::Asked,
        interactive: false,
        label: None,
        subject: None,
        privacy: Privacy::Mesh,
        priority: 5,
        origin: fakes::node(0),
        origin_name: "n0".into(),
        worker: None,
        worker_name: None,
        path: None,
        created_ms: now,
        started_ms: None,
        ended_ms: None,
        attempts: 0,
        queue_position: None,
        prompt_tokens: None,
        completion_tokens: None,
        tokens_per_s: None,
        first_token_ms: None,
        schedule: None,
    };
    let event = TaskEvent {
        at_ms: now,
        state: TaskState::Queued,
        attempt: 0,
        node: None,
        node_name: None,
        text: "Submitted.".into(),
    };
    let row = TaskRow {
        task,
        need: 1,
        node: None,
        fence: 0,
        failures: 0,
        max_attempts: 3,
        wanted: 1,
        most: 1,
        replicas: None,
        expires_ms: Some(now + 600_000),
        webhook: None,
    };
    NewTask {
        row,
        idempotency_key: None,
        body_hash: [0; 32],
        submitted: "{}".into(),
        job: serde_json::to_string(job).expect("is JSON"),
        event,
    }
}

#[tokio::test]
async fn a_task_ends_with_its_output_and_its_whole_timeline() {
    let bench = Bench::start(2).await;
    let id = bench.add(1, &job()).await;
    let task = bench.ended(&id).await;
    assert_eq!((task.state, task.attempts), (TaskState::Done, 1));
    let words = task_words(bench.storage.readers(), &id).await.expect("reads");
    assert!(words.output.is_some_and(|output| output.contains("fuel_used")));
    let states: Vec<TaskState> = bench.events(&id).await.iter().map(|e| e.state).collect();
    use TaskState::{Done, Placed, Queued, Running};
    assert_eq!(states, [Queued, Placed, Running, Done]);
    assert_eq!(bench.outcomes(&id).await, [Some(AttemptOutcome::Done)]);
}

#[tokio::test]
async fn a_worker_that_dies_at_any_stage_costs_a_try_and_not_the_task() {
    for script in [Script::LostAtOnce, Script::LostWaiting, Script::LostRunning, Script::Broke] {
        let bench = Bench::start(3).await;
        bench.fakes.script(&[script, Script::Refuse]);
        let id = bench.add(1, &job()).await;
        assert_eq!(bench.ended(&id).await.state, TaskState::Done, "{script:?}");
        let outcomes = bench.outcomes(&id).await;
        assert_eq!(outcomes.len(), 3, "{script:?}: {outcomes:?}");
        assert_eq!(outcomes[1], Some(AttemptOutcome::Refused));
        assert_eq!(outcomes[2], Some(AttemptOutcome::Done));
        assert_eq!(bench.fakes.settled(&id), 1);
    }
}

#[tokio::test]
async fn a_text_goes_on_at_the_next_node_from_what_was_delivered() {
    let bench = Bench::start(2).await;
    bench.fakes.script(&[Script::LostInText]);
    let id = bench.add(1, &text_job()).await;
    assert_eq!(bench.ended(&id).await.state, TaskState::Done);
    let words = task_words(bench.storage.readers(), &id).await.expect("reads");
    let output: serde_json::Value =
        serde_json::from_str(&words.output.expect("is there")).expect("is JSON");
    assert_eq!(output["text"], "one two three");
}

#[tokio::test]
async fn what_two_nodes_say_would_fail_anywhere_is_over() {
    for job in [job(), text_job()] {
        let bench = Bench::start(3).await;
        bench.fakes.script(&[Script::Fails, Script::Fails]);
        let id = bench.add(1, &job).await;
        let task = bench.ended(&id).await;
        assert_eq!((task.state, task.attempts), (TaskState::Failed, 2));
        assert!(task.reason.contains("traps"), "{}", task.reason);
    }
}

#[tokio::test]
async fn one_stranger_that_says_it_fails_does_not_end_a_task_and_is_remembered() {
    for job in [job(), text_job()] {
        let bench = Bench::start(3).await;
        bench.fakes.script(&[Script::Fails]);
        let id = bench.add(1, &job).await;
        assert_eq!(bench.ended(&id).await.state, TaskState::Done);
        let first = bench.first_node(&id).await;
        let bad = |(node, what): &(NodeId, Experience)| *node == first && what.is_bad();
        let all = bench.fakes.experiences();
        assert_eq!(all.iter().filter(|e| e.1.is_bad()).count(), 1, "{all:?}");
        assert!(all.iter().any(bad), "{all:?}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_costs_no_try() {
    let bench = Bench::start(2).await;
    bench.fakes.script(&[Script::LostAtOnce; 5]);
    let id = bench.add(1, &job()).await;
    assert_eq!(bench.ended(&id).await.state, TaskState::Done);
    assert_eq!(bench.row(&id).await.failures, 0);
    assert!(bench.fakes.experiences().iter().all(|(_, what)| !what.is_bad()));
}

#[tokio::test]
async fn a_comparison_waits_for_a_busy_node_and_is_left_out_where_there_is_none() {
    let bench = Bench::start(2).await;
    bench.fakes.compare();
    bench.fakes.script(&[Script::Well, Script::Refuse]);
    let id = bench.add(1, &job()).await;
    let task = bench.ended(&id).await;
    assert!(task.reason.contains("2 of 2 nodes agree"), "{}", task.reason);
    let bench = Bench::start(1).await;
    bench.fakes.compare();
    let id = bench.add(1, &job()).await;
    let task = bench.ended(&id).await;
    assert!(task.reason.contains("not compared"), "{}", task.reason);
}

#[tokio::test]
async fn a_result_is_compared_with_a_node_that_the_owner_trusts_if_there_is_one() {
    let bench = Bench::start(5).await;
    bench.fakes.compare();
    bench.fakes.trust(4);
    let id = bench.add(1, &job()).await;
    assert_eq!(bench.ended(&id).await.state, TaskState::Done);
    let task = bench.task(&id).await;
    let tries = task_attempts(bench.storage.readers(), &task).await.expect("reads");
    let nodes: Vec<NodeId> = tries.into_iter().map(|kept| kept.attempt.node).collect();
    assert_eq!(nodes[1..], [fakes::node(4)]);
}

#[tokio::test]
async fn a_node_that_says_it_fails_is_not_asked_again_while_another_is_waited_for() {
    let bench = Bench::start(3).await;
    bench.fakes.script(&[Script::Fails, Script::Refuse, Script::Refuse]);
    let id = bench.add(1, &job()).await;
    assert_eq!(bench.ended(&id).await.state, TaskState::Done);
    let first = bench.first_node(&id).await;
    let task = bench.task(&id).await;
    let tries = task_attempts(bench.storage.readers(), &task).await.expect("reads");
    assert_eq!(tries.iter().filter(|kept| kept.attempt.node == first).count(), 1);
    assert_eq!(tries[0].attempt.outcome, Some(AttemptOutcome::Disagreed));
    assert!(tries.iter().all(|kept| kept.result.is_none()), "nothing is compared any more");
}

#[tokio::test]
async fn a_flood_of_notes_ends_the_lease_and_not_the_task() {
    let bench = Bench::start(2).await;
    bench.fakes.script(&[Script::Notes]);
    let id = bench.add(1, &job()).await;
    assert_eq!(bench.ended(&id).await.state, TaskState::Done);
    let notes = bench.events(&id).await.iter().filter(|e| e.text == "still here").count();
    assert!(notes < 100, "{notes}");
    let all = bench.fakes.experiences();
    assert!(all.iter().any(|(_, what)| matches!(what, Experience::Misbehaved(_))), "{all:?}");
}

#[tokio::test]
async fn a_text_is_whole_when_this_node_restarts_while_a_second_one_goes_on() {
    let mut bench = Bench::start(2).await;
    bench.fakes.script(&[Script::LostInText, Script::SilentRunning]);
    let id = bench.add(1, &text_job()).await;
    bench.fakes.began_all().await;
    bench.reaches(&id, &[TaskState::Running]).await;
    let fence = bench.row(&id).await.fence;
    assert_eq!(fence, 2);
    bench.fakes.remember(&id, fence);
    bench.restart().await;
    assert_eq!(bench.ended(&id).await.state, TaskState::Done);
    let words = task_words(bench.storage.readers(), &id).await.expect("reads");
    let output: serde_json::Value =
        serde_json::from_str(&words.output.expect("is there")).expect("is JSON");
    assert_eq!((output["text"].as_str(), bench.row(&id).await.fence), (Some("one two three"), 2));
}

/// How the lease of a job ends on a peer that does this, and when, in virtual seconds.
async fn pumped(job: Job, script: Script) -> (String, u64) {
    use lease::{Begin, LeaseNews, pump};

    let fakes = Arc::new(Fakes::new(1));
    fakes.script(&[script]);
    let (news, mut inbox) = tokio::sync::mpsc::channel(16);
    let lease = Duration::from_secs(30);
    let offer = Offer { task: TaskId("t".into()), attempt: 1, fence: 1, job, priority: 5, lease };
    let begin = Begin::Offer(Box::new(fakes::view(0)));
    let begun = Instant::now();
    tokio::spawn(pump(fakes, begin, offer, CancellationToken::new(), news));
    loop {
        match inbox.recv().await.expect("ends").1 {
            LeaseNews::Overdue(why) => return (why, begun.elapsed().as_secs()),
            LeaseNews::Over(error) => panic!("{error}"),
            LeaseNews::Taken(_) | LeaseNews::Piece(_) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_only_lives_loses_its_lease() {
    let (why, after) = pumped(text_job(), Script::Silent).await;
    assert!(why.contains("whether it takes it") && after < 60, "{why} {after}");
    let (why, after) = pumped(text_job(), Script::Stands).await;
    assert!(why.contains("did not come nearer") && after < 11 * 60, "{why} {after}");
    let (why, after) = pumped(text_job(), Script::Empty).await;
    assert!(why.contains("got nowhere") && after < 11 * 60, "{why} {after}");
    let (why, after) = pumped(job(), Script::SilentRunning).await;
    assert!(why.contains("got nowhere") && after < 40, "{why} {after}");
}

#[tokio::test]
async fn two_thousand_tasks_are_done_exactly_once() {
    let bench = Bench::start(5).await;
    let mut ids = Vec::new();
    for n in 0..2_000 {
        if n % 50 == 0 {
            bench.fakes.script_of(&task_id(n), &[Script::LostRunning, Script::Refuse]);
        }
        ids.push(bench.add(n, &job()).await);
    }
    for id in &ids {
        let task = bench.ended(id).await;
        let once = task.state == TaskState::Done && bench.fakes.settled(id) == 1;
        assert!(once, "{}", bench.story(id).await);
    }
    let counts =
        crate::storage::tasks::task_counts(bench.storage.readers(), now_ms()).await.expect("reads");
    assert_eq!((counts.done, counts.queued, counts.active), (2_000, 0, 0));
    let running = Filter { state: Some("active".into()), limit: 10, ..Filter::default() };
    assert!(list_tasks(bench.storage.readers(), &running).await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_restart_in_any_state_loses_nothing_and_takes_up_what_peers_have() {
    let mut bench = Bench::start(2).await;
    bench.fakes.script(&[Script::Silent]);
    let placed = bench.add(1, &job()).await;
    bench.fakes.began_all().await;
    bench.reaches(&placed, &[TaskState::Placed]).await;
    bench.fakes.script(&[Script::SilentRunning]);
    let running = bench.add(2, &job()).await;
    bench.reaches(&running, &[TaskState::Running]).await;
    bench.drain.send_replace(true);
    let queued = bench.add(3, &job()).await;
    let fence = bench.row(&running).await.fence;
    bench.fakes.remember(&running, fence);
    bench.restart().await;
    for id in [&placed, &running, &queued] {
        assert_eq!(bench.ended(id).await.state, TaskState::Done, "{id}");
        assert_eq!(bench.fakes.settled(id), 1);
    }
    assert_eq!(bench.row(&running).await.fence, fence, "the peer had it all along");
    assert!(bench.row(&placed).await.fence > 1, "nobody had it: a higher fence");
}

#[tokio::test]
async fn a_task_is_cancelled_wherever_it_is_and_stays_so() {
    let bench = Bench::start(2).await;
    bench.fakes.script(&[Script::SilentRunning]);
    let running = bench.add(1, &job()).await;
    bench.reaches(&running, &[TaskState::Running]).await;
    bench.drain.send_replace(true);
    let queued = bench.add(2, &job()).await;
    for id in [&running, &queued] {
        assert_eq!(bench.origin.cancel(id).await.expect("cancels"), Cancelled::Over);
        assert_eq!(bench.task(id).await.state, TaskState::Cancelled);
        assert_eq!(bench.origin.cancel(id).await.expect("reads"), Cancelled::Unknown);
    }
    bench.drain.send_replace(false);
    bench.origin.moved();
    let after = bench.add(3, &job()).await;
    assert_eq!(bench.ended(&after).await.state, TaskState::Done);
    assert_eq!(bench.task(&queued).await.state, TaskState::Cancelled);
    assert_eq!(bench.fakes.settled(&running), 0);
}

#[tokio::test]
async fn tasks_expire_while_they_wait_and_while_they_run() {
    let bench = Bench::start(1).await;
    bench.fakes.script(&[Script::SilentRunning]);
    let short = |n, lives_ms| {
        let mut new = new_task(n, &job());
        let expires = now_ms() + lives_ms;
        new.row.expires_ms = Some(expires);
        // Whoever has it has it for most of its time.
        new.row.task.created_ms = expires - 20;
        new
    };
    let ids = [task_id(1), task_id(2)];
    bench.origin.add(short(1, 5_000)).await.expect("writes");
    bench.reaches(&ids[0], &[TaskState::Running]).await;
    bench.drain.send_replace(true);
    bench.origin.add(short(2, 500)).await.expect("writes");
    for id in &ids {
        assert_eq!(bench.ended(id).await.state, TaskState::Expired);
    }
    let all = bench.fakes.experiences();
    assert!(matches!(all.as_slice(), [(_, Experience::Failed(_))]), "it held it: {all:?}");
}

#[tokio::test]
async fn tasks_that_no_node_can_do_do_not_hold_up_others() {
    let bench = Bench::start(1).await;
    for n in 0..1_000 {
        let mut new = new_task(n, &job());
        (new.row.need, new.row.node) = (7, Some("nobody".into()));
        bench.origin.add(new).await.expect("writes");
    }
    let other = bench.add(1_000, &job()).await;
    assert_eq!(bench.ended(&other).await.state, TaskState::Done);
    assert_eq!(bench.task(&TaskId(format!("t_{:026}", 0))).await.state, TaskState::Queued);
}

#[tokio::test]
async fn a_follower_hears_of_the_end() {
    let bench = Bench::start(1).await;
    bench.drain.send_replace(true);
    let id = bench.add(1, &text_job()).await;
    let mut news = bench.origin.follow(&id).expect("follows");
    bench.drain.send_replace(false);
    let mut text = String::new();
    loop {
        match news.recv().await.expect("news") {
            News::Text { text: more, .. } => text.push_str(&more),
            News::End => break,
            News::Task(_) | News::Event(_) | News::Restart => {}
        }
    }
    assert_eq!(text, "one two three");
    assert_eq!(bench.task(&id).await.state, TaskState::Done);
    assert_eq!(bench.task(&id).await.kind, TaskKind::Chat);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_set_between_two_looks_is_not_believed() {
    let then = Instant::now();
    let later = then + PRUNE_EVERY;
    let passed = i64::try_from(PRUNE_EVERY.as_millis()).expect("fits");
    assert!(agree((1_000, then), (1_000 + passed + 50, later)));
    assert!(!agree((1_000, then), (1_000 + passed + DAY_MS, later)), "set ahead");
    assert!(!agree((1_000, then), (1_000 - DAY_MS, later)), "set back");
}
