//! Who is chosen, and what is said about the others.

use proptest::prelude::*;

use super::*;

fn model(id: &str, resident: bool) -> ModelView {
    ModelView {
        id: id.to_owned(),
        digest: None,
        resident,
        context: 4_096,
        size_bytes: 1 << 30,
        tokens_per_s: Some(50.0),
    }
}

fn node(n: u8, name: &str) -> NodeView {
    NodeView {
        id: NodeId(format!("{n:02x}").repeat(32)),
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
        models: vec![model("llama3.2:1b", true)],
        slots: 4,
        slots_free: 4,
        queue: 0,
        in_flight: 0,
        price: None,
        reputation: 0.7,
    }
}

fn here() -> NodeView {
    NodeView { here: true, path: Some(TaskPath::Local), reputation: 1.0, ..node(1, "desk") }
}

fn wanted() -> Wanted {
    Wanted {
        kind: Some(TaskKind::Chat),
        model: Some("llama3.2:1b".to_owned()),
        prompt_tokens: 100,
        answer_tokens: 100,
        ..Wanted::default()
    }
}

fn names(placed: &Placed, nodes: &[NodeView]) -> Vec<String> {
    placed.ranked.iter().map(|at| nodes[*at].name.clone()).collect()
}

/// The reason why a single node is left out.
fn reason(wanted: &Wanted, node: NodeView) -> String {
    let placed = place(wanted, &[node], 7);
    assert_eq!((placed.ranked.len(), placed.explanation.at_ms), (0, 7));
    placed.explanation.excluded[0].reason.clone()
}

#[test]
fn the_faster_node_is_chosen_and_the_other_explained() {
    let mut slow = node(2, "kanal");
    slow.models[0].tokens_per_s = Some(20.0);
    let nodes = [slow, node(3, "workbench")];
    let placed = place(&wanted(), &nodes, 0);
    assert_eq!(names(&placed, &nodes), ["workbench", "kanal"]);
    assert_eq!(placed.models, [Some("llama3.2:1b".to_owned()), Some("llama3.2:1b".to_owned())]);
    assert_eq!(
        placed.explanation.summary,
        "workbench has the model in memory and a free slot; kanal would take 4.7 s longer."
    );
    let rows = &placed.explanation.candidates;
    assert!(rows[0].chosen && !rows[1].chosen);
    let parts: Vec<_> = rows[0].parts.iter().map(|part| part.what.as_str()).collect();
    let expected =
        ["reading the prompt", "writing 100 tokens", "the way there", "tries that may fail"];
    assert_eq!(parts, expected);
}

#[test]
fn every_reason_for_leaving_a_node_out_is_readable() {
    let other = node(2, "b");
    let private = |privacy| Wanted { privacy, ..wanted() };
    let trusted = NodeView { trusted: true, ..other.clone() };
    let small = ModelView { context: 64, ..model("llama3.2:1b", true) };
    let problem = "it was not heard of for 5 min".to_owned();
    let cases = [
        (private(Privacy::ThisNode), trusted.clone(), "may not leave"),
        (private(Privacy::MyNodes), trusted, "not marked as your own"),
        (private(Privacy::Trusted), other.clone(), "your own or trusted"),
        (wanted(), NodeView { accepts: vec![TaskKind::Wasm], ..other.clone() }, "take chat tasks"),
        (wanted(), NodeView { models: Vec::new(), ..other.clone() }, "have the model llama3.2:1b"),
        (wanted(), NodeView { serving: AnnouncedServing::Paused, ..other.clone() }, "paused it"),
        (wanted(), NodeView { serving: AnnouncedServing::Unable, ..other.clone() }, "cannot run"),
        (wanted(), NodeView { problem: Some(problem), ..other.clone() }, "not heard of for 5 min"),
        (wanted(), NodeView { models: vec![small], ..other.clone() }, "context of 64 tokens"),
        (Wanted { not: vec![other.id.clone()], ..wanted() }, other.clone(), "did this task"),
        (Wanted { node: Some("c".into()), ..wanted() }, other.clone(), "for c only"),
        (Wanted { model: Some(String::new()), ..wanted() }, other, "names no model"),
    ];
    for (wanted, node, words) in cases {
        let reason = reason(&wanted, node);
        assert!(reason.contains(words), "{reason:?} says {words:?}");
    }
}

