//! Several models in memory: swapping, loading by name, leaving, and one runner's death.

use agent_api::{
    Status,
    models::{ModelList, ModelState, Residency},
};
use anyhow::Result;
use edgecoder_tests::{
    node::{Options, TestNode, signal},
    programs,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A node with the demo model under these names; the first is active.
fn node_with(models: &[&str], settings: &Value) -> Result<TestNode> {
    let demo = std::fs::read(programs::demo_model())?;
    let mut options = Options::default().without_model();
    for name in models {
        options = options.file(&format!("models/{name}.gguf"), &demo);
    }
    options.file("settings.json", settings.to_string().as_bytes()).start()
}

fn resident<'a>(status: &'a Status, id: &str) -> Option<&'a Residency> {
    status.model.resident.iter().find(|resident| resident.id == id)
}

fn is_ready(status: &Status, id: &str) -> bool {
    resident(status, id).is_some_and(|resident| resident.state == ModelState::Ready)
}

fn pid(status: &Status, id: &str) -> u32 {
    resident(status, id).and_then(|resident| resident.pid).expect("a runner")
}

/// Asks a model by name, the active one for an empty name; gives who answered.
async fn ask(node: &TestNode, model: &str) -> Result<String> {
    let body = json!({"model": model, "prompt": "def ", "max_tokens": 4});
    let answer: Value = node.http.post("/v1/completions", &body).await?;
    Ok(answer["model"].as_str().unwrap_or_default().to_owned())
}

type Asked = JoinHandle<Result<(u16, Value)>>;

fn ask_in_the_background(node: &TestNode, model: &str, max_tokens: u32) -> Asked {
    let body = json!({"model": model, "prompt": "def ", "max_tokens": max_tokens});
    let http = node.http.clone();
    tokio::spawn(async move { http.try_post("/v1/completions", &body).await })
}

/// Starts an answer that cannot end before the runner is let go again.
async fn hold_an_answer(node: &TestNode, model: &str) -> Result<(u32, Asked)> {
    let runner = pid(&node.status().await?, model);
    signal(runner, "STOP")?;
    let answer = ask_in_the_background(node, model, 60);
    let runs = |status: &Status| resident(status, model).is_some_and(|r| r.running == 1);
    node.status_when("the answer is under way", runs).await?;
    Ok((runner, answer))
}

#[tokio::test]
async fn a_swap_fails_nothing_and_new_requests_go_to_the_new_model() -> Result<()> {
    let node = node_with(&["alpha", "beta"], &json!({}))?;
    assert_eq!(node.model().await?, "alpha");
    let (runner, old) = hold_an_answer(&node, "alpha").await?;
    // Waits for a slot or not: accepted before the swap is answered by the old model.
    let queued: Vec<Asked> = (0..5).map(|_| ask_in_the_background(&node, "", 4)).collect();
    let waits = |status: &Status| status.requests.queued == 2;
    node.status_when("two wait for a slot", waits).await?;

    let swapped: agent_api::models::ModelStatus =
        node.http.post("/model/swap", &json!({"model": "beta"})).await?;
    assert_eq!(swapped.active.map(|active| active.id).as_deref(), Some("beta"));
    node.status_when("both are in memory", |status| is_ready(status, "beta")).await?;
    assert_eq!(ask(&node, "").await?, "beta", "while the old answer still runs");
    let status = node.status().await?;
    assert!(resident(&status, "alpha").is_some_and(|alpha| alpha.leaving), "{status:#?}");

    signal(runner, "CONT")?;
    for answer in queued.into_iter().chain([old]) {
        let (code, body) = answer.await??;
        assert_eq!((code, &body["model"]), (200, &json!("alpha")), "{body}");
    }
    node.status_when("the old model leaves", |status| resident(status, "alpha").is_none()).await?;
    assert_eq!(node.status().await?.model.runner_crashes, 0);
    Ok(())
}

