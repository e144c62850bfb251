//! Who may call a node, and what it does with requests that no client should send.

use agent_api::endpoint::{Access, ENDPOINTS, fill_path};
use anyhow::Result;
use edgecoder_tests::{
    http::client,
    http::{Then, raw},
    node::{Options, TestNode},
    skipped,
};
use serde_json::{Value, json};

fn bare() -> Result<TestNode> {
    Options::default().without_model().start()
}

/// The status of a raw request with these headers.
fn status_of(node: &TestNode, method: &str, path: &str, headers: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    let answer = raw(&node.http.url, request.as_bytes(), Then::Wait).expect("an answer");
    answer.split(' ').nth(1).unwrap_or("none").to_owned()
}

#[tokio::test]
async fn control_paths_need_the_token() -> Result<()> {
    let node = bare()?;
    let host = node.http.url.trim_start_matches("http://").to_owned();
    for row in ENDPOINTS {
        let method = row.method.as_str();
        let headers = format!("Host: {host}\r\nContent-Length: 0\r\n");
        let (path, _) = fill_path(row.path, json!({"id": "ab".repeat(32)}));
        let without = status_of(&node, method, &path, &headers);
        let wrong = format!("{headers}Authorization: Bearer {}\r\n", "0".repeat(64));
        match row.access {
            Access::Token => {
                assert_eq!(without, "401", "{method} {}", row.path);
                assert_eq!(status_of(&node, method, &path, &wrong), "401", "{}", row.path);
            }
            Access::Open | Access::Public => assert_eq!(without, "200", "{method} {}", row.path),
        }
    }
    for path in ["/events", "/metrics"] {
        assert_eq!(status_of(&node, "GET", path, &format!("Host: {host}\r\n")), "401", "{path}");
    }
    assert_eq!(status_of(&node, "GET", "/v1/models", &format!("Host: {host}\r\n")), "200");
    Ok(())
}

#[tokio::test]
async fn dns_rebinding_and_cross_site_requests_are_refused_even_with_the_token() -> Result<()> {
    let node = bare()?;
    let host = node.http.url.trim_start_matches("http://").to_owned();
    let token = format!("Authorization: Bearer {}\r\n", node.http.token);
    for path in ["/status", "/v1/models", "/health/runtime"] {
        for bad in [
            "Host: evil.example\r\n".to_owned(),
            format!("Host: evil.example:{}\r\n", host.rsplit(':').next().unwrap_or_default()),
            "Host: 127.0.0.1.evil.example\r\n".to_owned(),
            format!("Host: {host}\r\nOrigin: http://evil.example\r\n"),
            format!("Host: {host}\r\nOrigin: null\r\n"),
            format!("Host: {host}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"),
        ] {
            let status = status_of(&node, "GET", path, &format!("{bad}{token}"));
            assert_eq!(status, "403", "{path} with {bad}");
        }
        let own = format!("Host: {host}\r\nOrigin: http://{host}\r\n{token}");
        assert_eq!(status_of(&node, "GET", path, &own), "200", "{path} from our own page");
    }
    // A cross-site POST that a browser sends without asking first.
    let simple = format!(
        "Host: {host}\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n"
    );
    let request =
        format!("POST /v1/chat/completions HTTP/1.1\r\n{simple}Connection: close\r\n\r\n{{}}");
    let answer = raw(&node.http.url, request.as_bytes(), Then::Wait)?;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_listed_origin_may_call_and_gets_cors_headers() -> Result<()> {
    let node = bare()?;
    let origin = "https://editor.example";
    node.http.patch::<Value>("/settings", &json!({"allowed_origins": [origin]})).await?;
    let response = node.http.request("GET", "/v1/models").header("Origin", origin).send().await?;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], origin);
    let preflight =
        node.http.request("OPTIONS", "/v1/models").header("Origin", origin).send().await?;
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-origin"], origin);
    Ok(())
}