#[test]
fn marks_open_the_way_for_private_tasks() {
    let mine = NodeView { mine: true, ..node(2, "mine") };
    let trusted = NodeView { trusted: true, ..node(3, "trusted") };
    let nodes = [here(), mine, trusted, node(4, "stranger")];
    let able = |privacy| {
        let placed = place(&Wanted { privacy, ..wanted() }, &nodes, 0);
        let mut names = names(&placed, &nodes);
        names.sort();
        names
    };
    assert_eq!(able(Privacy::ThisNode), ["desk"]);
    assert_eq!(able(Privacy::MyNodes), ["desk", "mine"]);
    assert_eq!(able(Privacy::Trusted), ["desk", "mine", "trusted"]);
    assert_eq!(able(Privacy::Mesh).len(), 4);
}

#[test]
fn this_computer_goes_first_while_it_could_begin_at_once() {
    let mut fast = node(2, "fast");
    fast.models[0].tokens_per_s = Some(500.0);
    let mut nodes = [fast, here()];
    let placed = place(&wanted(), &nodes, 0);
    assert_eq!(names(&placed, &nodes), ["desk", "fast"]);
    assert!(placed.explanation.summary.starts_with("This computer has the model in memory"));
    assert!(placed.explanation.summary.contains("asked first; fast might be"));
    nodes[1].in_flight = 4;
    let placed = place(&wanted(), &nodes, 0);
    assert_eq!(names(&placed, &nodes), ["fast", "desk"], "its slots are taken");
    nodes[1].serving = AnnouncedServing::Paused;
    assert_eq!(place(&wanted(), &nodes, 0).ranked.len(), 2, "a pause is for others' work");
}

#[test]
fn a_model_in_memory_and_a_free_slot_are_worth_a_detour() {
    let cold = NodeView { models: vec![model("llama3.2:1b", false)], ..node(2, "cold") };
    let full = NodeView { slots_free: 0, queue: 9, ..node(3, "full") };
    let far = NodeView { path: Some(TaskPath::Relay), rtt_ms: Some(80.0), ..node(4, "far") };
    let nodes = [cold, full, far];
    let placed = place(&wanted(), &nodes, 0);
    assert_eq!(names(&placed, &nodes)[0], "far");
    let of = |name: &str| {
        let rows = &placed.explanation.candidates;
        rows.iter().find(|row| row.name == name).expect("a candidate").parts.clone()
    };
    assert!(of("cold").iter().any(|part| part.what == "loading the model" && part.ms > 2_000.0));
    assert!(of("full").iter().any(|part| part.what == "waiting" && part.ms > 2_000.0));
}

#[test]
fn work_spreads_over_equal_nodes_as_it_is_placed() {
    let module = Wanted { kind: Some(TaskKind::Wasm), ..Wanted::default() };
    let mut nodes: Vec<_> = (0..5).map(|n| node(n, &format!("n{n}"))).collect();
    nodes[0] = here();
    for _ in 0..500 {
        let best = place(&module, &nodes, 0).ranked[0];
        nodes[best].in_flight += 1;
    }
    let (least, most) = nodes
        .iter()
        .map(|node| node.in_flight)
        .fold((500, 0), |(least, most), n| (least.min(n), most.max(n)));
    assert!(least > 60 && most < 200, "{least} to {most}");
}

#[test]
fn a_bad_reputation_makes_a_node_the_last_choice_but_no_outcast() {
    let bad = NodeView { reputation: 0.05, ..node(2, "bad") };
    let nodes = [bad, node(3, "good")];
    let placed = place(&wanted(), &nodes, 0);
    assert_eq!(names(&placed, &nodes), ["good", "bad"]);
    let broken = [NodeView { reputation: f64::NAN, ..node(2, "broken") }, node(3, "good")];
    assert_eq!(names(&place(&wanted(), &broken, 0), &broken), ["good", "broken"]);
}

