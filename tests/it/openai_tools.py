"""Tool calls with OpenAI's client: openai_tools.py URL MODEL. The model's template knows tools."""

import json
import sys

import openai

url, model = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["c", "f"]}},
                "required": ["city", "unit"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop_all"}},
]
user = [{"role": "user", "content": "How is the weather in Paris?"}]


def check(what, ok):
    assert ok, what
    print("ok:", what)


def check_call(call, name=None):
    arguments = json.loads(call.function.arguments)
    assert call.type == "function" and call.id
    if name:
        assert call.function.name == name, call
    if call.function.name == "get_weather":
        assert isinstance(arguments["city"], str) and arguments["unit"] in ("c", "f"), arguments


named = {"type": "function", "function": {"name": "get_weather"}}
answer = client.chat.completions.create(model=model, messages=user, tools=tools, tool_choice=named, max_tokens=400)
choice = answer.choices[0]
check("a named tool is called", choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1)
check_call(choice.message.tool_calls[0], "get_weather")
check("no content beside the call", not choice.message.content)

answer = client.chat.completions.create(model=model, messages=user, tools=tools, tool_choice="required", max_tokens=400)
check_call(answer.choices[0].message.tool_calls[0])
check("some tool is called when required", True)

name, arguments, finish = None, "", None
for chunk in client.chat.completions.create(
    model=model, messages=user, tools=tools, tool_choice=named, max_tokens=400, stream=True
):
    for choice in chunk.choices:
        for call in choice.delta.tool_calls or []:
            assert call.index == 0
            name = call.function.name or name
            arguments += call.function.arguments or ""
        finish = choice.finish_reason or finish
check(f"streamed call ({name}, {finish}, {arguments!r})", name == "get_weather" and finish == "tool_calls")
check("streamed arguments", json.loads(arguments)["unit"] in ("c", "f"))

# The whole conversation, as an agent would go on.
call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "c"}'}}
history = user + [
    {"role": "assistant", "content": None, "tool_calls": [call]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
answer = client.chat.completions.create(model=model, messages=history, tools=tools, max_tokens=10, tool_choice="none")
check("a tool's result is taken", answer.choices[0].message.content is not None)

try:
    client.chat.completions.create(
        model=model, messages=user, tools=tools, tool_choice={"type": "function", "function": {"name": "nope"}}
    )
    check("unknown tool", False)
except openai.BadRequestError as e:
    check("unknown tool", "nope" in e.message)
