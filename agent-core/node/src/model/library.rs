//! `model list`, `show`, `fit`, `search`, `rm` and the other short ones.

use std::path::Path;

use agent_api::{
    catalogue::{Catalogue, CatalogueQuery, UpdateCatalogue},
    endpoint::{
        GetCatalogue, GetModelFit, GetModelShow, ListModels, Nothing, PostCatalogue, PostModelCopy,
        PostModelImport, PostModelLoad, PostModelRemove, PostModelUnload, PostModelVerify,
    },
    models::{
        CopyModel, DiskUse, FitQuery, ImportModel, InstalledModel, ModelDetails, ModelList,
        ModelSource, ShowModel,
    },
    pull::ModelName,
};
use anyhow::{Context as _, bail};

use super::{args, loading::state_text};
use crate::{
    client::Client,
    terminal::{Confirm, ask, print_json, say},
    words::{fit, model_state, number, parameters, size, table, verdict},
};

pub(crate) async fn list(client: &Client, args: args::Json) -> anyhow::Result<()> {
    let list = client.call::<ListModels>(&Nothing {}).await?;
    if args.json { print_json(&list) } else { say(&list_text(&list)) }
}

fn list_text(list: &ModelList) -> String {
    if list.models.is_empty() {
        return format!(
            "No models yet. Fetch one: edgecoder-node model pull NAME\nGGUF files can also be put into {}\n",
            list.folder
        );
    }
    let rows: Vec<_> = list.models.iter().map(list_row).collect();
    let mut text = table(&["NAME", "QUANT", "SIZE", "CONTEXT", "FIT", "STATE"], &rows);
    text.push_str(&disk_text(&list.disk));
    text
}

fn list_row(model: &InstalledModel) -> Vec<String> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let context = if model.context_train == 0 {
        String::new()
    } else {
        number(u64::from(model.context_train))
    };
    vec![
        model.id.clone(),
        or_dash(model.quantization.clone()),
        size(model.size_bytes),
        or_dash(context),
        or_dash(model.fit.as_ref().map_or("", |fit| verdict(fit.verdict)).to_owned()),
        model_state(model),
    ]
}

fn disk_text(disk: &DiskUse) -> String {
    let mut text = format!("{} on disk", size(disk.installed_bytes));
    if disk.partial_bytes > 0 {
        text.push_str(&format!(", {} in parts of pulls", size(disk.partial_bytes)));
    }
    if let Some(budget) = disk.budget_bytes {
        text.push_str(&format!(", budget {}", size(budget)));
    }
    if let Some(free) = disk.free_bytes {
        text.push_str(&format!(", {} free", size(free)));
    }
    text + "\n"
}

pub(crate) async fn show(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let details = client.call::<GetModelShow>(&ShowModel { model: args.name }).await?;
    if args.output.json { print_json(&details) } else { say(&show_text(&details)) }
}

fn show_text(details: &ModelDetails) -> String {
    let model = &details.model;
    let mut text = format!("{} ({})\n", model.id, model.name);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("  {name:<14}{value}\n"));
        }
    };
    let count = |n: u32| (n > 0).then(|| format!("{} tokens", number(u64::from(n))));
    line("State:", Some(model_state(model)));
    line("Architecture:", Some(model.architecture.clone()));
    line("Parameters:", model.parameters.map(parameters));
    line("Quantization:", Some(model.quantization.clone()));
    line("Context:", count(model.context_train));
    line("Size:", Some(size(model.size_bytes)));
    line("Fit:", model.fit.as_ref().map(fit));
    line("Licence:", model.license.clone());
    line("Source:", Some(source(model.source).to_owned()));
    line("File:", Some(model.path.clone()));
    line("Digest:", model.digest.clone());
    line("Removing:", model.removable_bytes.map(|bytes| format!("would free {}", size(bytes))));
    line("System:", details.system.clone());
    let options: Vec<_> =
        details.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    line("Options:", Some(options.join(", ")));
    if !details.layers.is_empty() {
        let rows: Vec<_> = details
            .layers
            .iter()
            .map(|layer| vec![layer.kind.clone(), size(layer.size_bytes), layer.digest.clone()])
            .collect();
        text.push_str(&table(&["LAYER", "SIZE", "DIGEST"], &rows));
    }
    text
}

