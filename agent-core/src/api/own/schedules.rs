//! The product's paths about schedules and webhooks.

use agent_api::{
    ErrorCode,
    endpoint::{
        GetOutbox, ListSchedules, Nothing, PostDeliveryRemove, PostDeliveryRetry, PostSchedule,
        PostSchedulePause, PostScheduleRemove, PostScheduleRun,
    },
    tasks::{
        DeliveryPathId, NewSchedule, Outbox as OutboxView, OutboxQuery, PauseSchedule, Schedule,
        ScheduleList, SchedulePathId, Submitted,
    },
};
use axum::Router;

use super::{Answer, Table as _};
use crate::{
    api::error::Failure,
    node::Node,
    tasks::{
        outbox::{Outbox, OutboxError},
        schedule::{ScheduleError, Schedules},
    },
    text::sentence,
};

/// The table's rows about schedules and the outbox.
pub(in crate::api) fn paths() -> Router<Node> {
    Router::new()
        .serve::<ListSchedules, _, _>(list)
        .serve::<PostSchedule, _, _>(create)
        .serve::<PostSchedulePause, _, _>(pause)
        .serve::<PostScheduleRun, _, _>(run)
        .serve::<PostScheduleRemove, _, _>(remove)
        .serve::<GetOutbox, _, _>(deliveries)
        .serve::<PostDeliveryRetry, _, _>(retry_delivery)
        .serve::<PostDeliveryRemove, _, _>(remove_delivery)
}

fn schedules(node: &Node) -> Answer<&Schedules> {
    node.schedules().ok_or_else(starting)
}

fn outbox(node: &Node) -> Answer<&Outbox> {
    node.outbox().ok_or_else(starting)
}

fn starting() -> Failure {
    Failure::new(ErrorCode::Unavailable, "The node is still starting. Try again in a moment.")
}

async fn list(node: Node, _: Nothing) -> Answer<ScheduleList> {
    Ok(ScheduleList { schedules: schedules(&node)?.list() })
}

async fn create(node: Node, new: NewSchedule) -> Answer<Schedule> {
    Ok(schedules(&node)?.create(new).await?)
}

async fn pause(node: Node, change: PauseSchedule) -> Answer<Schedule> {
    Ok(schedules(&node)?.pause(&change.id, change.paused).await?)
}

async fn run(node: Node, path: SchedulePathId) -> Answer<Submitted> {
    Ok(schedules(&node)?.run_now(&path.id).await?)
}

async fn remove(node: Node, path: SchedulePathId) -> Answer<ScheduleList> {
    Ok(ScheduleList { schedules: schedules(&node)?.remove(&path.id).await? })
}

async fn deliveries(node: Node, query: OutboxQuery) -> Answer<OutboxView> {
    Ok(OutboxView { deliveries: outbox(&node)?.list(query.state).await? })
}

async fn retry_delivery(node: Node, path: DeliveryPathId) -> Answer<OutboxView> {
    let outbox = outbox(&node)?;
    outbox.retry(&path.id).await?;
    Ok(OutboxView { deliveries: outbox.list(None).await? })
}

async fn remove_delivery(node: Node, path: DeliveryPathId) -> Answer<OutboxView> {
    let outbox = outbox(&node)?;
    outbox.remove(&path.id).await?;
    Ok(OutboxView { deliveries: outbox.list(None).await? })
}

impl From<ScheduleError> for Failure {
    fn from(error: ScheduleError) -> Self {
        let code = match &error {
            ScheduleError::Cron { .. }
            | ScheduleError::Never(_)
            | ScheduleError::Zone(_)
            | ScheduleError::Name
            | ScheduleError::Task(_) => ErrorCode::BadRequest,
            ScheduleError::TooLarge(_) => ErrorCode::TooLarge,
            ScheduleError::TooMany => ErrorCode::Conflict,
            ScheduleError::NoSuchSchedule(_) => ErrorCode::NotFound,
            ScheduleError::NotSubmitted(_) | ScheduleError::Storage(_) => ErrorCode::Unavailable,
        };
        Self::new(code, sentence(&error.to_string()))
    }
}

