//! What a node is started with, and every limit with its reason.
//!
//! [`Config`] is made once by the host and never changes. The owner's choices that change while
//! the node runs are the [`Settings`](agent_api::Settings), kept in `settings.json`.

mod mesh_rules;
mod settings_file;
mod settings_rules;
mod task_rules;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
};

pub use mesh_rules::is_url;
pub use settings_file::{SettingsError, load_settings, save_settings};
pub use settings_rules::{apply_patch, validate};

use agent_api::Settings;

use crate::logging::LogRing;

/// Named bounds. A queue or table without an entry here is a defect.
pub mod limits {
    use std::time::Duration;

    /// Largest request body: 8 MiB is 2 million tokens of text, above any context we can load.
    pub const BODY_BYTES: usize = 8 << 20;
    /// HTTP connections at the same time; an editor holds a few, a browser six.
    pub const CONNECTIONS: usize = 256;
    /// A client has this long to send its request head, so that idle sockets cannot pile up.
    pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
    /// A body that stops arriving for this long ends its request, so that no connection is held for
    /// ever by a client that promised more than it sends.
    pub const BODY_IDLE: Duration = Duration::from_secs(30);
    /// Requests waiting for a slot; the next one is told to come back later.
    pub const WAITING_REQUESTS: usize = 128;
    /// How long a request waits for a runner that is being started again.
    pub const RUNNER_WAIT: Duration = Duration::from_secs(30);
    /// Pieces of one answer that wait for a slow client. A context's worth of tokens fits, so
    /// only a client that stopped reading a very long answer is cut off.
    pub const ANSWER_PIECES: usize = 16 * 1024;
    /// Events that wait for a slow listener before it is told to ask again.
    pub const EVENT_BACKLOG: usize = 256;
    /// Listeners of `/events` at the same time.
    pub const EVENT_LISTENERS: usize = 64;
    /// Writes that wait for the database before the sender waits too.
    pub const STORAGE_QUEUE: usize = 1024;
    /// Writes that share one commit.
    pub const GROUP_COMMIT: usize = 256;
    /// Lines of the activity feed that are kept: weeks of an ordinary owner's use.
    pub const ACTIVITY_ROWS: i64 = 5_000;
    /// Finished requests that are kept for the counters and for the owner to look back on.
    pub const REQUEST_ROWS: i64 = 100_000;
    /// Log lines kept in memory for `/logs`.
    pub const LOG_LINES: usize = 2_000;
    /// Longest text of one log line kept in memory.
    pub const LOG_LINE_BYTES: usize = 2_048;
    /// Each of the two log files of the desktop app.
    pub const LOG_FILE_BYTES: usize = 5 << 20;
    /// Everything has to be over this long after a stop was asked for.
    pub const SHUTDOWN: Duration = Duration::from_secs(10);
    /// Share of it that requests in flight get to finish.
    pub const DRAIN: Duration = Duration::from_secs(7);
    /// A runner that has not loaded a model by then is taken for hung. Loading reads the file
    /// once: ten minutes is 100 GB from a slow disk.
    pub const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
    /// A new runner has to say hello by then.
    pub const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
    /// A paused node frees its model when it was not used for this long.
    pub const PAUSED_KEEP_ALIVE: Duration = Duration::from_secs(30);
    /// Longest timed pause: a week. Longer ones are better said as "until I resume".
    pub const PAUSE_SECONDS: u64 = 7 * 24 * 60 * 60;
    /// Model files listed from the owner's folder.
    pub const LISTED_MODELS: usize = 1_000;
    /// Choices of one request (`n`).
    pub const CHOICES: i64 = 8;
    /// Prompts of one text completion request, each with its own choices.
    pub const PROMPTS: usize = 32;
    /// Stop strings of one request. OpenAI allows four; local tools send more.
    pub const STOP_STRINGS: usize = 16;
    /// Inputs of one embedding request, as OpenAI.
    pub const EMBEDDING_INPUTS: usize = 2_048;
    /// Messages of one chat request.
    pub const CHAT_MESSAGES: usize = 4_096;
    /// Tools of one chat request, as OpenAI.
    pub const CHAT_TOOLS: usize = 128;
    /// Seeds in the settings: each is asked at every start.
    pub const MESH_SEEDS: usize = 16;
    /// Relays in the settings: a connection is kept to one, the others are measured.
    pub const MESH_RELAYS: usize = 8;
    /// Longest address of a seed or relay; announcements carry it.
    pub const MESH_URL_BYTES: usize = 128;
    /// Longest time zone name; the longest of today has 32 letters.
    pub const REGION_BYTES: usize = 64;
    /// Share of `SHUTDOWN` in which the mesh says goodbye. One round trip to the other side of the
    /// world is 0.3 s.
    pub const MESH_GOODBYE: Duration = Duration::from_secs(3);
}

/// Where everything of one node lies.
#[derive(Clone, Debug)]
pub struct Paths {
    pub data_dir: PathBuf,
}

impl Paths {
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("edgecoder.db")
    }
    pub fn settings(&self) -> PathBuf {
        self.data_dir.join("settings.json")
    }
    /// The node's secret key, 0600.
    pub fn node_key(&self) -> PathBuf {
        self.data_dir.join("node.key")
    }
    /// The token of the control paths, 0600.
    pub fn token(&self) -> PathBuf {
        self.data_dir.join("token")
    }
    /// Names and secrets for private registries, 0600.
    pub fn credentials(&self) -> PathBuf {
        self.data_dir.join("credentials.json")
    }
    /// Held while a node runs; says which.
    pub fn lock(&self) -> PathBuf {
        self.data_dir.join("node.lock")
    }
    /// Where the owner puts GGUF files.
    pub fn models(&self) -> PathBuf {
        self.data_dir.join("models")
    }
    pub fn log_file(&self) -> PathBuf {
        self.data_dir.join("logs").join("edgecoder.log")
    }
}