fn source(source: ModelSource) -> &'static str {
    match source {
        ModelSource::Demo => "ships with EdgeCoder",
        ModelSource::File => "a file in the models folder",
        ModelSource::Store => "pulled or imported",
        ModelSource::OllamaFolder => "read in place from Ollama's folder",
        ModelSource::OllamaDaemon => "run by the Ollama daemon",
    }
}

pub(crate) async fn fits(client: &Client, args: args::Fit) -> anyhow::Result<()> {
    let query = FitQuery {
        model: name_or_file(&args.name)?,
        context: args.context,
        parallel: args.parallel,
        gpu_layers: args.gpu_layers,
    };
    let answer = client.call::<GetModelFit>(&query).await?;
    if args.output.json {
        return print_json(&answer);
    }
    let mut text = format!("{} {}\n", args.name, fit(&answer));
    let of = |part: &str, bytes: u64| format!("  {part:<11}{}\n", size(bytes));
    text.push_str(&of("Weights:", answer.weights_bytes));
    text.push_str(&format!(
        "  {:<11}{} for {} x {} tokens\n",
        "Cache:",
        size(answer.cache_bytes),
        number(u64::from(answer.parallel)),
        number(u64::from(answer.context))
    ));
    text.push_str(&of("Overhead:", answer.overhead_bytes));
    text.push_str(&of("Total:", answer.total_bytes));
    if answer.gpu_limit_bytes > 0 {
        text.push_str(&format!(
            "  {:<11}{} of {} ({} layers)\n",
            "On GPU:",
            size(answer.gpu_bytes),
            size(answer.gpu_limit_bytes),
            number(u64::from(answer.gpu_layers))
        ));
    }
    text.push_str(&format!("  {:<11}{}\n", "RAM limit:", size(answer.ram_limit_bytes)));
    say(&text)
}

/// Whether a name means this model: `:latest` goes without saying.
pub(super) fn is_called(id: &str, name: &str) -> bool {
    id == name || id.strip_suffix(":latest") == Some(name)
}

/// The node has another working directory: a file is named by its whole path.
fn name_or_file(name: &str) -> anyhow::Result<String> {
    let path = Path::new(name);
    if !path.is_file() {
        return Ok(name.to_owned());
    }
    absolute(path)
}

fn absolute(path: &Path) -> anyhow::Result<String> {
    let whole =
        path.canonicalize().with_context(|| format!("cannot find the file {}", path.display()))?;
    whole
        .into_os_string()
        .into_string()
        .map_err(|name| anyhow::anyhow!("the name of {} is not UTF-8", Path::new(&name).display()))
}

pub(crate) async fn search(client: &Client, args: args::Search) -> anyhow::Result<()> {
    if let Some(file) = args.update {
        let path = std::path::absolute(&file)?.display().to_string();
        client.call::<PostCatalogue>(&UpdateCatalogue { path }).await?;
    }
    let words = args.words.join(" ");
    let query = CatalogueQuery { q: (!words.is_empty()).then_some(words) };
    let found = client.call::<GetCatalogue>(&query).await?;
    if args.output.json { print_json(&found) } else { say(&search_text(&found)) }
}

fn search_text(found: &Catalogue) -> String {
    if found.entries.is_empty() {
        return "Nothing in the catalogue has all these words. Any name can be pulled: edgecoder-node model pull NAME\n".to_owned();
    }
    let mut rows = Vec::new();
    for entry in &found.entries {
        for variant in &entry.variants {
            let about = if variant.size_exact { "" } else { "about " };
            rows.push(vec![
                variant.pull.clone(),
                variant.quantization.clone(),
                format!("{about}{}", size(variant.size_bytes)),
                if variant.installed { "installed" } else { verdict(variant.fit.verdict) }
                    .to_owned(),
                entry.license.clone().unwrap_or_else(|| "-".to_owned()),
                entry.title.clone(),
            ]);
        }
    }
    let heading = ["PULL", "QUANT", "SIZE", "FIT", "LICENCE", "MODEL"];
    table(&heading, &rows) + &format!("Catalogue of {} ({})\n", found.updated, found.origin)
}

