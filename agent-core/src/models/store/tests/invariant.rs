//! What holds after any sequence of calls, and with several nodes at once.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Six names, four files of weights and two texts: few enough to collide all the time.
#[derive(Clone, Copy, Debug)]
enum Step {
    Install { name: u8, weights: u8, text: u8 },
    Import { name: u8, weights: u8 },
    Copy { from: u8, to: u8 },
    Remove { name: u8 },
    LooseBlob { weights: u8 },
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0_u8..6;
    let weights = 0_u8..4;
    let step = prop_oneof![
        3 => (name.clone(), weights.clone(), 0_u8..2)
            .prop_map(|(name, weights, text)| Step::Install { name, weights, text }),
        2 => (name.clone(), weights.clone()).prop_map(|(name, weights)| Step::Import { name, weights }),
        2 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Copy { from, to }),
        3 => name.prop_map(|name| Step::Remove { name }),
        1 => weights.prop_map(|weights| Step::LooseBlob { weights }),
        1 => Just(Step::Collect),
    ];
    prop::collection::vec(step, 1..24)
}

fn named(name: u8) -> ModelRef {
    ModelRef::local(&format!("m{name}:t")).expect("a name")
}

fn weights(n: u8) -> Vec<u8> {
    gguf(&"w".repeat(1 + usize::from(n) * 7))
}

/// Every model that is listed has all its layers, whole.
fn all_listed_models_are_whole(store: &Store) {
    for (name, manifest) in store.manifests() {
        for layer in &manifest.layers {
            let size = store.blob_size(layer.digest);
            assert_eq!(size, Some(layer.size), "{} of {}", layer.digest.short(), name.id());
        }
    }
}

fn carry_out(folder: &Folder, step: Step) {
    let store = &folder.store;
    let before = folder.disk_bytes();
    let freed = |bytes: u64| assert_eq!(before - folder.disk_bytes(), bytes, "{step:?}");
    match step {
        Step::Install { name, weights: n, text } => {
            let name = format!("m{name}:t");
            folder.install(&name, &[weights(n), format!("text {text}").into_bytes()]);
        }
        Step::Import { name, weights: n } => {
            let source = folder.file("source.gguf", &weights(n));
            let name = named(name);
            let was_taken = store.taken(&name).is_some();
            let done = store.import(&source, &name, None, &mut on);
            assert_eq!(done.is_ok(), !was_taken, "{done:?}");
            if was_taken {
                freed(0);
            }
        }
        Step::Copy { from, to } => {
            let may = store.taken(&named(from)).is_some() && store.taken(&named(to)).is_none();
            assert_eq!(store.copy(&named(from), &named(to)).is_ok(), may);
            freed(0);
        }
        Step::Remove { name } => {
            let told = store.removable_bytes(&named(name));
            let removed = store.remove(&named(name)).ok().map(|removed| removed.freed_bytes);
            assert_eq!(removed, told);
            freed(removed.unwrap_or(0));
        }
        Step::LooseBlob { weights: n } => {
            folder.blob(&weights(n));
        }
        Step::Collect => freed(store.collect_garbage().expect("collects").freed_bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn listed_models_are_whole_and_freed_bytes_are_what_the_disk_gained(steps in steps()) {
        let folder = Folder::new();
        for step in steps {
            carry_out(&folder, step);
            all_listed_models_are_whole(&folder.store);
        }
        // After a collection every blob is needed by a model.
        folder.store.collect_garbage().expect("collects");
        let manifests = folder.store.manifests();
        let needed: HashSet<String> = manifests
            .values()
            .flat_map(|manifest| manifest.layers.iter().map(|layer| layer.digest.file_name()))
            .collect();
        let entries = fs::read_dir(folder.store.blobs()).expect("a folder");
        let here: HashSet<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        prop_assert_eq!(here, needed);
    }
}

#[test]
fn nodes_that_share_a_store_never_break_each_others_models() {
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_nanos());
    println!("seed {seed}");
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let root = folder.store.root().to_path_buf();
            let source = folder.dir.path().join(format!("source-{thread}.gguf"));
            scope.spawn(move || {
                let store = Store::open(root).expect("opens");
                let mut random = seed as u64 ^ (thread << 32) | 1;
                for _ in 0..40 {
                    // xorshift64, Marsaglia 2003
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let pick =
                        |n: u64, shift: u32| u8::try_from((random >> shift) % n).expect("small");
                    race(&store, &source, pick(4, 8), pick(4, 24), pick(3, 40));
                }
            });
        }
    });
    all_listed_models_are_whole(&folder.store);
    folder.store.collect_garbage().expect("collects");
    all_listed_models_are_whole(&folder.store);
    let names: Vec<ModelRef> = folder.store.manifests().into_keys().collect();
    for name in names {
        assert_eq!(folder.store.verify(&name, &mut on).expect("reads").damaged, [""; 0]);
        folder.store.remove(&name).expect("removes");
    }
    assert_eq!(folder.store.usage(), Usage::default());
}

/// One step of one node. Others may have won: only errors that say so are allowed.
fn race(store: &Store, source: &Path, name: u8, n: u8, action: u8) {
    match action {
        0 => {
            fs::write(source, weights(n)).expect("writes");
            match store.import(source, &named(name), None, &mut on) {
                Ok(_) | Err(StoreError::Exists(_) | StoreError::Busy(_)) => {}
                Err(e) => panic!("import: {e}"),
            }
        }
        1 => match store.remove(&named(name)) {
            Ok(_) | Err(StoreError::NotFound(_)) => {}
            Err(e) => panic!("remove: {e}"),
        },
        _ => {
            store.collect_garbage().expect("collects");
        }
    }
}