/// UDP port of a seed's mesh, unless the owner chose one: others have to find it again.
pub const SEED_PORT: u16 = 4302;

/// The extra work of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedConfig {
    /// Where its relay listens for HTTP; `None`: it runs none.
    pub relay: Option<SocketAddr>,
    /// The URL under which others reach that relay, if it is not `http://` and the address.
    pub relay_url: Option<String>,
    /// Where its DHT node listens, UDP; `None`: it runs none.
    pub dht: Option<SocketAddr>,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Config {
    pub paths: Paths,
    /// Overrides `Settings::listen` for this run.
    pub listen: Option<SocketAddr>,
    /// Where the mesh binds UDP, instead of the settings' port on all interfaces.
    pub mesh_bind: Option<SocketAddr>,
    /// Seeds to ask besides those in the settings, for this run.
    pub mesh_seeds: Vec<String>,
    /// Present: this node is a seed.
    pub seed: Option<SeedConfig>,
    /// The runner program, if one was found.
    pub runner: Option<PathBuf>,
    /// The sandbox program, if one was found.
    pub sandbox: Option<PathBuf>,
    /// The folder with the model that ships.
    pub assets_dir: Option<PathBuf>,
    /// The built page, served at `/`.
    pub ui_dir: Option<PathBuf>,
    pub logs: LogRing,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot tell where to keep data: no home directory. Pass --data-dir")]
    NoHome,
}

impl Config {
    /// Finds the data directory, the runner, the model that ships and the page.
    ///
    /// Each may be given by an environment variable (`EDGECODER_DATA_DIR`, `EDGECODER_RUNNER_BIN`,
    /// `EDGECODER_SANDBOX_BIN`, `EDGECODER_ASSETS_DIR`, `EDGECODER_UI_DIR`); else they are where a package puts them,
    /// relative to the program.
    pub fn resolve(
        data_dir: Option<PathBuf>,
        listen: Option<SocketAddr>,
    ) -> Result<Self, ConfigError> {
        let data_dir = data_dir
            .or_else(|| env::var_os("EDGECODER_DATA_DIR").map(PathBuf::from))
            .or_else(default_data_dir)
            .ok_or(ConfigError::NoHome)?;
        let exe_dir = env::current_exe().ok().and_then(|exe| {
            let exe = exe.canonicalize().unwrap_or(exe);
            exe.parent().map(Path::to_path_buf)
        });
        Ok(Self {
            paths: Paths { data_dir },
            listen,
            mesh_bind: None,
            mesh_seeds: Vec::new(),
            seed: None,
            runner: find(
                "EDGECODER_RUNNER_BIN",
                exe_dir.as_deref(),
                &["edgecoder-runner", "../lib/edgecoder/edgecoder-runner"],
            ),
            sandbox: find(
                "EDGECODER_SANDBOX_BIN",
                exe_dir.as_deref(),
                &["edgecoder-sandbox", "../lib/edgecoder/edgecoder-sandbox"],
            ),
            assets_dir: find(
                "EDGECODER_ASSETS_DIR",
                exe_dir.as_deref(),
                &["../lib/edgecoder/models", "../Resources/models"],
            ),
            ui_dir: find(
                "EDGECODER_UI_DIR",
                exe_dir.as_deref(),
                &["../lib/edgecoder/ui", "../Resources/ui"],
            ),
            logs: LogRing::default(),
        })
    }

    /// The settings as they hold for this run: with what the host was started with.
    pub fn in_force(&self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        let mesh = &mut settings.mesh;
        let saved = std::mem::replace(&mut mesh.seeds, self.mesh_seeds.clone());
        for seed in saved {
            if !mesh.seeds.contains(&seed) {
                mesh.seeds.push(seed);
            }
        }
        mesh.seeds.truncate(limits::MESH_SEEDS);
        if self.seed.is_some() && mesh.port == 0 {
            mesh.port = SEED_PORT;
        }
        settings
    }

    /// The desktop app takes its address from the settings.
    pub fn for_desktop(data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        Self::resolve(data_dir, None)
    }
}

fn find(variable: &str, exe_dir: Option<&Path>, places: &[&str]) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(PathBuf::from(path));
    }
    let exe_dir = exe_dir?;
    places.iter().map(|place| exe_dir.join(place)).find(|path| path.exists())
}

fn default_data_dir() -> Option<PathBuf> {
    let dirs = directories::ProjectDirs::from("dev", "", "EdgeCoder")?;
    Some(dirs.data_local_dir().to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_was_started_with_holds_for_this_run_only() {
        let mut config = Config::resolve(Some(PathBuf::from("/nowhere")), None).expect("resolves");
        let mut settings = Settings::default();
        settings.mesh.seeds = vec!["https://a.example".into(), "https://b.example".into()];
        assert_eq!(config.in_force(&settings), settings);

        config.mesh_seeds = vec!["https://c.example".into(), "https://b.example".into()];
        config.seed = Some(SeedConfig { relay: None, relay_url: None, dht: None });
        let in_force = config.in_force(&settings).mesh;
        assert_eq!(in_force.seeds, ["https://c.example", "https://b.example", "https://a.example"]);
        assert_eq!(in_force.port, SEED_PORT);
        assert_eq!((settings.mesh.seeds.len(), settings.mesh.port), (2, 0), "nothing to be saved");

        settings.mesh.port = 9_000;
        assert_eq!(config.in_force(&settings).mesh.port, 9_000, "the owner chose one");
    }
}
