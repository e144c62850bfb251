"""OpenAI's own Python client against a node: openai_client.py URL MODEL."""

import base64
import json
import struct
import sys
import threading

import openai

url, model = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
user = [{"role": "user", "content": "Return the number of elements"}]


def check(what, ok):
    assert ok, what
    print("ok:", what)


# models
# Models of other nodes come after its own, as model@node; tests that run meanwhile are on this network.
own = [m.id for m in client.models.list() if "@" not in m.id]
check("models.list", own == [model])
check("models.retrieve", client.models.retrieve(model).id == model)
try:
    client.models.retrieve("gpt-5")
    check("unknown model", False)
except openai.NotFoundError as e:
    check("unknown model", e.code == "model_not_found")

# chat
answer = client.chat.completions.create(model=model, messages=user, max_tokens=20, seed=3)
check("chat text", len(answer.choices[0].message.content) > 0)
check("chat finish", answer.choices[0].finish_reason in ("stop", "length"))
check("chat usage", answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens)
check("chat usage is real", 0 < answer.usage.completion_tokens <= 20 and answer.usage.prompt_tokens > 3)
again = client.chat.completions.create(model=model, messages=user, max_tokens=20, seed=3)
check("seed", again.choices[0].message.content == answer.choices[0].message.content)

# streaming
parts, finish, usage = [], None, None
for chunk in client.chat.completions.create(
    model=model, messages=user, max_tokens=20, seed=3, stream=True, stream_options={"include_usage": True}
):
    for choice in chunk.choices:
        parts.append(choice.delta.content or "")
        finish = choice.finish_reason or finish
    usage = chunk.usage or usage
check("stream text", "".join(parts) == answer.choices[0].message.content)
check("stream in pieces", len([p for p in parts if p]) > 3)
check("stream finish", finish == answer.choices[0].finish_reason)
check("stream usage", usage.completion_tokens == answer.usage.completion_tokens)

# several choices, logprobs
many = client.chat.completions.create(
    model=model, messages=user, max_tokens=8, n=3, temperature=1, logprobs=True, top_logprobs=4
)
check("n", [c.index for c in many.choices] == [0, 1, 2])
tokens = many.choices[0].logprobs.content
check("logprobs", all(t.logprob <= 0 and len(t.top_logprobs) == 4 for t in tokens))
check("logprobs join to the text", "".join(t.token for t in tokens).strip() == many.choices[0].message.content.strip())

# stop
free = client.completions.create(model=model, prompt="def get_path(", max_tokens=40, temperature=0)
stop = free.choices[0].text[4:7]
stopped = client.completions.create(model=model, prompt="def get_path(", max_tokens=40, temperature=0, stop=stop)
check("stop", stopped.choices[0].finish_reason == "stop" and stop not in stopped.choices[0].text)

# completions
check("completion length", free.choices[0].finish_reason in ("length", "stop"))
scored = client.completions.create(model=model, prompt="def ", max_tokens=5, logprobs=2, echo=True)
check("completion echo", scored.choices[0].text.startswith("def "))
check("completion logprobs", len(scored.choices[0].logprobs.tokens) == scored.usage.completion_tokens)
pieces = [c.choices[0].text for c in client.completions.create(model=model, prompt="def ", max_tokens=9, stream=True) if c.choices]
check("completion stream", len(pieces) > 2)
check("completion of several prompts", len(client.completions.create(model=model, prompt=["a", "b"], max_tokens=2).choices) == 2)

# response_format
schema = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
shaped = client.chat.completions.create(
    model=model,
    messages=user,
    max_tokens=120,
    response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
)
value = json.loads(shaped.choices[0].message.content)
check("json_schema", isinstance(value["ok"], bool) and value["kind"] in ("a", "b"))
check("json_schema finish", shaped.choices[0].finish_reason == "stop")

# embeddings: the client asks for base64 and decodes it
vectors = client.embeddings.create(model=model, input=["fn main() {}", "fn main() {}", "import os"]).data
check("embeddings are equal for equal text", max(abs(x - y) for x, y in zip(vectors[0].embedding, vectors[1].embedding)) < 1e-4)
check("embeddings differ for other text", vectors[0].embedding != vectors[2].embedding)
floats = client.embeddings.create(model=model, input="fn main() {}", encoding_format="float")
check("embeddings as floats", max(abs(x - y) for x, y in zip(floats.data[0].embedding, vectors[0].embedding)) < 1e-3)
check("embedding usage", floats.usage.prompt_tokens > 0)
raw = client.embeddings.with_raw_response.create(model=model, input="x", encoding_format="base64").http_response.json()
packed = base64.b64decode(raw["data"][0]["embedding"])
check("embeddings as base64", len(struct.unpack(f"<{len(packed) // 4}f", packed)) == len(floats.data[0].embedding))

# errors
for what, kwargs, error in [
    ("temperature", {"temperature": 9}, openai.BadRequestError),
    ("max_tokens", {"max_tokens": 0}, openai.BadRequestError),
    ("context overflow", {"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError),
    ("model", {"model": "nope"}, openai.NotFoundError),
]:
    try:
        client.chat.completions.create(**{"model": model, "messages": user, **kwargs})
        check("error for " + what, False)
    except error as e:
        check("error for " + what, bool(e.message) and bool(e.type))

# several threads
results = []


def one(n):
    text = client.completions.create(model=model, prompt=f"# {n}\ndef ", max_tokens=12).choices[0].text
    results.append(text)


threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
check("eight threads", len(results) == 8)
