//! What the node and the shell send, read through one `serde_json::Value`.
//!
//! The derived readers of tagged enums read through a buffer of their own, so every type inside
//! them would be compiled twice: that is a tenth of the page.

use agent_api::{Event, host::HostMessage};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Any answer of the node.
pub(crate) fn answer<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    super::tree::read(serde_json::from_str(text)?)
}

/// An event; `None` for what this page does not know.
pub(super) fn event(text: &str) -> Option<Event> {
    event_in(serde_json::from_str(text).ok()?)
}

/// A message of the shell; `None` for what this page does not know.
pub(super) fn message(text: &str) -> Option<HostMessage> {
    let mut fields = object(serde_json::from_str(text).ok()?)?;
    let kind: String = field(&mut fields, "kind")?;
    Some(match kind.as_str() {
        "event" => HostMessage::Event { event: event_in(fields.remove("event")?)? },
        "chunk" => HostMessage::Chunk {
            stream: field(&mut fields, "stream")?,
            text: field(&mut fields, "text")?,
        },
        "end" => HostMessage::End {
            stream: field(&mut fields, "stream")?,
            error: field(&mut fields, "error").unwrap_or_default(),
        },
        "navigate" => HostMessage::Navigate { path: field(&mut fields, "path")? },
        _ => return None,
    })
}

fn event_in(value: Value) -> Option<Event> {
    let mut fields = object(value)?;
    let kind: String = field(&mut fields, "type")?;
    let from = &mut fields;
    Some(match kind.as_str() {
        "snapshot" => Event::Snapshot {
            status: Box::new(field(from, "status")?),
            activity: field(from, "activity")?,
            settings: Box::new(field(from, "settings")?),
            pulls: field(from, "pulls")?,
            mesh: Box::new(field(from, "mesh")?),
        },
        "status" => Event::Status { status: Box::new(field(from, "status")?) },
        "activity" => Event::Activity { item: field(from, "item")? },
        "settings" => Event::Settings { settings: Box::new(field(from, "settings")?) },
        "pulls" => Event::Pulls { pulls: field(from, "pulls")? },
        "models" => Event::Models,
        "mesh" => Event::Mesh { mesh: Box::new(field(from, "mesh")?) },
        "peers" => Event::Peers { changed: field(from, "changed")?, gone: field(from, "gone")? },
        "tasks" => Event::Tasks {
            changed: field(from, "changed")?,
            counts: field(from, "counts")?,
            more: field(from, "more")?,
        },
        "schedules" => Event::Schedules,
        "host" => Event::Host { state: field(from, "state")? },
        "resync" => Event::Resync,
        _ => return None,
    })
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

fn field<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Option<T> {
    super::tree::read(fields.remove(name)?).ok()
}

#[cfg(test)]
mod tests {
    use agent_api::{
        Activity, ActivityKind, Settings,
        host::HostState,
        pull::PullState,
        tasks::{TaskCounts, TaskState},
    };

    use super::*;
    use crate::{
        mesh::peers::tests::peer,
        state::tests::status,
        words::{mesh::tests::mesh, pull::tests::pull, task::tests::task},
    };

    fn events() -> Vec<Event> {
        let pulls = vec![pull("llama3.2:1b", PullState::Downloading)];
        let item =
            Activity { id: 1, at_ms: 2, kind: ActivityKind::RequestDone, text: "Done".into() };
        let restarting =
            HostState::Restarting { attempt: 2, retry_at_ms: 9, reason: "It ended.".into() };
        vec![
            Event::Snapshot {
                status: Box::new(status(1)),
                activity: vec![item.clone()],
                settings: Box::new(Settings::default()),
                pulls: pulls.clone(),
                mesh: Box::new(mesh()),
            },
            Event::Status { status: Box::new(status(2)) },
            Event::Activity { item },
            Event::Settings { settings: Box::new(Settings::default()) },
            Event::Pulls { pulls },
            Event::Models,
            Event::Mesh { mesh: Box::new(mesh()) },
            Event::Peers { changed: vec![peer(1)], gone: vec![peer(2).node_id] },
            Event::Tasks {
                changed: vec![task(1, TaskState::Running)],
                counts: TaskCounts::default(),
                more: true,
            },
            Event::Schedules,
            Event::Host { state: HostState::Running },
            Event::Host { state: restarting },
            Event::Resync,
        ]
    }

    #[test]
    fn every_event_is_read_as_it_was_written() {
        for written in events() {
            let text = serde_json::to_string(&written).expect("an event is JSON");
            assert_eq!(event(&text), Some(written));
        }
        assert_eq!(event(r#"{"type":"from the future"}"#), None);
        assert_eq!(event("[]"), None);
    }

    #[test]
    fn every_message_of_the_shell_is_read_as_it_was_written() {
        let mut messages: Vec<_> =
            events().into_iter().map(|event| HostMessage::Event { event }).collect();
        messages.extend([
            HostMessage::Chunk { stream: 3, text: "a".into() },
            HostMessage::End { stream: 3, error: None },
            HostMessage::End { stream: 3, error: Some("It broke off.".into()) },
            HostMessage::Navigate { path: "/settings".into() },
        ]);
        for written in messages {
            let text = serde_json::to_string(&written).expect("a message is JSON");
            assert_eq!(message(&text), Some(written));
        }
        assert_eq!(message(r#"{"kind":"from the future"}"#), None);
    }
}