#[tokio::test]
async fn an_exposed_node_asks_other_computers_for_the_key() -> Result<()> {
    let key = "a-key-for-my-other-computer";
    let settings = json!({"version": 1, "api_key": key}).to_string();
    let options = Options::default().without_model().file("settings.json", settings.as_bytes());
    let Some(ip) = own_address() else {
        skipped("this machine has no address but loopback");
        return Ok(());
    };
    let node = options.listen("0.0.0.0:0").start()?;
    let port = node.http.url.rsplit(':').next().unwrap_or_default();
    let far = format!("http://{ip}:{port}");
    let client = client();
    let models = format!("{far}/v1/models");
    let without = client.get(&models).send().await?;
    assert_eq!(without.status(), 401);
    let error: Value = without.json().await?;
    assert_eq!(error["error"]["type"], "authentication_error");
    assert_eq!(client.get(&models).bearer_auth(key).send().await?.status(), 200);
    let status = format!("{far}/status");
    assert_eq!(
        client.get(&status).bearer_auth(key).send().await?.status(),
        401,
        "the key is not the token"
    );

    node.http.post::<Value>("/orchestration/pause", &json!({})).await?;
    let paused = client.get(&models).bearer_auth(key).send().await?;
    assert_eq!(paused.status(), 503, "paused for other computers");
    assert_eq!(node.http.request("GET", "/v1/models").send().await?.status(), 200, "not for us");
    Ok(())
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<std::net::IpAddr> {
    // Connecting a UDP socket sends nothing; it only asks the routing table.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn exposing_without_a_key_is_refused() -> Result<()> {
    let said = Options::default().listen("0.0.0.0:0").start_refused()?;
    assert!(said.contains("api_key"), "{said}");
    Ok(())
}

#[tokio::test]
async fn bad_requests_get_clear_answers_and_break_nothing() -> Result<()> {
    let node = bare()?;
    let host = node.http.url.trim_start_matches("http://").to_owned();
    let send = |request: &[u8], then| raw(&node.http.url, request, then).expect("an answer");

    let big = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999999999\r\n\r\n"
    );
    assert!(send(big.as_bytes(), Then::Wait).starts_with("HTTP/1.1 413"));
    // Does not say how long it is, and does not end.
    let mut chunked = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..9 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend_from_slice(&vec![b' '; 1 << 20]);
        chunked.extend_from_slice(b"\r\n");
    }
    let answer = send(&chunked, Then::CloseWriting);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");

    let body = b"{\"prompt\": \"\xff\xfe\"}";
    let mut not_utf8 = format!("POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    not_utf8.extend_from_slice(body);
    assert!(send(&not_utf8, Then::Wait).starts_with("HTTP/1.1 400"));

    assert!(
        send(b"\x16\x03\x01\x02\x00\x01\x00", Then::CloseWriting).len() < 500,
        "TLS to a plain port"
    );
    let half =
        format!("POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{");
    send(half.as_bytes(), Then::CloseWriting);
    assert!(send(b"GET / HTTP/1.1\r\n\r\n", Then::Wait).contains("403"), "no Host");

    for (method, path, expected) in [
        ("GET", "/nothing/here", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/status", 405),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/activity?limit=x", 400),
        ("GET", "/mesh/peers?limit=x", 400),
        ("GET", "/agent-mesh/peers/nobody", 404),
        ("GET", "/agent-mesh/peers/", 404),
    ] {
        let response = node.http.request(method, path).send().await?;
        assert_eq!(response.status(), expected, "{method} {path}");
        let body: Value = response.json().await?;
        let message = body.pointer("/error/message").or(body.get("message"));
        assert!(message.is_some_and(Value::is_string), "{method} {path}: {body}");
    }
    let (status, body) = node.http.try_post("/orchestration/pause", &json!({"for_s": -1})).await?;
    assert_eq!(status, 400, "{body}");
    node.status().await?;
    Ok(())
}

#[tokio::test]
async fn the_openapi_document_is_served_to_anyone_here() -> Result<()> {
    let node = bare()?;
    let document: Value =
        client().get(format!("{}/openapi.json", node.http.url)).send().await?.json().await?;
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/status"]["get"].is_object());
    let peer = &document["paths"]["/agent-mesh/peers/{id}"]["get"];
    assert_eq!(peer["parameters"][0]["in"], "path");
    assert!(document["paths"]["/v1/chat/completions"]["post"].is_object());
    Ok(())
}
