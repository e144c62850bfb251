//! WebAssembly through `serve`.

use std::{
    io::Write as _,
    process::{Child, ChildStdout, Command as Process, Stdio},
};

use agent_api::{
    runner::{encode_frame, read_frame},
    sandbox::{Command, PROTOCOL, Reply},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1 << 20;

/// Reads stdin to its end and writes it to stdout.
const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
      (br_if $more (i32.load (i32.const 8))))))"#;

/// A bare module; `run` is the rest of its body.
fn bare(run: &str) -> String {
    format!(
        "(module (memory (export \"memory\") 1)
           (func (export \"alloc\") (param i32) (result i32) (i32.const 1024))
           (func (export \"run\") (param $at i32) (param $length i32) (result i64) {run}))"
    )
}

const LOOP: &str = "(loop $on (br $on)) (i64.const 0)";

/// The input's place and length are the output's.
const GIVE_BACK: &str = "(i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
    (i64.extend_i32_u (local.get $length)))";

/// A `serve` process.
struct Served {
    child: Child,
    stdout: ChildStdout,
    next: u64,
}

/// What a job may take.
#[derive(Clone, Copy)]
struct Limits {
    fuel: u64,
    memory_bytes: u64,
    wall_ms: u64,
}

const USUAL: Limits = Limits { fuel: 10_000_000, memory_bytes: 16 * MIB, wall_ms: 60_000 };

impl Served {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let mut child = Process::new(env!("CARGO_BIN_EXE_edgecoder-sandbox"))
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sandbox starts");
        let mut stdout = child.stdout.take().expect("has an output");
        let hello = read_frame::<Reply>(&mut stdout).expect("speaks").expect("says hello");
        assert!(matches!(hello, Reply::Hello { protocol: PROTOCOL, .. }), "{hello:?}");
        Self { child, stdout, next: 0 }
    }

    fn send(&mut self, command: &Command) {
        let frame = encode_frame(command).expect("encodes");
        self.child.stdin.as_mut().expect("is open").write_all(&frame).expect("is taken");
    }

    fn submit(&mut self, module: &[u8], with_bytes: bool, input: &[u8], limits: Limits) -> u64 {
        self.next += 1;
        let id = self.next;
        self.send(&Command::Run {
            id,
            module: hex::encode(Sha256::digest(module)),
            bytes: with_bytes.then(|| BASE64_STANDARD.encode(module)),
            input: BASE64_STANDARD.encode(input),
            fuel: limits.fuel,
            memory_bytes: limits.memory_bytes,
            wall_ms: limits.wall_ms,
        });
        id
    }

    fn reply(&mut self) -> Reply {
        read_frame(&mut self.stdout).expect("speaks").expect("is still there")
    }

    fn run(&mut self, wat: &str, input: &[u8], limits: Limits) -> Reply {
        let module = wat::parse_str(wat).expect("is a module");
        self.submit(&module, true, input, limits);
        self.reply()
    }

    fn done(&mut self, wat: &str, input: &[u8], limits: Limits) -> (Vec<u8>, u64) {
        match self.run(wat, input, limits) {
            Reply::Done { output, fuel_used, .. } => {
                (BASE64_STANDARD.decode(output).expect("is base64"), fuel_used)
            }
            other => panic!("no result: {other:?}"),
        }
    }

    /// The sentence of a failure that would happen on any node.
    fn refused(&mut self, wat: &str, limits: Limits) -> String {
        match self.run(wat, b"input", limits) {
            Reply::Failed { lasting: true, message, .. } => message,
            other => panic!("was not refused: {other:?}"),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_wasi_command_reads_its_input_and_writes_its_output() {
    let mut served = Served::start();
    let long = b"0123456789".repeat(2_000);
    assert_eq!(served.done(ECHO, b"hello", USUAL).0, b"hello");
    assert_eq!(served.done(ECHO, &long, USUAL).0, long);
    assert_eq!(served.done(ECHO, b"", USUAL).0, b"");
}

#[test]
fn a_modules_own_data_are_there_in_every_job() {
    // As compilers write them; wasmtime keeps them in a sealed memory file.
    let data = GIVE_BACK.replace("(local.get $at)", "(i32.const 2048)");
    let module = bare(&data).replacen(
        "(memory (export \"memory\") 1)",
        "(memory (export \"memory\") 1) (data (i32.const 2048) \"data!\")",
        1,
    );
    let mut served = Served::start();
    for _ in 0..3 {
        assert_eq!(served.done(&module, b"12345", USUAL).0, b"data!");
    }
}

#[test]
fn a_bare_module_gets_and_gives_bytes() {
    let mut served = Served::start();
    assert_eq!(served.done(&bare(GIVE_BACK), b"hello", USUAL).0, b"hello");
}

#[test]
fn the_same_module_and_input_give_the_same_output_and_fuel_also_in_another_process() {
    let random = r#"(module
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "clock_time_get"
        (func $clock (param i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $random (i32.const 64) (i32.const 32)))
        (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 96)))
        (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 104)))
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 48))
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let mut served = Served::start();
    let first = served.done(random, b"", USUAL);
    assert_eq!(first.0.len(), 48);
    assert!(first.0[..32].iter().any(|&byte| byte != 0), "randomness is not all zero");
    assert_eq!(first.0[32..], [0; 16], "the clocks stand at zero");
    assert!(first.1 > 0);
    assert_eq!(served.done(random, b"", USUAL), first);
    assert_eq!(Served::start().done(random, b"", USUAL), first);
}

