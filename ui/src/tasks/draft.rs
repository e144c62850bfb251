//! The form of a new task: what was typed, and what is sent.

use agent_api::tasks::{
    CODE_VERSION, INFERENCE_VERSION, Language, MissedRuns, NewSchedule, Privacy, SubmitTask,
    TaskKind, WASM_VERSION, Webhook,
};
use serde_json::{Map, Value, json};

/// A module has at most 5 MiB; the node says the same.
pub const MAX_MODULE_BYTES: f64 = 5.0 * 1024.0 * 1024.0;

/// A module that was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    pub bytes: u64,
    pub base64: String,
}

/// What was typed. Numbers are texts until they are sent, so that nothing typed is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub kind: TaskKind,
    pub model: String,
    pub prompt: String,
    pub texts: String,
    pub temperature: String,
    pub max_tokens: String,
    pub language: Language,
    pub tests: String,
    pub iterations: String,
    pub module: Option<Module>,
    pub module_input: String,
    pub fuel: String,
    pub memory_mb: String,
    pub wall_s: String,
    pub replicas: String,
    /// `None`: as in the settings.
    pub privacy: Option<Privacy>,
    pub node: String,
    pub priority: String,
    pub label: String,
    pub webhook: String,
    pub secret: String,
    pub repeats: bool,
    pub cron: String,
    pub name: String,
    pub catch_up: bool,
}

impl Default for Draft {
    fn default() -> Self {
        let empty = String::new;
        Self {
            kind: TaskKind::Chat,
            model: empty(),
            prompt: empty(),
            texts: empty(),
            temperature: empty(),
            max_tokens: empty(),
            language: Language::Python,
            tests: empty(),
            iterations: empty(),
            module: None,
            module_input: empty(),
            fuel: empty(),
            memory_mb: empty(),
            wall_s: empty(),
            replicas: empty(),
            privacy: None,
            node: empty(),
            priority: empty(),
            label: empty(),
            webhook: empty(),
            secret: empty(),
            repeats: false,
            cron: "@daily".into(),
            name: empty(),
            catch_up: false,
        }
    }
}

/// A number that may be left out. What is wrong with it goes into `problems`.
fn number(typed: &str, name: &str, low: f64, high: f64, problems: &mut Vec<String>) -> Option<f64> {
    let typed = typed.trim().replace(',', ".");
    if typed.is_empty() {
        return None;
    }
    let value = typed.parse::<f64>().ok().filter(|n| (low..=high).contains(n));
    if value.is_none() {
        problems.push(format!("{name} has to be a number from {low} to {high}."));
    }
    value
}

fn whole(typed: &str, name: &str, low: u32, high: u32, problems: &mut Vec<String>) -> Option<u64> {
    let value = number(typed, name, f64::from(low), f64::from(high), problems)?;
    if value.fract() != 0.0 {
        problems.push(format!("{name} has to be a whole number."));
    }
    Some(value as u64)
}

/// A form without what is left out.
fn object(fields: Vec<(&str, Option<Value>)>) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

impl Draft {
    /// Enough is there to be sent; details are checked when it is.
    pub fn ready(&self) -> bool {
        let named = !self.repeats || !self.name.trim().is_empty();
        named
            && match self.kind {
                TaskKind::Chat | TaskKind::Completion => !self.prompt.trim().is_empty(),
                TaskKind::Embedding => !self.lines().is_empty(),
                TaskKind::Wasm => self.module.is_some(),
                TaskKind::Code => !self.prompt.trim().is_empty() && !self.tests.trim().is_empty(),
            }
    }

    /// One text per line.
    fn lines(&self) -> Vec<String> {
        self.texts.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
    }

