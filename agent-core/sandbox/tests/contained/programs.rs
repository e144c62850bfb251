//! Python and JavaScript through `exec`.

use std::{
    io::Write as _,
    path::Path,
    process::{Command as Process, Stdio},
    sync::OnceLock,
};

use agent_api::{
    runner::{encode_frame, read_frame},
    sandbox::{Abilities, Exec, ExecReply, Interpreter},
    tasks::Language,
};

/// What became of a program.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
    problem: String,
}

fn sandbox(mode: &str) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_edgecoder-sandbox"));
    process.arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped());
    process
}

fn abilities() -> &'static Abilities {
    static PROBED: OnceLock<Abilities> = OnceLock::new();
    PROBED.get_or_init(|| {
        let probed = sandbox("probe").output().expect("the sandbox starts");
        serde_json::from_slice(&probed.stdout).expect("tells its abilities")
    })
}

/// `None`, and a line that says so: this computer cannot run the language.
#[expect(clippy::print_stdout, reason = "a skipped test must not look like one that passed")]
fn interpreter(language: Language) -> Option<Interpreter> {
    let abilities = abilities();
    let found = abilities.interpreters.iter().find(|found| found.language == language);
    if found.is_none() {
        println!("skipped: no {language:?} here ({:?})", abilities.confinement);
    }
    found.cloned()
}

fn run(language: Language, files: &[(&str, &str)], wall_ms: u64) -> Option<Ran> {
    run_by(sandbox("exec"), language, files, wall_ms)
}

fn run_by(
    mut sandbox: Process,
    language: Language,
    files: &[(&str, &str)],
    wall_ms: u64,
) -> Option<Ran> {
    let dir = tempfile::tempdir().expect("a folder");
    let exec = Exec {
        interpreter: interpreter(language)?,
        dir: dir.path().to_string_lossy().into_owned(),
        files: files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        wall_ms,
    };
    let mut child = sandbox.spawn().expect("the sandbox starts");
    let mut stdin = child.stdin.take().expect("has an input");
    stdin.write_all(&encode_frame(&exec).expect("encodes")).expect("is taken");
    let mut stdout = child.stdout.take().expect("has an output");
    let reply = read_frame::<ExecReply>(&mut stdout).expect("speaks").expect("answers");
    child.wait().expect("ends");
    match reply {
        ExecReply::Ran { status, stdout, stderr, problem, .. } => {
            Some(Ran { status, stdout, stderr, problem: problem.unwrap_or_default() })
        }
        ExecReply::Unable { message } => panic!("was not run: {message}"),
    }
}

/// Long enough for any interpreter to start on a busy computer.
const AMPLE_MS: u64 = 60_000;

fn python(text: &str) -> Option<Ran> {
    run(Language::Python, &[("main.py", text)], AMPLE_MS)
}

fn javascript(text: &str) -> Option<Ran> {
    run(Language::Javascript, &[("main.js", text)], AMPLE_MS)
}

/// Tries each line on its own and prints what the system said.
fn python_tries(lines: &[&str]) -> Option<Ran> {
    python(&tries(lines))
}

fn tries(lines: &[&str]) -> String {
    let mut text =
        "import ctypes, fcntl, os, signal, socket, subprocess, sys, tempfile\n".to_owned();
    for line in lines {
        text.push_str(&format!(
            "try:\n    {line}\n    print('DID', {line:?})\nexcept Exception as e:\n    print('no:', e)\n"
        ));
    }
    text
}

/// Whether a program has a disk of its own to write to.
fn has_a_disk() -> bool {
    abilities().confinement.as_ref().is_ok_and(|how| how.contains("a disk in memory"))
}

#[test]
fn a_good_program_passes_its_tests() {
    let tests = "from solution import add\nimport asyncio, threading, unittest\n\
        assert add(1, 2) == 3\n\
        t = threading.Thread(target=lambda: print('thread'))\nt.start(); t.join()\n\
        async def main():\n    await asyncio.sleep(0)\n    print('loop')\nasyncio.run(main())\n";
    let solution = "def add(a, b):\n    return a + b\n";
    let files = [("test.py", tests), ("solution.py", solution)];
    let Some(ran) = run(Language::Python, &files, AMPLE_MS) else { return };
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), "thread\nloop\n"), "{ran:?}");
}

#[test]
fn a_wrong_program_shows_its_error() {
    let Some(ran) = python("assert 1 + 1 == 3, 'one and one'") else { return };
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("AssertionError: one and one"), "{ran:?}");
}

#[test]
fn a_program_starts_no_process() {
    let Some(ran) = python_tries(&[
        "os.fork()",
        "subprocess.run(['/bin/true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/sh', ['sh', '-c', 'echo DID'])",
        "os.system('echo DID') and 1/0",
    ]) else {
        return;
    };
    assert!(!ran.stdout.contains("DID"), "{ran:?}");
}

