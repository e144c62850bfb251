//! `settings`, `pause` and `resume`: what an owner without a window changes on a running node.

pub(crate) mod args;

use std::io::Read as _;

use agent_api::{
    endpoint::{GetSettings, Nothing, PatchSettings, PauseNode, ResumeNode},
    node::Pause,
    settings::{SettingsPatch, SettingsView},
};
use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use self::args::{
    Assignment, PauseArgs, ResumeArgs, SettingsArgs, SettingsCommand, SettingsGet, SettingsSet,
};
use crate::{
    args::DataDir,
    client::Client,
    terminal::{print_json, say},
};

/// A secret: it is never sent back, and is no word for the command line.
const API_KEY: &str = "api_key";

pub(crate) async fn run(args: SettingsArgs) -> anyhow::Result<()> {
    let client = Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        None => {
            let view = client.call::<GetSettings>(&Nothing {}).await?;
            if args.output.json {
                return print_json(&view);
            }
            say(&listed(&view)?)
        }
        Some(SettingsCommand::Get(SettingsGet { name })) => {
            let view = client.call::<GetSettings>(&Nothing {}).await?;
            let rows = rows(&view)?;
            let found: Vec<_> = rows.iter().filter(|(row, _)| belongs(row, &name)).collect();
            match found.as_slice() {
                [] => bail!("there is no setting {name:?}. edgecoder-node settings shows them all"),
                [(row, value)] if *row == name => say(&format!("{}\n", shown(value))),
                several => say(&lines(several.iter().copied())),
            }
        }
        Some(SettingsCommand::Set(SettingsSet { assignments })) => set(&client, assignments).await,
    }
}

async fn set(client: &Client, assignments: Vec<Assignment>) -> anyhow::Result<()> {
    let before = client.call::<GetSettings>(&Nothing {}).await?;
    let now = rows(&before)?;
    let mut patch = Map::new();
    for Assignment { name, value } in &assignments {
        if name == "active_model" {
            bail!("the active model is changed with: edgecoder-node model swap MODEL");
        }
        let value = if value == "-" { from_stdin()? } else { value.clone() };
        let current = now.iter().find(|(row, _)| row == name).map(|(_, value)| value);
        keep_the_others(&mut patch, name, &now)?;
        insert(&mut patch, name, typed(&value, current))?;
        // Each by itself, so that the message names the one that is wrong.
        if let Err(error) = change(&patch) {
            // What is not chosen yet does not show its kind: a key may be nothing but digits.
            insert(&mut patch, name, value.into())?;
            if change(&patch).is_err() {
                return Err(error).with_context(|| format!("cannot set {name}"));
            }
        }
    }
    let patch = change(&patch)?;
    let after = client.call::<PatchSettings>(&patch).await?;
    let set = rows(&after)?;
    let named = |row: &str| {
        assignments.iter().any(|Assignment { name, .. }| belongs(row, name) || belongs(name, row))
    };
    let mut text = lines(set.iter().filter(|(row, _)| named(row)));
    if !after.after_restart.is_empty() {
        text.push_str(&format!(
            "Used after the node is started again: {}.\n",
            after.after_restart.join(", ")
        ));
    }
    say(&text)
}

/// It is that setting, or one of that group.
fn belongs(row: &str, group: &str) -> bool {
    row.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// One key of a map (`tasks.weights.NODE`) is set: a change replaces the whole map, so that the
/// others have to be in it.
fn keep_the_others(
    patch: &mut Map<String, Value>,
    name: &str,
    now: &[(String, Value)],
) -> anyhow::Result<()> {
    let map =
        now.iter().find(|(row, value)| row != name && value.is_object() && belongs(name, row));
    match map {
        Some((row, value)) if !has(patch, row) => insert(patch, row, value.clone()),
        _ => Ok(()),
    }
}

fn has(patch: &Map<String, Value>, name: &str) -> bool {
    match name.split_once('.') {
        None => patch.contains_key(name),
        Some((group, rest)) => {
            patch.get(group).and_then(Value::as_object).is_some_and(|group| has(group, rest))
        }
    }
}

fn change(patch: &Map<String, Value>) -> serde_json::Result<SettingsPatch> {
    serde_json::from_value(Value::Object(patch.clone()))
}

fn from_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the value from stdin")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// What was typed, as the setting's kind of value: lists may be written with commas, texts need no
/// quotes.
fn typed(text: &str, current: Option<&Value>) -> Value {
    let json = serde_json::from_str::<Value>(text).ok();
    match (current, json) {
        (Some(Value::String(_)), Some(Value::String(quoted))) => quoted.into(),
        (Some(Value::String(_)), _) => text.into(),
        (Some(Value::Array(_)), Some(list @ Value::Array(_))) => list,
        (Some(Value::Array(_)), _) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(Value::from).collect()
        }
        (_, Some(json)) => json,
        (_, None) => text.into(),
    }
}

