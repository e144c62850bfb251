"""Tool calls with Ollama's client: ollama_tools.py URL MODEL. The model's template knows tools.

The API cannot force a call. Llama's spelling is a bare JSON object, so a format does it here.
"""

import sys

import ollama

url, model = sys.argv[1:]
client = ollama.Client(host=url)
user = [{"role": "user", "content": "How is the weather in Paris?"}]


def get_weather(city: str, unit: str) -> str:
    """
    Weather of a city

    Args:
        city: Its name
        unit: c or f
    """
    return f"{city}: sunny, 20 {unit}"


call = {
    "type": "object",
    "properties": {
        "name": {"const": "get_weather"},
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "parameters"],
    "additionalProperties": False,
}


def check(what, ok):
    assert ok, what
    print("ok:", what)


def check_calls(calls):
    assert len(calls) == 1, calls
    assert calls[0].function.name == "get_weather", calls
    assert calls[0].function.arguments["unit"] in ("c", "f"), calls
    return True


answer = client.chat(model, user, tools=[get_weather], format=call, options={"num_predict": 200})
check("a tool is called", check_calls(answer.message.tool_calls))
check("its arguments fit the function", "sunny" in get_weather(**answer.message.tool_calls[0].function.arguments))
check("no content beside the call", answer.message.content == "" and answer.done_reason == "stop")

calls = []
for part in client.chat(model, user, tools=[get_weather], format=call, options={"num_predict": 200}, stream=True):
    calls.extend(part.message.tool_calls or [])
check("a tool is called in a stream", check_calls(calls))

# The whole conversation, as an agent would go on.
history = user + [answer.message, {"role": "tool", "tool_name": "get_weather", "content": "sunny"}]
again = client.chat(model, history, tools=[get_weather], options={"num_predict": 10})
check("a tool's result is taken", again.prompt_eval_count > answer.prompt_eval_count)
