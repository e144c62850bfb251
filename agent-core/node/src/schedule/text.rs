//! Schedules and deliveries as text. The same words as the panel's.

use agent_api::tasks::{Delivery, DeliveryState, Schedule};

use crate::{
    mesh::ago,
    words::{duration, number, table},
};

/// Characters of a delivery's id that a list shows; the end differs, the beginning is the time.
const SHORT: usize = 8;

pub(super) fn schedules(schedules: &[Schedule], now_ms: i64) -> String {
    if schedules.is_empty() {
        return "No schedules. edgecoder-node schedule add --help says how to make one\n"
            .to_owned();
    }
    let rows: Vec<_> = schedules.iter().map(|schedule| row(schedule, now_ms)).collect();
    let mut text = table(&["SCHEDULE", "NAME", "WHEN", "ZONE", "TASK", "NEXT", "LAST"], &rows);
    for schedule in schedules {
        if let Some(problem) = &schedule.problem {
            text.push_str(&format!("{}: {problem}\n", schedule.name));
        }
    }
    text
}

fn row(schedule: &Schedule, now_ms: i64) -> Vec<String> {
    let next = match schedule.next_ms {
        _ if schedule.paused => "paused".to_owned(),
        Some(at) => until(at, now_ms),
        None => "never".to_owned(),
    };
    let last = match (&schedule.problem, &schedule.last_task) {
        (Some(_), _) => format!("{}, not submitted", ago(schedule.last_ms, now_ms)),
        (None, Some(task)) => format!("{}, {}", ago(schedule.last_ms, now_ms), task.fmt_short()),
        (None, None) => ago(schedule.last_ms, now_ms),
    };
    vec![
        short(&schedule.id.0),
        schedule.name.clone(),
        schedule.words.trim_end_matches('.').to_owned(),
        schedule.zone.clone(),
        schedule.task.kind.as_str().to_owned(),
        next,
        last,
    ]
}

/// One schedule after a change.
pub(super) fn schedule(schedule: &Schedule, now_ms: i64) -> String {
    let next = match schedule.next_ms {
        _ if schedule.paused => "it is paused".to_owned(),
        Some(at) => format!("next {}", until(at, now_ms)),
        None => "it never runs".to_owned(),
    };
    format!(
        "{} ({}): {} ({}); {next}\n",
        schedule.name,
        short(&schedule.id.0),
        schedule.words.trim_end_matches('.'),
        schedule.zone,
    )
}

pub(super) fn deliveries(deliveries: &[Delivery], now_ms: i64) -> String {
    if deliveries.is_empty() {
        return "Nothing is on its way to a webhook\n".to_owned();
    }
    let row = |delivery: &Delivery| {
        let state = match (delivery.state, delivery.next_ms) {
            (DeliveryState::Delivered, _) => "delivered".to_owned(),
            (DeliveryState::Dead, _) => "given up".to_owned(),
            (DeliveryState::Waiting, Some(at)) => format!("due {}", until(at, now_ms)),
            (DeliveryState::Waiting, None) => "due".to_owned(),
        };
        vec![
            short(&delivery.id),
            delivery.task.fmt_short(),
            state,
            number(delivery.attempts.into()),
            ago(Some(delivery.created_ms), now_ms),
            delivery.url.clone(),
            delivery.problem.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let rows: Vec<_> = deliveries.iter().map(row).collect();
    table(&["DELIVERY", "TASK", "STATE", "ATTEMPTS", "MADE", "TO", "PROBLEM"], &rows)
}

/// The end of an id.
pub(super) fn short(id: &str) -> String {
    id.get(id.len().saturating_sub(SHORT)..).unwrap_or(id).to_owned()
}

/// `in 3 h 20 min`, `now`.
fn until(at_ms: i64, now_ms: i64) -> String {
    match u64::try_from((at_ms - now_ms).div_euclid(1_000)) {
        Ok(0) | Err(_) => "now".to_owned(),
        Ok(seconds) => format!("in {}", duration(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use agent_api::{
        TaskId,
        tasks::{MissedRuns, ScheduleId, SubmitTask, TaskKind},
    };

    use super::*;

    fn plan(paused: bool) -> Schedule {
        let task: SubmitTask =
            serde_json::from_value(serde_json::json!({"kind": "chat", "input": {}}))
                .expect("a task");
        assert_eq!(task.kind, TaskKind::Chat);
        Schedule {
            id: ScheduleId("s_000000000000000000abcdefgh".to_owned()),
            name: "news".to_owned(),
            cron: "30 6 * * *".to_owned(),
            words: "At 06:30.".to_owned(),
            zone: "Europe/Berlin".to_owned(),
            task,
            missed: MissedRuns::Skip,
            paused,
            created_ms: 0,
            next_ms: (!paused).then_some(3_700_000),
            last_ms: Some(35_000),
            last_task: Some(TaskId("t_00000000000000000000123456".to_owned())),
            problem: None,
        }
    }

    #[test]
    fn a_schedule_says_when_it_runs_and_what_became_of_the_last_run() {
        assert_eq!(
            schedules(&[plan(false)], 100_000),
            "SCHEDULE  NAME  WHEN      ZONE           TASK  NEXT          LAST\n\
             abcdefgh  news  At 06:30  Europe/Berlin  chat  in 1 h 0 min  1 min 5 s ago, t_123456\n"
        );
        let failed = Schedule { problem: Some("Too many wait.".to_owned()), ..plan(false) };
        let text = schedules(&[failed], 100_000);
        assert!(text.contains("not submitted") && text.contains("news: Too many wait."), "{text}");
        assert!(schedule(&plan(true), 0).contains("paused"));
    }

    #[test]
    fn a_delivery_says_why_it_waits() {
        let delivery = Delivery {
            id: "0192aaaa-0000-7000-8000-00000000beef".to_owned(),
            task: TaskId("t_00000000000000000000123456".to_owned()),
            url: "https://x.example/".to_owned(),
            state: DeliveryState::Waiting,
            attempts: 2,
            created_ms: 0,
            next_ms: Some(24_000),
            problem: Some("The receiver answered 503.".to_owned()),
        };
        let text = deliveries(&[delivery], 0);
        for expected in ["0000beef", "t_123456", "due in 24 s", "answered 503"] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }
}
