//! A real registry: Debian's `docker-registry` on loopback, filled through its upload API.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use reqwest::{
    Body, Client, RequestBuilder, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Who may use a registry with [`RegistryOptions::auth`], and the secret's bcrypt hash (cost 4, so
/// that a test does not wait for it).
pub const USER: &str = "tester";
pub const PASSWORD: &str = "correct horse";
const PASSWORD_HASH: &str = "$2b$04$rzx2dNg0xbGBR10oMUSdxuVNt06tAM5kp404.lGKnwtbea.pybteK";

/// Media types: <https://github.com/ollama/ollama/blob/main/docs/> and the OCI image manifest v2.
pub const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.ollama.image.";

/// Log lines read before the one that names the address; it logs a handful.
const MAX_LINES: usize = 100;

#[derive(Clone, Copy, Debug, Default)]
pub struct RegistryOptions {
    /// Only [`USER`] with [`PASSWORD`] may read and write.
    pub auth: bool,
}

#[derive(Debug)]
pub struct Registry {
    child: Child,
    home: TempDir,
    client: Client,
    auth: bool,
    /// `127.0.0.1:PORT`, as in model names.
    pub host: String,
}

/// What a layer is made of.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Content {
    pub fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }

    fn len(&self) -> Result<u64> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(path) => fs::metadata(path)?.len(),
        })
    }

    fn digest(&self) -> Result<String> {
        match self {
            Self::Bytes(bytes) => Ok(digest_of(bytes)),
            Self::File(path) => digest_of_file(path),
        }
    }

    async fn body(&self) -> Result<Body> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.clone().into(),
            Self::File(path) => file_body(path).await?,
        })
    }
}

/// What was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `127.0.0.1:PORT/library/NAME:TAG`: what to pull, and what it is called once it is here.
    pub model: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Of the layers, in their order.
    pub layers: Vec<Layer>,
    pub manifest: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Layer {
    pub digest: String,
    pub size: u64,
}

impl Pushed {
    /// All layers and the config.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum::<u64>() + CONFIG_JSON.len() as u64
    }

    /// The same model under another host: that of a proxy in front of the registry.
    pub fn at(&self, host: &str) -> String {
        let path = self.model.split_once('/').map_or("", |(_, path)| path);
        format!("{host}/{path}")
    }
}

/// The config of every model that is pushed.
pub const CONFIG_JSON: &str =
    r#"{"model_format":"gguf","model_family":"llama","model_type":"4M","file_type":"Q8_0"}"#;

impl Registry {
    /// Starts a registry with nothing in it.
    pub async fn start() -> Result<Self> {
        Self::start_with(RegistryOptions::default()).await
    }

