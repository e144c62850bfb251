//! What the tests of pulls stand on: that the registry serves what was pushed, and that the proxy
//! breaks it as it says.

use anyhow::{Context as _, Result};
use edgecoder_tests::{
    fault_proxy::{Fault, FaultProxy, Rule},
    http,
    node::Options,
    pulls::{self, PART},
    registry::{self, Content, Pushed, Registry, RegistryOptions, digest_of},
};
use futures_util::StreamExt as _;

const LENGTH: u64 = 300_000;

fn bytes() -> Vec<u8> {
    (0..LENGTH).map(|i| u8::try_from(i % 251).unwrap_or_default()).collect()
}

async fn started() -> Result<(Registry, FaultProxy, Pushed, String)> {
    let registry = Registry::start().await?;
    let layers = [("model", Content::Bytes(bytes())), ("license", Content::text("MIT"))];
    let pushed = registry.push_model("some", "v1", &layers).await?;
    let proxy = FaultProxy::start(&registry.origin()).await?;
    let path = registry.blob_url("some", &pushed.layers[0].digest);
    let url = path.replace(&registry.host, &proxy.host);
    Ok((registry, proxy, pushed, url))
}

async fn get(url: &str, range: &str) -> Result<(u16, Vec<u8>)> {
    let response = http::client().get(url).header("range", range).send().await?;
    Ok((response.status().as_u16(), response.bytes().await?.to_vec()))
}

#[tokio::test]
async fn the_registry_serves_what_was_pushed_and_ranges_of_it() -> Result<()> {
    let (registry, proxy, pushed, url) = started().await?;
    let manifest = format!("{}/v2/library/some/manifests/v1", proxy.origin());
    let answer = http::client().get(manifest).header("accept", registry::MANIFEST).send().await?;
    assert_eq!(digest_of(&answer.bytes().await?), pushed.digest);
    let whole = http::client().get(&url).send().await?.bytes().await?;
    assert_eq!(digest_of(&whole), pushed.layers[0].digest);
    assert_eq!(get(&url, "bytes=100-199").await?, (206, bytes()[100..200].to_vec()));
    let digest = &pushed.layers[0].digest;
    assert_eq!(proxy.ranges(digest), [(0, None, LENGTH), (100, Some(199), 100)]);
    assert_eq!(proxy.sent(digest), LENGTH + 100);
    drop(registry);
    Ok(())
}

#[tokio::test]
async fn a_private_registry_lets_only_its_user_in() -> Result<()> {
    let registry = Registry::start_with(RegistryOptions { auth: true }).await?;
    let pushed = registry.push_model("some", "v1", &[("model", Content::Bytes(bytes()))]).await?;
    let url = registry.blob_url("some", &pushed.layers[0].digest);
    let anonymous = http::client().get(&url).send().await?;
    assert_eq!(anonymous.status(), 401);
    let known = http::client().get(&url).basic_auth(registry::USER, Some(registry::PASSWORD));
    assert_eq!(known.send().await?.bytes().await?, bytes());
    Ok(())
}

#[tokio::test]
async fn the_proxy_drops_flips_and_lies_where_it_is_told_to() -> Result<()> {
    let (_registry, proxy, _, url) = started().await?;
    proxy.rule(Rule::on("/blobs/", Fault::DropAfter(1_000)).times(1));
    let dropped = http::client().get(&url).send().await?;
    assert!(dropped.bytes().await.is_err(), "the connection breaks");
    assert_eq!(proxy.seen()[0].sent, 1_000);

    proxy.clear_rules();
    proxy.rule(Rule::on("/blobs/", Fault::FlipByte(150)).times(1));
    let (_, before) = get(&url, "bytes=0-99").await?;
    assert_eq!(before, &bytes()[..100], "not where the byte is");
    let (_, flipped) = get(&url, "bytes=100-199").await?;
    let differ: Vec<_> = (0..100).filter(|&i| flipped[i] != bytes()[100 + i]).collect();
    assert_eq!(differ, [50]);
    assert_eq!(get(&url, "bytes=100-199").await?.1, &bytes()[100..200], "once only");

    proxy.clear_rules();
    proxy.rule(Rule::on("/blobs/", Fault::WrongRange).times(1));
    let lie = http::client().get(&url).header("range", "bytes=100-199").send().await?;
    assert_eq!(lie.headers()["content-range"], format!("bytes 101-200/{LENGTH}"));

    proxy.rule(Rule::on("/blobs/", Fault::LongerLength(10)).times(1));
    let longer = http::client().get(&url).send().await?;
    assert_eq!(longer.content_length(), Some(LENGTH + 10));
    assert!(longer.bytes().await.is_err(), "the rest never comes");

    proxy.clear_rules();
    proxy.rule(Rule::on("/blobs/", Fault::IgnoreRange).times(1));
    assert_eq!(get(&url, "bytes=100-199").await?, (200, bytes()));
    Ok(())
}

