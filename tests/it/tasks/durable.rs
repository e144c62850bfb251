//! Tasks outlive whoever works on them.

use agent_api::tasks::{AttemptOutcome, Submitted, Task, TaskState};
use anyhow::Result;
use edgecoder_tests::{
    cluster::Cluster,
    node::Options,
    scripted_model::ScriptedModel,
    tasks::{details, done, output, sees_model, submit, until, with_scripted},
};
use serde_json::{Value, json};

fn chat(model: &str) -> Value {
    json!({
        "kind": "chat",
        "input": {"model": model, "messages": [{"role": "user", "content": "hello"}]},
    })
}

/// `node-0` asks; the others have the scripted model.
async fn with_workers(model: &ScriptedModel, workers: usize) -> Result<Cluster> {
    let cluster = Cluster::started(workers + 1, |n, options| match n {
        0 => options,
        _ => with_scripted(&format!("node-{n}"), model),
    })
    .await?;
    cluster.form().await?;
    for of in 1..=workers {
        sees_model(&cluster, 0, of, &model.name).await?;
    }
    Ok(cluster)
}

#[tokio::test]
async fn a_task_waits_for_a_worker_over_a_crash_and_is_done_once() -> Result<()> {
    let model = ScriptedModel::start("scripted:1b").await?;
    model.say(&["fine ", "thanks"]);
    let mut cluster = Cluster::started(1, |_, options| options).await?;
    let task = submit(cluster.http(0), &chat("scripted:1b")).await?;
    let waits =
        |task: &Task| task.state == TaskState::Queued && task.reason.contains("scripted:1b");
    until(cluster.http(0), &task, "it waits and says for what", waits).await?;
    cluster.kill(0)?;
    cluster.restart(0).await?;
    let worker = cluster.add(with_scripted("worker", &model)).await?;
    let ticket = cluster.invite(0).await?;
    cluster.join(worker, &ticket).await?;
    let task = done(cluster.http(0), &task).await?;
    assert_eq!(task.worker, Some(cluster.id(worker)));
    let said = output(cluster.http(0), &task.id).await?.output;
    assert_eq!(said.map(|said| said["text"].clone()), Some(json!("fine thanks")));
    assert_eq!(model.asked().len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_death_of_the_worker_costs_a_try_and_not_the_task() -> Result<()> {
    let model = ScriptedModel::start("scripted:1b").await?;
    model.say(&["never ", "to the end"]);
    let mut cluster = with_workers(&model, 2).await?;
    model.hold();
    model.release(1);
    let id = submit(cluster.http(0), &chat("scripted:1b")).await?;
    let runs = |task: &Task| task.state == TaskState::Running;
    let task = until(cluster.http(0), &id, "it runs", runs).await?;
    let first = if task.worker == Some(cluster.id(1)) { 1 } else { 2 };
    cluster.kill(first)?;
    model.release(100);
    let task = done(cluster.http(0), &id).await?;
    assert_eq!(task.worker, Some(cluster.id(3 - first)));
    let known = details(cluster.http(0), &id).await?;
    let lost = known.attempts.iter().filter(|a| a.outcome == Some(AttemptOutcome::Lost)).count();
    assert_eq!(lost, 1, "{:#?}", known.attempts);
    let settled = known.events.iter().filter(|event| event.state == TaskState::Done).count();
    assert_eq!(settled, 1, "{:#?}", known.events);
    Ok(())
}

#[tokio::test]
async fn the_death_of_the_origin_loses_nothing() -> Result<()> {
    let model = ScriptedModel::start("scripted:1b").await?;
    let mut cluster = with_workers(&model, 1).await?;
    model.hold();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(submit(cluster.http(0), &chat("scripted:1b")).await?);
    }
    let runs = |task: &Task| matches!(task.state, TaskState::Running | TaskState::Leased);
    until(cluster.http(0), &ids[0], "the first is under way", runs).await?;
    cluster.kill(0)?;
    model.release(100);
    cluster.restart(0).await?;
    for id in &ids {
        done(cluster.http(0), id).await?;
        let known = details(cluster.http(0), id).await?;
        let settled = known.events.iter().filter(|event| event.state == TaskState::Done).count();
        assert_eq!(settled, 1, "{:#?}", known.events);
    }
    Ok(())
}

#[tokio::test]
async fn the_same_key_is_the_same_task() -> Result<()> {
    let cluster = Cluster::started(1, |_, options| options).await?;
    let http = cluster.http(0);
    let send = |body: Value| {
        http.request("POST", "/tasks").header("Idempotency-Key", "k1").json(&body).send()
    };
    let first: Submitted = send(chat("a")).await?.error_for_status()?.json().await?;
    let again: Submitted = send(chat("a")).await?.error_for_status()?.json().await?;
    assert_eq!((&again.id, again.repeated), (&first.id, true));
    let other = send(chat("b")).await?;
    assert_eq!(other.status().as_u16(), 409, "the same key with another body");
    let said = other.text().await?;
    assert!(said.contains("another body"), "{said}");
    Ok(())
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_task_is_named() -> Result<()> {
    let cluster = Cluster::started(1, |_, options| options).await?;
    let body = json!({
        "kind": "chat", "priority": 12, "max_attempts": 0,
        "input": {"messages": [], "temperature": 9},
    });
    let (status, said) = cluster.http(0).try_post("/tasks", &body).await?;
    assert_eq!(status, 400);
    let said = said.to_string();
    for field in ["priority", "max_attempts", "messages", "temperature"] {
        assert!(said.contains(field), "{field} is missing in {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cancelled_task_stops_where_it_runs() -> Result<()> {
    let model = ScriptedModel::start("scripted:1b").await?;
    let cluster = with_workers(&model, 1).await?;
    model.hold();
    let id = submit(cluster.http(0), &chat("scripted:1b")).await?;
    until(cluster.http(0), &id, "it runs", |task| task.state == TaskState::Running).await?;
    let cancelled: Task = cluster.http(0).post(&format!("/tasks/{id}/cancel"), &json!({})).await?;
    assert_eq!(cancelled.state, TaskState::Cancelled);
    let idle = async || Ok(cluster.node(1).status().await?.requests.running == 0);
    cluster.eventually("the worker is free again", idle).await?;
    // A retry is another task.
    model.release(100);
    let again: Submitted = cluster.http(0).post(&format!("/tasks/{id}/retry"), &json!({})).await?;
    assert_ne!(again.id, id);
    done(cluster.http(0), &again.id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_submits_follows_and_lists() -> Result<()> {
    let model = ScriptedModel::start("scripted:1b").await?;
    model.say(&["from ", "afar"]);
    let cluster = with_workers(&model, 1).await?;
    let options: &Options = &cluster.node(0).options;
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(edgecoder_tests::programs::node());
        command.args(args).arg("--data-dir").arg(options.data_dir()).output()
    };
    let said =
        run(&["task", "submit", "chat", "--model", "scripted:1b", "--prompt", "hi", "--follow"])?;
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("from afar"), "{text}");
    let listed = run(&["task", "list"])?;
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(text.contains("scripted:1b") && text.contains("done"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_worker_in_a_private_home_is_not_used_for_what_must_stay_here() -> Result<()> {
    let model = ScriptedModel::start("scripted:1b").await?;
    let cluster = with_workers(&model, 1).await?;
    let mut body = chat("scripted:1b");
    body["privacy"] = json!("this_node");
    let id = submit(cluster.http(0), &body).await?;
    let waits = |task: &Task| task.state == TaskState::Queued && !task.reason.is_empty();
    until(cluster.http(0), &id, "it waits", waits).await?;
    assert!(model.asked().is_empty(), "the prompt went nowhere");
    let placement: agent_api::tasks::Placement =
        cluster.http(0).get(&format!("/tasks/{id}/placement")).await?;
    assert!(placement.excluded.iter().any(|node| node.node == cluster.id(1)), "{placement:#?}");
    Ok(())
}
