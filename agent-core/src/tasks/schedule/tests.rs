//! Runs by a clock of the test: summer time, crashes, missed runs.

use std::path::Path;

use agent_api::tasks::{TaskState, Webhook};
use futures_util::FutureExt as _;
use serde_json::json;

use super::*;

/// Takes tasks as the origin does: the same key is the same task.
#[derive(Debug, Default)]
struct Origin {
    tasks: Mutex<Vec<(String, SubmitTask)>>,
    refuse: Mutex<Option<String>>,
}

impl Origin {
    fn keys(&self) -> Vec<String> {
        self.tasks.lock().expect("no panic").iter().map(|(key, _)| key.clone()).collect()
    }
}

impl Submit for Origin {
    fn check(&self, task: &SubmitTask) -> Result<(), String> {
        if task.input.is_object() { Ok(()) } else { Err("The input is no object.".to_owned()) }
    }

    fn submit(
        &self,
        task: SubmitTask,
        _schedule: ScheduleId,
    ) -> BoxFuture<'_, Result<Submitted, String>> {
        async move {
            if let Some(why) = self.refuse.lock().expect("no panic").clone() {
                return Err(why);
            }
            let mut tasks = self.tasks.lock().expect("no panic");
            let key = task.idempotency_key.clone().expect("a key");
            let known = tasks.iter().position(|(other, _)| *other == key);
            let place = known.unwrap_or_else(|| {
                tasks.push((key, task));
                tasks.len() - 1
            });
            let id = TaskId(format!("t_{place:026}"));
            Ok(Submitted { id, state: TaskState::Queued, repeated: known.is_some() })
        }
        .boxed()
    }
}

fn new(cron: &str, missed: MissedRuns) -> NewSchedule {
    NewSchedule {
        name: "news".to_owned(),
        cron: cron.to_owned(),
        zone: Some("UTC".to_owned()),
        task: serde_json::from_value(json!({"kind": "chat", "input": {"messages": []}}))
            .expect("a task"),
        missed,
        paused: false,
    }
}

async fn open(dir: &Path, origin: &Arc<Origin>) -> Schedules {
    let storage = Storage::open(&dir.join("edgecoder.db")).await.expect("opens").storage;
    Schedules::open(storage, Arc::clone(origin) as Arc<dyn Submit>).await.expect("reads")
}

const HOUR: i64 = 3_600_000;

#[tokio::test]
async fn a_schedule_runs_at_its_times_and_says_what_came_of_it() {
    let dir = tempfile::tempdir().expect("temp dir");
    let origin = Arc::new(Origin::default());
    let schedules = open(dir.path(), &origin).await;
    let made = schedules.create(new("0 * * * *", MissedRuns::Skip)).await.expect("taken");
    assert_eq!((made.words.as_str(), made.zone.as_str()), ("Every hour.", "UTC"));
    let first = made.next_ms.expect("a time");
    schedules.run_due(first - 1).await;
    assert!(origin.keys().is_empty(), "not yet");
    schedules.run_due(first + 5).await;
    schedules.run_due(first + 6).await;
    assert_eq!(origin.keys().len(), 1);
    let after = schedules.list().remove(0);
    assert_eq!((after.last_ms, after.next_ms), (Some(first), Some(first + HOUR)));
    assert_eq!(after.last_task, Some(TaskId(format!("t_{:026}", 0))));

    *origin.refuse.lock().expect("no panic") = Some("Too many tasks wait.".to_owned());
    schedules.run_due(first + HOUR).await;
    let failed = schedules.list().remove(0);
    assert_eq!(failed.problem.as_deref(), Some("Too many tasks wait."));
    assert_eq!(failed.next_ms, Some(first + 2 * HOUR), "it goes on");
}

#[tokio::test]
async fn a_crash_between_submission_and_its_row_gives_no_second_task() {
    let dir = tempfile::tempdir().expect("temp dir");
    let origin = Arc::new(Origin::default());
    let schedules = open(dir.path(), &origin).await;
    let made = schedules.create(new("0 * * * *", MissedRuns::RunOnce)).await.expect("taken");
    let first = made.next_ms.expect("a time");
    // As `run_due` does, killed before the row.
    let entry_task = schedules.entries()[&made.id].task.clone().expect("a task");
    let filled = template::fill(&entry_task, &made.id, first, None).expect("filled");
    origin.submit(filled, made.id.clone()).await.expect("submitted");
    drop(schedules);

    let again = open(dir.path(), &origin).await;
    again.run_due(first + 30_000).await;
    assert_eq!(origin.keys().len(), 1, "the same key is the same task");
    again.run_due(first + 20 * 60_000).await;
    assert_eq!(origin.keys().len(), 1, "and nothing was missed");
}

