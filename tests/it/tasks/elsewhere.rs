//! A model that is not here but on a peer just works, through every door.

use agent_api::tasks::{Placement, Role, Task, TaskKind, TaskPath, TaskState};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, member},
    programs, pulls,
    registry::{Content, Registry},
    tasks::{self, newest, sees_model, with_demo},
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::python_client;

/// `node-0` without a model, `node-1` and `node-2` with the one that ships; gives its name.
async fn three() -> Result<(Cluster, String)> {
    let cluster = Cluster::started(3, |n, options| match n {
        0 => options,
        _ => with_demo(&format!("node-{n}")),
    })
    .await?;
    cluster.form().await?;
    let model = cluster.node(1).model().await?;
    cluster.node(2).model().await?;
    for of in [1, 2] {
        sees_model(&cluster, 0, of, &model).await?;
    }
    Ok((cluster, model))
}

fn question(model: &str) -> Value {
    json!({
        "model": model, "temperature": 0, "max_tokens": 40,
        "messages": [{"role": "user", "content": "Return the number of elements"}],
    })
}

#[tokio::test]
async fn a_model_that_only_peers_have_answers_and_the_answer_names_the_node() -> Result<()> {
    let (cluster, model) = three().await?;
    let own: Value = cluster.http(1).post("/v1/chat/completions", &question(&model)).await?;
    let request = cluster.http(0).request("POST", "/v1/chat/completions");
    let response = request.json(&question(&model)).send().await?.error_for_status()?;
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let workers = [cluster.id(1).0, cluster.id(2).0];
    assert!(workers.contains(&header("x-edgecoder-node")), "{:?}", response.headers());
    assert!(header("x-edgecoder-node-name").starts_with("node-"));
    assert_eq!(header("x-edgecoder-path"), "lan");
    assert!(header("x-edgecoder-overhead-ms").parse::<f64>().is_ok_and(|ms| ms >= 0.0));
    let answer: Value = response.json().await?;
    assert_eq!(answer["choices"], own["choices"], "the same words as from the node itself");
    assert_eq!(answer["usage"]["completion_tokens"], own["usage"]["completion_tokens"]);

    // Both sides show it, neither with its words.
    let task = newest(cluster.http(0), "", |task| task.state.is_final()).await?;
    assert_eq!((task.kind, task.state), (TaskKind::Chat, TaskState::Done));
    assert_eq!((task.role, task.interactive), (Role::Asked, true));
    assert_eq!(task.path, Some(TaskPath::Lan));
    let worker = workers.iter().position(|id| Some(id) == task.worker.as_ref().map(|id| &id.0));
    let worker = worker.expect("one of the two") + 1;
    let ended = |task: &Task| task.state.is_final();
    let served = newest(cluster.http(worker), "?role=served", ended).await?;
    assert_eq!(served.origin, cluster.id(0));

    // And why it was that node.
    let why = format!("/tasks/{}/placement", task.id);
    cluster
        .eventually("the placement is kept", async || {
            let kept: Placement = cluster.http(0).get(&why).await?;
            Ok(kept.candidates.iter().any(|c| c.chosen && Some(&c.node) == task.worker.as_ref()))
        })
        .await
}

#[tokio::test]
async fn a_node_is_chosen_by_name_and_streams_token_by_token() -> Result<()> {
    let (cluster, model) = three().await?;
    for to in [1, 2] {
        let mut body = question(&format!("{model}@node-{to}"));
        body["stream"] = json!(true);
        let mut stream = cluster.http(0).stream("/v1/chat/completions", &body).await?;
        let mut pieces = 0;
        while let Some(data) = stream.next().await {
            pieces += usize::from(data?.contains("\"content\""));
        }
        assert!(pieces > 10, "{pieces} pieces");
        let worker = Some(cluster.id(to));
        newest(cluster.http(0), "?limit=1", |task| task.worker == worker).await?;
    }
    let list: Value = cluster.http(0).get("/v1/models").await?;
    assert!(list.to_string().contains(&format!("{model}@node-1")), "{list}");
    Ok(())
}

