//! Tests of the store: what is removed, what stays, and what happens when several do it at once.

mod invariant;

use std::{
    io::Read as _,
    time::{Duration, SystemTime},
};

use super::*;
use crate::models::library::fixtures::{Folder, gguf, on};

#[test]
fn a_shared_layer_survives_the_removal_of_one_of_two_models() {
    let folder = Folder::new();
    let store = &folder.store;
    let a = folder.install("a:1", &[gguf("a"), b"the licence".to_vec()]);
    let b = folder.install("b:1", &[gguf("b"), b"the licence".to_vec()]);
    let before = folder.disk_bytes();
    assert_eq!(store.removable_bytes(&a), Some(gguf("a").len() as u64));
    let removed = store.remove(&a).expect("removes");
    assert_eq!((removed.model.as_str(), removed.freed_bytes), ("a:1", gguf("a").len() as u64));
    assert_eq!(before - folder.disk_bytes(), removed.freed_bytes);
    assert_eq!(store.verify(&b, &mut on).expect("reads").damaged, [""; 0]);
    let all = store.removable_bytes(&b).expect("installed");
    assert_eq!(store.remove(&b).expect("removes").freed_bytes, all);
    assert_eq!(store.usage(), Usage::default());
    let left = fs::read_dir(store.root().join("manifests")).expect("a folder").count();
    assert_eq!(left, 0, "empty folders are removed");
}

