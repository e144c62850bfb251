//! A router with peers that the test plays, and one over a real mesh.

mod names;
mod stubborn;

use agent_api::{
    mesh::AnnouncedServing,
    runner::{FinishReason, Timings, Usage},
    tasks::{Candidate, Excluded, Placement, TaskKind},
};
use tokio::time::timeout;

use super::*;
use crate::{
    mesh::handle::tests::TestNode,
    tasks::{
        job::{Job, JobPiece, JobResult},
        placement::ModelView,
        reputation::Experience,
        worker::tests::{Noted, PATIENCE, Played, Working, generate, remote},
    },
};

/// A job that was offered to a peer of the test, which plays it.
#[derive(Debug)]
struct Offered {
    peer: NodeKey,
    offer: Offer,
    reply: tokio::sync::oneshot::Sender<Result<JobStream, JobError>>,
}

/// The worker's end of a job that was taken.
struct Taken {
    pieces: mpsc::Sender<Result<JobPiece, JobError>>,
    cancelled: CancellationToken,
}

impl Offered {
    fn take(self) -> Taken {
        let (pieces, receiver) = mpsc::channel(JOB_PIECES);
        let cancelled = CancellationToken::new();
        let cancel = cancelled.clone().drop_guard();
        let stream = JobStream { pieces: receiver, path: TaskPath::Lan, cancel };
        self.reply.send(Ok(stream)).expect("the router waits");
        Taken { pieces, cancelled }
    }

    fn refuse(self, error: JobError) {
        self.reply.send(Err(error)).expect("the router waits");
    }

    fn begun(&self) -> &str {
        match &self.offer.job {
            Job::Chat(job) | Job::Completion(job) => &job.generate.continue_from,
            other => panic!("text was asked for, not {other:?}"),
        }
    }
}

impl Taken {
    async fn say(&self, text: &str) {
        let piece = JobPiece::Text { text: text.to_owned(), logprobs: Vec::new() };
        self.pieces.send(Ok(piece)).await.expect("is read");
    }

    async fn done(&self, completion_tokens: u32) {
        let usage = Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens };
        let (finish, timings) = (FinishReason::Stop, Timings::default());
        let result = JobResult::Text { finish, usage, timings };
        self.pieces.send(Ok(JobPiece::Result(Box::new(result)))).await.expect("is read");
    }
}

#[derive(Debug)]
struct Peers(mpsc::Sender<Offered>);

impl Elsewhere for Peers {
    fn offer(
        &self,
        peer: NodeKey,
        _path: TaskPath,
        offer: Offer,
    ) -> BoxFuture<'_, Result<JobStream, JobError>> {
        Box::pin(async move {
            let (reply, answer) = tokio::sync::oneshot::channel();
            self.0.send(Offered { peer, offer, reply }).await.expect("the test goes on");
            answer.await.expect("the test answers")
        })
    }

    fn tool_format(
        &self,
        _peer: NodeKey,
        _model: String,
    ) -> BoxFuture<'_, Result<Option<ToolFormat>, JobError>> {
        Box::pin(std::future::ready(Ok(Some(ToolFormat::Hermes))))
    }
}

/// Nodes in the order in which they are asked.
#[derive(Debug)]
struct InOrder(Vec<NodeView>);

impl Known for InOrder {
    fn nodes(&self, _wanted: &Wanted) -> Vec<NodeView> {
        self.0.clone()
    }

