//! Workers and requesters over real meshes on 127.0.0.1, with models that the test plays.

mod bounds;
mod hostile;
mod slow;

use std::{sync::Arc, time::Duration};

use agent_api::{
    NodeId,
    runner::{FinishReason, Generate, Prompt, Sampling, TextInput, Timings, Usage},
    tasks::{Placement, Task, TaskPath, TaskState},
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{kept::InMemory, *};
use crate::{
    inference::{Answer, InferenceError, Piece, SubmitOptions, Work},
    mesh::handle::tests::TestNode,
    storage::RequestKind,
    tasks::{
        job::{BoxFuture, GenerateJob, Host, Job, JobError, JobPiece, JobResult, JobStream, Offer},
        modules::Modules,
        remote::Remote,
        reputation::Experience,
        rows::new_task_id,
        sandbox::Sandbox,
    },
};

/// A test that waits so long has failed.
pub(in crate::tasks) const PATIENCE: Duration = Duration::from_secs(60);

/// A request that a model of the test has to answer.
#[derive(Debug)]
pub(in crate::tasks) struct Asked {
    pub(in crate::tasks) generate: Generate,
    pub(in crate::tasks) options: SubmitOptions,
    pub(in crate::tasks) pieces: mpsc::Sender<Piece>,
    pub(in crate::tasks) cancelled: CancellationToken,
}

impl Asked {
    pub(in crate::tasks) async fn say(&self, text: &str) {
        let piece = Piece::Text { text: text.to_owned(), logprobs: Vec::new() };
        self.pieces.send(piece).await.expect("somebody listens");
    }

    pub(in crate::tasks) async fn start(&self) {
        let usage = Usage { prompt_tokens: 3, ..Usage::default() };
        self.pieces.send(Piece::Started { usage }).await.expect("somebody listens");
    }

    pub(in crate::tasks) async fn done(&self, tokens: u32) {
        let usage = Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: tokens };
        let (finish, timings) = (FinishReason::Stop, Timings::default());
        let done = Piece::Done { finish, usage, timings };
        self.pieces.send(done).await.expect("somebody listens");
    }
}

/// Gives every request to the test. Knows the model `demo`.
#[derive(Debug)]
pub(in crate::tasks) struct Played(pub(in crate::tasks) mpsc::Sender<Asked>);

impl Host for Played {
    fn infer(
        &self,
        _kind: RequestKind,
        model: String,
        work: Work,
        options: SubmitOptions,
    ) -> BoxFuture<'_, Result<Answer, InferenceError>> {
        Box::pin(async move {
            if model != "demo" {
                return Err(InferenceError::NoSuchModel(model));
            }
            let Work::Generate(generate) = work else { panic!("only text is played") };
            let (pieces, receiver) = mpsc::channel(16);
            let cancelled = CancellationToken::new();
            let guard = cancelled.clone().drop_guard();
            let asked = Asked { generate: *generate, options, pieces, cancelled };
            self.0.send(asked).await.map_err(|_| InferenceError::ShuttingDown)?;
            Ok(Answer::from_elsewhere(model, receiver, guard))
        })
    }

    fn model_here(&self, name: String) -> BoxFuture<'_, Option<String>> {
        Box::pin(std::future::ready((name == "demo").then_some(name)))
    }

    fn closed(&self) -> Option<String> {
        None
    }

    fn tell(&self, _text: String) {}
}

/// What happened, for the test.
#[derive(Debug, Default)]
pub(in crate::tasks) struct Noted {
    pub(in crate::tasks) ended: Mutex<Vec<Task>>,
    pub(in crate::tasks) experiences: Mutex<Vec<(NodeKey, Experience)>>,
}

impl Around for Noted {
    fn me(&self) -> (NodeId, String) {
        (NodeKey([9; 32]).to_id(), "me".to_owned())
    }

    fn name_of(&self, node: &NodeId) -> String {
        node.fmt_short().to_owned()
    }

    fn path_to(&self, _: &NodeId) -> TaskPath {
        TaskPath::Lan
    }

    fn ended(&self, task: Task, _placement: Option<Placement>) {
        self.ended.lock().expect("no test panics with it").push(task);
    }

    fn experience(&self, node: NodeKey, what: Experience) {
        self.experiences.lock().expect("no test panics with it").push((node, what));
    }
}

/// A node that works for others, with the test as its model.
pub(in crate::tasks) struct Working {
    pub(in crate::tasks) node: TestNode,
    pub(in crate::tasks) worker: Worker,
    pub(in crate::tasks) asked: mpsc::Receiver<Asked>,
    pub(in crate::tasks) settings: watch::Sender<Settings>,
    pub(in crate::tasks) noted: Arc<Noted>,
    _dir: TempDir,
}

