//! A schedule's task filled in for one run. Pure.

use agent_api::tasks::{ScheduleId, SubmitTask};
use jiff::Timestamp;
use serde_json::Value;

/// `task` with `{{time}}` and `{{unix}}` in all its texts replaced by the planned time, RFC 3339 in
/// UTC and in seconds. Without an idempotency key of its own it gets `key`, or the schedule's id and
/// the planned time: a run that is submitted again after a crash is then the same task.
pub(super) fn fill(
    task: &SubmitTask,
    id: &ScheduleId,
    planned_ms: i64,
    key: Option<String>,
) -> Result<SubmitTask, String> {
    let seconds = planned_ms.div_euclid(1_000);
    let time = Timestamp::from_second(seconds)
        .map_err(|e| format!("the planned time cannot be written: {e}"))?
        .to_string();
    let mut value =
        serde_json::to_value(task).map_err(|e| format!("the task cannot be written: {e}"))?;
    replace(&mut value, &time, &seconds.to_string());
    let mut filled: SubmitTask =
        serde_json::from_value(value).map_err(|e| format!("the task cannot be read: {e}"))?;
    if filled.idempotency_key.is_none() {
        filled.idempotency_key = Some(key.unwrap_or_else(|| format!("{id} {time}")));
    }
    // A secret is no text to be filled in.
    if let (Some(filled), Some(given)) = (&mut filled.webhook, &task.webhook) {
        filled.secret.clone_from(&given.secret);
    }
    Ok(filled)
}

fn replace(value: &mut Value, time: &str, unix: &str) {
    match value {
        Value::String(text) if text.contains("{{") => {
            *text = text.replace("{{time}}", time).replace("{{unix}}", unix);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, time, unix)),
        Value::Object(fields) => fields.values_mut().for_each(|item| replace(item, time, unix)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(value: Value) -> SubmitTask {
        serde_json::from_value(value).expect("a task")
    }

    #[test]
    fn the_planned_time_is_put_into_every_text() {
        let given = task(json!({
            "kind": "chat",
            "input": {"messages": [{"role": "user", "content": "News of {{time}}?"}], "n": 1},
            "label": "news {{unix}}",
            "webhook": {"url": "https://x.example/{{unix}}", "secret": "{{time}}"},
        }));
        let id = ScheduleId("s_1".to_owned());
        let filled = fill(&given, &id, 1_782_907_200_500, None).expect("filled");
        assert_eq!(filled.input["messages"][0]["content"], "News of 2026-07-01T12:00:00Z?");
        assert_eq!(filled.label.as_deref(), Some("news 1782907200"));
        assert_eq!(filled.idempotency_key.as_deref(), Some("s_1 2026-07-01T12:00:00Z"));
        let webhook = filled.webhook.expect("a webhook");
        assert_eq!(webhook.url, "https://x.example/1782907200");
        assert_eq!(webhook.secret.as_deref(), Some("{{time}}"), "a secret stays what it is");
    }

    #[test]
    fn a_key_of_the_owner_is_kept() {
        let given = task(json!({"kind": "wasm", "input": {}, "idempotency_key": "day-{{unix}}"}));
        let filled = fill(&given, &ScheduleId("s".to_owned()), 60_000, Some("other".to_owned()));
        assert_eq!(filled.expect("filled").idempotency_key.as_deref(), Some("day-60"));
    }
}