    fn models_elsewhere(&self) -> Vec<ModelElsewhere> {
        let models = |node: &NodeView| {
            let of_node = |model: &ModelView| ModelElsewhere {
                model: model.id.clone(),
                node: node.name.clone(),
                digest: model.digest,
            };
            node.models.iter().map(of_node).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(models).collect()
    }

    fn place(&self, wanted: &Wanted, nodes: &[NodeView]) -> Placed {
        let has = |node: &&NodeView| {
            node.models.iter().any(|model| Some(&model.id) == wanted.model.as_ref())
        };
        let able = |node: &NodeView| {
            node.problem.is_none() && !wanted.tried.iter().any(|(id, _)| *id == node.id)
        };
        let ranked: Vec<usize> =
            (0..nodes.len()).filter(|&i| has(&&nodes[i]) && able(&nodes[i])).collect();
        let candidates = ranked.iter().map(|&at| Candidate {
            node: nodes[at].id.clone(),
            name: nodes[at].name.clone(),
            chosen: false,
            refused: None,
            cost_ms: 1.0,
            parts: Vec::new(),
        });
        let excluded = nodes.iter().filter(|node| node.problem.is_some()).map(|node| Excluded {
            node: node.id.clone(),
            name: node.name.clone(),
            reason: node.problem.clone().unwrap_or_default(),
        });
        let explanation = Placement {
            candidates: candidates.collect(),
            excluded: excluded.collect(),
            ..Placement::default()
        };
        Placed { models: vec![wanted.model.clone(); ranked.len()], ranked, explanation }
    }
}

fn view(key: NodeKey, name: &str, model: &str) -> NodeView {
    NodeView {
        id: key.to_id(),
        name: name.to_owned(),
        here: false,
        mine: false,
        trusted: false,
        problem: None,
        path: Some(TaskPath::Lan),
        rtt_ms: Some(1.0),
        region: None,
        serving: AnnouncedServing::Ready,
        accepts: TaskKind::ALL.to_vec(),
        models: vec![ModelView {
            digest: None,
            id: model.to_owned(),
            resident: true,
            context: 4096,
            size_bytes: 1 << 30,
            tokens_per_s: None,
        }],
        slots: 1,
        slots_free: 1,
        queue: 0,
        in_flight: 0,
        price: None,
        reputation: 0.5,
    }
}

struct Setup {
    router: Router,
    offered: mpsc::Receiver<Offered>,
    asked: mpsc::Receiver<crate::tasks::worker::tests::Asked>,
    noted: Arc<Noted>,
    in_flight: InFlight,
    _settings: watch::Sender<Settings>,
}

const ATTIC: NodeKey = NodeKey([1; 32]);
const CELLAR: NodeKey = NodeKey([2; 32]);

fn setup(nodes: Vec<NodeView>) -> Setup {
    setup_with(Arc::new(InOrder(nodes)))
}

fn setup_with(known: Arc<dyn Known>) -> Setup {
    let (offer, offered) = mpsc::channel(16);
    let (ask, asked) = mpsc::channel(16);
    let noted = Arc::new(Noted::default());
    let settings = watch::Sender::new(Settings::default());
    let in_flight = InFlight::default();
    let router = Router::new(RouterSetup {
        host: Arc::new(Played(ask)),
        elsewhere: Arc::new(Peers(offer)),
        known,
        in_flight: in_flight.clone(),
        settings: settings.subscribe(),
        board: Board::default(),
        around: Arc::<Noted>::clone(&noted),
    });
    Setup { router, offered, asked, noted, in_flight, _settings: settings }
}

impl Setup {
    async fn ask(&mut self, model: &str) -> Result<Answer, InferenceError> {
        let work = Work::Generate(Box::new(generate("hi")));
        self.router.route(RequestKind::Chat, model, work, SubmitOptions::default()).await
    }

    async fn offered(offered: &mut mpsc::Receiver<Offered>) -> Offered {
        timeout(PATIENCE, offered.recv()).await.expect("in time").expect("the router lives")
    }

