"""Ollama's own Python client against a node: ollama_client.py URL MODEL PULL.

MODEL is the active model; PULL the name of a model in a registry that the node can reach.
"""

import json
import sys
import urllib.request
from datetime import datetime, timedelta, timezone

import ollama

url, model, pull = sys.argv[1:4]
client = ollama.Client(host=url)
user = [{"role": "user", "content": "Return the number of elements"}]
seeded = {"seed": 3, "num_predict": 20}


def check(what, ok):
    assert ok, what
    print("ok:", what)


def refused(what, status, words, call):
    """The call fails with this status (`None`: any) and these words in the message."""
    try:
        result = call()
        if not hasattr(result, "model_dump"):
            list(result)
    except ollama.ResponseError as e:
        assert status in (None, e.status_code), f"{what}: {e}"
        assert words in e.error, f"{what}: {e}"
        print("ok:", what)
    else:
        raise AssertionError(what)


# list
listed = {m.model: m for m in client.list().models}
check("list", model in listed)
entry = listed[model]
check("list has sizes", entry.size > 1_000_000)
check("list has details", entry.details.format == "gguf" and entry.details.family and entry.details.quantization_level)
check("list has the parameter size", entry.details.parameter_size[-1] in "KMB")
check("digests are bare", ":" not in (entry.digest or ""))
check("times are in the past", entry.modified_at is None or entry.modified_at <= datetime.now(timezone.utc))
with urllib.request.urlopen(url + "/api/version") as answer:
    check("version", json.load(answer)["version"])

# show
shown = client.show(model)
check("show has details", shown.details == entry.details)
check("show has metadata", shown.modelinfo["general.architecture"] == entry.details.family)
check("show has a template", "messages" in shown.template)
check("show has a Modelfile", "FROM " in shown.modelfile and "TEMPLATE " in shown.modelfile)
check("show has capabilities", "completion" in shown.capabilities)

# chat
whole = client.chat(model, user, options=seeded)
check("chat text", whole.message.role == "assistant" and len(whole.message.content) > 0)
check("chat names the model", whole.model == model and whole.done)
check("chat reason", whole.done_reason in ("stop", "length"))
check("chat counts", 0 < whole.eval_count <= 20 and whole.prompt_eval_count > 3)
check("chat durations", 0 < whole.prompt_eval_duration + whole.eval_duration <= whole.total_duration)
check("chat time", abs(datetime.fromisoformat(whole.created_at) - datetime.now(timezone.utc)) < timedelta(minutes=5))
parts = list(client.chat(model, user, options=seeded, stream=True))
check("chat stream text", "".join(p.message.content for p in parts) == whole.message.content)
check("chat stream in pieces", len(parts) > 3)
check("chat stream end", [p.done for p in parts] == [False] * (len(parts) - 1) + [True])
check("chat stream counts", parts[-1].eval_count == whole.eval_count)
check("chat length", client.chat(model, user, options={"num_predict": 2}).done_reason == "length")
scored = client.chat(model, user, options={"num_predict": 5}, logprobs=True, top_logprobs=2)
check("chat logprobs", len(scored.logprobs) == scored.eval_count and len(scored.logprobs[0].top_logprobs) == 2)

# generate
whole = client.generate(model, "def get_path(", options={"temperature": 0, "num_predict": 30}, raw=True)
check("generate text", len(whole.response) > 0 and whole.done_reason in ("stop", "length"))
parts = list(client.generate(model, "def get_path(", options={"temperature": 0, "num_predict": 30}, raw=True, stream=True))
check("generate stream text", "".join(p.response for p in parts) == whole.response)
check("generate stream end", parts[-1].done and parts[-1].total_duration > 0 and len(parts) > 3)
stop = whole.response[4:7]
stopped = client.generate(model, "def get_path(", options={"temperature": 0, "num_predict": 30, "stop": [stop]}, raw=True)
check("generate stop", stopped.done_reason == "stop" and stop not in stopped.response)
check("generate with the chat template", client.generate(model, "Hi", system="Be brief.", options=seeded).response != "")

# format
schema = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
shaped = json.loads(client.chat(model, user, format=schema, options={"num_predict": 120}).message.content)
check("format as a schema", isinstance(shaped["ok"], bool) and shaped["kind"] in ("a", "b"))
free = client.generate(model, "Answer in JSON", format="json", options={"num_predict": 200, "seed": 1})
check("format json", free.response.lstrip().startswith("{"))
check("format json is whole where it ended", free.done_reason == "length" or isinstance(json.loads(free.response), dict))

