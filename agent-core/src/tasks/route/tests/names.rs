//! `model@node` and privacy, with placement as it is.

use agent_api::tasks::Privacy;

use super::*;

#[derive(Debug)]
struct AsPlaced(Vec<NodeView>);

impl Known for AsPlaced {
    fn nodes(&self, wanted: &Wanted) -> Vec<NodeView> {
        let mut nodes = self.0.clone();
        for node in &mut nodes {
            node.models.retain(|model| Some(&model.id) == wanted.model.as_ref());
        }
        nodes
    }

    fn models_elsewhere(&self) -> Vec<ModelElsewhere> {
        Vec::new()
    }
}

/// This node has `demo`; the attic `big`; two others have one name.
fn known() -> Setup {
    let mut me = view(NodeKey([9; 32]), "Me", "demo");
    (me.here, me.mine) = (true, true);
    let twin = |key| view(NodeKey([key; 32]), "twin", "big");
    setup_with(Arc::new(AsPlaced(vec![me, view(ATTIC, "attic", "big"), twin(4), twin(5)])))
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_told_as_what_it_is() {
    let mut setup = known();
    for (model, words) in [
        ("big@nowhere", "No node of the mesh has the id or name nowhere"),
        ("big@twin", "2 nodes fit twin"),
        ("other@attic", "Only attic may do it"),
    ] {
        let error = setup.ask(model).await.expect_err(model);
        assert!(matches!(error, InferenceError::NotThere(_)), "{model}: {error:?}");
        assert!(error.to_string().contains(words), "{model}: {error}");
    }
}

#[tokio::test]
async fn this_node_answers_to_its_name_in_any_case_and_to_its_id() {
    let mut setup = known();
    for model in ["demo@me", "demo@ME", "demo@090909"] {
        let mut answer = setup.ask(model).await.expect(model);
        let asked = setup.asked.recv().await.expect("is asked");
        asked.say("Hello").await;
        asked.done(1).await;
        assert_eq!(whole(&mut answer).await.0, "Hello");
    }
    assert!(setup.offered.try_recv().is_err());
}

#[tokio::test]
async fn tools_are_asked_for_where_the_request_may_go() {
    let setup = known();
    let usual = SubmitOptions::default();
    let format = setup.router.tool_format("big", usual).await.expect("the attic tells");
    assert_eq!(format, Some(ToolFormat::Hermes));
    let format = setup.router.tool_format("demo@me", usual).await.expect("is here");
    assert_eq!(format, None, "of this node, whose model has none");
    let stays = SubmitOptions { privacy: Some(Privacy::ThisNode), ..usual };
    let told = setup.router.tool_format("big", stays).await.expect("this node is asked");
    assert_eq!(told, None, "and nobody else");
}
