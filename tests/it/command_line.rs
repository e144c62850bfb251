//! The command line contract that scripts rely on.

use std::process::Command;

use agent_api::{
    mesh::{Mesh, MeshState},
    node::Status,
};
use anyhow::Result;
use edgecoder_tests::{
    node::{Options, TestNode, is_alive},
    programs,
};
use serde_json::{Value, json};

fn run(node: &TestNode, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(programs::node())
        .args(args)
        .arg("--data-dir")
        .arg(node.options.data_dir())
        .output()
        .expect("runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_first_line_says_where_the_node_is_and_sigterm_ends_it_with_0() -> Result<()> {
    let node = Options::default().start()?;
    let status = node.status().await?;
    assert_eq!(status.node.node_id.0, node.node_id);
    assert_eq!(status.node.url, node.http.url);
    let ready = node.model().await?;
    assert_eq!(ready, "edgecoder-demo-4m");
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    let (exit, _) = node.stop()?;
    assert_eq!(exit.code(), Some(0));
    assert!(!is_alive(runner), "the runner ends with the node");
    Ok(())
}

#[tokio::test]
async fn status_ask_and_logs_talk_to_the_running_node() -> Result<()> {
    let node = Options::default().start()?;
    node.model().await?;
    let (ok, out, err) = run(&node, &["status"]);
    assert!(ok && out.contains("ready") && out.contains("edgecoder-demo-4m"), "{out}{err}");
    let (ok, out, _) = run(&node, &["status", "--json"]);
    assert!(ok);
    let status: Status = serde_json::from_str(&out)?;
    assert_eq!(status.node.node_id.0, node.node_id);

    let ask = ["ask", "Return the length", "--max-tokens", "12", "--seed", "5"];
    let (ok, first, err) = run(&node, &ask);
    assert!(ok && !first.trim().is_empty(), "{first}{err}");
    assert!(err.contains("tokens/s"), "{err}");
    let (_, again, _) = run(&node, &ask);
    assert_eq!(first, again, "the same seed gives the same answer");

    let (ok, out, _) = run(&node, &["logs"]);
    assert!(ok && out.contains("node is up"), "{out}");
    Ok(())
}

/// As `edgecoder-node status | head -1`.
#[tokio::test]
async fn whoever_reads_only_a_part_of_the_output_gets_no_complaint() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = Command::new(programs::node())
        .args(["status", "--data-dir"])
        .arg(node.options.data_dir())
        .stdout(writer)
        .output()?;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    Ok(())
}

#[tokio::test]
async fn without_a_node_the_commands_say_how_to_start_one() -> Result<()> {
    let node = Options::default().start()?;
    let (exit, options) = node.stop()?;
    assert!(exit.success());
    for command in [&["status"][..], &["ask", "x"], &["logs"]] {
        let output = Command::new(programs::node())
            .args(command)
            .arg("--data-dir")
            .arg(options.data_dir())
            .output()?;
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(err.contains("edgecoder-node run"), "{err}");
    }
    Ok(())
}

#[test]
fn help_and_completions_are_there() -> Result<()> {
    let help = Command::new(programs::node()).arg("--help").output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in ["run", "status", "ask", "logs", "mesh", "completions", "Examples:"] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(programs::node()).args(["completions", shell]).output()?;
        assert!(output.status.success() && output.stdout.len() > 500, "{shell}");
    }
    Ok(())
}

#[test]
fn a_mesh_that_cannot_be_had_stops_the_start() -> Result<()> {
    let options = Options::default();
    let refused = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(programs::node())
            .args(["run", "--listen", "127.0.0.1:0", "--mesh-listen", "127.0.0.1:0"])
            .args(arguments)
            .arg("--data-dir")
            .arg(options.data_dir())
            .output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, said) = refused(&["--ticket", "ec1nonsense"])?;
    assert!(code == Some(1) && said.contains("ticket"), "{said}");
    let (code, said) = refused(&["--relay-listen", "127.0.0.1:0"])?;
    assert!(code == Some(2) && said.contains("--seed"), "{said}");
    let (code, said) = refused(&["--seeds", "seed.example"])?;
    assert!(code == Some(2) && said.contains("https://"), "{said}");
    Ok(())
}