impl Working {
    pub(in crate::tasks) async fn start(name: &str) -> Self {
        let node = TestNode::start(name).await;
        let dir = tempfile::tempdir().expect("temp dir");
        let Alone { worker, asked, settings, noted } = alone(&dir);
        worker.serve_on(&node.mesh);
        Self { node, worker, asked, settings, noted, _dir: dir }
    }

    pub(in crate::tasks) async fn next(&mut self) -> Asked {
        let asked = timeout(PATIENCE, self.asked.recv()).await.expect("is asked in time");
        asked.expect("the worker runs")
    }
}

/// A worker without a mesh.
struct Alone {
    worker: Worker,
    asked: mpsc::Receiver<Asked>,
    settings: watch::Sender<Settings>,
    noted: Arc<Noted>,
}

fn alone(dir: &TempDir) -> Alone {
    let (ask, asked) = mpsc::channel(64);
    let here = Here {
        host: Arc::new(Played(ask)),
        sandbox: Sandbox::new(None),
        modules: Modules::open(dir.path().join("own")).expect("opens"),
        others: Modules::open(dir.path().join("others")).expect("opens"),
    };
    let settings = watch::Sender::new(Settings::default());
    let noted = Arc::new(Noted::default());
    let worker = Worker::start(WorkerSetup {
        here,
        settings: settings.subscribe(),
        kept: Arc::new(InMemory::default()),
        board: Board::default(),
        around: Arc::<Noted>::clone(&noted),
    });
    Alone { worker, asked, settings, noted }
}

pub(in crate::tasks) fn remote(node: &TestNode, dir: &TempDir) -> Remote {
    let modules = Modules::open(dir.path().to_path_buf()).expect("opens");
    Remote { mesh: node.mesh.clone(), modules }
}

pub(in crate::tasks) fn generate(prompt: &str) -> Generate {
    Generate {
        prompt: Prompt::Text(TextInput::Text { text: prompt.to_owned() }),
        max_tokens: Some(100),
        sampling: Sampling::default(),
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    }
}

fn offer(fence: u64) -> Offer {
    let model = "demo".to_owned();
    let job = GenerateJob {
        model,
        generate: Box::new(generate("hi")),
        context: None,
        left_out: Default::default(),
    };
    let (task, lease) = (new_task_id(), Duration::from_secs(30));
    Offer { task, attempt: 1, fence, job: Job::Completion(job), priority: 5, lease }
}

async fn piece(stream: &mut JobStream) -> Result<JobPiece, JobError> {
    let piece = timeout(PATIENCE, stream.pieces.recv()).await.expect("comes in time");
    piece.expect("there is one")
}

/// Everything until the result, which is returned with the text.
async fn whole(stream: &mut JobStream) -> (String, JobResult) {
    let mut text = String::new();
    loop {
        match piece(stream).await.expect("goes well") {
            JobPiece::Text { text: more, .. } => text.push_str(&more),
            JobPiece::Result(result) => return (text, *result),
            _ => {}
        }
    }
}

/// A requester, a worker, and what asks.
async fn pair() -> (TestNode, Working, Remote, TempDir) {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), Working::start("attic"));
    desk.join(&attic.node).await;
    let dir = tempfile::tempdir().expect("temp dir");
    let remote = remote(&desk, &dir);
    (desk, attic, remote, dir)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "not so in time: {what}");
}

#[tokio::test]
async fn an_answer_comes_word_by_word_and_is_forgotten_once_it_is_safe() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let mut stream = remote.offer(peer, TaskPath::Lan, offer(7)).await.expect("is taken");
    let asked = attic.next().await;
    asked.start().await;
    let mut came = String::new();
    for word in ["Hel", "lo ", "wörld"] {
        asked.say(word).await;
        loop {
            if let JobPiece::Text { text, .. } = piece(&mut stream).await.expect("goes well") {
                came.push_str(&text);
                break;
            }
        }
    }
    asked.done(3).await;
    let (rest, result) = whole(&mut stream).await;
    assert_eq!((came.as_str(), rest.as_str()), ("Hello wörld", ""));
    assert!(matches!(result, JobResult::Text { usage, .. } if usage.completion_tokens == 3));
    assert_eq!(attic.worker.inner.served().len(), 1, "until it is acknowledged");
    drop(stream);
    until("it is acknowledged", || attic.worker.inner.served().is_empty()).await;
    assert_eq!(attic.worker.counts(), (0, 0));
    let ended = attic.noted.ended.lock().expect("no test panics with it").clone();
    assert_eq!(
        (ended.len(), ended[0].state, ended[0].completion_tokens),
        (1, TaskState::Done, Some(3))
    );
}

