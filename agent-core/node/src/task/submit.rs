//! From what was typed to a task.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use agent_api::tasks::{Language, SubmitTask, TaskKind, Webhook};
use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::args::{Kind, What};

/// Longest text or file that is read; the node takes bodies of 8 MiB.
const MAX_BYTES: u64 = 8 << 20;

/// The task that `what` describes. Reads the files that it names.
pub(crate) fn build(what: What) -> anyhow::Result<SubmitTask> {
    check_options(&what)?;
    let mut input = match &what.file {
        Some(path) => read_object(path)?,
        None => Map::new(),
    };
    if let Some(model) = what.model {
        input.insert("model".to_owned(), model.into());
    }
    if let Some(tokens) = what.max_tokens {
        input.insert("max_tokens".to_owned(), tokens.into());
    }
    if let Some(prompt) = what.prompt {
        let prompt = if prompt == "-" { read_text(Path::new("-"))? } else { prompt };
        let (name, value) = match what.kind {
            Kind::Chat => ("messages", json!([{"role": "user", "content": prompt}])),
            Kind::Embedding => ("input", json!([prompt])),
            _ => ("prompt", prompt.into()),
        };
        input.insert(name.to_owned(), value);
    }
    if let Some(path) = what.module {
        let module = read(&path)?;
        input.insert("module".to_owned(), STANDARD.encode(module).into());
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        input.entry("name").or_insert_with(|| name.unwrap_or_default().into());
    }
    if let Some(text) = what.input_text {
        input.insert("input_text".to_owned(), text.into());
    }
    if let Some(language) = what.language {
        input.insert("language".to_owned(), json!(Language::from(language)));
    }
    if let Some(path) = what.tests {
        input.insert("tests".to_owned(), read_text(&path)?.into());
    }
    Ok(SubmitTask {
        kind: what.kind.into(),
        input: Value::Object(input),
        privacy: what.privacy.map(Into::into),
        priority: what.priority,
        node: what.node,
        idempotency_key: None,
        expires_in_s: what.expires,
        max_attempts: None,
        replicas: what.replicas,
        label: what.label,
        webhook: webhook(what.webhook, what.webhook_secret)?,
    })
}

/// Options that mean nothing for this kind are refused before anything is read.
fn check_options(what: &What) -> anyhow::Result<()> {
    let kind = TaskKind::from(what.kind).as_str();
    let (wasm, code) = (what.kind == Kind::Wasm, what.kind == Kind::Code);
    let text = matches!(what.kind, Kind::Chat | Kind::Completion);
    for (given, fits, option) in [
        (what.module.is_some(), wasm, "--module"),
        (what.input_text.is_some(), wasm, "--input-text"),
        (what.replicas.is_some(), wasm, "--replicas"),
        (what.language.is_some(), code, "--language"),
        (what.tests.is_some(), code, "--tests"),
        (what.max_tokens.is_some(), text, "--max-tokens"),
        (what.model.is_some(), !wasm, "--model"),
        (what.prompt.is_some(), !wasm, "--prompt"),
    ] {
        if given && !fits {
            bail!("{option} means nothing for a task of kind {kind}");
        }
    }
    let enough = match what.kind {
        Kind::Wasm => what.module.is_some(),
        _ => what.prompt.is_some(),
    };
    if !enough && what.file.is_none() {
        let option = if wasm { "--module FILE" } else { "--prompt TEXT" };
        bail!("a task of kind {kind} needs {option}, or its whole input with --file FILE");
    }
    let stdin = [what.prompt.as_deref() == Some("-"), what.file.as_deref() == Some(Path::new("-"))];
    if stdin == [true, true] {
        bail!("only one of --prompt and --file can be read from stdin");
    }
    Ok(())
}

fn webhook(url: Option<String>, secret: Option<PathBuf>) -> anyhow::Result<Option<Webhook>> {
    let Some(url) = url else { return Ok(None) };
    let secret = secret.map(|path| read_text(&path)).transpose()?;
    Ok(Some(Webhook { url, secret: secret.map(|text| text.trim().to_owned()) }))
}

fn read_object(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = read_text(path)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not the input of a task as JSON", path.display()))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| anyhow::anyhow!("{} is not text", path.display()))
}

/// A file, or stdin for `-`.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{} is larger than {} MiB", path.display(), MAX_BYTES >> 20);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::task::args::{Task, TaskCommand};

    fn submit(options: &[&str]) -> anyhow::Result<SubmitTask> {
        let words = ["task", "submit"].iter().chain(options);
        match Task::try_parse_from(words)?.command {
            TaskCommand::Submit(submit) => build(submit.what),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn a_prompt_becomes_the_input_of_its_kind() {
        let chat = submit(&["chat", "-m", "m@studio", "-p", "hi", "--privacy", "my-nodes"]);
        let chat = chat.expect("a task");
        let messages = json!([{"role": "user", "content": "hi"}]);
        assert_eq!(chat.input, json!({"model": "m@studio", "messages": messages}));
        assert_eq!(chat.privacy, Some(agent_api::tasks::Privacy::MyNodes));
        let completion = submit(&["completion", "-p", "hi"]).expect("a task");
        assert_eq!(completion.input, json!({"prompt": "hi"}));
        assert_eq!(submit(&["embedding", "-p", "hi"]).expect("a task").input["input"][0], "hi");
    }

    #[test]
    fn a_module_is_sent_with_its_name() {
        let path = std::env::temp_dir().join(format!("edgecoder-cli-{}.wasm", std::process::id()));
        fs::write(&path, b"\0asm").expect("writes");
        let text = path.display().to_string();
        let task = submit(&["wasm", "--module", &text, "--input-text", "1 2"]).expect("a task");
        fs::remove_file(&path).expect("removes");
        assert_eq!(task.input["module"], "AGFzbQ==");
        assert_eq!(task.input["input_text"], "1 2");
        assert!(task.input["name"].as_str().is_some_and(|name| name.starts_with("edgecoder-cli")));
    }

    #[test]
    fn what_means_nothing_or_is_missing_is_said() {
        for (options, why) in [
            (vec!["chat", "--module", "x", "-p", "hi"], "--module means nothing"),
            (vec!["wasm", "-p", "hi"], "--prompt means nothing"),
            (vec!["chat"], "--prompt TEXT"),
            (vec!["wasm"], "--module FILE"),
            (vec!["chat", "-p", "-", "--file", "-"], "stdin"),
            (vec!["chat", "--file", "/no/such/file"], "/no/such/file"),
            (vec!["chat", "-p", "hi", "--priority", "10"], "0..=9"),
        ] {
            let error = format!("{:#}", submit(&options).expect_err("refused"));
            assert!(error.contains(why), "{options:?}: {error}");
        }
    }
}