#[test]
fn a_program_has_no_network() {
    let Some(ran) = python_tries(&[
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.create_connection(('127.0.0.1', 80))",
        "socket.getaddrinfo('example.org', 80)",
    ]) else {
        return;
    };
    assert!(!ran.stdout.contains("DID"), "{ran:?}");
}

#[test]
fn a_program_sees_and_changes_no_file_but_its_own() {
    let outside = tempfile::tempdir().expect("a folder");
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "kept").expect("is written");
    let lines = [
        "open('/etc/passwd').read()".to_owned(),
        "os.listdir(os.path.expanduser('~root'))".to_owned(),
        "os.listdir('/home')".to_owned(),
        "os.listdir('/proc')".to_owned(),
        "open('/proc/self/environ').read()".to_owned(),
        "os.listdir('..')".to_owned(),
        format!("open({secret:?}).read()"),
        format!("open({secret:?}, 'w')"),
        format!("os.truncate({secret:?}, 0)"),
        format!("os.open({secret:?}, os.O_RDONLY | os.O_TRUNC)"),
        format!("os.open({secret:?}, os.O_ACCMODE | os.O_TRUNC)"),
        // What it may read it may not empty either, which old kernels' Landlock would allow.
        "os.open('main.py', os.O_RDONLY | os.O_TRUNC)".to_owned(),
        "os.open('main.py', os.O_ACCMODE)".to_owned(),
        format!("os.chmod({secret:?}, 0)"),
        format!("os.utime({secret:?})"),
        format!("os.remove({secret:?})"),
        format!("os.rename({secret:?}, 'mine')"),
        format!("os.link({secret:?}, 'mine')"),
        format!("os.symlink({secret:?}, 'link'); open('link').read()"),
        "open('/tmp/edgecoder-escaped', 'w')".to_owned(),
        "os.mkdir('/dev/shm/edgecoder-escaped')".to_owned(),
    ];
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let home = std::env::var("HOME").map(|home| format!("os.listdir({home:?})"));
    lines.extend(home.as_deref());
    let Some(ran) = python_tries(&lines) else { return };
    assert!(!ran.stdout.contains("DID"), "{ran:?}");
    assert_eq!(ran.stdout.matches("no:").count(), lines.len(), "{ran:?}");
    assert_eq!(std::fs::read_to_string(&secret).expect("is still there"), "kept");
    assert!(!Path::new("/tmp/edgecoder-escaped").exists());
}

#[test]
fn a_program_has_no_power_over_others() {
    let Some(ran) = python_tries(&[
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        // ptrace, mount, unshare, keyctl, bpf, userfaultfd, io_uring_setup: -1 is the refusal.
        "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) != -1",
        "assert ctypes.CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None) != -1",
        "assert ctypes.CDLL(None).unshare(0x10000000) != -1",
        "assert ctypes.CDLL(None).syscall(250, 0, 0) != -1",
        "assert ctypes.CDLL(None).syscall(321, 0, 0, 0) != -1",
        "assert ctypes.CDLL(None).syscall(323, 0) != -1",
        "assert ctypes.CDLL(None).syscall(425, 1, 0) != -1",
        // The signal at the parent's death stays.
        "assert ctypes.CDLL(None).prctl(1, 0) != -1",
    ]) else {
        return;
    };
    assert!(!ran.stdout.contains("DID"), "{ran:?}");
    assert_eq!(ran.status, Some(0), "{ran:?}");
}

#[test]
fn a_program_sends_no_signals_through_its_descriptors() {
    // What Python has no name for: F_SETSIG is 10, F_SETOWN_EX 15, FIOASYNC 0x5452, FIOSETOWN
    // 0x8901, SIOCSPGRP 0x8902, TIOCSPGRP 0x5410.
    let Some(ran) = python_tries(&[
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "fcntl.fcntl(0, 10, signal.SIGKILL)",
        "fcntl.fcntl(0, 15, bytes(8))",
        "fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)",
        "fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)",
        "fcntl.fcntl(0, fcntl.F_NOTIFY, 1)",
        "fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
        "fcntl.ioctl(os.pipe()[0], 0x5452, b'\\1\\0\\0\\0')",
        "fcntl.ioctl(socket.socketpair()[0], 0x8901, os.getppid().to_bytes(4, 'little'))",
        "fcntl.ioctl(socket.socketpair()[0], 0x8902, os.getppid().to_bytes(4, 'little'))",
        "fcntl.ioctl(0, 0x5410, os.getppid().to_bytes(4, 'little'))",
    ]) else {
        return;
    };
    assert!(!ran.stdout.contains("DID"), "{ran:?}");
    let refused = ran.stdout.matches("no: [Errno 1] Operation not permitted").count();
    assert_eq!(refused, 11, "{ran:?}");
    let usual = "import fcntl, os\n\
        r, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_NONBLOCK)\n\
        assert fcntl.fcntl(r, fcntl.F_GETFL) & os.O_NONBLOCK\n\
        fcntl.fcntl(r, fcntl.F_SETFD, fcntl.FD_CLOEXEC)\nos.set_blocking(r, True)\n\
        fcntl.fcntl(r, fcntl.F_DUPFD, 20); fcntl.fcntl(r, fcntl.F_DUPFD_CLOEXEC, 20)\n\
        with open('main.py') as f:\n    fcntl.lockf(f, fcntl.LOCK_SH); fcntl.flock(f, fcntl.LOCK_SH)\n\
        print('usual')\n";
    let Some(ran) = python(usual) else { return };
    assert_eq!(ran.stdout, "usual\n", "{ran:?}");
}