    pub async fn start_with(options: RegistryOptions) -> Result<Self> {
        let home = TempDir::with_prefix("edgecoder-registry-")?;
        let folder = home.path().display();
        let mut config = format!(
            "version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: '127.0.0.1:0', secret: a-test}}
"
        );
        if options.auth {
            fs::write(home.path().join("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n"))?;
            config += &format!("auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n");
        }
        let config_file = home.path().join("config.yml");
        fs::write(&config_file, config)?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("docker-registry does not start; run: cargo xtask setup --tests")?;
        let host = match listening_on(&mut child) {
            Ok(host) => host,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let client = crate::http::client();
        let this = Self { child, home, client, auth: options.auth, host };
        // The listener is there, so this waits in its queue until the registry answers.
        let response = this.client.get(this.url("")).send().await?.status();
        let expected = if options.auth { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        anyhow::ensure!(response == expected, "docker-registry answers {response} on /v2/");
        Ok(this)
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://{}", self.host)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v2/{path}", self.origin())
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        if self.auth { request.basic_auth(USER, Some(PASSWORD)) } else { request }
    }

    /// Pushes a model of these layers (kind and content: `model`, `template`, `license`...) into
    /// the namespace `library`.
    pub async fn push_model(
        &self,
        name: &str,
        tag: &str,
        layers: &[(&str, Content)],
    ) -> Result<Pushed> {
        let mut pushed = Vec::new();
        for (_, content) in layers {
            pushed.push(self.push_blob(name, content).await?);
        }
        let config = self.push_blob(name, &Content::text(CONFIG_JSON)).await?;
        let kinds: Vec<_> = layers.iter().map(|(kind, _)| *kind).collect();
        let manifest = manifest(&config, &kinds, &pushed)?;
        let request = self
            .client
            .put(self.url(&format!("library/{name}/manifests/{tag}")))
            .header(CONTENT_TYPE, MANIFEST)
            .body(manifest.clone());
        expect(StatusCode::CREATED, self.authorized(request).send().await?).await?;
        Ok(Pushed {
            model: format!("{}/library/{name}:{tag}", self.host),
            digest: digest_of(&manifest),
            layers: pushed,
            manifest,
        })
    }

    /// Uploads one blob, streamed if it is a file.
    pub async fn push_blob(&self, name: &str, content: &Content) -> Result<Layer> {
        let layer = Layer { digest: content.digest()?, size: content.len()? };
        let begin = self.client.post(self.url(&format!("library/{name}/blobs/uploads/")));
        let begun = expect(StatusCode::ACCEPTED, self.authorized(begin).send().await?).await?;
        let location = begun.headers().get(LOCATION).context("a place to upload to")?.to_str()?;
        let location = if location.starts_with('/') {
            format!("{}{location}", self.origin())
        } else {
            location.to_owned()
        };
        let upload = self
            .client
            .put(location)
            .query(&[("digest", &layer.digest)])
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, layer.size)
            .body(content.body().await?);
        expect(StatusCode::CREATED, self.authorized(upload).send().await?).await?;
        Ok(layer)
    }

    /// Where a blob can be fetched from.
    pub fn blob_url(&self, name: &str, digest: &str) -> String {
        self.url(&format!("library/{name}/blobs/{digest}"))
    }

    /// Where the registry keeps its files.
    pub fn folder(&self) -> PathBuf {
        self.home.path().join("data")
    }
}

/// The manifest of a model of these layers.
pub fn manifest(config: &Layer, kinds: &[&str], layers: &[Layer]) -> Result<Vec<u8>> {
    let entries: Vec<_> = kinds
        .iter()
        .zip(layers)
        .map(|(kind, Layer { digest, size })| {
            json!({"mediaType": format!("{LAYER}{kind}"), "digest": digest, "size": size})
        })
        .collect();
    Ok(serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": entries,
    }))?)
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Port 0 takes a free port; the log says which.
fn listening_on(child: &mut Child) -> Result<String> {
    let mut log = BufReader::new(child.stderr.take().context("its log")?);
    let mut said = String::new();
    for _ in 0..MAX_LINES {
        let mut line = String::new();
        if log.read_line(&mut line)? == 0 {
            break;
        }
        if let Some((_, rest)) = line.split_once("listening on ") {
            let host = rest.split('"').next().unwrap_or_default().to_owned();
            // A full pipe would stop the registry.
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return Ok(host);
        }
        said += &line;
    }
    bail!("docker-registry does not listen: {said}")
}

async fn expect(status: StatusCode, response: Response) -> Result<Response> {
    let got = response.status();
    if got == status {
        return Ok(response);
    }
    let (url, text) = (response.url().clone(), response.text().await?);
    bail!("docker-registry answers {got} instead of {status} for {url}: {text}")
}

async fn file_body(path: &Path) -> Result<Body> {
    use tokio::io::AsyncReadExt as _;
    let file = tokio::fs::File::open(path).await?;
    let pieces = futures_util::stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; 1 << 20];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then_some((piece, file)))
    });
    Ok(Body::wrap_stream(pieces))
}

/// `sha256:` and 64 hexadecimal digits.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The same for a file of any size.
pub fn digest_of_file(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(format!("sha256:{}", hex::encode(hash.finalize())));
        }
        hash.update(&piece[..read]);
    }
}
