//! Tests of the library: what is listed, found, removed, and how little is read for it.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use serde_json::json;

use super::{
    fixtures::{Folder, gguf, manifest, ollama_model, on},
    *,
};
use crate::models::manifest::{Digest, LayerKind, Manifest};

fn assets() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets"))
}

fn library(folder: &Folder, ollama: &str) -> Library {
    Library::with_store(Some(assets()), folder.store.clone(), Some(ollama), Heads::default())
}

fn ids(library: &Library) -> Vec<String> {
    library.list().into_iter().map(|file| file.id).collect()
}

fn loose(folder: &Folder, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.store.root().join(name);
    fs::write(&path, bytes).expect("writes");
    path
}

#[test]
fn a_fresh_node_has_the_demo_model() {
    let dir = tempfile::tempdir().expect("temp dir");
    let library = Library::new(Some(assets()), dir.path().join("models"));
    let files = library.list();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].id, "edgecoder-demo-4m");
    assert!(files[0].describe(true).problem.is_none());
    assert!(library.find("edgecoder-demo-4m").expect("found").demo);
}

#[test]
fn a_bad_file_is_listed_with_its_problem() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join("broken.gguf"), b"nonsense").expect("writes");
    fs::write(dir.path().join("notes.txt"), b"not a model").expect("writes");
    let library = Library::new(None, dir.path().to_path_buf());
    let files = library.list();
    assert_eq!(files.len(), 1);
    let problem = files[0].describe(false).problem.expect("has a problem");
    assert!(problem.contains("not a GGUF file"), "{problem}");
}

#[test]
fn a_replaced_file_is_read_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("m.gguf");
    fs::write(&path, b"nonsense").expect("writes");
    let library = Library::new(None, dir.path().to_path_buf());
    assert!(library.get("m").expect("listed").head.is_err());
    fs::copy(assets().join(DEMO_FILE), &path).expect("copies");
    assert!(library.get("m").expect("listed").head.is_ok());
}

#[test]
fn models_of_all_sources_are_listed_once_with_what_is_known_about_them() {
    let folder = Folder::new();
    let ollama = folder.dir.path().join("ollama");
    folder.install("stored:1", &[gguf("stored"), b"licence".to_vec()]);
    folder.install("both:1", &[gguf("ours")]);
    ollama_model(&ollama, "both:1", &[("model", gguf("theirs"))]);
    let layers = [("model", gguf("seen")), ("projector", gguf("eyes"))];
    ollama_model(&ollama, "theirs", &layers);
    loose(&folder, "loose.gguf", &gguf("loose"));
    let library = library(&folder, ollama.to_str().expect("text"));
    let files = library.list();
    let listed: Vec<(&str, ModelSource)> =
        files.iter().map(|file| (file.id.as_str(), file.source)).collect();
    assert_eq!(
        listed,
        [
            ("both:1", ModelSource::Store),
            ("loose", ModelSource::File),
            ("stored:1", ModelSource::Store),
            ("theirs:latest", ModelSource::OllamaFolder),
            ("edgecoder-demo-4m", ModelSource::Demo),
        ]
    );
    let stored = files[2].describe(false);
    let size = (gguf("stored").len() + 7) as u64;
    assert_eq!((stored.size_bytes, stored.removable_bytes), (size, Some(size)));
    assert_eq!(stored.name, "stored:1", "by the name it was given");
    assert!(stored.digest.is_some_and(|digest| digest.starts_with("sha256:")));
    assert!(stored.modified_at_ms.is_some_and(|at| at > 0));
    let kinds: Vec<String> = files[2].describe_layers().into_iter().map(|l| l.kind).collect();
    assert_eq!(kinds, ["model", "license"]);
    let theirs = &files[3];
    assert_eq!(theirs.removable_bytes, None);
    assert!(theirs.layer(LayerKind::Projector).is_some());
    assert!(theirs.path.starts_with(&ollama));
    for file in &files {
        assert_eq!(library.find(&file.id).expect("found").path, file.path);
    }
}