#[tokio::test]
async fn ollamas_clients_reach_a_peers_model_too() -> Result<()> {
    let (cluster, model) = three().await?;
    let body = json!({
        "model": model, "stream": false, "options": {"temperature": 0, "num_predict": 20},
        "messages": [{"role": "user", "content": "hello"}],
    });
    let far: Value = cluster.http(0).post("/api/chat", &body).await?;
    let near: Value = cluster.http(1).post("/api/chat", &body).await?;
    assert_eq!(far["message"], near["message"]);
    // Ollama's own programs cut a digest off everything in these lists.
    for list in ["/api/tags", "/api/ps"] {
        let list: Value = cluster.http(0).get(list).await?;
        for model in list["models"].as_array().context("a list")? {
            let digest = model["digest"].as_str().unwrap_or_default();
            let is_hex = digest.bytes().all(|digit| digit.is_ascii_hexdigit());
            assert!(digest.len() == 64 && is_hex, "{model}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn models_of_nodes_with_one_name_can_be_told_apart_and_asked() -> Result<()> {
    let (cluster, model) = three().await?;
    for twin in [1, 2] {
        cluster.http(twin).patch::<Value>("/settings", &json!({"node_name": "twin"})).await?;
    }
    let short = |n: usize| format!("{model}@{}", cluster.id(n).fmt_short());
    cluster
        .eventually("both are listed by their ids", async || {
            let list: Value = cluster.http(0).get("/v1/models").await?;
            let models = list["data"].as_array().context("a list")?;
            let ids: Vec<_> = models.iter().filter_map(|model| model["id"].as_str()).collect();
            Ok([1, 2].iter().all(|&n| ids.contains(&short(n).as_str())))
        })
        .await?;
    for n in [1, 2] {
        cluster.http(0).post::<Value>("/v1/chat/completions", &question(&short(n))).await?;
    }
    Ok(())
}

/// What the model's makers chose, and the asking node does not know.
#[tokio::test]
async fn a_models_own_choices_count_wherever_it_is_asked_for() -> Result<()> {
    let registry = Registry::start().await?;
    let layers = [
        ("model", Content::File(programs::demo_model())),
        ("params", Content::Bytes(br#"{"temperature": 0, "num_predict": 7}"#.to_vec())),
        ("system", Content::Bytes(b"Write Rust.".to_vec())),
    ];
    let model = registry.push_model("chosen", "4m", &layers).await?.model;
    let cluster = Cluster::of(2).await?;
    pulls::pull(cluster.node(1), &model).await?;
    sees_model(&cluster, 0, 1, &model).await?;
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Sum a list"}]});
    let mut answers = Vec::new();
    for node in [0, 0, 1] {
        let answer: Value = cluster.http(node).post("/v1/chat/completions", &body).await?;
        assert_eq!(answer["usage"]["completion_tokens"], 7, "{answer}");
        answers.push((answer["choices"].clone(), answer["usage"]["prompt_tokens"].clone()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[2]), "{answers:?}");
    let submit = json!({"kind": "chat", "input": body});
    let id = tasks::submit(cluster.http(0), &submit).await?;
    let task = tasks::done(cluster.http(0), &id).await?;
    assert_eq!(task.completion_tokens, Some(7), "{task:?}");
    Ok(())
}

#[tokio::test]
async fn a_request_that_must_stay_here_is_not_sent_away() -> Result<()> {
    let (cluster, model) = three().await?;
    let request = cluster.http(0).request("POST", "/v1/chat/completions");
    let request = request.header("x-edgecoder-privacy", "this_node").json(&question(&model));
    let response = request.send().await?;
    assert_eq!(response.status().as_u16(), 404);
    let said = response.text().await?;
    assert!(said.contains("node-1") || said.contains("privacy"), "it says why: {said}");
    cluster.http(0).patch::<Value>("/settings", &json!({"tasks": {"privacy": "my_nodes"}})).await?;
    let (status, _) = cluster.http(0).try_post("/v1/chat/completions", &question(&model)).await?;
    assert!(status >= 400, "nobody is marked as the owner's own");
    let mark = json!({"node_id": cluster.id(2), "on": true, "own": true});
    cluster.http(0).post::<Value>("/mesh/trust", &mark).await?;
    let (status, answer) =
        cluster.http(0).try_post("/v1/chat/completions", &question(&model)).await?;
    assert_eq!(status, 200, "{answer}");
    let worker = Some(cluster.id(2));
    newest(cluster.http(0), "?limit=1", |task| task.worker == worker).await?;
    Ok(())
}

#[tokio::test]
async fn an_owner_who_takes_no_work_is_not_asked() -> Result<()> {
    let (cluster, model) = three().await?;
    for off in [1, 2] {
        cluster.http(off).patch::<Value>("/settings", &json!({"tasks": {"accept": false}})).await?;
    }
    let (status, said) =
        cluster.http(0).try_post("/v1/chat/completions", &question(&model)).await?;
    assert!(status >= 400, "{said}");
    // Their own requests go on.
    let (status, _) = cluster.http(1).try_post("/v1/chat/completions", &question(&model)).await?;
    assert_eq!(status, 200);
    Ok(())
}

#[tokio::test]
async fn the_official_openai_client_uses_a_peers_model() -> Result<()> {
    let cluster = Cluster::started(2, |n, options| match n {
        0 => member("node-0", json!({})),
        1 => with_demo("node-1"),
        _ => options,
    })
    .await?;
    cluster.form().await?;
    let model = cluster.node(1).model().await?;
    sees_model(&cluster, 0, 1, &model).await?;
    python_client::run("../examples/openai/peer.py", &[&cluster.http(0).url, &model])
}
