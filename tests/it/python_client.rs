//! OpenAI's official Python client against a running node (`openai_client.py`).

use std::process::Command;

use anyhow::Result;
use edgecoder_tests::{node::Options, programs};

fn run(script: &str, args: &[&str]) -> Result<()> {
    let Some(python) = programs::python() else {
        anyhow::ensure!(
            std::env::var_os("EDGECODER_TEST_PYTHON").is_none(),
            "the Python of EDGECODER_TEST_PYTHON is missing; run: cargo xtask setup --tests"
        );
        eprintln!("skipped: no Python with the openai package; cargo xtask test sets one up");
        return Ok(());
    };
    let output = Command::new(python)
        .arg(programs::root().join("tests/it").join(script))
        .args(args)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    anyhow::ensure!(
        output.status.success(),
        "{script} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn the_official_openai_client_works() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    run("openai_client.py", &[&node.http.url, &model])
}

#[tokio::test]
async fn the_official_openai_client_calls_tools() -> Result<()> {
    let Some(python) = programs::python() else { return run("openai_tools.py", &[]) };
    // The demo model with a template that knows tools.
    let options = Options::default().without_model();
    std::fs::create_dir_all(options.data_dir().join("models"))?;
    let with_tools = options.data_dir().join("models/demo-with-tools.gguf");
    let template = programs::root().join("tests/it/tools_template.jinja");
    let made = Command::new(python)
        .args(["-m", "gguf.scripts.gguf_new_metadata", "--chat-template-file"])
        .arg(template)
        .arg(programs::demo_model())
        .arg(&with_tools)
        .output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let node = options.start()?;
    let model = node.model().await?;
    run("openai_tools.py", &[&node.http.url, &model])
}