#[test]
fn price_and_region_decide_only_between_equals() {
    let dear = NodeView { price: Some(5_000_000), ..node(2, "dear") };
    let cheap = NodeView { price: Some(5), ..node(3, "cheap") };
    let nodes = [dear.clone(), cheap];
    assert_eq!(names(&place(&wanted(), &nodes, 0), &nodes), ["cheap", "dear"]);
    let far = NodeView { rtt_ms: Some(60.0), ..node(3, "far") };
    let nodes = [far, dear];
    assert_eq!(names(&place(&wanted(), &nodes, 0), &nodes), ["dear", "far"]);
    let home = NodeView { region: Some("Europe/Berlin".into()), models: Vec::new(), ..here() };
    let same = NodeView { region: home.region.clone(), ..node(9, "same") };
    let other = NodeView { region: Some("Asia/Tokyo".into()), ..node(2, "other") };
    let nodes = [home, other, same];
    assert_eq!(names(&place(&wanted(), &nodes, 0), &nodes), ["same", "other"]);
}

#[test]
fn a_claimed_speed_that_cannot_be_brings_no_work() {
    let mut liar = node(2, "liar");
    liar.models[0].size_bytes = 100 << 30;
    liar.models[0].tokens_per_s = Some(f32::MAX);
    let placed = place(&wanted(), &[liar], 0);
    assert!(placed.explanation.candidates[0].cost_ms > 40.0);
    let mut odd = node(2, "odd");
    odd.models[0].tokens_per_s = Some(f32::NAN);
    assert!(place(&wanted(), &[odd], 0).explanation.candidates[0].cost_ms.is_finite());
}

#[test]
fn a_node_that_said_no_is_shown_with_its_words_and_not_asked_again() {
    let nodes = [node(2, "busy"), node(3, "free")];
    let said = "its queue is full".to_owned();
    let mut again = Wanted { tried: vec![(nodes[0].id.clone(), said.clone())], ..wanted() };
    let placed = place(&again, &nodes, 0);
    assert_eq!(names(&placed, &nodes), ["free"]);
    let busy = placed.explanation.candidates.iter().find(|row| row.name == "busy");
    assert_eq!(busy.expect("listed").refused, Some(said.clone()));
    again.tried.push((nodes[1].id.clone(), said));
    let placed = place(&again, &nodes, 0);
    let summary = placed.explanation.summary;
    assert!(placed.ranked.is_empty() && summary.contains("all 2 nodes that could do it"));
}

#[test]
fn the_summary_of_no_candidates_counts_the_reasons() {
    let paused = NodeView { serving: AnnouncedServing::Paused, ..node(2, "p") };
    let bare = |n| NodeView { models: Vec::new(), ..node(n, "bare") };
    let placed = place(&wanted(), &[bare(3), paused, bare(4)], 0);
    assert_eq!(
        placed.explanation.summary,
        "No node can do it now: 1 node is paused; 2 nodes do not have the model llama3.2:1b."
    );
    assert_eq!(place(&wanted(), &[], 0).explanation.summary, "No node is known.");
    let pin = |name: &str| {
        let pinned = Wanted { node: Some(name.to_owned()), ..wanted() };
        place(&pinned, &[bare(3), bare(4)], 0).explanation.summary
    };
    assert_eq!(pin("x"), "No node of the mesh has the id or name x.");
    assert_eq!(pin("bare"), "2 nodes fit bare. Use the id of the one that is meant.");
    let only = "Only 030303 may do it, and it does not have the model llama3.2:1b.";
    assert_eq!(pin("030303"), only);
}

#[test]
fn an_empty_name_is_the_active_model_of_this_node_or_of_the_one_that_is_named() {
    let nodes = [here(), node(2, "other")];
    let empty = Wanted { model: Some(String::new()), ..wanted() };
    let placed = place(&empty, &nodes, 0);
    assert_eq!(names(&placed, &nodes), ["desk"]);
    assert_eq!(placed.models, [Some("llama3.2:1b".to_owned())]);
    let pinned = Wanted { node: Some("other".into()), ..empty };
    assert_eq!(names(&place(&pinned, &nodes, 0), &nodes), ["other"]);
}

