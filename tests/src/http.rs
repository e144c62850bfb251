//! HTTP as a test needs it: typed calls, and bytes as they are for what no client would send.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use eventsource_stream::Eventsource as _;
use futures_util::{Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::programs::PATIENCE;

/// A client for one node.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    pub url: String,
    pub token: String,
}

impl Http {
    pub fn new(url: &str, token: &str) -> Self {
        Self { client: client(), url: url.to_owned(), token: token.to_owned() }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// `GET`, with the token. An error status is an error with the body in it.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.request("GET", path).send().await?).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        read(self.request("POST", path).json(body).send().await?).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        read(self.request("PATCH", path).json(body).send().await?).await
    }

    /// Status and body of a POST, whatever they are.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let response = self.request("POST", path).json(body).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await.unwrap_or(Value::Null)))
    }

    /// The data of a stream's events.
    pub async fn stream(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<impl Stream<Item = Result<String>> + Unpin + use<>> {
        let response = self.request("POST", path).json(body).send().await?;
        let status = response.status();
        anyhow::ensure!(status.is_success(), "{status}: {}", response.text().await?);
        Ok(Box::pin(response.bytes_stream().eventsource().map(|event| Ok(event?.data))))
    }

    /// The events of `GET /events`.
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = Result<agent_api::Event>> + Unpin + use<>> {
        let response = self.request("GET", "/events").send().await?.error_for_status()?;
        let events = response.bytes_stream().eventsource();
        Ok(Box::pin(events.map(|event| Ok(serde_json::from_str(&event?.data)?))))
    }
}

/// A client for plain HTTP on loopback, without proxies and without reading certificates.
pub fn client() -> reqwest::Client {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    // Below the node's own limit: a request must not meet a connection that is just being closed.
    let client = client.pool_idle_timeout(Duration::from_secs(5));
    client.redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

async fn read<T: DeserializeOwned>(response: reqwest::Response) -> Result<T> {
    let status = response.status();
    let text = response.text().await?;
    anyhow::ensure!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("reading {text}"))
}

/// Sends bytes as they are and reads until the other side closes.
pub fn raw(url: &str, bytes: &[u8], then: Then) -> Result<String> {
    let address = url.strip_prefix("http://").context("an http url")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The other side may have answered and closed before it read everything.
    let _ = stream.write_all(bytes);
    if then == Then::CloseWriting {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What to do after the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Wait,
    CloseWriting,
}