#[test]
fn a_program_writes_to_a_disk_of_its_own_or_not_at_all() {
    let text = "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x')\n";
    let Some(ran) = python(text) else { return };
    assert_eq!(ran.status == Some(0), has_a_disk(), "{ran:?}");
}

#[test]
fn a_full_disk_is_an_error() {
    let full = if has_a_disk() { "No space left" } else { "Permission denied" };
    let fills = "i = 0\nwhile True:\n    with open(f'f{i}', 'wb') as f:\n        f.write(bytes(8 << 20))\n    i += 1\n";
    let Some(ran) = python(fills) else { return };
    assert!(ran.stderr.contains(full), "{ran:?}");
    let many = "i = 0\nwhile True:\n    open(f'f{i}', 'w').close()\n    i += 1\n";
    let Some(ran) = python(many) else { return };
    assert!(ran.stderr.contains(full), "{ran:?}");
    // Where nobody sees them: deleted and still open, in a folder that cannot be listed.
    let hidden = "import os\nos.mkdir('x', 0o300)\nopened = []\n\
        while True:\n    f = open('x/f', 'wb')\n    os.unlink('x/f')\n    opened.append(f)\n    \
        os.posix_fallocate(f.fileno(), 0, 8 << 20)\n";
    let Some(ran) = python(hidden) else { return };
    assert!(ran.stderr.contains(full), "{ran:?}");
    let large = "with open('f', 'wb') as f:\n    while True:\n        f.write(bytes(1 << 20))\n";
    let Some(ran) = python(large) else { return };
    let full = if has_a_disk() { "File too large" } else { "Permission denied" };
    assert!(ran.stderr.contains(full), "{ran:?}");
}

/// As on a computer that forbids namespaces: a user namespace in which there can be no other.
#[cfg(target_os = "linux")]
#[expect(clippy::print_stdout, reason = "a skipped test must not look like one that passed")]
fn python_without_namespaces(text: &str) -> Option<Ran> {
    let without = |program: &str, argument: &str| {
        let mut process = Process::new("unshare");
        process.args(["--user", "--map-root-user", "--", "sh", "-c"]).args([
            "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" \"$1\"",
            program,
            argument,
        ]);
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        process
    };
    if !without("test", "x").status().is_ok_and(|status| status.success()) {
        println!("skipped: no user namespace can be had, so all other tests ran without");
        return None;
    }
    let exec = without(env!("CARGO_BIN_EXE_edgecoder-sandbox"), "exec");
    run_by(exec, Language::Python, &[("main.py", text)], AMPLE_MS)
}

#[cfg(target_os = "linux")]
#[test]
fn without_namespaces_a_program_runs_and_writes_nothing() {
    let lines = [
        "open('f', 'w')",
        "open('main.py', 'a')",
        "os.mkdir('x', 0o300)",
        "os.mkdir('x')",
        "os.remove('main.py')",
        "os.rename('main.py', 'other.py')",
        "os.symlink('main.py', 'link')",
        "os.link('main.py', 'link')",
        "os.open('main.py', os.O_RDONLY | os.O_TRUNC)",
        "os.open('.', os.O_TMPFILE | os.O_RDWR)",
        "tempfile.TemporaryFile()",
    ];
    let text = format!("{}print(len(open('main.py').read()) > 9)\n", tries(&lines));
    let Some(ran) = python_without_namespaces(&text) else { return };
    assert!(!ran.stdout.contains("DID"), "{ran:?}");
    assert_eq!(ran.stdout.matches("no:").count(), lines.len(), "{ran:?}");
    assert!(ran.stdout.ends_with("True\n"), "{ran:?}");
    assert_eq!(ran.status, Some(0), "{ran:?}");
}