#[test]
fn an_endless_loop_ends_with_its_fuel() {
    let message = Served::start().refused(&bare(LOOP), USUAL);
    assert!(message.contains("fuel of 10000000 units"), "{message}");
}

#[test]
fn an_endless_loop_with_much_fuel_ends_with_its_time() {
    let limits = Limits { fuel: u64::MAX / 2, wall_ms: 200, ..USUAL };
    let message = Served::start().refused(&bare(LOOP), limits);
    assert!(message.contains("stopped after 200 ms"), "{message}");
}

#[test]
fn a_module_that_sleeps_ends_with_its_time() {
    // One subscription: the monotonic clock, an hour from now.
    let sleeps = r#"(module
      (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 1024)))))"#;
    let message = Served::start().refused(sleeps, Limits { wall_ms: 200, ..USUAL });
    assert!(message.contains("stopped after 200 ms"), "{message}");
}

#[test]
fn memory_beyond_the_limit_is_refused_by_name() {
    let greedy = "(loop $on (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1))
        (then unreachable)) (br $on)) (i64.const 0)";
    let mut served = Served::start();
    let message = served.refused(&bare(greedy), USUAL);
    assert!(message.contains("more than its 16777216 bytes of memory"), "{message}");
    assert!(message.contains("unreachable"), "{message}");
    let large = "(module (memory (export \"memory\") 1000) (func (export \"_start\")))";
    let message = served.refused(large, USUAL);
    assert!(message.contains("bytes of memory"), "{message}");
}

#[test]
fn all_memories_of_a_module_count_together() {
    let pages = "(memory 100) ".repeat(3);
    let many = format!(
        "(module {pages} (memory (export \"memory\") 1)
        (func (export \"_start\")))"
    );
    let message = Served::start().refused(&many, USUAL);
    assert!(message.contains("more than its 16777216 bytes of memory"), "{message}");
}

#[test]
fn limits_above_the_contract_are_lowered_to_it() {
    let without_end = Limits { fuel: u64::MAX, memory_bytes: u64::MAX, wall_ms: u64::MAX };
    // 2 memories of 2 GiB less a page.
    let large = "(module (memory 32767) (memory (export \"memory\") 32767)
        (func (export \"_start\")))";
    let mut served = Served::start();
    let message = served.refused(large, without_end);
    assert!(message.contains("more than its 1073741824 bytes of memory"), "{message}");
    assert_eq!(served.done(ECHO, b"fine", without_end).0, b"fine");
}

#[test]
fn a_module_that_is_wrong_is_remembered_as_such() {
    let mut served = Served::start();
    let foreign = wat::parse_str("(module (import \"env\" \"foo\" (func)))").expect("is a module");
    served.submit(&foreign, true, b"", USUAL);
    assert!(matches!(served.reply(), Reply::Failed { lasting: true, .. }));
    served.submit(&foreign, false, b"", USUAL);
    let again = served.reply();
    assert!(matches!(again, Reply::Failed { lasting: true, .. }), "{again:?}");
}

/// One function of so many instructions that no computer compiles it within a millisecond.
fn bomb() -> String {
    let body = "(local.set $x (i64.mul (local.get $x) (i64.const 3)))".repeat(20_000);
    format!(
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (local $x i64) {body}))"
    )
}

#[test]
fn a_compilation_without_end_retires_the_process() {
    let mut served = Served::start_with(&["--compile-limit-ms", "1"]);
    let bomb = wat::parse_str(bomb()).expect("is a module");
    let first = served.submit(&bomb, true, b"", USUAL);
    assert_eq!(served.reply(), Reply::Retired);
    match served.reply() {
        Reply::Failed { id, lasting: true, message } => {
            assert_eq!(id, first);
            assert!(message.contains("more than 0.001 seconds"), "{message}");
        }
        other => panic!("was not refused: {other:?}"),
    }
    // Everything new is for another process; what is known is answered.
    let module = wat::parse_str(ECHO).expect("is a module");
    let id = served.submit(&module, true, b"", USUAL);
    assert_eq!(served.reply(), Reply::NeedModule { id });
    served.submit(&bomb, true, b"", USUAL);
    let again = served.reply();
    assert!(matches!(again, Reply::Failed { lasting: true, .. }), "{again:?}");
}

#[test]
fn a_foreign_import_is_refused_by_name() {
    let mut served = Served::start();
    let foreign = "(module (import \"env\" \"foo\" (func)) (memory (export \"memory\") 1)
        (func (export \"_start\")))";
    let message = served.refused(foreign, USUAL);
    assert!(message.contains("the module imports env.foo"), "{message}");
    let http = "(component (import \"wasi:http/outgoing-handler@0.2.0\" (instance)))";
    let message = served.refused(http, USUAL);
    assert!(message.contains("imports wasi:http/outgoing-handler"), "{message}");
    let nothing = served.refused("(module)", USUAL);
    assert!(nothing.contains("exports neither _start"), "{nothing}");
}

#[test]
fn too_much_output_is_refused_in_every_form() {
    let mut served = Served::start();
    let claims = served.refused(&bare("(i64.const 0x00000000_7fffffff)"), USUAL);
    assert!(claims.contains("more than 1 MiB of output"), "{claims}");
    let prints = r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start") (loop $on
        (i32.store (i32.const 4) (i32.const 60000))
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $on))))"#;
    let floods = served.refused(prints, USUAL);
    assert!(floods.contains("more than 1 MiB of output"), "{floods}");
    let outside = served.refused(&bare("(i64.const 0x7fffffff_00000010)"), USUAL);
    assert!(outside.contains("outside of its memory"), "{outside}");
}

