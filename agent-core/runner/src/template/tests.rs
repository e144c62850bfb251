//! Templates as they are found in model files.

use super::*;

const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA3: &str = "{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now(\"%d %b %Y\") %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = \"\" %}
{%- endif %}
{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}
{{- \"Today Date: \" + date_string + \"\\n\" }}
{%- if tools is not none and tools is defined %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- \"\\n\\n\" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- \"<|eot_id|>\" }}
{%- for message in messages %}
    {%- if message.tool_calls is defined %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception(\"This model only supports single tool-calls at once!\") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{\"name\": \"' + tool_call.name + '\", \"parameters\": ' }}
        {{- tool_call.arguments | tojson }}
        {{- \"}<|eot_id|>\" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";

const GEMMA: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not \
    supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != \
    (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate \
    user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}\
    {% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
    {{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";

/// That of the demo model in `agent-core/assets`.
const DEMO: &str = "{% for m in messages %}{% if m.role == 'user' %}# {{ m.content }}\n{% elif m.role == \
    'assistant' %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}def{% endif %}";

/// Reads contents as lists of parts, as vision models do.
const PARTS: &str = "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{% if part.type == \
    'text' %}{{ part.text }}{% endif %}{% endfor %};{% endfor %}";

fn template(source: &str) -> Template {
    Template::compile(source, "<s>", "</s>").expect("compiles")
}

fn user(text: &str) -> Value {
    json!({ "role": "user", "content": text })
}

#[test]
fn chatml() {
    let messages = [json!({ "role": "developer", "content": "Be brief." }), user("Hi")];
    assert_eq!(
        template(CHATML).render(&messages, &[]).expect("renders"),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

#[test]
fn llama_3_with_date_tools_and_tool_calls() {
    let call = json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "1", "type":
        "function", "function": { "name": "find", "arguments": "{\"z\": \"a<b\", \"a\": [1, 2]}" } }] });
    let tool = json!({ "type": "function", "function": { "name": "find" } });
    let text = template(LLAMA3).render(&[user(" Hi "), call], &[tool]).expect("renders");
    assert!(text.starts_with("<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: "));
    let year = jiff::Zoned::now().year().to_string();
    assert!(text.contains(&year), "{text}");
    let tool = "{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"find\"\n    }\n}\n\n";
    assert!(text.contains(tool), "{text}");
    assert!(text.contains("user<|end_header_id|>\n\nHi<|eot_id|>"));
    let call = "{\"name\": \"find\", \"parameters\": {\"z\": \"a<b\", \"a\": [1, 2]}}<|eot_id|>";
    assert!(text.contains(call), "{text}");
    assert!(text.ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n"));
}

#[test]
fn gemma_refuses_in_its_own_words() {
    let gemma = template(GEMMA);
    assert_eq!(
        gemma.render(&[user("Hi")], &[]).expect("renders"),
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
    );
    let system = json!({ "role": "system", "content": "Be brief." });
    let refusal = gemma.render(&[system, user("Hi")], &[]).expect_err("raises");
    assert_eq!(refusal, "System role not supported");
}

#[test]
fn the_demo_model_begins_a_function() {
    assert_eq!(template(DEMO).render(&[user("add")], &[]).expect("renders"), "# add\ndef");
}

#[test]
fn parts_become_a_string_or_stay_parts_as_the_template_wants() {
    let parts = json!([{ "type": "text", "text": "one" }, { "type": "text", "text": "two" }]);
    let messages = [json!({ "role": "user", "content": parts })];
    assert_eq!(template(DEMO).render(&messages, &[]).expect("renders"), "# one\ntwo\ndef");
    let wants_parts = template(PARTS);
    assert_eq!(wants_parts.render(&messages, &[]).expect("renders"), "user:one\ntwo;");
    assert_eq!(wants_parts.render(&[user("text")], &[]).expect("renders"), "user:text;");
}

#[test]
fn images_are_refused() {
    let image =
        json!([{ "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }]);
    let messages = [json!({ "role": "user", "content": image })];
    let refusal = template(CHATML).render(&messages, &[]).expect_err("refuses");
    assert!(refusal.contains("image_url") && refusal.contains("only text"), "{refusal}");
}

#[test]
fn python_methods_generation_tags_and_loop_controls_work() {
    let source = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}\
        {%- generation -%}{{ m.content.split('|')[-1].strip().upper() }}{% endgeneration %}\
        {% for k, v in m.items() %}{{ k }},{% endfor %}{% endfor %}";
    let text = template(source).render(&[user("a| b "), user("c")], &[]).expect("renders");
    assert_eq!(text, "Brole,content,");
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let nested = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    assert_eq!(template(nested).render(&[user("x")], &[]).expect_err("stops"), "it did not finish");
}

#[test]
fn a_broken_template_is_an_error_with_a_reason() {
    let error = Template::compile("{% for m in %}", "", "").expect_err("does not compile");
    assert!(!error.is_empty());
}
