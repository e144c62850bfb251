"""OpenAI's own client with a model that only a peer of the node has: peer.py URL MODEL.

Nothing in it knows of the mesh; the node finds who has the model.
"""

import sys

import openai

url, model = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
user = [{"role": "user", "content": "Return the number of elements"}]

answer = client.chat.completions.with_raw_response.create(
    model=model, messages=user, temperature=0, max_tokens=30
)
text = answer.parse().choices[0].message.content
print("answered by", answer.headers["x-edgecoder-node-name"], "over", answer.headers["x-edgecoder-path"])
assert text, "an answer"

stream = client.chat.completions.create(
    model=model, messages=user, temperature=0, max_tokens=30, stream=True
)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
assert "".join(pieces) == text, "the same words, streamed"
assert len(pieces) > 5, "token by token"
print("ok:", len(pieces), "pieces")