#[tokio::test]
async fn statuses_count_and_rules_have_an_order() -> Result<()> {
    let (_registry, proxy, _, url) = started().await?;
    proxy.rule(Rule::on("/blobs/", Fault::Status(429, Some(7))).skip(1).times(1));
    proxy.rule(Rule::on("/blobs/", Fault::Redirect("file:///etc/passwd".into())).skip(1).times(1));
    let mut said = Vec::new();
    for _ in 0..4 {
        let answer = http::client().get(&url).send().await?;
        let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let more = header("retry-after").or(header("location")).unwrap_or_default().to_owned();
        said.push((answer.status().as_u16(), more));
    }
    let expected = [(200, ""), (429, "7"), (307, "file:///etc/passwd"), (200, "")];
    assert_eq!(said, expected.map(|(status, more)| (status, more.to_owned())));
    Ok(())
}

#[tokio::test]
async fn a_stalled_answer_waits_to_be_released() -> Result<()> {
    let (_registry, proxy, pushed, url) = started().await?;
    proxy.rule(Rule::on("/blobs/", Fault::StallAfter(1_000)).from_byte(500));
    assert_eq!(get(&url, "bytes=0-9").await?.1.len(), 10, "only from byte 500 on");
    let response = http::client().get(&url).header("range", "bytes=1000-").send().await?;
    let mut body = response.bytes_stream();
    let mut got = Vec::new();
    while got.len() < 1_000 {
        got.extend(body.next().await.context("a piece")??);
    }
    proxy.wait_until("the first bytes", |seen| seen.iter().any(|s| s.sent == 1_000)).await?;
    proxy.release();
    while let Some(piece) = body.next().await {
        got.extend(piece?);
    }
    assert_eq!(got, &bytes()[1_000..]);
    assert_eq!(proxy.sent(&pushed.layers[0].digest), LENGTH - 1_000 + 10);
    Ok(())
}

#[tokio::test]
async fn a_token_is_given_to_who_knows_the_secret() -> Result<()> {
    let (_registry, proxy, _, url) = started().await?;
    proxy.rule(Rule::on("/v2/", Fault::NeedsToken));
    proxy.token_for("ada", "secret");
    let refused = http::client().get(&url).send().await?;
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str()?.to_owned();
    assert!(challenge.starts_with("Bearer realm=\"http://"), "{challenge}");
    let token = |secret: &'static str| {
        http::client()
            .get(format!("{}/token", proxy.origin()))
            .basic_auth("ada", Some(secret))
            .send()
    };
    assert_eq!(token("wrong").await?.status(), 401);
    let given: serde_json::Value = token("secret").await?.json().await?;
    assert_eq!(given["token"], proxy.token());
    let known = http::client().get(&url).bearer_auth(proxy.token()).send().await?;
    assert_eq!(known.bytes().await?, bytes());
    Ok(())
}

#[tokio::test]
async fn a_file_is_streamed_into_the_registry_and_the_model_in_it_loads() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = pulls::medium_model(folder.path())?;
    let size = std::fs::metadata(&file)?.len();
    assert!(size > 3 * PART && size < 4 * PART, "four parts: {size}");
    let registry = Registry::start().await?;
    let pushed =
        registry.push_model("medium", "v1", &[("model", Content::File(file.clone()))]).await?;
    let url = registry.blob_url("medium", &pushed.layers[0].digest);
    let fetched = http::client().get(url).send().await?.bytes().await?;
    assert_eq!(digest_of(&fetched), pushed.layers[0].digest);

    let node = Options::default().without_model().file("models/medium.gguf", &fetched).start()?;
    let model = node.model().await?;
    let answer = pulls::chat(&node, &model).await?;
    assert!(answer["choices"][0]["message"].is_object(), "{answer}");
    Ok(())
}