# embed
one = client.embed(model, "fn main() {}")
check("embed", len(one.embeddings) == 1 and one.prompt_eval_count > 0 and one.total_duration > 0)
many = client.embed(model, ["fn main() {}", "import os"]).embeddings
check("embed of several", max(abs(x - y) for x, y in zip(many[0], one.embeddings[0])) < 1e-4 and many[0] != many[1])
check("embed shorter", len(client.embed(model, "fn", dimensions=8).embeddings[0]) == 8)
check("embed nothing", client.embed(model, []).embeddings == [])
check("embeddings", len(client.embeddings(model, "fn main() {}").embedding) == len(many[0]))

# errors
for what, call in [
    ("chat", lambda: client.chat("nope", user)),
    ("chat stream", lambda: client.chat("nope", user, stream=True)),
    ("generate", lambda: client.generate("nope", "x")),
    ("embed", lambda: client.embed("nope", "x")),
    ("show", lambda: client.show("nope")),
    ("delete", lambda: client.delete("nope")),
    ("copy", lambda: client.copy("nope", "other")),
]:
    refused("unknown model: " + what, 404, "not found", call)
refused("option of a wrong kind", 400, "temperature", lambda: client.chat(model, user, options={"temperature": "hot"}))
refused("option out of range", 400, "temperature", lambda: client.chat(model, user, options={"temperature": 9}))
refused("keep_alive", 400, "keep_alive", lambda: client.chat(model, user, keep_alive="soon"))
refused("template", 400, "template", lambda: client.generate(model, "x", template="{{ .Prompt }}"))
refused("images", 400, "images", lambda: client.generate(model, "x", images=["aGVsbG8="]))
refused("thinking", 400, "thinking", lambda: client.chat(model, user, think=True))
refused("tools", 400, "does not support tools", lambda: client.chat(model, user, tools=[{"type": "function", "function": {"name": "f"}}]))
refused("too long a prompt", 400, "context", lambda: client.chat(model, [{"role": "user", "content": "word " * 5000}]))
refused("create", 501, "does not make", lambda: client.create("x", from_=model))

# pull
lines = list(client.pull(pull, stream=True))
words = [line.status for line in lines]
check("pull begins", words[0] == "pulling manifest")
check("pull ends", words[-3:] == ["verifying sha256 digest", "writing manifest", "success"])
layers = {}
for line in lines:
    if line.digest:
        check_name = "pulling " + line.digest.removeprefix("sha256:")[:12]
        assert line.status == check_name, line
        assert (line.completed or 0) >= layers.get(line.digest, (0, 0))[0], line
        layers[line.digest] = (line.completed or 0, line.total)
check("pull tells every layer to its end", layers and all(done == total for done, total in layers.values()))
check("pull again", client.pull(pull).status == "success")

# residency: the active model stays, others leave when they are told to
check("ps of the active model", client.ps().models[0].expires_at > datetime.now(timezone.utc) + timedelta(days=9000))
loaded = client.chat(pull, [], keep_alive="7m")
check("load", loaded.done and loaded.done_reason == "load")
running = {m.model: m for m in client.ps().models}
check("ps", running[pull].size > 0 and running[pull].context_length > 0 and running[pull].size_vram >= 0)
stays = running[pull].expires_at - datetime.now(timezone.utc)
check("ps expiry", timedelta(minutes=5) < stays <= timedelta(minutes=8))
client.generate(pull, "x", options={"num_predict": 1}, keep_alive=-1)
running = {m.model: m for m in client.ps().models}
check("ps for ever", running[pull].expires_at > datetime.now(timezone.utc) + timedelta(days=9000))
unloaded = client.generate(pull, "", keep_alive=0)
check("unload", unloaded.done_reason == "unload" and unloaded.response == "")
check("ps after unload", pull not in [m.model for m in client.ps().models])
check("a request loads it again", client.chat(pull, user, options=seeded).load_duration > 0)

# copy, delete
before = {m.model for m in client.list().models}
client.copy(pull, "second-name")
check("copy", {m.model for m in client.list().models} - before == {"second-name:latest"})
check("copy answers", client.generate("second-name", "x", options={"num_predict": 2}).eval_count > 0)
client.delete("second-name")
check("delete", {m.model for m in client.list().models} == before)
check("the other name still answers", client.generate(pull, "x", options={"num_predict": 2}).eval_count > 0)
client.delete(pull)
refused("deleted", 404, "not found", lambda: client.show(pull))
refused("pull of nothing", None, "", lambda: client.pull(pull.rsplit(":", 1)[0] + ":no-such-tag", stream=True))