    fn input(&self, problems: &mut Vec<String>) -> Value {
        let model = Some(json!(self.model));
        match self.kind {
            TaskKind::Chat | TaskKind::Completion => {
                let chat = self.kind == TaskKind::Chat;
                let messages = json!([{"role": "user", "content": self.prompt.trim()}]);
                let most = whole(&self.max_tokens, "Tokens at most", 1, 1_000_000, problems);
                let warmth = number(&self.temperature, "Temperature", 0.0, 2.0, problems);
                object(vec![
                    ("version", Some(json!(INFERENCE_VERSION))),
                    ("model", model),
                    ("messages", chat.then_some(messages)),
                    ("prompt", (!chat).then(|| json!(self.prompt))),
                    ("max_tokens", most.map(Value::from)),
                    ("temperature", warmth.map(Value::from)),
                ])
            }
            TaskKind::Embedding => object(vec![
                ("version", Some(json!(INFERENCE_VERSION))),
                ("model", model),
                ("input", Some(json!(self.lines()))),
            ]),
            TaskKind::Wasm => self.wasm(problems),
            TaskKind::Code => {
                let rounds = whole(&self.iterations, "Attempts of the model", 1, 10, problems);
                object(vec![
                    ("version", Some(json!(CODE_VERSION))),
                    ("model", model),
                    ("language", Some(json!(self.language))),
                    ("prompt", Some(json!(self.prompt.trim()))),
                    ("tests", Some(json!(self.tests))),
                    ("max_iterations", rounds.map(Value::from)),
                ])
            }
        }
    }

    fn wasm(&self, problems: &mut Vec<String>) -> Value {
        let fuel = number(&self.fuel, "Fuel, in millions", 0.001, 100_000.0, problems);
        let memory = number(&self.memory_mb, "Memory, in MiB", 1.0, 1_024.0, problems);
        let wall = number(&self.wall_s, "Time, in seconds", 0.001, 300.0, problems);
        let scaled = |value: Option<f64>, by: f64| value.map(|v| json!((v * by).round() as u64));
        object(vec![
            ("version", Some(json!(WASM_VERSION))),
            ("module", self.module.as_ref().map(|m| json!(m.base64))),
            ("name", self.module.as_ref().map(|m| json!(m.name.trim_end_matches(".wasm")))),
            ("input_text", (!self.module_input.is_empty()).then(|| json!(self.module_input))),
            ("fuel", scaled(fuel, 1e6)),
            ("memory_bytes", scaled(memory, 1_048_576.0)),
            ("wall_ms", scaled(wall, 1e3)),
        ])
    }

