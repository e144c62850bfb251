//! Frames from a peer that lies.

use agent_api::runner::{Generate, Prompt, Sampling, TextInput};
use proptest::prelude::*;

use super::*;
use crate::tasks::job::GenerateJob;

fn job(prompt: String) -> FromOrigin {
    let generate = Generate {
        prompt: Prompt::Text(TextInput::Text { text: prompt }),
        max_tokens: Some(16),
        sampling: Sampling::default(),
        stop: vec!["\n".to_owned()],
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    };
    let job = GenerateJob {
        model: "demo".to_owned(),
        generate: Box::new(generate),
        context: None,
        left_out: Default::default(),
    };
    FromOrigin::Job { job: Box::new(Job::Completion(job)) }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn from_origin(bytes: &[u8], limit: usize) -> Result<FromOrigin, WireError> {
    let mut bytes = bytes;
    block_on(read(&mut bytes, limit))
}

#[test]
fn a_frame_comes_back_as_it_was() {
    let frame = job("Räuber €".to_owned());
    let bytes = encode(&frame, JOB_BYTES).expect("small");
    assert_eq!(from_origin(&bytes, JOB_BYTES).expect("reads"), frame);
    assert!(matches!(from_origin(&[], JOB_BYTES), Err(WireError::Ended)));
}

#[test]
fn a_frame_that_is_too_large_is_refused_before_it_is_read() {
    let stated = u32::MAX.to_le_bytes();
    let error = from_origin(&stated, JOB_BYTES).expect_err("refused");
    assert!(matches!(error, WireError::TooLarge { limit: JOB_BYTES, .. }), "{error}");
    let error = encode(&job("x".repeat(SMALL_BYTES)), SMALL_BYTES).expect_err("refused");
    assert!(error.to_string().contains("4096 are the most"), "{error}");
}

#[test]
fn deep_json_is_refused_and_not_followed() {
    let mut bytes = vec![0; 4];
    bytes.extend(vec![b'['; 60_000]);
    bytes[..4].copy_from_slice(&60_000_u32.to_le_bytes());
    let error = from_origin(&bytes, JOB_BYTES).expect_err("refused");
    assert!(matches!(error, WireError::NotUnderstood(_)), "{error}");
}

#[test]
fn vectors_keep_every_bit() {
    let vectors = vec![vec![0.1, -3.5e-12], vec![f32::MIN_POSITIVE, 1.0]];
    let result = JobResult::Embedded { vectors, prompt_tokens: 4 };
    assert_eq!(Outcome::from(result.clone()).read(), Ok(result));
}

#[test]
fn nonsense_in_place_of_vectors_is_named() {
    let bytes = |numbers: &[f32]| {
        STANDARD.encode(numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>())
    };
    for (width, vectors, word) in [
        (0, bytes(&[1.0]), "0 numbers"),
        (u32::MAX, bytes(&[1.0]), "numbers"),
        (2, bytes(&[1.0, 2.0, 3.0]), "widths"),
        (1, bytes(&[f32::NAN]), "finite"),
        (1, "?".to_owned(), "base64"),
    ] {
        let outcome = Outcome::Embedded { width, vectors, prompt_tokens: 1 };
        let error = outcome.read().expect_err(word);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_reason_from_elsewhere_is_one_short_line() {
    let reason = cut(&format!("no\nroom\u{1b}[31m{}", "ü".repeat(REASON_BYTES)));
    assert!(reason.len() <= REASON_BYTES && !reason.contains(char::is_control), "{reason}");
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = from_origin(&bytes, JOB_BYTES);
        let mut cut = bytes.as_slice();
        let _: Result<FromWorker, _> = block_on(read(&mut cut, RESULT_BYTES));
        let mut framed = u32::try_from(bytes.len()).expect("short").to_le_bytes().to_vec();
        framed.extend(&bytes);
        let error = from_origin(&framed, JOB_BYTES).expect_err("no frame is made by chance");
        prop_assert!(matches!(error, WireError::NotUnderstood(_)));
    }

    #[test]
    fn a_cut_frame_is_an_error(prompt in ".{0,200}", at in 0.0..1.0_f64) {
        let bytes = encode(&job(prompt), JOB_BYTES).expect("small");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let at = (bytes.len() as f64 * at) as usize;
        let error = from_origin(&bytes[..at], JOB_BYTES).expect_err("is cut");
        prop_assert!(matches!(error, WireError::Ended | WireError::Cut(_)));
    }

    #[test]
    fn parts_of_a_text_are_the_text(text in "(\\PC|€){0,40}", times in 0..4_000_usize) {
        let text = text.repeat(times);
        let parts: Vec<&str> = parts(&text).collect();
        prop_assert_eq!(parts.concat(), text.as_str());
        prop_assert!(parts.iter().all(|part| part.len() <= TEXT_BYTES));
    }
}
