//! Talking to the node that runs on a data directory.

use std::{fs, time::Duration};

use agent_api::{
    ApiError,
    endpoint::{Endpoint, Method, fill_path},
    pull::PullId,
};
use agent_core::{config::Config, node::running_holder};
use anyhow::{Context as _, bail};
use reqwest::{Client as Http, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::args::DataDir;

pub(crate) struct Client {
    http: Http,
    url: String,
    token: String,
}

impl Client {
    /// Finds the running node through its lock file and token.
    pub(crate) fn connect(data: DataDir) -> anyhow::Result<Self> {
        let paths = Config::resolve(data.data_dir, None)?.paths;
        let dir = paths.data_dir.display();
        // Only a lock that is held names a node that lives: the token goes to nobody else.
        let holder = running_holder(&paths.lock()).filter(|holder| !holder.url.is_empty());
        let Some(holder) = holder else {
            bail!("no node runs on {dir}. Start one with: edgecoder-node run");
        };
        let token = fs::read_to_string(paths.token())
            .with_context(|| format!("cannot read the token {}", paths.token().display()))?;
        // An error means that one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Http::builder()
            .no_proxy()
            // The node is on this machine and speaks plain HTTP: no certificates need to be read.
            .tls_certs_only([])
            .connect_timeout(Duration::from_secs(3))
            .build()
            .context("cannot make an HTTP client")?;
        Ok(Self { http, url: holder.url, token: token.trim().to_owned() })
    }

    pub(crate) async fn call<E: Endpoint>(
        &self,
        request: &E::Request,
    ) -> anyhow::Result<E::Response> {
        let (path, rest) = fill_path(E::PATH, serde_json::to_value(request)?);
        let path = self.path(&path);
        let request = match E::METHOD {
            Method::Get => self.http.get(path).query(&query(&rest)),
            Method::Post => self.http.post(path).json(&rest),
            Method::Patch => self.http.patch(path).json(&rest),
        };
        let response = self.send(request).await?;
        response.json().await.context("the node's answer makes no sense; are both of one version?")
    }

    /// One pull as server-sent events, until it is settled. Not in the endpoint table because its
    /// answer is not one value.
    pub(crate) async fn pull_stream(&self, pull: &PullId) -> anyhow::Result<Response> {
        self.send(self.http.get(self.path("/model/pull/stream")).query(pull)).await
    }

    pub(crate) async fn post<T: serde::Serialize>(
        &self,
        path: &str,
        body: &T,
    ) -> anyhow::Result<Response> {
        self.send(self.http.post(self.path(path)).json(body)).await
    }

    /// For answers that are not one document.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.send(self.http.get(self.path(path))).await
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.bearer_auth(&self.token).send().await.with_context(|| {
            format!("the node at {} does not answer. Start one with: edgecoder-node run", self.url)
        })?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        let own = serde_json::from_str::<ApiError>(&text).map(|e| e.message);
        let openai =
            serde_json::from_str::<agent_api::openai::ErrorBody>(&text).map(|e| e.error.message);
        match own.or(openai) {
            Ok(message) => bail!("{message}"),
            Err(_) => bail!("the node answered {status}"),
        }
    }
}

/// Fields as a query; what is not given is left out.
fn query(request: &Value) -> Vec<(&str, String)> {
    let fields = request.as_object().into_iter().flatten();
    let given = fields.filter(|(_, value)| !value.is_null());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    given.map(|(name, value)| (name.as_str(), text(value))).collect()
}