    /// The last row that ended.
    fn row(&self) -> agent_api::tasks::Task {
        let ended = self.noted.ended.lock().expect("no test panics with it");
        ended.last().cloned().expect("one ended")
    }
}

async fn piece(answer: &mut Answer) -> Piece {
    let piece = timeout(PATIENCE, answer.next()).await.expect("in time");
    piece.expect("there is one")
}

async fn whole(answer: &mut Answer) -> (String, Usage) {
    let mut text = String::new();
    loop {
        match piece(answer).await {
            Piece::Text { text: more, .. } => text.push_str(&more),
            Piece::Done { usage, .. } => return (text, usage),
            Piece::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_model_that_is_here_answers_here() {
    let mut setup = setup(vec![view(ATTIC, "attic", "demo")]);
    let mut answer = setup.ask("demo").await.expect("is here");
    let asked = setup.asked.recv().await.expect("is asked");
    asked.say("Hello").await;
    asked.done(1).await;
    assert_eq!(whole(&mut answer).await.0, "Hello");
    let route = answer.route().expect("known");
    assert_eq!((route.path, route.name.as_str()), (TaskPath::Local, "me"));
    let row = setup.row();
    assert!(row.interactive && row.state == TaskState::Done && row.first_token_ms.is_some());
    assert!(setup.offered.try_recv().is_err());
}

#[tokio::test]
async fn a_refusal_goes_to_the_next_node_and_the_last_one_to_the_client() {
    let mut setup = setup(vec![view(ATTIC, "attic", "big"), view(CELLAR, "cellar", "big")]);
    let (router, mut offered) = (setup.router.clone(), setup.offered);
    let peers = tokio::spawn(async move {
        for _ in 0..2 {
            let refusal = JobError::Refused { reason: "full".to_owned(), retry_after: None };
            Setup::offered(&mut offered).await.refuse(refusal);
        }
        offered
    });
    let work = Work::Generate(Box::new(generate("hi")));
    let refused = router.route(RequestKind::Chat, "big", work, SubmitOptions::default()).await;
    let error = refused.expect_err("nobody takes it").to_string();
    assert!(error.contains("cellar") && error.contains("full"), "{error}");
    setup.offered = peers.await.expect("runs");
    let unknown = setup.ask("unheard-of").await.expect_err("nobody has it");
    assert!(matches!(unknown, InferenceError::NoSuchModel(_)), "{unknown}");
}

#[tokio::test]
async fn the_reason_why_a_node_cannot_answer_is_told() {
    let mut attic = view(ATTIC, "attic", "big");
    attic.problem = Some("its owner paused it".to_owned());
    let mut setup = setup(vec![attic]);
    let error = setup.ask("big").await.expect_err("it is paused").to_string();
    assert!(error.contains("attic: its owner paused it"), "{error}");
}

#[tokio::test]
async fn a_node_that_is_lost_before_its_first_word_is_not_noticed() {
    let setup = setup(vec![view(ATTIC, "attic", "big"), view(CELLAR, "cellar", "big")]);
    let mut offered = setup.offered;
    let peers = tokio::spawn(async move {
        let first = Setup::offered(&mut offered).await;
        assert_eq!(first.peer, ATTIC);
        let lost = first.take();
        let started = JobPiece::Started { usage: Usage::default() };
        lost.pieces.send(Ok(started)).await.expect("is read");
        drop(lost);
        let second = Setup::offered(&mut offered).await;
        assert_eq!((second.peer, second.begun()), (CELLAR, ""));
        let taken = second.take();
        taken.say("Hello").await;
        taken.done(1).await;
    });
    let work = Work::Generate(Box::new(generate("hi")));
    let asked = setup.router.route(RequestKind::Chat, "big", work, SubmitOptions::default());
    let mut answer = asked.await.expect("is taken");
    assert_eq!(whole(&mut answer).await.0, "Hello");
    assert_eq!(answer.route().expect("known").name, "cellar");
    peers.await.expect("runs");
    let blamed = setup.noted.experiences.lock().expect("no test panics with it").clone();
    assert!(matches!(&blamed[0], (node, Experience::Failed(_)) if *node == ATTIC), "{blamed:?}");
    setup.noted.ended.lock().expect("no test panics with it").clear();
}

#[tokio::test]
async fn a_cut_answer_goes_on_elsewhere_and_is_counted_once() {
    let setup = setup(vec![view(ATTIC, "attic", "big"), view(CELLAR, "cellar", "big")]);
    let mut offered = setup.offered;
    let peers = tokio::spawn(async move {
        let lost = Setup::offered(&mut offered).await.take();
        lost.say("Hel").await;
        lost.say("lo ").await;
        lost.pieces.send(Err(JobError::Lost("gone".to_owned()))).await.expect("is read");
        let second = Setup::offered(&mut offered).await;
        assert_eq!((second.peer, second.begun()), (CELLAR, "Hello "));
        let taken = second.take();
        taken.say("world").await;
        taken.done(1).await;
    });
    let work = Work::Generate(Box::new(generate("hi")));
    let asked = setup.router.route(RequestKind::Chat, "big", work, SubmitOptions::default());
    let mut answer = asked.await.expect("is taken");
    let (text, usage) = whole(&mut answer).await;
    assert_eq!((text.as_str(), usage.completion_tokens), ("Hello world", 3));
    peers.await.expect("runs");
}

#[tokio::test]
async fn absurd_counts_are_not_believed() {
    let mut setup = setup(vec![view(ATTIC, "attic", "big")]);
    let mut offered = setup.offered;
    let peers = tokio::spawn(async move {
        let taken = Setup::offered(&mut offered).await.take();
        taken.say("x").await;
        taken.done(1_000_000).await;
        offered
    });
    let work = Work::Generate(Box::new(generate("hi")));
    let asked = setup.router.route(RequestKind::Chat, "big", work, SubmitOptions::default());
    let mut answer = asked.await.expect("is taken");
    let (_, usage) = whole(&mut answer).await;
    assert!(usage.completion_tokens <= 100, "{usage:?}");
    setup.offered = peers.await.expect("runs");
}

#[tokio::test]
async fn a_client_that_goes_stops_the_work() {
    let setup = setup(vec![view(ATTIC, "attic", "big")]);
    let mut offered = setup.offered;
    let peers = tokio::spawn(async move { Setup::offered(&mut offered).await.take() });
    let work = Work::Generate(Box::new(generate("hi")));
    let asked = setup.router.route(RequestKind::Chat, "big", work, SubmitOptions::default());
    let answer = asked.await.expect("is taken");
    let taken = peers.await.expect("runs");
    drop(answer);
    timeout(PATIENCE, taken.cancelled.cancelled()).await.expect("is cancelled");
}

#[tokio::test]
async fn the_owner_ends_an_answer_that_a_client_waits_for() {
    let setup = setup(vec![view(ATTIC, "attic", "big")]);
    let mut offered = setup.offered;
    let peers = tokio::spawn(async move { Setup::offered(&mut offered).await.take() });
    let work = Work::Generate(Box::new(generate("hi")));
    let asked = setup.router.route(RequestKind::Chat, "big", work, SubmitOptions::default());
    let mut answer = asked.await.expect("is taken");
    let taken = peers.await.expect("runs");
    let board = &setup.router.setup.board;
    let id = board.tasks().into_keys().next().expect("is shown");
    let placed = async {
        loop {
            match board.placement(&id) {
                Some(why) => break why,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let why = timeout(PATIENCE, placed).await.expect("says why it is there");
    assert!(why.candidates.iter().any(|node| node.name == "attic" && node.chosen), "{why:?}");
    assert!(board.stop(&id));
    let last = timeout(PATIENCE, answer.next()).await.expect("ends").expect("says why");
    assert!(matches!(last, Piece::Failed(InferenceError::Stopped)), "{last:?}");
    drop(answer);
    timeout(PATIENCE, taken.cancelled.cancelled()).await.expect("is cancelled");
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_is_replaced_word_for_word() {
    let (desk, mut attic, mut cellar) =
        tokio::join!(TestNode::start("desk"), Working::start("attic"), Working::start("cellar"));
    desk.join(&attic.node).await;
    cellar.node.join(&desk).await;
    let dir = tempfile::tempdir().expect("temp dir");
    let (ask, _asked) = mpsc::channel(1);
    let settings = watch::Sender::new(Settings::default());
    let nodes = vec![
        view(attic.node.node_key(), "attic", "demo"),
        view(cellar.node.node_key(), "cellar", "demo"),
    ];
    /// Has no model itself.
    #[derive(Debug)]
    struct Empty(Played);
    impl crate::tasks::job::Host for Empty {
        fn infer(
            &self,
            kind: RequestKind,
            model: String,
            work: Work,
            options: SubmitOptions,
        ) -> BoxFuture<'_, Result<Answer, InferenceError>> {
            self.0.infer(kind, model, work, options)
        }
        fn model_here(&self, _name: String) -> BoxFuture<'_, Option<String>> {
            Box::pin(std::future::ready(None))
        }
        fn closed(&self) -> Option<String> {
            None
        }
        fn tell(&self, _text: String) {}
    }
    let router = Router::new(RouterSetup {
        host: Arc::new(Empty(Played(ask))),
        elsewhere: Arc::new(remote(&desk, &dir)),
        known: Arc::new(InOrder(nodes)),
        in_flight: InFlight::default(),
        settings: settings.subscribe(),
        board: Board::default(),
        around: Arc::new(Noted::default()),
    });
    let work = Work::Generate(Box::new(generate("hi")));
    let asked = router.route(RequestKind::Chat, "demo", work, SubmitOptions::default());
    let mut answer = asked.await.expect("is taken");
    let first = attic.next().await;
    first.start().await;
    first.say("Grüße, ").await;
    let mut text = String::new();
    while text.is_empty() {
        if let Piece::Text { text: more, .. } = piece(&mut answer).await {
            text.push_str(&more);
        }
    }
    attic.node.mesh.shutdown().await;
    let second = cellar.next().await;
    assert_eq!(second.generate.continue_from, "Grüße, ");
    second.start().await;
    second.say("Welt").await;
    second.done(1).await;
    let (rest, usage) = whole(&mut answer).await;
    assert_eq!((text + &rest, usage.completion_tokens), ("Grüße, Welt".to_owned(), 2));
}