#[test]
fn a_model_of_the_store_that_cannot_be_loaded_says_why() {
    let folder = Folder::new();
    for name in ["gone:1", "short:1"] {
        folder.install(name, &[gguf(name)]);
    }
    folder.install("letter:1", &[b"this was never a model".to_vec()]);
    fs::remove_file(folder.store.blob_path(Digest::of(&gguf("gone:1")))).expect("removes");
    fs::write(folder.store.blob_path(Digest::of(&gguf("short:1"))), b"x").expect("cuts");
    let damaged = folder.store.manifest_path(&ModelRef::local("manifest").expect("a name"));
    fs::create_dir_all(damaged.parent().expect("a folder")).expect("makes");
    fs::write(&damaged, b"{").expect("writes");
    let library = library(&folder, "");
    let problem = |id: &str| {
        let file = library.list().into_iter().find(|file| file.id == id).expect(id);
        file.describe(false).problem.expect("has a problem")
    };
    assert!(problem("gone:1").contains("its weights are missing. Remove it and pull it again"));
    assert!(problem("short:1").contains("1 bytes instead of"), "{}", problem("short:1"));
    assert!(problem("letter:1").contains("not a GGUF file"));
    assert!(problem("manifest:latest").contains("manifest cannot be read"));
    // And it can be removed.
    for id in ["gone:1", "short:1", "letter:1", "manifest:latest"] {
        let file = library.find(id).expect(id);
        library.remove(&file).expect("removes");
    }
    assert_eq!(ids(&library), ["edgecoder-demo-4m"]);
}

#[test]
fn names_are_found_as_people_write_them() {
    let folder = Folder::new();
    folder.install("llama3:latest", &[gguf("a")]);
    folder.install("Qwen:7B", &[gguf("b")]);
    folder.install("reg.example/team/coder:1", &[gguf("c")]);
    folder.install("other.example/team/twice:1", &[gguf("d")]);
    folder.install("third.example/team/twice:1", &[gguf("e")]);
    loose(&folder, "My-File.gguf", &gguf("f"));
    loose(&folder, "CAPITALS.GGUF", &gguf("g"));
    loose(&folder, "case.gguf", &gguf("h"));
    loose(&folder, "CASE.gguf", &gguf("i"));
    let library = library(&folder, "");
    let found = |name: &str| library.find(name).map(|file| file.id);
    for (name, id) in [
        ("llama3:latest", "llama3:latest"),
        ("llama3", "llama3:latest"),
        (" LLAMA3 ", "llama3:latest"),
        ("qwen:7b", "Qwen:7B"),
        ("My-File", "My-File"),
        ("My-File:latest", "My-File"),
        ("my-file", "My-File"),
        ("CAPITALS", "CAPITALS"),
        ("case", "case"),
        ("CASE", "CASE"),
        ("reg.example/team/coder:1", "reg.example/team/coder:1"),
        ("team/coder:1", "reg.example/team/coder:1"),
    ] {
        assert_eq!(found(name).as_deref(), Some(id), "{name:?}");
    }
    for name in
        ["", "qwen", "Case", "team/twice:1", "../models/case", "модель", "llama\u{202e}3", "a\0b"]
    {
        assert_eq!(found(name), None, "{name:?}");
    }
}

/// What the file itself is called, to tell files apart.
fn named_in_file(library: &Library, name: &str) -> String {
    let file = library.find(name).expect("found");
    file.head.expect("loads").name.expect("a name")
}