#[test]
fn what_is_not_installed_cannot_be_removed() {
    let folder = Folder::new();
    let name = ModelRef::local("nobody").expect("a name");
    let error = folder.store.remove(&name).expect_err("refused").to_string();
    assert_eq!(error, r#"there is no model "nobody:latest" in this node's store"#);
}

#[test]
fn a_pull_under_way_keeps_the_layers_it_needs() {
    let folder = Folder::new();
    let store = &folder.store;
    let name = folder.install("a:1", &[gguf("a")]);
    let manifest = store.manifest(&name).expect("reads").expect("installed");
    {
        let guard = store.lock().expect("locks");
        store.reserve(&guard, "pull-1", &manifest).expect("reserves");
    }
    assert_eq!(store.removable_bytes(&name), Some(0));
    assert_eq!(store.remove(&name).expect("removes").freed_bytes, 0);
    assert_eq!(store.collect_garbage().expect("collects").freed_bytes, 0);
    let other = Store::open(store.root().to_path_buf()).expect("a second node");
    let guard = other.lock().expect("locks");
    other.install(&guard, &name, &manifest).expect("the pull installs it again");
    other.release(&guard, "pull-1").expect("releases");
    drop(guard);
    assert_eq!(store.remove(&name).expect("removes").freed_bytes, gguf("a").len() as u64);
}

#[test]
fn a_blob_that_is_being_written_is_left_alone() {
    let folder = Folder::new();
    let other = Store::open(folder.store.root().to_path_buf()).expect("a second node");
    let digest = folder.blob(b"nobody needs this");
    let lock = other.lock_blob(digest).expect("locks").expect("free");
    assert!(folder.store.lock_blob(digest).expect("asks").is_none(), "one writer at a time");
    fs::write(other.partial_path(digest), b"part").expect("writes");
    assert_eq!(folder.store.collect_garbage().expect("collects"), Collected::default());
    other.discard_partial(lock).expect("discards");
    assert!(!other.partial_path(digest).exists());
    let collected = folder.store.collect_garbage().expect("collects");
    assert_eq!((collected.freed_bytes, collected.removed_files), (17, 1));
}

#[test]
fn a_file_fetched_without_a_digest_gets_its_name_at_the_end() {
    let folder = Folder::new();
    let store = &folder.store;
    let (address, digest) = (Digest::of(b"https://example/m.gguf"), Digest::of(&gguf("m")));
    {
        let guard = store.lock().expect("locks");
        store.reserve(&guard, "pull-1", &Manifest::of_gguf(address, 1)).expect("reserves");
        let reserved = store.reserved(&guard).expect("reads");
        assert_eq!(reserved, [Manifest::of_gguf(address, 1)]);
    }
    let lock = store.lock_blob(address).expect("locks").expect("free");
    fs::write(store.partial_path(address), gguf("m")).expect("writes");
    store.commit_blob_as(lock, digest).expect("commits");
    assert_eq!(store.blob_size(digest), Some(gguf("m").len() as u64));
    let left = fs::read_dir(store.blobs()).expect("a folder").count();
    assert_eq!(left, 1, "no lock and no state are left");
}

#[test]
fn what_killed_processes_left_is_collected_and_nothing_else() {
    let folder = Folder::new();
    let store = &folder.store;
    let kept = folder.install("kept:1", &[gguf("kept")]);
    let kept_digest = Digest::of(&gguf("kept"));
    fs::write(store.state_path(kept_digest), b"{}").expect("writes");
    let pulled = Manifest::of_gguf(Digest::of(b"coming"), 6);
    {
        let guard = store.lock().expect("locks");
        store.reserve(&guard, "pull-1", &pulled).expect("reserves");
    }
    let coming = Digest::of(b"coming");
    fs::write(store.partial_path(coming), b"com").expect("writes");
    fs::write(store.state_path(coming), b"{}").expect("writes");
    let gone = Digest::of(b"given up");
    for path in [store.partial_path(gone), store.state_path(gone), store.lock_path(gone)] {
        fs::write(path, b"x").expect("writes");
    }
    folder.blob(b"unreferenced");
    let old = store.blobs().join(".tmpOld");
    let file = File::create(&old).expect("creates");
    file.set_modified(SystemTime::now() - Duration::from_secs(7_200)).expect("sets");
    drop(file);
    let fresh = store.blobs().join(".tmpFresh");
    fs::write(&fresh, b"a state being written").expect("writes");
    fs::write(store.root().join("pulls/.tmpDead"), b"x").expect("writes");
    let never_written = store.root().join("manifests/local/library/never");
    fs::create_dir_all(&never_written).expect("makes");
    let importing = store.stage().expect("another import under way");
    let unknown = store.blobs().join("sha256-notes-partial");
    fs::write(&unknown, b"somebody else's").expect("writes");

    let collected = store.collect_garbage().expect("collects");
    assert_eq!(collected.unknown_files, 1);
    for path in [&fresh, &unknown, importing.path(), &store.partial_path(coming)] {
        assert!(path.exists(), "{} stays", path.display());
    }
    assert!(store.state_path(coming).exists() && store.blob_path(kept_digest).exists());
    assert_eq!(store.verify(&kept, &mut on).expect("reads").damaged, [""; 0]);
    for path in [&old, &store.partial_path(gone), &store.lock_path(gone)] {
        assert!(!path.exists(), "{} goes", path.display());
    }
    assert!(!store.root().join("pulls/.tmpDead").exists() && !never_written.exists());
    assert!(!store.state_path(kept_digest).exists());
    assert_eq!(store.blob_size(Digest::of(b"unreferenced")), None);
    let again = store.collect_garbage().expect("collects");
    assert_eq!((again.freed_bytes, again.removed_files), (0, 0));
}

#[test]
fn nothing_is_deleted_while_it_cannot_be_told_what_is_needed() {
    let folder = Folder::new();
    let store = &folder.store;
    let name = folder.install("a:1", &[gguf("a")]);
    folder.blob(b"perhaps needed");
    let strange = store.root().join("manifests").join("dump.bin");
    fs::write(&strange, vec![0; 2 << 20]).expect("writes");
    let before = folder.disk_bytes();
    for error in [
        store.remove(&name).expect_err("refused").to_string(),
        store.collect_garbage().expect_err("refused").to_string(),
    ] {
        assert!(error.contains("dump.bin") && error.contains("Move that file"), "{error}");
    }
    assert_eq!(folder.disk_bytes(), before);
    assert!(store.taken(&name).is_some(), "the model is still there");
}

#[test]
fn a_manifest_in_a_form_unknown_here_keeps_its_layers() {
    let folder = Folder::new();
    let store = &folder.store;
    let digest = folder.blob(b"of a newer program");
    let path = store.manifest_path(&ModelRef::local("newer").expect("a name"));
    fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
    fs::write(&path, format!(r#"{{"form":9,"parts":["{digest}"]}}"#)).expect("writes");
    store.collect_garbage().expect("collects");
    assert!(store.blob_size(digest).is_some());
    let name = ModelRef::local("newer").expect("a name");
    assert_eq!(store.remove(&name).expect("removes").freed_bytes, 18);
}

#[test]
fn a_manifest_whose_layers_are_not_all_here_is_not_installed() {
    let folder = Folder::new();
    let digest = folder.blob(b"seven b");
    let guard = folder.store.lock().expect("locks");
    let name = ModelRef::local("m").expect("a name");
    for (digest, size) in [(digest, 8), (Digest::of(b"elsewhere"), 7)] {
        let manifest = Manifest::of_gguf(digest, size);
        let error = folder.store.install(&guard, &name, &manifest).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
    assert!(folder.store.taken(&name).is_none());
}

#[test]
fn a_second_name_shares_the_layers() {
    let folder = Folder::new();
    let store = &folder.store;
    let a = folder.install("a:1", &[gguf("a")]);
    let b = ModelRef::local("me/b").expect("a name");
    let before = folder.disk_bytes();
    store.copy(&a, &b).expect("copies");
    assert_eq!(folder.disk_bytes(), before);
    let error = store.copy(&a, &b).expect_err("taken").to_string();
    assert!(error.contains("me/b:latest already"), "{error}");
    assert!(matches!(
        store.copy(&ModelRef::local("x").expect("a name"), &a),
        Err(StoreError::Exists(_))
    ));
    assert_eq!(store.remove(&a).expect("removes").freed_bytes, 0);
    assert_eq!(store.remove(&b).expect("removes").freed_bytes, gguf("a").len() as u64);
}

#[test]
fn verifying_names_the_layers_that_are_damaged_or_missing() {
    let folder = Folder::new();
    let store = &folder.store;
    let layers = [gguf("a"), b"licence".to_vec(), b"fine".to_vec()];
    let name = folder.install("a:1", &layers);
    let mut bytes = gguf("a");
    bytes[40] ^= 1;
    fs::write(store.blob_path(Digest::of(&gguf("a"))), bytes).expect("damages");
    fs::remove_file(store.blob_path(Digest::of(b"licence"))).expect("loses");
    let mut last = (0, 0);
    let verified = store
        .verify(&name, &mut |done, total| {
            last = (done, total);
            ControlFlow::Continue(())
        })
        .expect("reads");
    let damaged = [Digest::of(&gguf("a")).to_string(), Digest::of(b"licence").to_string()];
    assert_eq!(verified.damaged, damaged);
    assert_eq!(last, (verified.bytes, verified.bytes));
    let stopped = store.verify(&name, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(StoreError::Stopped)));
}

#[test]
fn a_damaged_layer_makes_room_for_a_good_one_and_goes_when_that_is_here() {
    let folder = Folder::new();
    let store = &folder.store;
    let name = folder.install("a:1", &[gguf("a"), b"licence".to_vec()]);
    let digest = Digest::of(b"licence");
    fs::write(store.blob_path(digest), b"LICENCE").expect("damages");
    let verified = store.verify(&name, &mut on).expect("reads");
    assert_eq!(verified.damaged, [digest.to_string()]);
    assert_eq!(store.blob_size(digest), None, "a pull finds it missing");
    assert!(!store.lock_path(digest).exists());
    store.collect_garbage().expect("collects");
    assert!(store.damaged_path(digest).exists(), "it is all there is");
    folder.blob(b"licence");
    let collected = store.collect_garbage().expect("collects");
    assert_eq!((collected.removed_files, collected.unknown_files), (1, 0));
    assert!(!store.damaged_path(digest).exists());
    assert_eq!(store.verify(&name, &mut on).expect("reads").damaged, [""; 0]);
}

#[cfg(unix)]
#[test]
fn nothing_is_deleted_while_links_lead_nowhere_or_to_blobs_of_others() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    let store = &folder.store;
    let unused = folder.blob(b"whose is it?");
    let link = store.root().join("manifests").join("host.example");
    symlink(folder.dir.path().join("unmounted"), &link).expect("links");
    assert!(matches!(store.collect_garbage(), Err(StoreError::Unclear { .. })));
    assert!(store.blob_size(unused).is_some());
    fs::remove_file(link).expect("removes");
    let elsewhere = folder.dir.path().join("shared");
    fs::rename(store.blobs(), &elsewhere).expect("moves");
    symlink(&elsewhere, store.blobs()).expect("links");
    assert_eq!(store.collect_garbage().expect("does nothing"), Collected::default());
    assert!(store.blob_size(unused).is_some());
}

#[test]
fn an_imported_file_becomes_a_model_and_stays_where_it_was() {
    let folder = Folder::new();
    let source = folder.file("My Model (Q4).gguf", &gguf("mine"));
    let name = import_name(&source, None).expect("a name");
    let made = folder.store.import(&source, &name, None, &mut on).expect("imports");
    assert_eq!(
        (name.id().as_str(), made.bytes),
        ("My-Model--Q4:latest", gguf("mine").len() as u64)
    );
    assert_eq!(fs::read(&source).expect("reads"), gguf("mine"));
    // The owner's later changes to the file are not the store's.
    fs::write(&source, b"edited").expect("writes");
    assert_eq!(folder.store.verify(&name, &mut on).expect("reads").damaged, [""; 0]);
    let link = source.with_file_name("link.gguf");
    #[cfg(unix)]
    {
        let real = folder.file("real.gguf", &gguf("linked"));
        std::os::unix::fs::symlink(&real, &link).expect("links");
        let name = import_name(&link, Some("from-a-link:1")).expect("a name");
        folder.store.import(&link, &name, None, &mut on).expect("imports what it points to");
        let blob = folder.store.blob_path(Digest::of(&gguf("linked")));
        assert!(fs::symlink_metadata(blob).expect("there").is_file());
    }
}

#[test]
fn the_same_bytes_imported_twice_are_kept_once() {
    let folder = Folder::new();
    let source = folder.file("m.gguf", &gguf("m"));
    for name in ["one", "two"] {
        let name = ModelRef::local(name).expect("a name");
        folder.store.import(&source, &name, None, &mut on).expect("imports");
    }
    assert_eq!(folder.store.usage().installed_bytes, gguf("m").len() as u64);
}

#[test]
fn what_cannot_be_imported_is_refused_by_name_and_leaves_nothing() {
    let folder = Folder::new();
    let whole = gguf("m");
    let cut = &whole[..whole.len() - 1];
    let source = |name, bytes| folder.file(name, bytes);
    let missing = folder.dir.path().join("missing.gguf");
    for (path, why) in [
        (source("letter.gguf", b"Dear reader, this is no model at all."), "not a GGUF file"),
        (source("empty.gguf", b""), "not a GGUF file"),
        (source("cut.gguf", cut), "cut off"),
        (folder.dir.path().to_path_buf(), "is a folder"),
        (missing, "cannot read"),
    ] {
        let name = ModelRef::local("m").expect("a name");
        let error = folder.store.import(&path, &name, None, &mut on).expect_err(why).to_string();
        let shown = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(error.contains(why) && error.contains(&shown), "{error}");
    }
    let fine = source("fine.gguf", &whole);
    let name = |text| ModelRef::local(text).expect("a name");
    let over = folder.store.import(&fine, &name("m"), Some(10), &mut on).expect_err("too large");
    assert!(over.to_string().contains("raise the disk budget"), "{over}");
    let stopped = folder.store.import(&fine, &name("m"), None, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(StoreError::Stopped)));
    folder.install("taken:1", &[gguf("x")]);
    let taken = folder.store.import(&fine, &name("taken:1"), None, &mut on).expect_err("taken");
    assert!(taken.to_string().contains("taken:1 already"), "{taken}");
    let being_pulled = folder.store.lock_blob(Digest::of(&whole)).expect("locks").expect("free");
    let busy = folder.store.import(&fine, &name("m"), None, &mut on).expect_err("busy");
    assert!(busy.to_string().contains("being pulled right now"), "{busy}");
    drop(being_pulled);
    assert_eq!(
        folder.store.usage(),
        Usage { installed_bytes: gguf("x").len() as u64, partial_bytes: 0 }
    );
    assert_eq!(folder.store.manifests().len(), 1);
}

#[test]
fn odd_letters_in_names_are_refused_or_replaced() {
    let named = |file: &str| import_name(Path::new(file), None).expect("a name").id();
    assert_eq!(named("/x/модель\u{202e}.gguf"), "imported:latest");
    assert_eq!(named("/x/../..gguf"), "imported:latest");
    assert_eq!(named("/x/Ünïcode 3B.gguf"), "n-code-3B:latest");
    for given in ["../x", "модель", "a b", "x\u{202e}y", "ｆｕｌｌ"] {
        import_name(Path::new("m.gguf"), Some(given)).expect_err(given);
    }
}

#[test]
fn a_process_killed_during_an_import_leaves_nothing_that_is_listed() {
    let folder = Folder::new();
    let store = &folder.store;
    let source = folder.file("m.gguf", &gguf("m"));
    let size = gguf("m").len() as u64;
    // Killed after copying: the file stays, its lock goes with the process.
    let staged = store.stage().expect("stages");
    let (digest, _) = store.fill(&staged, &source, size, &mut on).expect("copies");
    drop(staged.keep().expect("kept"));
    // Killed between naming the blob and writing the manifest.
    let staged = store.stage().expect("stages");
    store.fill(&staged, &source, size, &mut on).expect("copies");
    let lock = store.lock_blob(digest).expect("locks").expect("free");
    staged.persist(store.blob_path(digest)).expect("renames");
    drop(lock);

    assert!(store.manifests().is_empty());
    let collected = store.collect_garbage().expect("collects");
    assert_eq!(collected.unknown_files, 0);
    assert_eq!(fs::read_dir(store.blobs()).expect("a folder").count(), 0);
    // And the same import works afterwards.
    let name = ModelRef::local("m").expect("a name");
    store.import(&source, &name, None, &mut on).expect("imports");
}

#[test]
fn a_part_file_counts_with_the_space_it_takes() {
    let folder = Folder::new();
    let path = folder.store.partial_path(Digest::of(b"large"));
    let file = File::create(path).expect("creates");
    file.set_len(1 << 40).expect("sparse");
    let usage = folder.store.usage();
    assert!(usage.partial_bytes < 1 << 20, "{usage:?}");
    assert_eq!(usage.installed_bytes, 0);
}

#[test]
fn only_one_holds_a_blob_however_its_lock_file_comes_and_goes() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let folder = Folder::new();
    let holders = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(folder.store.root().to_path_buf()).expect("opens");
                let digest = Digest::of(b"wanted by all");
                for _ in 0..300 {
                    let Some(lock) = store.lock_blob(digest).expect("asks") else { continue };
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    std::thread::yield_now();
                    holders.fetch_sub(1, Ordering::SeqCst);
                    store.discard_partial(lock).expect("gives up");
                }
            });
        }
    });
}

#[test]
fn the_file_of_a_removed_model_stays_readable_for_who_has_it_open() {
    let folder = Folder::new();
    let name = folder.install("a:1", &[gguf("a")]);
    let mut open = File::open(folder.store.blob_path(Digest::of(&gguf("a")))).expect("opens");
    folder.store.remove(&name).expect("removes");
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).expect("reads");
    assert_eq!(bytes, gguf("a"));
}
