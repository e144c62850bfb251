//! `edgecoder-node task`: work for the mesh. Also `drain`.

pub(crate) mod args;
mod follow;
pub(crate) mod submit;
mod text;

use agent_api::{
    TaskId,
    endpoint::{
        GetTask, GetTaskOutput, ListTasks, PostDrain, PostTask, PostTaskCancel, PostTaskRetry,
    },
    tasks::{Drain as DrainRequest, TaskPathId, TaskQuery, TaskState},
};
use agent_core::clock::now_ms;
use anyhow::bail;

use self::args::{Task, TaskCommand};
use crate::{
    args::{DataDir, Drain, OnOff},
    client::Client,
    model::args::Json,
    terminal::{print_json, say},
};

/// `t_` and 26 characters.
const ID_CHARS: usize = 28;
/// Characters of an id's end that are enough to mean a task, if no other ends so.
const MIN_TAIL: usize = 3;
/// Tasks among which a short id is looked for: the most that the node lists.
const SEARCHED: u32 = 500;

pub(crate) async fn run(args: Task) -> anyhow::Result<()> {
    let client = &Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        TaskCommand::Submit(args) => submit_task(client, *args).await,
        TaskCommand::List(args) => list(client, args).await,
        TaskCommand::Show(args) => show(client, args).await,
        TaskCommand::Follow(args) => {
            let id = find(client, &args.task).await?;
            follow::follow(client, &id, args.output.json).await
        }
        TaskCommand::Cancel(args) => cancel(client, args).await,
        TaskCommand::Retry(args) => retry(client, args).await,
        TaskCommand::Output(args) => output(client, args).await,
    }
}

async fn submit_task(client: &Client, args: args::Submit) -> anyhow::Result<()> {
    let mut task = submit::build(args.what)?;
    task.idempotency_key = args.key;
    let submitted = client.call::<PostTask>(&task).await?;
    if args.follow {
        return follow::follow(client, &submitted.id, args.output.json).await;
    }
    if args.output.json {
        return print_json(&submitted);
    }
    // A script gets the id and nothing else.
    if submitted.repeated {
        eprintln!("[this key was used before: it is that task, {}]", submitted.state.as_str());
    }
    say(&format!("{}\n", submitted.id))
}

async fn list(client: &Client, args: args::List) -> anyhow::Result<()> {
    let query = TaskQuery {
        state: args.state,
        kind: args.kind.map(Into::into),
        search: args.search,
        limit: Some(args.limit),
        before: args.before.map(TaskId),
        ..TaskQuery::default()
    };
    let list = client.call::<ListTasks>(&query).await?;
    if args.output.json { print_json(&list) } else { say(&text::list(&list, now_ms())) }
}

async fn show(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let id = find(client, &args.task).await?;
    let details = client.call::<GetTask>(&TaskPathId { id }).await?;
    if args.output.json { print_json(&details) } else { say(&text::details(&details, now_ms())) }
}

async fn cancel(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let id = find(client, &args.task).await?;
    let task = client.call::<PostTaskCancel>(&TaskPathId { id }).await?;
    if args.output.json { print_json(&task) } else { say(&format!("{}\n", text::standing(&task))) }
}

async fn retry(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let id = find(client, &args.task).await?;
    let submitted = client.call::<PostTaskRetry>(&TaskPathId { id }).await?;
    if args.output.json { print_json(&submitted) } else { say(&format!("{}\n", submitted.id)) }
}

async fn output(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let id = find(client, &args.task).await?;
    let output = client.call::<GetTaskOutput>(&TaskPathId { id }).await?;
    if args.output.json {
        return print_json(&output);
    }
    let Some(result) = text::result(&output) else {
        let id = output.id.fmt_short();
        match output.state {
            TaskState::Done => bail!(
                "the task {id} is done, and its result is not here: the node that submitted it has it"
            ),
            state => bail!("the task {id} is {}: there is no result", state.as_str()),
        }
    };
    follow::print(&result)?;
    if !result.ends_with('\n') {
        follow::print("\n")?;
    }
    // Some of it, while it runs, is no failure.
    if output.state == TaskState::Done { follow::ended(&output) } else { Ok(()) }
}

/// `edgecoder-node drain`.
pub(crate) async fn drain(args: Drain) -> anyhow::Result<()> {
    let client = Client::connect(args.data)?;
    let on = args.on == OnOff::On;
    let state = client.call::<PostDrain>(&DrainRequest { on }).await?;
    let Json { json } = args.output;
    if json {
        return print_json(&state);
    }
    say(&match state.draining {
        true => format!(
            "No more tasks are started; {} go on. To end this: edgecoder-node drain off\n",
            state.counts.active
        ),
        false => "Tasks are started again.\n".to_owned(),
    })
}

/// The task that is meant by its id or the end of it.
async fn find(client: &Client, text: &str) -> anyhow::Result<TaskId> {
    let text = text.trim().to_lowercase();
    if text.len() == ID_CHARS {
        return Ok(TaskId(text));
    }
    let tail = text.strip_prefix("t_").unwrap_or(&text).to_owned();
    let query =
        TaskQuery { search: Some(tail.clone()), limit: Some(SEARCHED), ..TaskQuery::default() };
    let tasks = client.call::<ListTasks>(&query).await?.tasks;
    pick(&tail, tasks.into_iter().map(|task| task.id))
}

fn pick(tail: &str, ids: impl Iterator<Item = TaskId>) -> anyhow::Result<TaskId> {
    let meant: Vec<_> = ids.filter(|id| tail.len() >= MIN_TAIL && id.0.ends_with(tail)).collect();
    match meant.as_slice() {
        [id] => Ok(id.clone()),
        [] => bail!("there is no task t_{tail}. edgecoder-node task list shows those there are"),
        several => {
            let ids: Vec<_> = several.iter().take(5).map(ToString::to_string).collect();
            bail!("several tasks end with {tail:?}: use the whole id ({})", ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_goes_by_the_end_of_its_id() {
        let ids = || ["t_0000abcdef", "t_0000xxcdef"].map(|id| TaskId(id.to_owned())).into_iter();
        assert_eq!(pick("abcdef", ids()).expect("one").0, "t_0000abcdef");
        let error = pick("cdef", ids()).expect_err("two").to_string();
        assert!(error.contains("t_0000abcdef") && error.contains("t_0000xxcdef"), "{error}");
        assert!(pick("ef", ids()).expect_err("too short").to_string().contains("no task"));
        assert!(pick("zzz", ids()).is_err());
    }
}
