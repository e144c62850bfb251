//! Against a real registry: Debian's `docker-registry`, on a free port of this computer.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use agent_api::pull::PullState;
use bytes::Bytes;

use super::{Bench, MIB, mock::layer_json, model_bytes};
use crate::models::{
    manifest::{Digest, MANIFEST_TYPE, Manifest},
    registry::credentials::Login,
};

struct Registry {
    child: Child,
    base: String,
    client: reqwest::Client,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// `None` where it is not installed. With a password file it wants a login for everything.
    async fn start(dir: &Path, htpasswd: Option<&Path>) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("a port");
        let auth = htpasswd.map_or_else(String::new, |path| {
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {free}\n{auth}",
            dir.join("registry").display()
        );
        let path = dir.join("registry.yml");
        std::fs::write(&path, config).expect("writes");
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(e) => {
                println!("skipped: docker-registry does not start here: {e}");
                return None;
            }
        };
        crate::models::registry::install_crypto();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let registry = Self { child, base: format!("http://{free}"), client };
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while registry.client.get(format!("{}/v2/", registry.base)).send().await.is_err() {
            assert!(std::time::Instant::now() < deadline, "the registry does not answer");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Some(registry)
    }

    fn name(&self, model: &str) -> String {
        format!("{}/library/{model}:latest", self.base.trim_start_matches("http://"))
    }

    async fn push(
        &self,
        model: &str,
        layers: &[(&str, &Bytes)],
        login: Option<(&str, &str)>,
    ) -> Manifest {
        let with = |request: reqwest::RequestBuilder| match login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let repository = format!("{}/v2/library/{model}", self.base);
        let mut texts = Vec::new();
        for (kind, bytes) in layers {
            let digest = Digest::of(bytes).to_string();
            let begun = with(self.client.post(format!("{repository}/blobs/uploads/")));
            let begun = begun.send().await.expect("begins an upload");
            let location = begun.headers()["location"].to_str().expect("is text").to_owned();
            let join = if location.contains('?') { '&' } else { '?' };
            let put = with(self.client.put(format!("{location}{join}digest={digest}")));
            let put = put.body((*bytes).clone()).send().await.expect("uploads");
            assert!(put.status().is_success(), "{}", put.status());
            texts.push(layer_json(kind, &digest, bytes.len() as u64));
        }
        let config = texts
            .first()
            .expect("a layer")
            .replace("vnd.ollama.image.params", "vnd.docker.container.image.v1+json");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{config},"layers":[{}]}}"#,
            texts[1..].join(",")
        );
        let put = with(self.client.put(format!("{repository}/manifests/latest")));
        let put = put.header("content-type", MANIFEST_TYPE).body(text.clone()).send().await;
        let put = put.expect("uploads the manifest");
        assert!(put.status().is_success(), "{}", put.text().await.unwrap_or_default());
        Manifest::parse(text.into_bytes()).expect("a manifest")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_registry_serves_a_model_and_says_what_it_has_not() {
    let dir = tempfile::tempdir().expect("temp dir");
    let Some(registry) = Registry::start(dir.path(), None).await else { return };
    let weights = model_bytes(40 * MIB);
    let (config, license) =
        (Bytes::from(r#"{"model_format":"gguf"}"#), Bytes::from("Apache License 2.0"));
    let layers = [("params", &config), ("model", &weights), ("license", &license)];
    let manifest = registry.push("demo", &layers, None).await;
    let bench = Bench::open(dir.path()).await;
    let preview = bench.pulls.preview(&registry.name("demo")).await.expect("a preview");
    assert_eq!(preview.size_bytes, manifest.size());
    assert_eq!(preview.license.as_deref(), Some("Apache License 2.0"));
    let pull = bench.pull(&registry.name("demo")).await;
    assert_eq!(pull.state, PullState::Done, "{}", pull.reason);
    assert_eq!(bench.installed(&registry.name("demo")), Some(manifest.clone()));
    assert!(bench.blob(&weights) == weights);
    assert_eq!(bench.received(), manifest.size());
    let missing = bench.pull(&registry.name("other")).await;
    assert!(missing.reason.contains("has no"), "{}", missing.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_registry_is_read_with_a_login_and_not_without() {
    let dir = tempfile::tempdir().expect("temp dir");
    // `me` and `secret`, as `htpasswd -B` writes it.
    let htpasswd = dir.path().join("htpasswd");
    let line = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
    std::fs::write(&htpasswd, line).expect("writes");
    let Some(registry) = Registry::start(dir.path(), Some(&htpasswd)).await else { return };
    let weights = model_bytes(9 * MIB);
    let config = Bytes::from("{}");
    let layers = [("params", &config), ("model", &weights)];
    registry.push("demo", &layers, Some(("me", "secret"))).await;
    let bench = Bench::open(dir.path()).await;
    let refused = bench.pull(&registry.name("demo")).await;
    assert!(refused.reason.contains("Log in to 127.0.0.1"), "{}", refused.reason);
    let host = registry.base.trim_start_matches("http://");
    let login = Login { username: "me".into(), secret: "secret".into() };
    bench.credentials.set(host, login).expect("keeps");
    bench.pulls.resume(&refused.id).await.expect("resumes");
    bench.until(&refused.id, |pull| pull.state == PullState::Done).await;
}