/// The first thousand would fit into its memory; root is not bounded by the kernel either.
const MANY_THREADS: &str = "import threading, time\nthreading.stack_size(32768)\n\
    for _ in range(1000):\n    threading.Thread(target=time.sleep, args=(3600,)).start()\n    \
    time.sleep(0.001)\n";

#[cfg(target_os = "linux")]
#[test]
fn threads_without_end_are_an_error_or_an_end() {
    for ran in [python(MANY_THREADS), python_without_namespaces(MANY_THREADS)].into_iter().flatten()
    {
        let told = ran.stderr.contains("start new thread");
        assert!(told || ran.problem.contains("more than 64 threads"), "{ran:?}");
    }
}

#[test]
fn memory_without_end_is_an_error() {
    let Some(ran) = python("x = []\nwhile True:\n    x.append(bytes(200 << 20))\n") else { return };
    assert!(ran.stderr.contains("MemoryError"), "{ran:?}");
    let shared = "import mmap\nmmap.mmap(-1, 1 << 20)\n";
    let Some(ran) = python(shared) else { return };
    assert!(ran.stderr.contains("not permitted"), "{ran:?}");
}

#[test]
fn a_program_that_sleeps_or_spins_or_hides_its_output_is_stopped() {
    for text in [
        "import time\ntime.sleep(3600)",
        "while True: pass",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(3600)",
    ] {
        let Some(ran) = run(Language::Python, &[("main.py", text)], 700) else { return };
        assert_eq!(ran.status, None, "{ran:?}");
        assert!(ran.problem.contains("stopped after 0.7 s"), "{ran:?}");
    }
}

#[test]
fn output_without_end_is_stopped_and_its_end_kept() {
    let Some(ran) = python("while True: print('y' * 1000)") else { return };
    assert!(ran.problem.contains("printed more than 16 MiB"), "{ran:?}");
    assert_eq!(ran.stdout.len(), 16 << 10);
}

#[cfg(target_os = "linux")]
#[test]
fn when_the_node_goes_the_program_goes() {
    let Some(interpreter) = interpreter(Language::Python) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let exec = Exec {
        interpreter,
        dir: dir.path().to_string_lossy().into_owned(),
        files: vec![("main.py".to_owned(), "import time\ntime.sleep(3600)".to_owned())],
        wall_ms: 3_600_000,
    };
    for by_signal in [false, true] {
        let mut child = sandbox("exec").spawn().expect("the sandbox starts");
        let mut stdin = child.stdin.take().expect("has an input");
        stdin.write_all(&encode_frame(&exec).expect("encodes")).expect("is taken");
        wait_until(|| is_running(dir.path()));
        if by_signal {
            child.kill().expect("is killed");
        }
        drop(stdin);
        child.wait().expect("ends");
        wait_until(|| !is_running(dir.path()));
    }
}

/// Whether a process has this folder for its home.
#[cfg(target_os = "linux")]
fn is_running(home: &Path) -> bool {
    let home = format!("HOME={}\0", home.display());
    let processes = std::fs::read_dir("/proc").expect("lists processes");
    processes.flatten().any(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&home)
    })
}

/// A process that was killed is gone a moment later; the test's own limit ends this.
#[cfg(target_os = "linux")]
fn wait_until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
}

#[test]
fn javascript_passes_its_tests_and_is_contained() {
    let tests = "const { add } = require('./solution.js');\n\
        require('assert').strictEqual(add(1, 2), 3);\nsetTimeout(() => console.log('later'), 1);\n";
    let solution = "module.exports = { add: (a, b) => a + b };\n";
    let files = [("test.js", tests), ("solution.js", solution)];
    let Some(ran) = run(Language::Javascript, &files, AMPLE_MS) else { return };
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), "later\n"), "{ran:?}");
    for (line, error) in [
        ("require('fs').readFileSync('/etc/passwd')", "EACCES"),
        ("require('fs').readdirSync(require('os').userInfo().homedir)", "E"),
        ("require('fs').writeFileSync('/tmp/edgecoder-escaped', 'x')", "EACCES"),
        ("require('net').connect(80, '127.0.0.1')", "EPERM"),
        ("require('child_process').execFileSync('/bin/true')", "EPERM"),
        ("process.kill(process.ppid, 9)", "EPERM"),
    ] {
        let Some(ran) = javascript(line) else { return };
        assert_eq!(ran.status, Some(1), "{line}: {ran:?}");
        assert!(ran.stderr.contains(error), "{line}: {ran:?}");
    }
    let Some(ran) = javascript("const x = []; while (true) x.push(Buffer.alloc(200 << 20, 1));")
    else {
        return;
    };
    assert_ne!(ran.status, Some(0), "{ran:?}");
}
