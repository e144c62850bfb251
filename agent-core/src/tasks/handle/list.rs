//! Pages of tasks: rows, and what lives only in memory.

use std::collections::BTreeMap;

use agent_api::{
    TaskId,
    tasks::{Task, TaskList, TaskQuery, TaskState},
};

use super::{TaskError, Tasks};
use crate::{
    storage::tasks::{Filter, list_tasks},
    tasks::kinds::Problems,
};

const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

impl Tasks {
    /// A page of tasks, newest first, with counts over all.
    pub async fn list(&self, query: TaskQuery) -> Result<TaskList, TaskError> {
        check_state(query.state.as_deref())?;
        let limit = query.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
        let search = query.search.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let filter = Filter {
            state: query.state.clone(),
            kind: query.kind,
            role: query.role,
            search: search.map(ToOwned::to_owned),
            before: query.before.clone(),
            limit: limit + 1,
        };
        // Living ones first: one that ends meanwhile is then a row.
        let living = self.shared.board.tasks();
        let rows = list_tasks(self.shared.storage.readers(), &filter).await?;
        // Where the rows of this page end; what lives further back comes with the next one.
        let full = rows.len() > limit as usize;
        let last = rows.last().filter(|_| full).map(|row| row.task.id.clone());
        let mut page: BTreeMap<TaskId, Task> = BTreeMap::new();
        for row in rows {
            let task = self.fresh(row);
            if has_state(&task, query.state.as_deref()) {
                page.insert(task.id.clone(), task);
            }
        }
        for (id, task) in living {
            let in_page = query.before.as_ref().is_none_or(|before| id < *before)
                && last.as_ref().is_none_or(|last| id >= *last);
            if in_page && matches(&task, &query, search) {
                page.entry(id).or_insert(task);
            }
        }
        let mut tasks: Vec<Task> = page.into_values().rev().collect();
        let more = full || tasks.len() > limit as usize;
        tasks.truncate(limit as usize);
        let next = tasks.last().filter(|_| more).map(|task| task.id.clone());
        Ok(TaskList { tasks, next, counts: self.counts().await? })
    }
}

fn check_state(state: Option<&str>) -> Result<(), TaskError> {
    let known = |state: &str| {
        matches!(state, "active" | "ended")
            || serde_json::from_value::<TaskState>(state.into()).is_ok()
    };
    match state {
        Some(state) if !known(state) => Err(TaskError::Invalid(Problems(vec![format!(
            "state is one of queued, placed, leased, running, verifying, done, failed, cancelled, expired, active and ended, not {state:?}"
        )]))),
        _ => Ok(()),
    }
}

fn has_state(task: &Task, state: Option<&str>) -> bool {
    match state {
        None => true,
        Some("active") => !task.state.is_final() && task.state != TaskState::Queued,
        Some("ended") => task.state.is_final(),
        Some(state) => task.state.as_str() == state,
    }
}

fn matches(task: &Task, query: &TaskQuery, search: Option<&str>) -> bool {
    let found = search.is_none_or(|search| {
        let search = search.to_lowercase();
        let texts = [
            Some(task.id.0.as_str()),
            task.label.as_deref(),
            task.subject.as_deref(),
            task.worker_name.as_deref(),
            Some(task.origin_name.as_str()),
        ];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&search))
    });
    found
        && has_state(task, query.state.as_deref())
        && query.kind.is_none_or(|kind| kind == task.kind)
        && query.role.is_none_or(|role| role == task.role)
}