#[test]
fn names_are_taken_apart_at_the_node_and_not_at_a_digest() {
    for (text, model, node) in [
        ("llama3.2", "llama3.2", None),
        ("llama3.2:1b@kanal", "llama3.2:1b", Some("kanal")),
        ("hf.co/Org/Repo:Q4@ab12cd", "hf.co/Org/Repo:Q4", Some("ab12cd")),
        ("m@sha256:00ff", "m@sha256:00ff", None),
        ("m@sha256:00ff@kanal", "m@sha256:00ff", Some("kanal")),
        ("m@me@desk", "m", Some("me@desk")),
        ("@kanal", "", Some("kanal")),
        ("m@", "m@", None),
        (" m @ the desk ", "m", Some("the desk")),
        ("", "", None),
    ] {
        assert_eq!(split_model(text), (model, node), "{text:?}");
    }
}

#[test]
fn what_goes_without_saying_may_be_left_out_of_a_models_name() {
    for (asked, has) in [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:latest", "llama3.2"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2", "llama3.2"),
        ("me/mine", "registry.ollama.ai/me/mine:latest"),
        ("Llama3.2:1B", "llama3.2:1b"),
        ("https://huggingface.co/Org/Repo:Q4", "hf.co/Org/Repo:Q4"),
        ("a file's name (1)", "a file's name (1)"),
        ("localhost:5000/m", "localhost:5000/library/m:latest"),
    ] {
        assert!(same_model(asked, has), "{asked} is {has}");
    }
    for (asked, has) in [
        ("llama3.2", "llama3.2:1b"),
        ("llama3.2", "llama3"),
        ("me/llama3.2", "llama3.2"),
        ("quay.io/library/llama3.2", "llama3.2"),
        ("llama3.2@sha256:00", "llama3.2"),
        ("", "llama3.2"),
    ] {
        assert!(!same_model(asked, has), "{asked} is not {has}");
    }
}

#[test]
fn a_digest_names_the_weights() {
    let digest = |byte| Some(Hash([byte; 32]));
    let models = vec![
        ModelView { digest: digest(1), ..model("a:1b", true) },
        ModelView { digest: digest(2), ..model("a:2b", true) },
    ];
    let nodes = [NodeView { models, ..node(2, "b") }];
    let placed = |name: String| {
        place(&Wanted { model: Some(name), ..wanted() }, &nodes, 0).models.pop().flatten()
    };
    assert_eq!(placed(format!("a:2b@sha256:{}", "02".repeat(32))), Some("a:2b".to_owned()));
    assert_eq!(placed(format!("a:1b@sha256:{}", "02".repeat(32))), None);
    assert_eq!(placed("a:1b@sha256:zz".to_owned()), None);
}

#[test]
fn nodes_are_found_by_id_and_by_name_and_strangers_cannot_take_a_name_away() {
    let mine = NodeView { mine: true, ..node(0xab, "desk") };
    let nodes = [
        mine,
        node(2, "desk"),
        node(3, "ababab"),
        node(4, "Kanal"),
        node(5, "twin"),
        node(6, "twin"),
    ];
    assert_eq!(find_node("desk", &nodes), Found::One(0), "the owner's own");
    assert_eq!(find_node("ababab", &nodes), Found::One(0), "an id counts more than a name");
    assert_eq!(find_node(&"02".repeat(32), &nodes), Found::One(1));
    assert_eq!(find_node("kanal", &nodes), Found::One(3));
    assert_eq!(find_node("twin", &nodes), Found::Several(2));
    assert_eq!(find_node("0202", &nodes), Found::Nobody, "too short for an id");
    assert_eq!(find_node("", &nodes), Found::Nobody);
}

#[test]
fn long_lists_are_cut_and_the_rest_counted() {
    let bare = |n: u8| NodeView { models: Vec::new(), ..node(n, "bare") };
    let nodes: Vec<_> = (0..30).map(|n| node(n, "able")).chain((30..90).map(bare)).collect();
    let tried = (0..25).map(|n| (nodes[n].id.clone(), "full".to_owned())).collect();
    let placed = place(&Wanted { tried, ..wanted() }, &nodes, 0);
    let Placement { candidates, excluded, more_excluded, .. } = placed.explanation;
    assert_eq!((candidates.len(), excluded.len(), more_excluded), (20, 20, 40));
    assert_eq!(candidates.iter().filter(|row| row.chosen).count(), 1);
}