#[test]
fn models_with_the_same_short_name_get_longer_ones() {
    let folder = Folder::new();
    let pulled = ModelRef::parse("m:1", OLLAMA_REGISTRY).expect("a name");
    folder.install("m:1", &[gguf("imported")]);
    {
        let guard = folder.store.lock().expect("locks");
        let digest = folder.blob(&gguf("pulled"));
        let manifest = Manifest::of_gguf(digest, gguf("pulled").len() as u64);
        folder.store.install(&guard, &pulled, &manifest).expect("installs");
    }
    loose(&folder, "edgecoder-demo-4m.gguf", &gguf("loose"));
    loose(&folder, "a.GGUF", &gguf("capitals"));
    loose(&folder, "a.gguf", &gguf("usual"));
    let library = library(&folder, "");
    let mut listed = ids(&library);
    listed.sort();
    assert_eq!(
        listed.join(" "),
        "a a.GGUF edgecoder-demo-4m edgecoder-demo-4m.gguf local/library/m:1 m:1"
    );
    for name in ["m:1", "library/m:1", "registry.ollama.ai/library/m:1"] {
        assert_eq!(named_in_file(&library, name), "pulled");
    }
    assert_eq!(named_in_file(&library, "local/library/m:1"), "imported");
    assert_eq!(library.find("a").expect("found").name(), "usual");
    for id in &listed {
        assert_eq!(&library.get(id).expect("found").id, id);
    }
    let removed = library.remove(&library.get("edgecoder-demo-4m.gguf").expect("found"));
    assert_eq!(removed.expect("removes").model, "edgecoder-demo-4m.gguf");
}

#[test]
fn an_ollama_folder_is_read_and_never_written() {
    let folder = Folder::new();
    let ollama = folder.dir.path().join("ollama");
    let config = br#"{"model_family":"llama","model_type":"1B","file_type":"Q8_0"}"#.to_vec();
    ollama_model(&ollama, "llama3.2:1b", &[("model", gguf("l")), ("config", config)]);
    ollama_model(&ollama, "hf.co/Org/Repo:Q4_K_M", &[("model", gguf("h"))]);
    fs::write(ollama.join("blobs/sha256-abc-partial"), b"being pulled").expect("writes");
    let cloud = ollama.join("manifests/registry.ollama.ai/library/cloud/latest");
    fs::create_dir_all(cloud.parent().expect("a folder")).expect("makes");
    fs::write(&cloud, br#"{"schemaVersion":2,"layers":[]}"#).expect("writes");
    let before = snapshot(&ollama);
    set_read_only(&ollama, true);
    let library = library(&folder, ollama.to_str().expect("text"));
    assert_eq!(ids(&library), ["hf.co/Org/Repo:Q4_K_M", "llama3.2:1b", "edgecoder-demo-4m"]);
    let file = library.find("llama3.2:1b").expect("found");
    assert_eq!(library.verify(&file, &mut on).expect("reads").damaged, [""; 0]);
    let name = ModelRef::local("mine").expect("a name");
    for error in [
        library.remove(&file).expect_err("refused").to_string(),
        library.copy(&file, &name).expect_err("refused").to_string(),
    ] {
        assert!(error.contains("`ollama rm llama3.2:1b`") || error.contains("Import"), "{error}");
    }
    file.defaults();
    library.store().expect("a store").collect_garbage().expect("collects");
    set_read_only(&ollama, false);
    assert_eq!(snapshot(&ollama), before);
    library.set_ollama_dir(Some(""));
    assert_eq!(ids(&library), ["edgecoder-demo-4m"]);
}

/// Every path with its length and time of change.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = fs::metadata(&path).expect("there");
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (meta.len(), meta.modified().expect("a time")));
        }
    }
    found
}

fn set_read_only(root: &Path, read_only: bool) {
    #[cfg(unix)]
    for path in snapshot(root).into_keys() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = match (path.is_dir(), read_only) {
            (true, true) => 0o555,
            (false, true) => 0o444,
            (true, false) => 0o755,
            (false, false) => 0o644,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets");
    }
}

#[test]
fn only_what_is_ours_is_removed() {
    let folder = Folder::new();
    let path = loose(&folder, "mine.gguf", &gguf("mine"));
    folder.install("stored:1", &[gguf("stored")]);
    let library = library(&folder, "");
    let removed = library.remove(&library.find("mine").expect("found")).expect("removes");
    assert_eq!((removed.model.as_str(), removed.freed_bytes), ("mine", gguf("mine").len() as u64));
    assert!(!path.exists());
    let demo = library.find("edgecoder-demo-4m").expect("found");
    let error = library.remove(&demo).expect_err("refused").to_string();
    assert!(error.contains("comes with EdgeCoder"), "{error}");
    let daemon = ModelFile { id: "far:1".into(), source: ModelSource::OllamaDaemon, ..demo };
    let error = library.remove(&daemon).expect_err("refused").to_string();
    assert!(error.contains("`ollama rm far:1`"), "{error}");
    library.remove(&library.find("stored:1").expect("found")).expect("removes");
    assert_eq!(library.usage(), Usage::default());
}

