//! The node's side of the sandbox, with a script in the place of the program.

use super::*;

#[tokio::test]
async fn without_the_program_both_kinds_say_what_to_do() {
    let sandbox = Sandbox::new(None);
    for ability in sandbox.abilities().await {
        assert!(!ability.able);
        assert!(ability.reason.contains("Install EdgeCoder again"), "{}", ability.reason);
    }
    let refused = sandbox.check(Language::Python).await.expect_err("nothing to run it with");
    assert_eq!(refused, SandboxError::Unable(NOT_FOUND.to_owned()));
}

fn an_interpreter() -> Interpreter {
    Interpreter {
        language: Language::Python,
        path: "/usr/bin/python3.11".to_owned(),
        version: "3.11.2".to_owned(),
        libraries: Vec::new(),
    }
}

#[test]
fn an_ability_names_the_languages_and_the_walls() {
    let able = Abilities {
        protocol: PROTOCOL,
        interpreters: vec![an_interpreter()],
        confinement: Ok("Landlock, seccomp".to_owned()),
    };
    let words = "Python 3.11.2; contained by Landlock, seccomp";
    assert_eq!(code_ability(&able), Ok(words.to_owned()));
    let unable = Abilities { confinement: Err("no Landlock".to_owned()), ..able };
    assert_eq!(code_ability(&unable), Err("no Landlock.".to_owned()));
}

#[cfg(unix)]
mod scripted {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    /// `serve` answers each job with the number of its process. It crashes over the module `crash`,
    /// and is retired over the module `bomb`: it compiles nothing after it. `exec` runs until its
    /// input ends, and leaves a file when it did.
    const SCRIPT: &str = r##"#!/bin/sh
PATH=/usr/bin:/bin
octal() { printf '\\0%03o' "$1"; }
frame() {
    printf '%b%s' "$(octal $((${#1} % 256)))$(octal $((${#1} / 256)))\\0000\\0000" "$1"
}
if [ "$1" = exec ]; then
    : >"$0.started"
    cat >/dev/null
    : >"$0.ended"
    exit
fi
frame '{"reply":"hello","protocol":PROTOCOL,"confinement":"none"}'
retired=
while :; do
    length=$(dd bs=1 count=4 2>/dev/null | od -An -tu4 | tr -d ' ')
    [ -n "$length" ] || exit 0
    command=$(dd bs=1 count="$length" 2>/dev/null)
    id=$(printf %s "$command" | sed 's/.*"id":\([0-9]*\).*/\1/')
    case $command in
    *'"cancel"'*) continue ;;
    *'"crash"'*) exit 1 ;;
    *'"bomb"'*)
        retired=1
        frame '{"reply":"retired"}'
        frame '{"reply":"failed","id":'"$id"',"lasting":true,"message":"took too long"}'
        continue ;;
    esac
    if [ -n "$retired" ]; then
        frame '{"reply":"need_module","id":'"$id"'}'
    else
        output=$(printf %s $$ | base64)
        frame '{"reply":"done","id":'"$id"',"output":"'"$output"'","fuel_used":1}'
    fi
done
"##;

    fn script() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sandbox.sh");
        let text = SCRIPT.replace("PROTOCOL", &PROTOCOL.to_string());
        // Written by another process: one that was forked while this one had it open for writing
        // would make it busy.
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", "printf %s \"$2\" >\"$1\" && chmod 700 \"$1\"", "sh"])
            .arg(&path)
            .arg(text)
            .status()
            .expect("there is a shell");
        assert!(written.success());
        (dir, path)
    }

    async fn wasm(sandbox: &Sandbox, module: &str) -> Result<String, SandboxError> {
        let job = WasmJob {
            module: module.to_owned(),
            name: None,
            input: String::new(),
            fuel: 1,
            memory_bytes: 1,
            wall_ms: 60_000,
        };
        let done = sandbox.wasm(Vec::new(), &job).await?;
        Ok(String::from_utf8(done.output).expect("is a number"))
    }

    #[tokio::test]
    async fn after_enough_jobs_a_new_process_takes_the_next() {
        let (_dir, program) = script();
        let sandbox = Sandbox::replacing_after(Some(program), 2);
        let mut processes = Vec::new();
        for _ in 0..5 {
            processes.push(wasm(&sandbox, "good").await.expect("runs"));
        }
        assert_eq!(processes[0], processes[1]);
        assert_eq!(processes[2], processes[3]);
        processes.dedup();
        assert_eq!(processes.len(), 3, "{processes:?}");
    }

    #[tokio::test]
    async fn after_a_crash_a_new_process_takes_the_next_job() {
        let (_dir, program) = script();
        let sandbox = Sandbox::new(Some(program));
        let first = wasm(&sandbox, "good").await.expect("runs");
        let crash = wasm(&sandbox, "crash").await.expect_err("its process ends each time");
        assert!(crash.to_string().contains("ended unexpectedly"), "{crash}");
        let next = wasm(&sandbox, "good").await.expect("runs");
        assert_ne!(first, next);
    }

    #[tokio::test]
    async fn a_module_that_does_not_compile_in_time_costs_the_others_nothing() {
        let (_dir, program) = script();
        let sandbox = Sandbox::new(Some(program));
        let first = wasm(&sandbox, "good").await.expect("runs");
        let bomb = wasm(&sandbox, "bomb").await.expect_err("is refused");
        assert_eq!(bomb, SandboxError::Refused("took too long".to_owned()));
        let next = wasm(&sandbox, "good").await.expect("runs in another process");
        assert_ne!(first, next);
    }

    async fn appears(path: &Path) {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Killed it could not end what it runs: only Linux does that by itself.
    #[tokio::test]
    async fn a_program_that_is_not_wanted_any_more_is_ended_by_its_watchman() {
        let (dir, program) = script();
        let work = tempfile::tempdir().expect("a folder");
        let folder = work.path().to_owned();
        let exec = Exec {
            interpreter: an_interpreter(),
            dir: String::new(),
            files: Vec::new(),
            wall_ms: 3_600_000,
        };
        let wall = Duration::from_millis(exec.wall_ms);
        let (started, ended) = ("sandbox.sh.started", "sandbox.sh.ended");
        let (started, ended) = (dir.path().join(started), dir.path().join(ended));
        tokio::select! {
            ran = once::exec(&program, &exec, wall, work) => panic!("ended by itself: {ran:?}"),
            () = appears(&started) => {}
        }
        appears(&ended).await;
        while folder.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