#[test]
fn an_absurd_round_trip_is_a_long_one() {
    let far = NodeView { path: None, rtt_ms: Some(f64::MAX), ..node(1, "far") };
    let placed = place(&wanted(), &[far], 0);
    assert!(placed.explanation.candidates.iter().all(|row| row.cost_ms < 1e7));
}

prop_compose! {
    fn any_node()(
        n in 0_u8..40, here in any::<bool>(), mine: bool, lost: bool, path in 0_u8..4,
        rtt in prop::option::of(prop::num::f64::ANY), serving in 0_u8..4, kinds in 0_usize..6,
        has in 0_u8..3, context: u32, size_bytes: u64, speed in prop::option::of(prop::num::f32::ANY),
        slots in 0_u32..70_000, slots_free in 0_u32..70_000, queue in 0_u32..70_000,
        in_flight: u32, price: Option<u64>, reputation in prop::num::f64::ANY,
    ) -> NodeView {
        let paths = [None, Some(TaskPath::Lan), Some(TaskPath::Direct), Some(TaskPath::Relay)];
        let serving = [
            AnnouncedServing::Ready, AnnouncedServing::Busy, AnnouncedServing::Paused,
            AnnouncedServing::Unable,
        ][usize::from(serving)];
        let model = ModelView {
            context, size_bytes, tokens_per_s: speed, ..model("llama3.2:1b", has == 1)
        };
        NodeView {
            here, mine, problem: lost.then(|| "lost".to_owned()), path: paths[usize::from(path)],
            rtt_ms: rtt, serving, accepts: TaskKind::ALL[..kinds.min(5)].to_vec(),
            models: if has == 0 { Vec::new() } else { vec![model] }, slots, slots_free, queue,
            in_flight, price, reputation, ..node(n, "n")
        }
    }
}

proptest! {
    #[test]
    fn every_node_is_ranked_or_explained_and_parts_sum_to_the_cost(
        nodes in prop::collection::vec(any_node(), 0..60), prompt: u32, answer: u32,
        tried in prop::collection::vec(0_u8..44, 0..4),
    ) {
        let tried: Vec<_> =
            tried.into_iter().map(|n| (node(n, "").id, "no".to_owned())).collect();
        let wanted = Wanted { prompt_tokens: prompt, answer_tokens: answer, tried, ..wanted() };
        let placed = place(&wanted, &nodes, 0);
        let explanation = &placed.explanation;
        prop_assert_eq!(placed.ranked.len(), placed.models.len());
        prop_assert!(explanation.candidates.len() <= 20 && explanation.excluded.len() <= 20);
        let shown = explanation.excluded.len() + explanation.more_excluded as usize;
        prop_assert!(placed.ranked.len() + shown <= nodes.len());
        prop_assert!(explanation.summary.ends_with('.'));
        for row in &explanation.candidates {
            let sum: f64 = row.parts.iter().map(|part| part.ms).sum();
            prop_assert!(row.cost_ms.is_finite() && row.cost_ms >= 0.0);
            prop_assert!((sum - row.cost_ms).abs() <= 1e-9 * row.cost_ms, "{:?}", row);
        }
        for at in &placed.ranked {
            prop_assert!(wanted.tried.iter().all(|(id, _)| *id != nodes[*at].id));
            prop_assert!(nodes[*at].problem.is_none());
        }
        let first = explanation.candidates.iter().filter(|row| row.chosen).count();
        prop_assert_eq!(first, usize::from(!placed.ranked.is_empty()));
    }

    #[test]
    fn taking_names_apart_never_panics_and_loses_nothing(text in ".{0,60}") {
        let (model, node) = split_model(&text);
        prop_assert!(text.contains(model));
        prop_assert!(node.is_none_or(|node| !node.is_empty() && text.contains(node)));
        prop_assert!(text.trim().is_empty() || same_model(&text, &text));
    }
}