#[tokio::test]
async fn who_drops_the_answer_stops_the_work() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    for fence in [0, 4] {
        let stream = remote.offer(peer, TaskPath::Lan, offer(fence)).await.expect("is taken");
        let asked = attic.next().await;
        asked.say("some").await;
        drop(stream);
        timeout(PATIENCE, asked.cancelled.cancelled()).await.expect("is cancelled");
    }
    until("both are gone", || attic.worker.counts() == (0, 0)).await;
}

#[tokio::test]
async fn what_waits_hears_of_its_place_and_then_runs() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    attic.settings.send_modify(|settings| settings.tasks.concurrency = Some(1));
    let mut first = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect("is taken");
    let busy = attic.next().await;
    let mut second = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect("is taken");
    let waits = piece(&mut second).await.expect("goes well");
    assert!(matches!(waits, JobPiece::Waiting { position: 1, .. }), "{waits:?}");
    assert_eq!(attic.worker.counts(), (1, 1));
    busy.done(0).await;
    whole(&mut first).await;
    let asked = attic.next().await;
    asked.say("now").await;
    asked.done(1).await;
    assert_eq!(whole(&mut second).await.0, "now");
}

#[tokio::test]
async fn a_model_that_is_not_there_and_a_closed_door_are_told_in_words() {
    let (_desk, attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let mut unknown = offer(0);
    if let Job::Completion(job) = &mut unknown.job {
        job.model = "nothing".to_owned();
    }
    let refused = remote.offer(peer, TaskPath::Lan, unknown).await.expect_err("is refused");
    assert!(refused.to_string().contains("nothing is not here"), "{refused}");
    attic.settings.send_modify(|settings| settings.tasks.accept = false);
    let refused = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect_err("is refused");
    assert!(matches!(refused, JobError::Refused { retry_after: Some(_), .. }), "{refused}");
    let gone = remote.attach(peer, TaskPath::Lan, &offer(3)).await.expect_err("is refused");
    assert!(gone.to_string().contains("does not have that task"), "{gone}");
}

#[tokio::test]
async fn an_origin_that_comes_back_gets_the_whole_answer_again() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let (peer, offer) = (attic.node.node_key(), offer(5));
    let stream = remote.offer(peer, TaskPath::Lan, offer.clone()).await.expect("is taken");
    let asked = attic.next().await;
    asked.start().await;
    asked.say("Hel").await;
    let mut again = remote.attach(peer, TaskPath::Lan, &offer).await.expect("is there");
    asked.say("lo").await;
    asked.done(2).await;
    assert_eq!(whole(&mut again).await.0, "Hello");
    // Offered again under the same lease it is not done again either.
    let mut third = remote.offer(peer, TaskPath::Lan, offer).await.expect("is there");
    assert_eq!(whole(&mut third).await.0, "Hello");
    assert!(attic.asked.try_recv().is_err(), "it was done once");
    drop((stream, again, third));
    until("it is acknowledged", || attic.worker.inner.served().is_empty()).await;
}

#[tokio::test]
async fn a_result_that_nobody_took_is_kept_when_the_connection_ends() {
    let (desk, mut attic, remote, _dir) = pair().await;
    let (peer, offer) = (attic.node.node_key(), offer(6));
    let stream = remote.offer(peer, TaskPath::Lan, offer.clone()).await.expect("is taken");
    let asked = attic.next().await;
    asked.say("Hello").await;
    desk.mesh.shutdown().await;
    drop(stream);
    asked.done(1).await;
    until("it is done", || !attic.noted.ended.lock().expect("no panic").is_empty()).await;
    attic.worker.shutdown().await;
    let key = Key { origin: desk.node_key(), task: offer.task, fence: 6 };
    let kept = attic.worker.inner.setup.kept.find(key).await.expect("is kept");
    let text = String::from_utf8(kept).expect("text");
    assert!(text.contains("Hello"), "{text}");
}

#[tokio::test]
async fn a_worker_that_goes_is_noticed_at_once() {
    let (_desk, mut attic, remote, _dir) = pair().await;
    let peer = attic.node.node_key();
    let mut stream = remote.offer(peer, TaskPath::Lan, offer(0)).await.expect("is taken");
    let asked = attic.next().await;
    asked.say("Hel").await;
    attic.node.mesh.shutdown().await;
    let lost = loop {
        if let Err(error) = piece(&mut stream).await {
            break error;
        }
    };
    assert!(matches!(lost, JobError::Lost(_)), "{lost}");
}