#[tokio::test]
async fn a_swap_waits_for_the_old_model_where_only_one_may_be_in_memory() -> Result<()> {
    let node = node_with(&["alpha", "beta"], &json!({"max_loaded_models": 1}))?;
    node.model().await?;
    let (runner, old) = hold_an_answer(&node, "alpha").await?;
    node.http.post::<Value>("/model/swap", &json!({"model": "beta"})).await?;
    let new = ask_in_the_background(&node, "", 4);
    let waits = |status: &Status| resident(status, "beta").is_some_and(|beta| beta.queued == 1);
    let status = node.status_when("the new request waits for the new model", waits).await?;
    assert!(status.model.reason.contains("waits until there is room"), "{status:#?}");
    assert_eq!(resident(&status, "alpha").map(|alpha| alpha.running), Some(1));
    signal(runner, "CONT")?;
    let ((old_code, old), (new_code, new)) = (old.await??, new.await??);
    assert_eq!((old_code, &old["model"]), (200, &json!("alpha")), "{old}");
    assert_eq!((new_code, &new["model"]), (200, &json!("beta")), "{new}");
    let status = node.status().await?;
    assert!(resident(&status, "alpha").is_none(), "{status:#?}");
    Ok(())
}

#[tokio::test]
async fn a_request_loads_the_model_it_names_beside_the_active_one() -> Result<()> {
    let node = node_with(&["alpha", "beta"], &json!({}))?;
    node.model().await?;
    assert_eq!(ask(&node, "beta").await?, "beta");
    let status = node.status().await?;
    assert!(is_ready(&status, "alpha") && is_ready(&status, "beta"), "{status:#?}");
    assert_eq!(status.model.active.as_ref().map(|active| active.id.as_str()), Some("alpha"));
    assert_eq!(status.model.resident[0].id, "alpha", "the active one first");
    assert!(status.model.resident[0].expires_at_ms.is_none(), "the active one stays");
    assert!(resident(&status, "beta").is_some_and(|beta| beta.expires_at_ms.is_some()));
    assert_ne!(pid(&status, "alpha"), pid(&status, "beta"));
    let list: ModelList = node.http.get("/model/list").await?;
    assert!(list.models.iter().all(|model| model.residency.is_some()));

    node.http.patch::<Value>("/settings", &json!({"load_on_request": false})).await?;
    for name in ["beta", "gamma"] {
        let body = json!({"model": name, "prompt": "x"});
        let (code, body) = node.http.try_post("/v1/completions", &body).await?;
        assert_eq!(code, 404, "{body}");
        assert!(body.to_string().contains("alpha"), "says who answers: {body}");
    }
    Ok(())
}

#[tokio::test]
async fn a_model_that_is_not_kept_leaves_after_its_request_and_a_preloaded_one_stays() -> Result<()>
{
    let settings = json!({"keep_alive_s": 0, "models": {"gamma": {"preload": true}}});
    let node = node_with(&["alpha", "beta", "gamma"], &settings)?;
    node.model().await?;
    node.status_when("it is loaded at the start", |status| is_ready(status, "gamma")).await?;
    assert_eq!(ask(&node, "beta").await?, "beta");
    node.status_when("it leaves", |status| resident(status, "beta").is_none()).await?;
    let status = node.status().await?;
    assert!(is_ready(&status, "alpha") && is_ready(&status, "gamma"), "{status:#?}");
    Ok(())
}

#[tokio::test]
async fn the_one_not_used_for_the_longest_time_makes_room_and_a_pinned_one_never() -> Result<()> {
    let settings = json!({"max_loaded_models": 2});
    let node = node_with(&["alpha", "beta", "gamma"], &settings)?;
    node.model().await?;
    assert_eq!(ask(&node, "beta").await?, "beta");
    assert_eq!(ask(&node, "gamma").await?, "gamma");
    let status = node.status().await?;
    assert!(resident(&status, "beta").is_none() && is_ready(&status, "alpha"), "{status:#?}");

    let settings = json!({"max_loaded_models": 2, "models": {"beta": {"pinned": true}}});
    let node = node_with(&["alpha", "beta", "gamma"], &settings)?;
    node.model().await?;
    assert_eq!(ask(&node, "beta").await?, "beta");
    let body = json!({"model": "gamma", "prompt": "x"});
    let (code, body) = node.http.try_post("/v1/completions", &body).await?;
    assert_eq!(code, 503, "{body}");
    assert!(body.to_string().contains("max_loaded_models"), "{body}");
    let status = node.status().await?;
    assert!(is_ready(&status, "alpha") && is_ready(&status, "beta"), "{status:#?}");
    assert!(resident(&status, "beta").is_some_and(|beta| beta.expires_at_ms.is_none()));
    Ok(())
}

