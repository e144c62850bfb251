//! The worked example of `code`: a program is written, fails its tests, is corrected and passes. The
//! model is scripted; everything else is real, the sandbox too.

use agent_api::tasks::CodeOutput;
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::Cluster,
    scripted_model::ScriptedModel,
    tasks::{done, output, sees_model, submit, with_scripted},
};
use serde_json::json;

#[tokio::test]
async fn a_program_is_corrected_until_its_tests_pass() -> Result<()> {
    let model = ScriptedModel::start("coder:1b").await?;
    model.say(&["Here it is:\n```python\ndef rolling_max(xs):\n", "    return max(xs)\n```\n"]);
    model.say(&[
        "I see.\n```python\ndef rolling_max(xs):\n    best, out = None, []\n",
        "    for x in xs:\n        best = x if best is None else max(best, x)\n",
        "        out.append(best)\n    return out\n```\n",
    ]);
    let cluster = Cluster::started(2, |n, options| match n {
        0 => options,
        _ => with_scripted("node-1", &model),
    })
    .await?;
    cluster.form().await?;
    sees_model(&cluster, 0, 1, &model.name).await?;
    let tests = "from solution import rolling_max\nassert rolling_max([1, 3, 2]) == [1, 3, 3], rolling_max([1, 3, 2])\n";
    let body = json!({
        "kind": "code",
        "input": {
            "model": model.name, "language": "python",
            "prompt": "Write rolling_max(xs): the list of running maxima.", "tests": tests,
        },
    });
    let id = submit(cluster.http(0), &body).await?;
    let task = done(cluster.http(0), &id).await?;
    assert_eq!(task.worker, Some(cluster.id(1)));
    let said = output(cluster.http(0), &id).await?.output.context("an output")?;
    let said: CodeOutput = serde_json::from_value(said)?;
    assert!(said.passed, "{said:#?}");
    assert_eq!(said.iterations.len(), 2);
    assert!(said.iterations[0].stderr.contains("AssertionError"), "{:#?}", said.iterations[0]);
    let asked = model.asked();
    let again = asked.last().context("a second request")?.to_string();
    assert!(again.contains("AssertionError"), "the error goes back to the model: {again}");
    Ok(())
}