#[test]
fn an_imported_file_is_listed_at_once_and_its_name_is_taken_for_all() {
    let folder = Folder::new();
    let ollama = folder.dir.path().join("ollama");
    ollama_model(&ollama, "theirs:1", &[("model", gguf("t"))]);
    let library = library(&folder, ollama.to_str().expect("text"));
    let source = folder.file("New.gguf", &gguf("new"));
    library.import(&source, Some("new"), None, &mut on).expect("imports");
    assert_eq!(named_in_file(&library, "new"), "new");
    for taken in ["new", "theirs:1"] {
        let error = library.import(&source, Some(taken), None, &mut on).expect_err("taken");
        assert!(matches!(error, StoreError::Exists(_)), "{error}");
    }
    let file = library.find("new").expect("found");
    library.copy(&file, &ModelRef::local("copy").expect("a name")).expect("copies");
    assert_eq!(library.find("copy").expect("found").path, file.path);
    assert_eq!(library.list()[0].removable_bytes, Some(0), "the other name needs it");
}

#[test]
fn texts_that_come_with_a_model_are_read_and_nonsense_is_left_out() {
    let folder = Folder::new();
    let ollama = folder.dir.path().join("ollama");
    let parameters = json!({
        "temperature": 0.6, "stop": ["<|im_end|>", "x"], "num_ctx": 4096, "penalize_newline": true,
        "nested": {"no": 1}, "nothing": null
    });
    let messages = json!([{"role": "user", "content": "hi"}, {"role": 3}, "no"]);
    let config = json!({"model_family": "llama", "model_type": "1B", "file_type": "Q4_K_M"});
    let layers = [
        ("model", gguf("m")),
        ("system", b"You are brief.".to_vec()),
        ("template", b"{{ .Prompt }}".to_vec()),
        ("params", parameters.to_string().into_bytes()),
        ("messages", messages.to_string().into_bytes()),
        ("license", b"MIT".to_vec()),
        ("license", b"and another".to_vec()),
    ];
    ollama_model(&ollama, "full:1", &layers);
    let bad = [("model", gguf("b")), ("params", b"[1, 2".to_vec()), ("system", b" \n".to_vec())];
    ollama_model(&ollama, "bad:1", &bad);
    let with_config = manifest(&layers[..1]);
    let text = String::from_utf8(with_config.bytes).expect("text");
    let config = config.to_string();
    let digest = Digest::of(config.as_bytes());
    let layer = format!(
        r#"{{"config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{digest}","size":{}}},"#,
        config.len()
    );
    let path = ollama.join("manifests/registry.ollama.ai/library/full/config");
    fs::write(path, text.replacen('{', &layer, 1)).expect("writes");
    fs::write(ollama.join("blobs").join(digest.file_name()), &config).expect("writes");

    let library = library(&folder, ollama.to_str().expect("text"));
    let defaults = library.find("full:1").expect("found").defaults();
    assert_eq!(defaults.system.as_deref(), Some("You are brief."));
    assert_eq!(defaults.template.as_deref(), Some("{{ .Prompt }}"));
    assert_eq!(defaults.licenses, ["MIT", "and another"]);
    assert_eq!(defaults.messages, [json!({"role": "user", "content": "hi"})]);
    let mut names: Vec<&String> = defaults.parameters.keys().collect();
    names.sort();
    assert_eq!(names, ["num_ctx", "penalize_newline", "stop", "temperature"]);
    assert_eq!(library.find("bad:1").expect("found").defaults(), Defaults::default());
    let facts = library.find("full:config").expect("found").config_facts();
    assert_eq!(facts.file_type.as_deref(), Some("Q4_K_M"));
    let demo = library.find("edgecoder-demo-4m").expect("found");
    assert_eq!(demo.defaults(), Defaults::default());
}