/// Puts the value of `mesh.seeds` into the object `mesh`.
fn insert(patch: &mut Map<String, Value>, name: &str, value: Value) -> anyhow::Result<()> {
    match name.split_once('.') {
        None => {
            patch.insert(name.to_owned(), value);
            Ok(())
        }
        Some((group, rest)) => {
            let group = patch.entry(group).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(group) = group else {
                bail!("{name} and what it belongs to are both set");
            };
            insert(group, rest, value)
        }
    }
}

/// Every setting with its value, by dotted name. What the owner has not chosen is null.
fn rows(view: &SettingsView) -> anyhow::Result<Vec<(String, Value)>> {
    let Value::Object(settings) = serde_json::to_value(&view.settings)? else {
        bail!("the node's settings make no sense; are both of one version?");
    };
    let mut rows = Vec::new();
    for (name, value) in settings {
        match value {
            // Groups have fields; maps (`models`) have keys of the owner's.
            Value::Object(fields) if name != "models" => {
                rows.extend(
                    fields.into_iter().map(|(field, value)| (format!("{name}.{field}"), value)),
                );
            }
            _ if name == API_KEY => {
                let set =
                    if view.api_key_set { Value::from("(set, not shown)") } else { Value::Null };
                rows.push((name, set));
            }
            value => rows.push((name, value)),
        }
    }
    rows.retain(|(name, _)| name != "version");
    Ok(rows)
}

fn listed(view: &SettingsView) -> anyhow::Result<String> {
    let mut text = lines(rows(view)?.iter());
    if !view.after_restart.is_empty() {
        let waiting = view.after_restart.join(", ");
        text.push_str(&format!("Used after the node is started again: {waiting}.\n"));
    }
    text.push_str(&format!("File: {}\n", view.path));
    Ok(text)
}

fn lines<'a>(rows: impl Iterator<Item = &'a (String, Value)>) -> String {
    rows.map(|(name, value)| format!("{name:<26} {}\n", shown(value))).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            let items: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            if items.is_empty() { "-".to_owned() } else { items.join(",") }
        }
        value => value.to_string(),
    }
}

pub(crate) async fn pause(args: PauseArgs) -> anyhow::Result<()> {
    let client = Client::connect(args.data)?;
    let serving = client.call::<PauseNode>(&Pause { for_s: args.for_s }).await?;
    if args.output.json {
        return print_json(&serving);
    }
    say(&format!("{} To end this: edgecoder-node resume\n", serving.reason))
}

pub(crate) async fn resume(args: ResumeArgs) -> anyhow::Result<()> {
    let client = Client::connect(args.data)?;
    let serving = client.call::<ResumeNode>(&Nothing {}).await?;
    if args.output.json {
        return print_json(&serving);
    }
    say(&format!("{}\n", serving.reason))
}

#[cfg(test)]
mod tests {
    use agent_api::settings::Settings;
    use serde_json::json;

    use super::*;

    fn view() -> SettingsView {
        SettingsView {
            settings: Settings { node_name: "attic".into(), ..Settings::default() },
            api_key_set: true,
            path: "/data/settings.json".into(),
            after_restart: vec!["listen".into()],
        }
    }

    #[test]
    fn settings_are_listed_by_dotted_names_and_without_secrets() {
        let text = listed(&view()).expect("lists");
        for line in ["node_name", "attic", "mesh.lan_join", "tasks.accept", "(set, not shown)"] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(text.contains("started again: listen"), "{text}");
    }

    #[test]
    fn values_are_typed_as_people_type_them() {
        assert_eq!(typed("42", Some(&json!("attic"))), json!("42"), "a name may be a number");
        assert_eq!(typed("\"attic\"", Some(&json!("x"))), json!("attic"));
        assert_eq!(typed("false", Some(&json!(true))), json!(false));
        assert_eq!(typed("a, b", Some(&json!([]))), json!(["a", "b"]));
        assert_eq!(typed("", Some(&json!(["a"]))), json!([]));
        assert_eq!(typed("[\"a\"]", Some(&json!([]))), json!(["a"]));
        assert_eq!(typed("1000", None), json!(1000));
        assert_eq!(typed("Europe/Berlin", None), json!("Europe/Berlin"));
    }

    #[test]
    fn dotted_names_are_fields_of_their_group() {
        let mut patch = Map::new();
        insert(&mut patch, "mesh.lan", json!(false)).expect("puts");
        insert(&mut patch, "mesh.seeds", json!([])).expect("puts");
        insert(&mut patch, "parallel", json!(2)).expect("puts");
        let patch = Value::Object(patch);
        assert_eq!(patch, json!({"mesh": {"lan": false, "seeds": []}, "parallel": 2}));
    }

    #[test]
    fn one_weight_is_set_and_the_others_stay() {
        let now = [("tasks.weights".to_owned(), json!({"a": 1, "b": 2}))];
        let mut patch = Map::new();
        for (name, weight) in [("tasks.weights.b", 5), ("tasks.weights.c", 3)] {
            keep_the_others(&mut patch, name, &now).expect("keeps");
            insert(&mut patch, name, json!(weight)).expect("puts");
        }
        let weights = json!({"tasks": {"weights": {"a": 1, "b": 5, "c": 3}}});
        assert_eq!(Value::Object(patch), weights);
    }
}
