//! OpenAI's official Python client against a running node (`openai_client.py`), and how Python
//! scripts are run for others.

use std::{path::Path, process::Command};

use anyhow::Result;
use edgecoder_tests::{node::Options, programs, skipped};

/// Runs a script of this folder; skips it where there is no Python for tests.
pub(crate) fn run(script: &str, args: &[&str]) -> Result<()> {
    let Some(python) = programs::python() else {
        anyhow::ensure!(
            std::env::var_os("EDGECODER_TEST_PYTHON").is_none(),
            "the Python of EDGECODER_TEST_PYTHON is missing; run: cargo xtask setup --tests"
        );
        skipped("no Python with the openai package; cargo xtask test sets one up");
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
    let options = Options::default().without_model();
    add_demo_with_template(&python, &options, "tools_template.jinja")?;
    let node = options.start()?;
    let model = node.model().await?;
    run("openai_tools.py", &[&node.http.url, &model])
}

/// Puts the demo model with another chat template into the models folder.
pub(crate) fn add_demo_with_template(
    python: &Path,
    options: &Options,
    template: &str,
) -> Result<()> {
    let folder = options.data_dir().join("models");
    std::fs::create_dir_all(&folder)?;
    let made = Command::new(python)
        .args(["-m", "gguf.scripts.gguf_new_metadata", "--chat-template-file"])
        .arg(programs::root().join("tests/it").join(template))
        .arg(programs::demo_model())
        .arg(folder.join("demo-with-tools.gguf"))
        .output()?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}