#[tokio::test]
async fn after_a_restart_heads_come_from_the_database_and_changed_files_are_read() {
    let folder = Folder::new();
    let kept = loose(&folder, "kept.gguf", &gguf("kept"));
    loose(&folder, "bad.gguf", b"no model in here, sorry");
    let changed = loose(&folder, "changed.gguf", &gguf("before"));
    let gone = loose(&folder, "gone.gguf", &gguf("gone"));
    let database = folder.dir.path().join("edgecoder.db");
    let storage = Storage::open(&database).await.expect("opens").storage;
    let open = |storage| Library::open(None, folder.store.clone(), Some(""), storage);
    assert_eq!(open(storage.clone()).await.list().len(), 4);
    storage.close().await;

    // The same length and time: only who reads it again notices.
    let time = fs::metadata(&kept).and_then(|meta| meta.modified()).expect("a time");
    fs::write(&kept, vec![0; gguf("kept").len()]).expect("writes");
    fs::File::options().write(true).open(&kept).and_then(|f| f.set_modified(time)).expect("sets");
    fs::write(&changed, gguf("afterwards")).expect("writes");
    fs::remove_file(&gone).expect("removes");
    let storage = Storage::open(&database).await.expect("opens").storage;
    let library = open(storage.clone()).await;
    let names: Vec<String> = library.list().iter().map(ModelFile::name).collect();
    assert_eq!(names, ["bad", "afterwards", "kept"]);
    let problem = library.find("bad").expect("found").describe(false).problem.expect("bad");
    assert!(problem.contains("not a GGUF file"), "{problem}");
    storage.close().await;
    let storage = Storage::open(&database).await.expect("opens").storage;
    let rows = crate::storage::list_heads(storage.readers(), 1).await.expect("reads");
    assert_eq!(rows.len(), 3, "the file that is gone is forgotten");
}

/// What this thread has used of a processor: on a busy machine it says more than the clock. 0 where
/// Linux's `schedstat` is not.
fn processor_ms() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e6
}

/// Prints how long it takes; run it with `--release -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "prints times"]
async fn times_of_a_thousand_models() {
    let folder = Folder::new();
    for n in 0..limits::LISTED_MODELS {
        let texts = [format!("licence {}", n % 7), format!("template {}", n % 50)];
        let [licence, template] = texts.map(String::into_bytes);
        folder.install(&format!("model-{n}:q4"), &[gguf(&format!("m{n}")), licence, template]);
    }
    let database = folder.dir.path().join("edgecoder.db");
    let storage = Storage::open(&database).await.expect("opens").storage;
    let open = || Library::open(Some(assets()), folder.store.clone(), Some(""), storage.clone());
    let time = |what: &str, work: &dyn Fn()| {
        let (start, cpu) = (Instant::now(), processor_ms());
        work();
        let (took, cpu) = (start.elapsed().as_secs_f64() * 1e3, processor_ms() - cpu);
        println!("{what}: {took:.2} ms, {cpu:.2} ms of the processor");
    };
    let library = open().await;
    time("list, nothing known", &|| drop(library.list()));
    for _ in 0..5 {
        time("list, all known", &|| {
            let files = library.list();
            assert_eq!(files.len(), limits::LISTED_MODELS + 1);
        });
    }
    time("usage", &|| assert!(library.usage().installed_bytes > 0));
    time("find, an id", &|| drop(library.find("model-500:q4").expect("found")));
    time("find, capitals", &|| drop(library.find("MODEL-500:q4").expect("found")));
    time("collect garbage", &|| drop(folder.store.collect_garbage()));
    storage.write(crate::storage::KeepHeads::default()).await.expect("what waits is written");
    let start = Instant::now();
    let library = open().await;
    println!("open: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    time("list after a restart", &|| drop(library.list()));
    let name = folder.store.manifests().into_keys().next().expect("one");
    time("remove one", &|| drop(folder.store.remove(&name)));
}