    /// What is sent, or everything that is wrong.
    pub fn task(&self, key: &str) -> Result<SubmitTask, Vec<String>> {
        let mut problems = Vec::new();
        let input = self.input(&mut problems);
        let priority = whole(&self.priority, "Priority", 0, 9, &mut problems);
        let replicas = match self.kind {
            TaskKind::Wasm => whole(&self.replicas, "Nodes that compare", 2, 5, &mut problems),
            _ => None,
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
        let webhook = given(&self.webhook).map(|url| Webhook { url, secret: given(&self.secret) });
        Ok(SubmitTask {
            kind: self.kind,
            input,
            privacy: self.privacy,
            priority: priority.map(small),
            node: given(&self.node),
            // Each run of a schedule has its own.
            idempotency_key: (!self.repeats).then(|| key.to_owned()),
            expires_in_s: None,
            max_attempts: None,
            replicas: replicas.map(small),
            label: given(&self.label),
            webhook,
        })
    }

    pub fn schedule(&self) -> Result<NewSchedule, Vec<String>> {
        let task = self.task("")?;
        let missed = if self.catch_up { MissedRuns::RunOnce } else { MissedRuns::Skip };
        Ok(NewSchedule {
            name: self.name.trim().to_owned(),
            cron: self.cron.trim().to_owned(),
            zone: None,
            task,
            missed,
            paused: false,
        })
    }
}

/// Times that most people want, for the field of a cron expression.
pub const CRONS: [(&str, &str); 6] = [
    ("*/15 * * * *", "Every 15 minutes"),
    ("@hourly", "Every hour"),
    ("@daily", "Every day at midnight"),
    ("0 8 * * *", "Every day at 8"),
    ("0 8 * * 1-5", "On weekdays at 8"),
    ("@weekly", "Every Sunday at midnight"),
];

/// What the node refused, one problem a line: it puts several into one message.
pub fn refusals(message: &str) -> Vec<String> {
    let lines: Vec<String> =
        message.lines().map(|l| l.trim_start_matches(['-', '•', ' ']).trim().to_owned()).collect();
    lines.into_iter().filter(|l| !l.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use agent_api::tasks::{ChatInput, CodeInput, EmbeddingInput, WasmInput};

    use super::*;

    fn draft(kind: TaskKind) -> Draft {
        let module = Module { name: "rsi.wasm".into(), bytes: 4, base64: "AGFzbQ==".into() };
        Draft {
            kind,
            model: "qwen3:8b".into(),
            prompt: "Write a sum. ".into(),
            texts: "one\n\n two \n".into(),
            tests: "assert True".into(),
            module: Some(module),
            module_input: "{}".into(),
            ..Draft::default()
        }
    }

    fn sent(draft: &Draft) -> Value {
        draft.task("key").expect("it is complete").input
    }

    #[test]
    fn what_is_sent_is_what_the_node_reads() {
        let chat: ChatInput = serde_json::from_value(sent(&draft(TaskKind::Chat))).expect("chat");
        assert_eq!(chat.messages[0]["content"], "Write a sum.");
        assert_eq!((chat.options.max_tokens, chat.version), (None, 1));
        let texts: EmbeddingInput =
            serde_json::from_value(sent(&draft(TaskKind::Embedding))).expect("texts");
        assert_eq!(texts.input, ["one", "two"]);
        let wasm = Draft { memory_mb: "64".into(), wall_s: "2,5".into(), ..draft(TaskKind::Wasm) };
        let wasm: WasmInput = serde_json::from_value(sent(&wasm)).expect("wasm");
        assert_eq!(
            (wasm.memory_bytes, wasm.wall_ms, wasm.fuel),
            (Some(64 << 20), Some(2_500), None)
        );
        assert_eq!(wasm.name.as_deref(), Some("rsi"));
        let code: CodeInput = serde_json::from_value(sent(&draft(TaskKind::Code))).expect("code");
        assert_eq!((code.language, code.max_iterations), (Language::Python, None));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let wrong = Draft {
            temperature: "3".into(),
            max_tokens: "1.5".into(),
            priority: "high".into(),
            ..draft(TaskKind::Chat)
        };
        let problems = wrong.task("key").expect_err("three fields are wrong");
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("whole number"));
    }

    #[test]
    fn a_task_has_a_key_and_a_schedule_leaves_it_to_the_node() {
        let once = draft(TaskKind::Chat);
        assert_eq!(once.task("key").expect("sent").idempotency_key.as_deref(), Some("key"));
        let daily = Draft { repeats: true, name: " Notes ".into(), ..once };
        let schedule = daily.schedule().expect("a schedule");
        assert_eq!((schedule.name.as_str(), schedule.cron.as_str()), ("Notes", "@daily"));
        assert_eq!(schedule.task.idempotency_key, None);
    }

    #[test]
    fn nothing_can_be_sent_before_it_says_something() {
        assert!(!Draft::default().ready());
        assert!(draft(TaskKind::Chat).ready());
        assert!(!Draft { tests: " ".into(), ..draft(TaskKind::Code) }.ready());
        assert!(!Draft { module: None, ..draft(TaskKind::Wasm) }.ready());
        assert!(!Draft { repeats: true, ..draft(TaskKind::Chat) }.ready(), "it needs a name");
    }

    #[test]
    fn the_words_of_the_node_are_kept_one_problem_a_line() {
        assert_eq!(refusals("- One.\n- Two.\n"), ["One.", "Two."]);
        assert_eq!(refusals("The model is missing."), ["The model is missing."]);
    }
}