#[tokio::test]
async fn a_swap_to_a_model_that_cannot_fit_changes_nothing() -> Result<()> {
    // A terabyte in a sparse file: the head is honest, the disk holds nothing of it.
    let elements: u64 = 1 << 39;
    let demo = std::fs::read(programs::demo_model())?;
    let options = Options::default()
        .without_model()
        .file("models/alpha.gguf", &demo)
        .file("models/beta.gguf", &crate::runner_failures::head_of(elements));
    let beta =
        std::fs::File::options().write(true).open(options.data_dir().join("models/beta.gguf"))?;
    beta.set_len(elements * 2 + 4096)?;
    let node = options.start()?;
    node.http.post::<Value>("/model/swap", &json!({"model": "alpha"})).await?;
    node.model().await?;
    let runner = pid(&node.status().await?, "alpha");
    let (code, body) = node.http.try_post("/model/swap", &json!({"model": "beta"})).await?;
    assert_eq!(code, 503, "{body}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(message.contains("beta needs about") && message.contains("is free"), "{body}");
    assert_eq!(ask(&node, "").await?, "alpha");
    let status = node.status().await?;
    assert_eq!(pid(&status, "alpha"), runner, "it was never touched");
    let settings: Value = node.http.get("/settings").await?;
    assert_eq!(settings["settings"]["active_model"], "alpha");
    Ok(())
}

#[tokio::test]
async fn the_death_of_one_runner_leaves_the_other_models_answer_alone() -> Result<()> {
    let node = node_with(&["alpha", "beta"], &json!({}))?;
    node.model().await?;
    assert_eq!(ask(&node, "beta").await?, "beta");
    let (runner, answer) = hold_an_answer(&node, "alpha").await?;
    let (other, lost) = hold_an_answer(&node, "beta").await?;
    signal(other, "KILL")?;
    let (code, body) = lost.await??;
    assert_eq!((code, &body["error"]["code"]), (503, &json!("runner_lost")), "{body}");
    let status = node.status().await?;
    assert_eq!(status.model.runner_crashes, 1);
    assert_eq!(pid(&status, "alpha"), runner);
    signal(runner, "CONT")?;
    let (code, body) = answer.await??;
    assert_eq!(code, 200, "{body}");
    assert_eq!(ask(&node, "beta").await?, "beta", "and it comes back");
    Ok(())
}

#[tokio::test]
async fn changed_options_load_the_model_again_after_its_requests() -> Result<()> {
    let node = node_with(&["alpha"], &json!({"context_length": 512}))?;
    node.model().await?;
    let (runner, answer) = hold_an_answer(&node, "alpha").await?;
    node.http.patch::<Value>("/settings", &json!({"context_length": 256})).await?;
    signal(runner, "CONT")?;
    let (code, body) = answer.await??;
    assert_eq!(code, 200, "{body}");
    let smaller =
        |status: &Status| status.model.loaded.as_ref().is_some_and(|loaded| loaded.context == 256);
    node.status_when("it is loaded again", smaller).await?;
    assert_eq!(ask(&node, "").await?, "alpha");
    Ok(())
}

#[tokio::test]
async fn two_models_that_do_not_fit_together_take_turns() -> Result<()> {
    let node = node_with(&["alpha", "beta", "gamma"], &json!({"max_loaded_models": 2}))?;
    node.model().await?;
    assert_eq!(ask(&node, "beta").await?, "beta");
    let (runner, first) = hold_an_answer(&node, "beta").await?;
    let second = ask_in_the_background(&node, "gamma", 4);
    let drains = |status: &Status| resident(status, "beta").is_some_and(|beta| beta.leaving);
    node.status_when("one makes room after its answer", drains).await?;
    // Comes after the other model was asked for, so it waits for its turn.
    let third = ask_in_the_background(&node, "beta", 4);
    let waits = |status: &Status| status.requests.queued == 2;
    node.status_when("both wait", waits).await?;
    signal(runner, "CONT")?;
    for (answer, model) in [(first, "beta"), (second, "gamma"), (third, "beta")] {
        let (code, body) = answer.await??;
        assert_eq!((code, &body["model"]), (200, &json!(model)), "{body}");
    }
    Ok(())
}
