//! `edgecoder-node model`, end to end.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use agent_api::{
    models::{ModelDetails, ModelList, ModelState, ModelStatus},
    pull::{Pull, PullState},
};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    fault_proxy::{Fault, FaultProxy, Rule},
    node::{Options, TestNode, eventually, signal, wait},
    programs::{self, demo_model},
    pulls::{self, PART},
    registry::{self, Content, Registry, RegistryOptions},
};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(node: &TestNode, args: &[&str]) -> Command {
    let mut command = Command::new(programs::node());
    command.arg("model").args(args).arg("--data-dir").arg(node.options.data_dir());
    command
}

fn run(node: &TestNode, args: &[&str]) -> Said {
    let output = command(node, args).stdin(Stdio::null()).output().expect("runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs what has to succeed; gives what it prints on stdout.
fn ok(node: &TestNode, args: &[&str]) -> String {
    let said = run(node, args);
    assert_eq!(said.code, Some(0), "{args:?}: {}{}", said.out, said.err);
    said.out
}

#[tokio::test]
async fn a_model_is_pulled_listed_swapped_to_and_removed_from_the_command_line() -> Result<()> {
    let registry = Registry::start().await?;
    let layers = [("model", Content::File(demo_model())), ("license", Content::text("MIT"))];
    let pushed = registry.push_model("tiny", "v1", &layers).await?;
    let node = Options::default().start()?;
    let demo = node.model().await?;
    let model = pushed.model.as_str();

    let fit = ok(&node, &["fit", &demo_model().display().to_string(), "--context", "256"]);
    assert!(fit.contains("Cache:") && fit.contains("256 tokens"), "{fit}");
    let said = run(&node, &["pull", model]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains("Size:") && said.out.contains("Fit:"), "a preview: {}", said.out);
    assert!(said.out.contains("is here"), "{}", said.out);
    assert!(!said.err.contains('\u{1b}'), "plain lines where no terminal is: {}", said.err);
    assert!(said.err.lines().count() <= 20, "a short log: {}", said.err);
    let again = ok(&node, &["pull", model]);
    assert!(again.contains("already here"), "{again}");

    let list = ok(&node, &["list"]);
    assert!(list.starts_with("NAME") && list.contains(model), "{list}");
    let list: ModelList = serde_json::from_str(&ok(&node, &["list", "--json"]))?;
    assert!(list.models.iter().any(|installed| installed.id == model));
    let fit = ok(&node, &["fit", model]);
    assert!(fit.contains("fits"), "{fit}");
    let details: ModelDetails = serde_json::from_str(&ok(&node, &["show", model, "--json"]))?;
    assert_eq!(details.model.digest.as_deref(), Some(pushed.digest.as_str()));
    assert!(ok(&node, &["verify", model]).contains("as it should be"));

    let swapped = ok(&node, &["swap", model]);
    assert!(swapped.contains("memory") && swapped.contains("is ready"), "{swapped}");
    let status: ModelStatus = node.http.get("/model/status").await?;
    let active = status.active.as_ref().map(|active| active.id.as_str());
    assert_eq!((status.state, active), (ModelState::Ready, Some(model)), "it waited");
    assert!(ok(&node, &["cp", model, "second"]).contains("second"));
    ok(&node, &["swap", &demo]);
    // The copy keeps the layers, so only removing both frees them.
    ok(&node, &["rm", model]);
    let freed = ok(&node, &["rm", "second"]);
    assert!(freed.contains("MB freed"), "{freed}");
    assert!(!ok(&node, &["list"]).contains("second"));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_pulled_ends_with_1_and_a_sentence() -> Result<()> {
    let registry = Registry::start().await?;
    let node = Options::default().without_model().start()?;
    let missing = format!("{}/library/nothing:latest", registry.host);
    for (args, word) in [
        (&["pull", missing.as_str()][..], "nothing"),
        (&["pull", "../../etc/passwd"], "name"),
        (&["show", "nothing"], "nothing"),
        (&["rm", "nothing", "--yes"], "nothing"),
        (&["swap", "nothing"], "nothing"),
        (&["pulls", "--cancel", "nothing"], "nothing"),
        (&["import", "/nowhere/model.gguf"], "/nowhere/model.gguf"),
    ] {
        let said = run(&node, args);
        assert_eq!(said.code, Some(1), "{args:?}: {}{}", said.out, said.err);
        assert!(said.err.contains(word) && said.err.trim().lines().count() == 1, "{}", said.err);
    }
    Ok(())
}

// The proxy has to serve while this thread waits for a command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_leaves_the_pull_to_the_node_and_says_how_to_end_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = pulls::medium_model(folder.path())?;
    let registry = Registry::start().await?;
    let pushed = registry.push_model("medium", "v1", &[("model", Content::File(file))]).await?;
    let proxy = FaultProxy::start(&registry.origin()).await?;
    proxy.rule(Rule::on("/blobs/", Fault::StallAfter(0)).get().from_byte(PART));
    let node = Options::default().without_model().start()?;
    let model = pushed.at(&proxy.host);
    let mut child = command(&node, &["pull", &model])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    eventually("the pull is under way", || async {
        pulls::all(&node).await.is_ok_and(|all| all.iter().any(|pull| pull.done_bytes >= PART))
    })
    .await?;
    signal(child.id(), "INT")?;
    let code = wait(&mut child)?.code();
    let mut err = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().context("stderr")?, &mut err)?;
    assert_eq!(code, Some(130), "{err}");
    let pull = pulls::all(&node).await?.pop().context("the pull is still there")?;
    assert!(!pull.state.is_settled(), "{pull:?}");
    assert!(err.contains("--cancel") && err.contains(&pull.id), "{err}");

    let listed = ok(&node, &["pulls"]);
    assert!(listed.contains(&pull.id) && listed.contains(&model), "{listed}");
    ok(&node, &["pulls", "--pause", &pull.id]);
    assert_eq!(pulls::settled(&node, &pull.id).await?.state, PullState::Paused);
    proxy.clear_rules();
    proxy.release();
    ok(&node, &["pulls", "--resume", &model]);
    let finished: Pull = serde_json::from_str(&ok(&node, &["pull", &model, "--json"]))?;
    assert_eq!(finished.state, PullState::Done);
    Ok(())
}

#[tokio::test]
async fn a_login_comes_from_stdin_and_opens_a_private_registry() -> Result<()> {
    let registry = Registry::start_with(RegistryOptions { auth: true }).await?;
    let layers = [("model", Content::File(demo_model()))];
    let pushed = registry.push_model("tiny", "v1", &layers).await?;
    let node = Options::default().without_model().start()?;
    assert_eq!(run(&node, &["pull", &pushed.model]).code, Some(1));
    let none = run(&node, &["login", &registry.host]);
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("--username"), "{}", none.err);

    let args = ["login", &registry.host, "--username", registry::USER, "--password-stdin"];
    let mut child = command(&node, &args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    writeln!(stdin, "{}", registry::PASSWORD)?;
    drop(stdin);
    assert!(wait(&mut child)?.success());
    ok(&node, &["pull", &pushed.model]);
    Ok(())
}

#[tokio::test]
async fn without_a_node_every_model_command_says_how_to_start_one() -> Result<()> {
    let options = Options::default();
    for args in [&["list"][..], &["pull", "x"], &["rm", "x"], &["pulls"], &["search", "code"]] {
        let output = Command::new(programs::node())
            .arg("model")
            .args(args)
            .arg("--data-dir")
            .arg(options.data_dir())
            .output()?;
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(err.contains("edgecoder-node run"), "{args:?}: {err}");
    }
    Ok(())
}
