//! The OpenAI API at the level of HTTP: errors, limits, streams, several requests at once.
//! `python_client.rs` runs OpenAI's own client against it.

use agent_api::openai::ChatChunk;
use anyhow::Result;
use edgecoder_tests::{
    node::{Options, TestNode, signal},
    programs,
};
use futures_util::{StreamExt as _, future::join_all};
use serde_json::{Value, json};
use tokio::task::JoinSet;

async fn started() -> Result<(TestNode, String)> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    Ok((node, model))
}

fn chat(model: &str) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": "Return the number of elements"}],
        "max_tokens": 24,
        "seed": 1,
    })
}

fn with(mut body: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_whole_answer() -> Result<()> {
    let (node, model) = started().await?;
    let whole: Value = node.http.post("/v1/chat/completions", &chat(&model)).await?;
    assert_eq!(whole["object"], "chat.completion");
    let text = whole["choices"][0]["message"]["content"].as_str().expect("content").to_owned();
    assert!(!text.is_empty());

    let changes = json!({"stream": true, "stream_options": {"include_usage": true}});
    let stream = with(chat(&model), &changes);
    let mut events = node.http.stream("/v1/chat/completions", &stream).await?;
    let (mut streamed, mut finish, mut usage, mut done) = (String::new(), None, None, false);
    while let Some(data) = events.next().await {
        let data = data?;
        if data == "[DONE]" {
            done = true;
            continue;
        }
        let chunk: ChatChunk = serde_json::from_str(&data)?;
        for choice in chunk.choices {
            streamed.push_str(&choice.delta.content.unwrap_or_default());
            finish = choice.finish_reason.or(finish);
        }
        usage = chunk.usage.or(usage);
    }
    assert_eq!(streamed, text);
    assert!(done && finish.is_some());
    let usage = usage.expect("usage was asked for");
    assert_eq!(
        u64::from(usage.completion_tokens),
        whole["usage"]["completion_tokens"].as_u64().unwrap()
    );
    assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert!(usage.prompt_tokens_details.cached_tokens > 0, "the prompt was known by then");
    Ok(())
}

#[tokio::test]
async fn finish_reasons_stop_strings_and_limits_are_real() -> Result<()> {
    let (node, model) = started().await?;
    let length: Value = node
        .http
        .post("/v1/chat/completions", &with(chat(&model), &json!({"max_tokens": 3})))
        .await?;
    assert_eq!(length["choices"][0]["finish_reason"], "length");
    assert_eq!(length["usage"]["completion_tokens"], 3);

    let greedy =
        json!({"model": model, "prompt": "def get_path(", "max_tokens": 40, "temperature": 0});
    let free: Value = node.http.post("/v1/completions", &greedy).await?;
    let text = free["choices"][0]["text"].as_str().expect("text");
    let stop: String = text.chars().skip(5).take(3).collect();
    let stopped: Value =
        node.http.post("/v1/completions", &with(greedy.clone(), &json!({"stop": [stop]}))).await?;
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let before = stopped["choices"][0]["text"].as_str().expect("text");
    assert!(text.starts_with(before) && !before.contains(&stop), "{before:?} of {text:?}");

    let two: Value = node
        .http
        .post(
            "/v1/completions",
            &with(greedy, &json!({"n": 2, "echo": true, "prompt": ["a", "b"]})),
        )
        .await?;
    let choices = two["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 4);
    assert!(choices[3]["text"].as_str().is_some_and(|text| text.starts_with('b')));
    Ok(())
}

#[tokio::test]
async fn many_requests_at_once_all_get_their_own_answer() -> Result<()> {
    let (node, model) = started().await?;
    let ask = |n: usize| {
        let body = json!({"model": model, "prompt": format!("# number {n}\ndef "), "max_tokens": 16, "temperature": 0});
        let http = node.http.clone();
        async move {
            let answer: Result<Value> = http.post("/v1/completions", &body).await;
            answer
                .map(|answer| answer["choices"][0]["text"].as_str().unwrap_or_default().to_owned())
        }
    };
    let mut alone = Vec::new();
    for n in 0..12 {
        alone.push(ask(n).await?);
    }
    let together = join_all((0..12).map(ask)).await.into_iter().collect::<Result<Vec<_>>>()?;
    // Batched arithmetic may round differently, so a late token may differ; the beginning is
    // each prompt's own.
    let same = alone.iter().zip(&together).filter(|(a, b)| a.get(..6) == b.get(..6)).count();
    assert!(same >= 10, "{alone:#?}\n{together:#?}");
    Ok(())
}

#[tokio::test]
async fn more_requests_than_may_wait_are_told_to_come_back() -> Result<()> {
    let (node, model) = started().await?;
    let limit = agent_core::config::limits::WAITING_REQUESTS + 64;
    // None is done before all are there.
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    signal(runner, "STOP")?;
    let mut asked: JoinSet<_> = (0..limit)
        .map(|_| {
            let body = json!({"model": model, "prompt": "def ", "max_tokens": 8});
            let http = node.http.clone();
            async move { http.try_post("/v1/completions", &body).await }
        })
        .collect();
    let mut answers = vec![asked.join_next().await.expect("one")??];
    signal(runner, "CONT")?;
    while let Some(answer) = asked.join_next().await {
        answers.push(answer??);
    }
    let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 429).collect();
    assert!(!refused.is_empty(), "some are refused");
    assert_eq!(refused[0].1["error"]["code"], "queue_full");
    let served = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(served + refused.len(), limit, "and all others are served");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_served_is_said_in_openais_words() -> Result<()> {
    let (node, model) = started().await?;
    let cases = [
        (json!({"model": "gpt-5"}), 404, "model_not_found"),
        (json!({"messages": []}), 400, "messages"),
        (json!({"messages": [{"role": "wizard", "content": "x"}]}), 400, "wizard"),
        (json!({"messages": [{"role": "user"}]}), 400, "content"),
        (
            json!({"messages": [{"role": "user", "content": "word ".repeat(4000)}]}),
            400,
            "context_length_exceeded",
        ),
        (json!({"temperature": -0.5}), 400, "temperature"),
        (json!({"max_tokens": -1}), 400, "max_tokens"),
        (json!({"max_tokens": "many"}), 400, "max_tokens"),
        (json!({"n": 99}), 400, "n is"),
        (json!({"top_logprobs": 3}), 400, "logprobs"),
        (json!({"functions": [{"name": "f"}]}), 400, "tools"),
        (json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), 400, "template"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            400,
            "schema",
        ),
        (json!({"grammar": "root ::= ("}), 400, "grammar"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
            400,
            "image",
        ),
    ];
    for (changes, status, word) in cases {
        let (got, body) =
            node.http.try_post("/v1/chat/completions", &with(chat(&model), &changes)).await?;
        assert_eq!(got, status, "{changes}: {body}");
        assert!(
            body["error"]["message"].is_string() && body["error"]["type"].is_string(),
            "{body}"
        );
        assert!(body.to_string().contains(word), "{changes}: {body}");
    }
    let response = node
        .http
        .request("POST", "/v1/chat/completions")
        .header("content-type", "application/json")
        .body("{not json")
        .send()
        .await?;
    assert_eq!(response.status(), 400);
    node.http.post::<Value>("/v1/chat/completions", &chat(&model)).await?;
    Ok(())
}

#[tokio::test]
async fn json_comes_out_as_the_schema_says() -> Result<()> {
    let (node, model) = started().await?;
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "size"],
        "additionalProperties": false,
    });
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}, "max_tokens": 200});
    for seed in 0..3 {
        let body = with(with(chat(&model), &format), &json!({"seed": seed}));
        let answer: Value = node.http.post("/v1/chat/completions", &body).await?;
        let text = answer["choices"][0]["message"]["content"].as_str().expect("content");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!(value["name"].is_string() && value["size"].is_u64(), "{value}");
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(2));
    }
    Ok(())
}