#[tokio::test]
async fn missed_runs_follow_the_schedules_rule_after_a_restart() {
    for (missed, expected) in [(MissedRuns::Skip, 0), (MissedRuns::RunOnce, 1)] {
        let dir = tempfile::tempdir().expect("temp dir");
        let origin = Arc::new(Origin::default());
        let schedules = open(dir.path(), &origin).await;
        let made = schedules.create(new("0 * * * *", missed)).await.expect("taken");
        drop(schedules);
        let again = open(dir.path(), &origin).await;
        let late = made.next_ms.expect("a time") + 5 * HOUR + 600_000;
        again.run_due(late).await;
        again.run_due(late + 1).await;
        assert_eq!(origin.keys().len(), expected, "{missed:?}");
    }
}

#[tokio::test]
async fn a_paused_schedule_rests_and_misses_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let origin = Arc::new(Origin::default());
    let schedules = open(dir.path(), &origin).await;
    let made = schedules.create(new("* * * * *", MissedRuns::RunOnce)).await.expect("taken");
    let paused = schedules.pause(&made.id, true).await.expect("paused");
    assert_eq!((paused.paused, paused.next_ms), (true, None));
    schedules.run_due(made.next_ms.expect("a time") + 1).await;
    assert!(origin.keys().is_empty());
    let by_hand = schedules.run_now(&made.id).await.expect("runs all the same");
    assert_eq!(schedules.list().remove(0).last_task, Some(by_hand.id));
    let resumed = schedules.pause(&made.id, false).await.expect("resumed");
    assert!(resumed.next_ms.is_some());
    assert!(schedules.remove(&made.id).await.expect("removed").is_empty());
    let gone = schedules.run_now(&made.id).await.expect_err("gone");
    assert!(matches!(gone, ScheduleError::NoSuchSchedule(_)), "{gone}");
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_a_reason_and_secrets_are_not_shown() {
    let dir = tempfile::tempdir().expect("temp dir");
    let origin = Arc::new(Origin::default());
    let schedules = open(dir.path(), &origin).await;
    let good = new("0 * * * *", MissedRuns::Skip);
    let with = |change: fn(&mut NewSchedule)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    for (wrong, why) in [
        (with(|new| new.name = " ".to_owned()), "name"),
        (with(|new| new.cron = "* *".to_owned()), "five"),
        (with(|new| new.cron = "0 0 30 2 *".to_owned()), "never comes"),
        (with(|new| new.zone = Some("Nowhere".to_owned())), "Nowhere"),
        (with(|new| new.task.input = json!(1)), "no object"),
        (with(|new| new.task.input = json!({"a": "x".repeat(TASK_BYTES)})), "bytes"),
        (
            with(|new| {
                new.task.webhook =
                    Some(Webhook { url: "http://203.0.113.7/".to_owned(), secret: None });
            }),
            "encrypted",
        ),
    ] {
        let error = schedules.create(wrong).await.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let webhook = Webhook { url: "https://x.example/".to_owned(), secret: Some("hush".to_owned()) };
    let mut secret = good.clone();
    secret.task.webhook = Some(webhook);
    let shown = schedules.create(secret).await.expect("taken");
    let text = serde_json::to_string(&(&shown, schedules.list())).expect("json");
    assert!(!text.contains("hush"), "{text}");
    assert!(!format!("{schedules:?}").contains("hush"));
    schedules.run_due(shown.next_ms.expect("a time")).await;
    let tasks = origin.tasks.lock().expect("no panic");
    let kept = tasks[0].1.webhook.as_ref().and_then(|webhook| webhook.secret.as_deref());
    assert_eq!(kept, Some("hush"), "but it is used");
}

#[tokio::test]
async fn the_driver_ends_when_it_is_told_to() {
    let dir = tempfile::tempdir().expect("temp dir");
    let schedules = open(dir.path(), &Arc::new(Origin::default())).await;
    let stop = CancellationToken::new();
    let driver = tokio::spawn(schedules.clone().drive(stop.clone()));
    schedules.create(new("@yearly", MissedRuns::Skip)).await.expect("taken");
    stop.cancel();
    driver.await.expect("it ends");
}
