//! A laptop gets another address, and is carried to another network.

use std::pin::Pin;

use agent_api::mesh::AnnouncedServing;
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, View},
    netlab::{self, Link, Nat, Needs},
    node::signal,
    tasks::sees_model,
};
use futures_util::{Stream, StreamExt as _};
use serde_json::{Map, Value, json};

use super::nat::{at, seed_at};

#[test]
fn a_laptop_survives_a_new_address_and_a_new_place() -> Result<()> {
    let name = "mesh::moves::a_laptop_survives_a_new_address_and_a_new_place";
    netlab::test(name, Needs::Namespaces, async |lab| {
        let seed = lab.public_host("seed", Link::PLAIN)?;
        let server = lab.public_host("server", Link::PLAIN)?;
        let home = lab.site("home", Nat::PortRestricted, Link::PLAIN)?;
        let cafe = lab.site("cafe", Nat::PortRestricted, Link::PLAIN)?;
        let mut laptop = home.host("laptop")?;
        let mut cluster = Cluster::new();
        cluster.add(seed_at(&seed, "seed")).await?;
        cluster.add(at(&server, "server")).await?;
        cluster.add(at(&laptop, "laptop")).await?;
        cluster.form().await?;

        laptop.readdress(77)?;
        works(&cluster, "/orchestration/pause", AnnouncedServing::Paused).await?;
        cafe.take(&mut laptop)?;
        works(&cluster, "/orchestration/resume", AnnouncedServing::Unable).await?;
        let id = cluster.id(2);
        let ip = format!("{}:", cafe.public);
        cluster
            .until(1, "the server speaks with the cafe", |view: &View| {
                let peer = view.peer(&id).filter(|peer| peer.connected);
                let address = peer.and_then(|peer| peer.address.as_deref());
                address.is_some_and(|address| address.starts_with(&ip))
            })
            .await?;
        cluster.until_whole().await
    })
}

#[test]
fn an_answer_of_a_peer_is_whole_though_the_laptop_moves() -> Result<()> {
    let name = "mesh::moves::an_answer_of_a_peer_is_whole_though_the_laptop_moves";
    netlab::test(name, Needs::Namespaces, async |lab| {
        let seed = lab.public_host("seed", Link::PLAIN)?;
        let server = lab.public_host("server", Link::PLAIN)?;
        let home = lab.site("home", Nat::PortRestricted, Link::PLAIN)?;
        let mut laptop = home.host("laptop")?;
        let mut cluster = Cluster::new();
        cluster.add(seed_at(&seed, "seed")).await?;
        cluster.add(at(&server, "server").with_model()).await?;
        cluster.add(at(&laptop, "laptop")).await?;
        cluster.form().await?;
        let model = cluster.node(1).model().await?;
        sees_model(&cluster, 2, 1, &model).await?;
        let runner = cluster.node(1).status().await?.model.runner_pid.context("a runner")?;

        let mut answer = ask(&cluster, &model).await?;
        let whole = rest(&mut answer).await?;
        let mut answer = ask(&cluster, &model).await?;
        let mut text = piece(&mut answer).await?.context("the first words")?;
        // The answer stands still while the laptop moves: nothing of it is sent before.
        signal(runner, "STOP")?;
        laptop.readdress(77)?;
        let moved = works(&cluster, "/orchestration/pause", AnnouncedServing::Paused).await;
        let running = cluster.node(1).status().await?.requests.running;
        signal(runner, "CONT")?;
        moved?;
        assert_eq!(running, 1, "it is not over yet");
        text += &rest(&mut answer).await?;
        assert_eq!(text, whole);
        Ok(())
    })
}

type Answer = Pin<Box<dyn Stream<Item = Result<String>> + Send>>;

/// The laptop asks the server's model.
async fn ask(cluster: &Cluster, model: &str) -> Result<Answer> {
    // Without the tokens that end an answer.
    let never: Map<String, Value> = (0..8).map(|token| (token.to_string(), json!(-100))).collect();
    let body = json!({
        "model": model, "prompt": "def sort(", "temperature": 0, "max_tokens": 1000,
        "stream": true, "logit_bias": never,
    });
    Ok(Box::pin(cluster.http(2).stream("/v1/completions", &body).await?))
}

/// The next words; `None` after the last.
async fn piece(answer: &mut Answer) -> Result<Option<String>> {
    while let Some(data) = answer.next().await {
        let data = data?;
        if data == "[DONE]" {
            return Ok(None);
        }
        let chunk: Value = serde_json::from_str(&data)?;
        anyhow::ensure!(chunk["error"].is_null(), "{data}");
        let text = chunk["choices"][0]["text"].as_str().unwrap_or_default();
        if !text.is_empty() {
            return Ok(Some(text.to_owned()));
        }
    }
    anyhow::bail!("the answer broke off")
}

async fn rest(answer: &mut Answer) -> Result<String> {
    let mut text = String::new();
    while let Some(more) = piece(answer).await? {
        text += &more;
    }
    Ok(text)
}

/// What the laptop does now is seen at the server: its connections are alive, not just not missed.
async fn works(cluster: &Cluster, path: &str, serving: AnnouncedServing) -> Result<()> {
    cluster.http(2).post::<Value>(path, &json!({})).await?;
    let id = cluster.id(2);
    let seen = |view: &View| {
        let said = view.peer(&id).and_then(|peer| peer.announcement.as_ref());
        said.is_some_and(|said| said.serving == serving)
    };
    cluster.until(1, &format!("{path} is seen at the server"), seen).await.map(|_| ())
}
