//! Frames of `serve`: reads commands, runs their jobs side by side, writes replies.
//!
//! The main thread reads and the process ends with its input, whatever is being computed then.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, BufReader, BufWriter, Write as _},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use agent_api::{
    runner::{encode_frame, read_frame},
    sandbox::{Command, PROTOCOL, Reply},
};
use anyhow::Context as _;
use tokio::task::AbortHandle;

use crate::{
    confine, say,
    wasm::{Job, Workshop},
};

/// Jobs taken and not answered. The node sends far fewer; more can only be a defect of it.
const MAX_JOBS: usize = 1_024;

/// Replies that wait for the pipe. Then jobs wait for their turn to reply.
const OUTBOX: usize = 256;

/// Compiling recurses over nested blocks deeper than a usual thread allows.
const THREAD_STACK_BYTES: usize = 16 << 20;

/// Exit status after input that is not the protocol.
const BAD_INPUT: i32 = 2;

type Running = Arc<Mutex<HashMap<u64, AbortHandle>>>;

/// See [`Workshop::new`] for the limit.
pub(crate) fn serve(compile_limit: Duration) -> anyhow::Result<Infallible> {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    // Before any thread starts, because it holds for the threads that start after it.
    let confinement = confine::serve().context("the sandbox cannot confine itself")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores + 1)
        .max_blocking_threads(cores)
        .thread_stack_size(THREAD_STACK_BYTES)
        // Workers are mostly busy with modules: timers are looked at between any two of them.
        .event_interval(1)
        .enable_time()
        .build()?;
    let (replies, outbox) = sync_channel(OUTBOX);
    let workshop = Workshop::new(cores, compile_limit, replies.clone())?;
    thread::Builder::new().name("replies".into()).spawn(move || write_replies(&outbox))?;
    let _ = replies.send(Reply::Hello { protocol: PROTOCOL, confinement });
    read_commands(&runtime, &Arc::new(workshop), &replies)
}

fn read_commands(
    runtime: &tokio::runtime::Runtime,
    workshop: &Arc<Workshop>,
    replies: &SyncSender<Reply>,
) -> ! {
    let running = Running::default();
    let mut input = BufReader::new(io::stdin());
    loop {
        match read_frame::<Command>(&mut input) {
            Ok(Some(Command::Run { id, module, bytes, input, fuel, memory_bytes, wall_ms })) => {
                let job = Job { module, bytes, input, fuel, memory_bytes, wall_ms };
                start(runtime, workshop, replies, &running, id, job);
            }
            Ok(Some(Command::Cancel { id })) => {
                let job = running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                job.inspect(AbortHandle::abort);
            }
            Ok(None) => process::exit(0),
            Err(error) => {
                say(&format!("the input is not a command frame, so the sandbox ends: {error}"));
                process::exit(BAD_INPUT)
            }
        }
    }
}

fn start(
    runtime: &tokio::runtime::Runtime,
    workshop: &Arc<Workshop>,
    replies: &SyncSender<Reply>,
    running: &Running,
    id: u64,
    job: Job,
) {
    // Held until the job is listed, so that its end finds it there.
    let mut jobs = running.lock().unwrap_or_else(PoisonError::into_inner);
    if jobs.len() >= MAX_JOBS {
        drop(jobs);
        let message = format!("the sandbox has {MAX_JOBS} jobs waiting, which is its most");
        let _ = replies.send(Reply::Failed { id, lasting: false, message });
        return;
    }
    let workshop = Arc::clone(workshop);
    let replies = replies.clone();
    let ended = Arc::clone(running);
    let task = runtime.spawn(async move {
        let reply = workshop.run(job).await.reply(id);
        ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        // Waits for the pipe, on a worker thread: the node reads all the time.
        let _ = replies.send(reply);
    });
    jobs.insert(id, task.abort_handle());
}

fn write_replies(outbox: &Receiver<Reply>) {
    let mut out = BufWriter::new(io::stdout());
    while let Ok(reply) = outbox.recv() {
        let mut next = Some(reply);
        // Flushed when there is no more to say: many small answers make one write.
        while let Some(reply) = next {
            let written = encode_frame(&reply).and_then(|frame| out.write_all(&frame));
            if let Err(error) = written {
                say(&format!("replies cannot be written, so the sandbox ends: {error}"));
                process::exit(1);
            }
            next = outbox.try_recv().ok();
        }
        if out.flush().is_err() {
            process::exit(1);
        }
    }
}