#[tokio::test]
async fn a_model_that_the_owner_adds_can_be_made_active() -> Result<()> {
    let model = std::fs::read(programs::demo_model())?;
    let node = Options::default().file("models/my-own.gguf", &model).start()?;
    let active = node.model().await?;
    assert_eq!(active, "my-own", "the owner's model comes before the demo model");
    let swap = json!({"model": "edgecoder-demo-4m"});
    node.http.post::<Value>("/model/swap", &swap).await?;
    let ready = |status: &agent_api::Status| {
        status.model.loaded.as_ref().is_some_and(|loaded| loaded.id == "edgecoder-demo-4m")
    };
    node.status_when("the demo model is loaded", ready).await?;
    // Any installed model answers to its name, unless the owner wants only the active one to.
    let ask = json!({"model": "my-own", "prompt": "x", "max_tokens": 2});
    let answer: Value = node.http.post("/v1/completions", &ask).await?;
    assert_eq!(answer["model"], "my-own");
    node.http.patch::<Value>("/settings", &json!({"load_on_request": false})).await?;
    let (status, body) =
        node.http.try_post("/v1/completions", &json!({"model": "my-own", "prompt": "x"})).await?;
    assert_eq!(status, 404, "{body}");
    let (status, _) = node.http.try_post("/model/swap", &json!({"model": "nothing"})).await?;
    assert_eq!(status, 404);
    // The choice outlives the process.
    let node = node.kill()?.start()?;
    assert_eq!(node.model().await?, "edgecoder-demo-4m");
    Ok(())
}
