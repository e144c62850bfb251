//! Nodes that hold a request up, are wrong about it, or are full; in virtual time.

use super::*;

const SHED: NodeKey = NodeKey([3; 32]);

fn two() -> Setup {
    setup(vec![view(ATTIC, "attic", "big"), view(CELLAR, "cellar", "big")])
}

fn work() -> Work {
    Work::Generate(Box::new(generate("hi")))
}

async fn ask(router: &Router) -> Result<Answer, InferenceError> {
    router.route(RequestKind::Chat, "big", work(), SubmitOptions::default()).await
}

/// However long it takes.
async fn next(offered: &mut mpsc::Receiver<Offered>) -> Offered {
    offered.recv().await.expect("the router lives")
}

/// However long it takes.
async fn text_of(answer: &mut Answer) -> (String, Usage) {
    let mut text = String::new();
    loop {
        match answer.next().await.expect("a last piece") {
            Piece::Text { text: more, .. } => text.push_str(&more),
            Piece::Done { usage, .. } => return (text, usage),
            Piece::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}

/// Those of whom something was said, and whether it was bad.
fn said_of(noted: &Noted) -> Vec<(NodeKey, bool)> {
    let said = noted.experiences.lock().expect("no test panics with it");
    said.iter().map(|(node, what)| (*node, what.is_bad())).collect()
}

async fn answer_with(offered: Offered, text: &str) {
    let taken = offered.take();
    taken.say(text).await;
    taken.done(1).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_it_and_says_nothing_is_passed_by_and_blamed() {
    let mut nodes = vec![view(ATTIC, "attic", "big"), view(CELLAR, "cellar", "big")];
    nodes.push(view(SHED, "shed", "big"));
    let Setup { router, mut offered, noted, .. } = setup(nodes);
    let peers = tokio::spawn(async move {
        let first = next(&mut offered).await.take();
        first.pieces.send(Ok(JobPiece::Running)).await.expect("is read");
        let second = next(&mut offered).await.take();
        answer_with(next(&mut offered).await, "Hello").await;
        (first, second)
    });
    let mut answer = ask(&router).await.expect("is taken");
    assert_eq!(text_of(&mut answer).await.0, "Hello");
    assert_eq!(answer.route().expect("known").name, "shed");
    peers.await.expect("runs");
    assert_eq!(said_of(&noted), [(ATTIC, true), (CELLAR, true), (SHED, false)]);
}

#[tokio::test(start_paused = true)]
async fn who_never_speaks_is_given_up_also_where_nobody_else_can_answer() {
    let Setup { router, mut offered, noted, .. } = setup(vec![view(ATTIC, "attic", "big")]);
    let peers = tokio::spawn(async move { (next(&mut offered).await.take(), offered) });
    let mut answer = ask(&router).await.expect("is taken");
    let last = answer.next().await;
    assert!(matches!(&last, Some(Piece::Failed(InferenceError::Unavailable(_)))), "{last:?}");
    peers.await.expect("runs");
    assert_eq!(said_of(&noted), [(ATTIC, true)]);
}

#[tokio::test(start_paused = true)]
async fn who_falls_silent_in_the_middle_is_replaced() {
    let Setup { router, mut offered, noted, .. } = two();
    let peers = tokio::spawn(async move {
        let first = next(&mut offered).await.take();
        first.say("Hel").await;
        let second = next(&mut offered).await;
        assert_eq!((second.peer, second.begun()), (CELLAR, "Hel"));
        answer_with(second, "lo").await;
        first
    });
    let mut answer = ask(&router).await.expect("is taken");
    assert_eq!(text_of(&mut answer).await.0, "Hello");
    peers.await.expect("runs");
    assert_eq!(said_of(&noted), [(ATTIC, true), (CELLAR, false)]);
}

#[tokio::test]
async fn one_node_alone_is_not_believed_that_nobody_can_answer() {
    let wrong = || JobError::Failed("the prompt is no good".to_owned());
    let Setup { router, mut offered, noted, .. } = two();
    let peers = tokio::spawn(async move {
        next(&mut offered).await.refuse(wrong());
        answer_with(next(&mut offered).await, "Hello").await;
    });
    let mut answer = ask(&router).await.expect("the second takes it");
    assert_eq!(text_of(&mut answer).await.0, "Hello");
    peers.await.expect("runs");
    let said = said_of(&noted);
    assert!(said.contains(&(ATTIC, true)) && said.contains(&(CELLAR, false)), "{said:?}");

    let Setup { router, mut offered, noted, .. } = two();
    let peers = tokio::spawn(async move {
        let first = next(&mut offered).await.take();
        first.pieces.send(Err(wrong())).await.expect("is read");
        next(&mut offered).await.refuse(wrong());
    });
    let mut answer = ask(&router).await.expect("is taken");
    let last = piece(&mut answer).await;
    assert!(matches!(&last, Piece::Failed(InferenceError::BadRequest(_))), "{last:?}");
    peers.await.expect("runs");
    assert!(said_of(&noted).is_empty(), "both say so");
}

#[tokio::test]
async fn who_cannot_do_it_is_not_blamed() {
    let too_long = JobError::TooLong("9,000 tokens, but 4,096 fit".to_owned());
    let refused = JobError::Refused { reason: "it cannot go on".to_owned(), retry_after: None };
    for cannot in [too_long, refused] {
        let Setup { router, mut offered, noted, .. } = two();
        let peers = tokio::spawn(async move {
            let first = next(&mut offered).await.take();
            first.pieces.send(Ok(JobPiece::Running)).await.expect("is read");
            first.pieces.send(Err(cannot)).await.expect("is read");
            answer_with(next(&mut offered).await, "Hello").await;
        });
        let mut answer = ask(&router).await.expect("is taken");
        assert_eq!(text_of(&mut answer).await.0, "Hello");
        peers.await.expect("runs");
        assert_eq!(said_of(&noted), [(CELLAR, false)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_asked_again_where_there_is_no_other() {
    let Setup { router, mut offered, .. } = setup(vec![view(ATTIC, "attic", "big")]);
    let peers = tokio::spawn(async move {
        for _ in 0..3 {
            let retry_after = Some(Duration::from_secs(5));
            let full = JobError::Refused { reason: "full".to_owned(), retry_after };
            next(&mut offered).await.refuse(full);
        }
        answer_with(next(&mut offered).await, "Hello").await;
        offered
    });
    let mut answer = ask(&router).await.expect("is taken at last");
    assert_eq!(text_of(&mut answer).await.0, "Hello");
    let mut offered = peers.await.expect("runs");
    let peers = tokio::spawn(async move {
        loop {
            let retry_after = Some(Duration::from_secs(5));
            let full = JobError::Refused { reason: "full".to_owned(), retry_after };
            next(&mut offered).await.refuse(full);
        }
    });
    let error = ask(&router).await.expect_err("not for ever").to_string();
    assert!(error.contains("full"), "{error}");
    peers.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_given_up_and_nobody_is_blamed() {
    let Setup { router, mut offered, noted, .. } = two();
    let peers = tokio::spawn(async move {
        let taken = next(&mut offered).await.take();
        let text = || JobPiece::Text { text: "x".to_owned(), logprobs: Vec::new() };
        while taken.pieces.send(Ok(text())).await.is_ok() {}
        offered
    });
    let mut answer = ask(&router).await.expect("is taken");
    let mut offered = peers.await.expect("its work is cancelled");
    let last = loop {
        match answer.next().await.expect("a last piece") {
            Piece::Text { .. } => {}
            other => break other,
        }
    };
    assert!(matches!(last, Piece::Failed(InferenceError::SlowClient)), "{last:?}");
    assert!(offered.try_recv().is_err() && said_of(&noted).is_empty());
}

#[tokio::test]
async fn what_one_node_says_of_the_prompt_is_not_held_against_the_next() {
    let Setup { router, mut offered, noted, .. } = two();
    let peers = tokio::spawn(async move {
        let first = next(&mut offered).await.take();
        let usage = Usage { prompt_tokens: 1_000_000, ..Usage::default() };
        first.pieces.send(Ok(JobPiece::Started { usage })).await.expect("is read");
        first.pieces.send(Err(JobError::Lost("gone".to_owned()))).await.expect("is read");
        answer_with(next(&mut offered).await, "Hello").await;
    });
    let mut answer = ask(&router).await.expect("is taken");
    assert_eq!(text_of(&mut answer).await.1.prompt_tokens, 3);
    peers.await.expect("runs");
    assert_eq!(said_of(&noted), [(ATTIC, true), (CELLAR, false)]);
}

#[tokio::test]
async fn what_is_placed_counts_from_the_offer_to_the_end() {
    let Setup { router, mut offered, in_flight, .. } = setup(vec![view(ATTIC, "attic", "big")]);
    let counts = in_flight.clone();
    let peers = tokio::spawn(async move {
        let offer = next(&mut offered).await;
        assert_eq!(counts.count(&ATTIC), 1);
        let taken = offer.take();
        taken.say("Hello").await;
        assert_eq!(counts.count(&ATTIC), 1);
        taken.done(1).await;
        taken
    });
    let mut answer = ask(&router).await.expect("is taken");
    text_of(&mut answer).await;
    let taken = peers.await.expect("runs");
    timeout(PATIENCE, taken.cancelled.cancelled()).await.expect("it is over");
    let over = async {
        while in_flight.count(&ATTIC) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.expect("is not counted any more");
}

#[tokio::test]
async fn a_model_that_fails_here_before_its_first_word_is_answered_elsewhere() {
    let mut setup = setup(vec![view(ATTIC, "attic", "demo")]);
    let mut answer = setup.ask("demo").await.expect("is here");
    let lost = || Piece::Failed(InferenceError::RunnerLost);
    setup.asked.recv().await.expect("is asked").pieces.send(lost()).await.expect("is read");
    answer_with(next(&mut setup.offered).await, "Hello").await;
    assert_eq!(text_of(&mut answer).await.0, "Hello");
    assert_eq!(answer.route().expect("known").name, "attic");
    assert_eq!(setup.row().worker_name.as_deref(), Some("attic"));

    let mut answer = setup.ask("demo").await.expect("is here");
    let asked = setup.asked.recv().await.expect("is asked");
    asked.start().await;
    asked.pieces.send(lost()).await.expect("is read");
    let started = piece(&mut answer).await;
    assert!(matches!(started, Piece::Started { .. }), "{started:?}");
    let last = piece(&mut answer).await;
    assert!(matches!(last, Piece::Failed(InferenceError::RunnerLost)), "{last:?}");
    assert!(setup.offered.try_recv().is_err(), "the client heard of this one");
}