impl From<OutboxError> for Failure {
    fn from(error: OutboxError) -> Self {
        let code = match &error {
            OutboxError::Url(_) | OutboxError::Plain(_) | OutboxError::Secret(_) => {
                ErrorCode::BadRequest
            }
            OutboxError::NoSuchDelivery(_) => ErrorCode::NotFound,
            OutboxError::AlreadyDelivered(_) => ErrorCode::Conflict,
            OutboxError::Storage(_) => ErrorCode::Unavailable,
        };
        Self::new(code, sentence(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use agent_api::{
        ApiError, TaskId,
        mesh::MeshSettings,
        tasks::{ScheduleId, SubmitTask, TaskState},
    };
    use axum::{
        body::{Body, to_bytes},
        http::{Request, StatusCode},
    };
    use futures_util::FutureExt as _;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        api::router,
        config::{Config, save_settings},
        storage::Storage,
        tasks::{job::BoxFuture, schedule::Submit},
    };

    /// Takes everything.
    #[derive(Debug)]
    struct Origin;

    impl Submit for Origin {
        fn check(&self, _task: &SubmitTask) -> Result<(), String> {
            Ok(())
        }

        fn submit(
            &self,
            _task: SubmitTask,
            _schedule: ScheduleId,
        ) -> BoxFuture<'_, Result<Submitted, String>> {
            let (id, state) = (TaskId("t_1".to_owned()), TaskState::Queued);
            async move { Ok(Submitted { id, state, repeated: false }) }.boxed()
        }
    }

    async fn node() -> (tempfile::TempDir, Node) {
        let home = tempfile::tempdir().expect("temp dir");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::resolve(Some(home.path().to_path_buf()), Some(listen))
            .expect("a configuration");
        config.runner = None;
        let settings = agent_api::Settings {
            ollama_dir: Some(String::new()),
            ollama_url: String::new(),
            mesh: MeshSettings { enabled: false, lan: false, ..MeshSettings::default() },
            ..agent_api::Settings::default()
        };
        save_settings(&config.paths.settings(), &settings).expect("saves");
        (home, Node::start(config).await.expect("starts"))
    }

    async fn ask<T: DeserializeOwned>(
        node: &Node,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (StatusCode, T) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let response = router(node).oneshot(request).await.expect("an answer");
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: {e}: {text}")))
    }

    #[tokio::test]
    async fn schedules_are_made_changed_run_and_removed_over_their_paths() {
        let (home, node) = node().await;
        // A node whose tasks are not up yet says so.
        if node.schedules().is_none() {
            let (status, _) = ask::<ApiError>(&node, "GET", "/schedules", &Value::Null).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            let path = home.path().join("clock.db");
            let outbox = Outbox::new(Storage::open(&path).await.expect("opens").storage);
            node.start_clock(outbox, Arc::new(Origin)).await.expect("starts");
        }
        let task = json!({
            "kind": "chat",
            "input": {"messages": [{"role": "user", "content": "{{time}}"}]},
        });
        let new = json!({"name": "news", "cron": "30 6 * * 1-5", "zone": "UTC", "task": task});
        let (status, made) = ask::<Schedule>(&node, "POST", "/schedules", &new).await;
        assert_eq!((status, made.words.as_str()), (StatusCode::OK, "At 06:30, on weekdays."));
        let of = |what: &str| format!("/schedules/{}/{what}", made.id);
        let paused = json!({"paused": true});
        let (_, rests) = ask::<Schedule>(&node, "POST", &of("pause"), &paused).await;
        assert!(rests.paused && rests.next_ms.is_none());
        let (status, _) = ask::<Submitted>(&node, "POST", &of("run"), &json!({})).await;
        assert_eq!(status, StatusCode::OK);
        let (_, list) = ask::<ScheduleList>(&node, "GET", "/schedules", &Value::Null).await;
        assert!(list.schedules[0].last_task.is_some());
        let wrong = json!({"name": "news", "cron": "often", "task": task});
        let (status, error) = ask::<ApiError>(&node, "POST", "/schedules", &wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(error.message.contains("often"), "{error}");
        let (_, left) = ask::<ScheduleList>(&node, "POST", &of("remove"), &json!({})).await;
        assert!(left.schedules.is_empty());
        let (status, _) = ask::<ApiError>(&node, "POST", &of("remove"), &json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let (_, outbox) = ask::<OutboxView>(&node, "GET", "/outbox?state=dead", &Value::Null).await;
        assert!(outbox.deliveries.is_empty());
        let (status, _) = ask::<ApiError>(&node, "POST", "/outbox/x/retry", &json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        node.shutdown().await;
    }
}