#[test]
fn a_trap_and_a_status_are_told_with_their_reason_and_the_process_goes_on() {
    let mut served = Served::start();
    let divides = bare("(i64.extend_i32_u (i32.div_u (i32.const 1) (i32.const 0)))");
    let message = served.refused(&divides, USUAL);
    assert!(message.contains("trapped: integer divide by zero"), "{message}");
    let deep = "(module (memory (export \"memory\") 1) (func $f (export \"_start\") (call $f)))";
    let message = served.refused(deep, USUAL);
    assert!(message.contains("call stack exhausted"), "{message}");
    let exits = r#"(module
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))"#;
    let message = served.refused(exits, USUAL);
    assert!(message.contains("status 7"), "{message}");
    assert_eq!(served.done(ECHO, b"still there", USUAL).0, b"still there");
}

#[test]
fn what_is_no_module_is_refused_and_the_process_goes_on() {
    let mut served = Served::start();
    let mut cut = wat::parse_str(ECHO).expect("is a module");
    cut.truncate(cut.len() / 2);
    served.submit(&cut, true, b"", USUAL);
    match served.reply() {
        Reply::Failed { lasting: true, message, .. } => {
            assert!(message.contains("no valid WebAssembly"), "{message}");
        }
        other => panic!("was not refused: {other:?}"),
    }
    assert_eq!(served.done(ECHO, b"on", USUAL).0, b"on");
}

#[test]
fn a_module_is_sent_once_and_asked_for_when_it_is_unknown() {
    let mut served = Served::start();
    let module = wat::parse_str(ECHO).expect("is a module");
    let id = served.submit(&module, false, b"x", USUAL);
    assert_eq!(served.reply(), Reply::NeedModule { id });
    served.submit(&module, true, b"x", USUAL);
    assert!(matches!(served.reply(), Reply::Done { .. }));
    served.submit(&module, false, b"x", USUAL);
    assert!(matches!(served.reply(), Reply::Done { .. }));
}

#[test]
fn a_cancelled_job_makes_way() {
    let mut served = Served::start();
    let module = wat::parse_str(bare(LOOP)).expect("is a module");
    let endless = Limits { fuel: u64::MAX / 2, wall_ms: 3_600_000, ..USUAL };
    // More than there are cores: without the cancellation nothing else would ever run.
    let jobs: Vec<u64> = (0..64).map(|_| served.submit(&module, true, b"", endless)).collect();
    for id in jobs {
        served.send(&Command::Cancel { id });
    }
    assert_eq!(served.done(ECHO, b"my turn", USUAL).0, b"my turn");
}

#[test]
fn the_process_ends_with_its_input() {
    let mut served = Served::start();
    let module = wat::parse_str(bare(LOOP)).expect("is a module");
    let endless = Limits { fuel: u64::MAX / 2, wall_ms: 3_600_000, ..USUAL };
    served.submit(&module, true, b"", endless);
    drop(served.child.stdin.take());
    let status = served.child.wait().expect("ends");
    assert!(status.success(), "{status}");
}
