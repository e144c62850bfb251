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