pub(crate) async fn remove(client: &Client, args: args::Remove) -> anyhow::Result<()> {
    let list = client.call::<ListModels>(&Nothing {}).await?;
    let mut failed = Vec::new();
    for name in args.names {
        let known = list.models.iter().find(|model| is_called(&model.id, &name));
        let bytes = known.and_then(|model| model.removable_bytes);
        let frees = bytes.map(|bytes| format!(" and free {}", size(bytes))).unwrap_or_default();
        // Scripts have no terminal and have said what they want.
        if !args.yes && ask(&format!("Remove {name}{frees}?"))? == Confirm::No {
            say(&format!("{name} stays.\n"))?;
            continue;
        }
        match client.call::<PostModelRemove>(&ModelName { model: name }).await {
            Ok(removed) => say(&format!(
                "Removed {}, {} freed ({} bytes).\n",
                removed.model,
                size(removed.freed_bytes),
                number(removed.freed_bytes)
            ))?,
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

pub(crate) async fn load(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let status = client.call::<PostModelLoad>(&ModelName { model: args.name.clone() }).await?;
    if args.output.json {
        return print_json(&status);
    }
    say(&format!("{}\n", state_text(&args.name, &status)?))
}

pub(crate) async fn unload(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let status = client.call::<PostModelUnload>(&ModelName { model: args.name.clone() }).await?;
    if args.output.json {
        return print_json(&status);
    }
    let leaving = status.resident.iter().any(|resident| is_called(&resident.id, &args.name));
    say(&if leaving {
        format!("{} leaves memory after its requests.\n", args.name)
    } else {
        format!("{} is no longer in memory.\n", args.name)
    })
}

pub(crate) async fn copy(client: &Client, args: args::Copy) -> anyhow::Result<()> {
    let copy = CopyModel { source: args.source, destination: args.destination };
    let model = client.call::<PostModelCopy>(&copy).await?;
    say(&format!("{} is also {}.\n", copy.source, model.id))
}

pub(crate) async fn import(client: &Client, args: args::Import) -> anyhow::Result<()> {
    let import = ImportModel { path: absolute(&args.path)?, name: args.name };
    let model = client.call::<PostModelImport>(&import).await?;
    if args.output.json {
        return print_json(&model);
    }
    say(&format!("{} is here ({}).\n", model.id, size(model.size_bytes)))
}

pub(crate) async fn verify(client: &Client, args: args::Named) -> anyhow::Result<()> {
    let verified = client.call::<PostModelVerify>(&ModelName { model: args.name }).await?;
    if args.output.json {
        print_json(&verified)?;
    } else if verified.damaged.is_empty() {
        say(&format!("{} is as it should be ({}).\n", verified.model, size(verified.bytes)))?;
    }
    if verified.damaged.is_empty() {
        return Ok(());
    }
    bail!(
        "{} is damaged: {}. Pull it again: only what is damaged is fetched",
        verified.model,
        verified.damaged.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use agent_api::fit::Verdict;

    use super::*;
    use crate::model::tests;

    #[test]
    fn the_list_shows_what_decides_between_models() {
        let mut model = tests::installed("llama3.2:1b");
        model.active = true;
        model.fit = Some(tests::fit(Verdict::FitsRam, "1.9 GB at 4k"));
        let mut damaged = tests::installed("cut:latest");
        damaged.problem = Some("the file is cut off".to_owned());
        let disk = DiskUse {
            installed_bytes: 2_600_000_000,
            partial_bytes: 0,
            budget_bytes: None,
            free_bytes: Some(39_000_000_000),
        };
        let list = ModelList { models: vec![model, damaged], folder: "/models".to_owned(), disk };
        assert_eq!(
            list_text(&list),
            "NAME         QUANT  SIZE    CONTEXT  FIT       STATE
llama3.2:1b  Q8_0   1.3 GB  131,072  fits RAM  active
cut:latest   Q8_0   1.3 GB  131,072  -         cannot be loaded: the file is cut off
2.6 GB on disk, 39.0 GB free
"
        );
    }

    #[test]
    fn latest_goes_without_saying() {
        assert!(is_called("tiny:latest", "tiny") && is_called("tiny:latest", "tiny:latest"));
        assert!(!is_called("tiny:v1", "tiny") && !is_called("tiny:latest", "tin"));
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        let list = ModelList {
            models: Vec::new(),
            folder: "/models".to_owned(),
            disk: DiskUse::default(),
        };
        let text = list_text(&list);
        assert!(text.contains("model pull") && text.contains("/models"), "{text}");
    }
}