#[tokio::test]
async fn settings_are_changed_and_the_node_paused_from_the_terminal() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let (ok, out, err) = run(&node, &["settings"]);
    assert!(ok && out.contains("mesh.lan_join") && out.contains("settings.json"), "{out}{err}");
    let seeds = "mesh.seeds=https://a.example,https://b.example";
    let (ok, out, err) =
        run(&node, &["settings", "set", "node_name=42", seeds, "tasks.accept=false"]);
    assert!(ok && out.contains("https://a.example,https://b.example"), "{out}{err}");
    let view: Value = node.http.get("/settings").await?;
    let settings = &view["settings"];
    assert_eq!(settings["node_name"], "42");
    assert_eq!(settings["mesh"]["seeds"], json!(["https://a.example", "https://b.example"]));
    assert_eq!(settings["tasks"]["accept"], false);
    let (ok, out, err) = run(&node, &["settings", "set", "api_key=1234567890123456"]);
    assert!(ok && out.contains("not shown") && !out.contains("12345"), "{out}{err}");
    let (ok, out, err) = run(&node, &["settings", "set", "api_key="]);
    assert!(ok && out.contains('-'), "{out}{err}");
    for (wrong, word) in [("no_such_setting=1", "no_such_setting"), ("context_length=1", "context")]
    {
        let (ok, _, err) = run(&node, &["settings", "set", "parallel=2", wrong]);
        assert!(!ok && err.contains(word), "{wrong}: {err}");
        let (ok, out, _) = run(&node, &["settings", "get", "parallel"]);
        assert!(ok && out == "4\n", "one is wrong, none is changed: {out}");
    }
    let (ok, _, err) = run(&node, &["pause", "--for", "30d"]);
    assert!(!ok && err.contains("7d") && err.contains("--for"), "{err}");
    let (ok, out, err) = run(&node, &["pause", "--for", "1h"]);
    assert!(ok && out.contains("resume"), "{out}{err}");
    let (_, out, _) = run(&node, &["status"]);
    assert!(out.contains("paused"), "{out}");
    let (ok, _, err) = run(&node, &["resume"]);
    assert!(ok, "{err}");
    let (_, out, _) = run(&node, &["status"]);
    assert!(!out.contains("State:     paused"), "{out}");
    let (ok, _, err) = run(&node, &["ask", "--model", "nobody-has-it", "Hi"]);
    assert!(!ok && err.contains("nobody-has-it"), "{err}");
    Ok(())
}

#[tokio::test]
async fn mesh_commands_talk_to_the_running_node() -> Result<()> {
    let settings = br#"{"version": 1, "mesh": {"enabled": false}}"#;
    let node = Options::default().without_model().file("settings.json", settings).start()?;
    let (ok, out, err) = run(&node, &["mesh", "status"]);
    assert!(ok && out.contains("off"), "{out}{err}");
    let (ok, out, _) = run(&node, &["mesh", "status", "--json"]);
    assert!(ok && serde_json::from_str::<Mesh>(&out)?.state == MeshState::Off, "{out}");
    let (ok, out, _) = run(&node, &["mesh", "peers"]);
    assert!(ok && out.contains("mesh invite"), "{out}");
    let (ok, out, _) = run(&node, &["status"]);
    assert!(ok && out.contains("Mesh:"), "{out}");
    for (wrong, word) in
        [(["mesh", "peer", "nobody"], "mesh peers"), (["mesh", "ticket", "ec1nonsense"], "ticket")]
    {
        let (ok, _, err) = run(&node, &wrong);
        assert!(!ok && err.contains(word), "{wrong:?}: {err}");
    }
    Ok(())
}
