//! Questions and answers that nobody would write.

use proptest::prelude::*;

use super::*;

fn question() -> impl Strategy<Value = Question> {
    prop_oneof![any::<[u8; 32]>().prop_map(Question::Blob), ".{0,200}".prop_map(Question::Manifest)]
}

fn answer() -> impl Strategy<Value = Answer> {
    let blob = |(size, root)| Answer::Blob(Offer { size, root });
    prop_oneof![
        Just(Answer::NotHere),
        Just(Answer::NotShared),
        Just(Answer::NotYet),
        Just(Answer::Busy),
        any::<(u64, [u8; 32])>().prop_map(blob),
        proptest::collection::vec(any::<u8>(), 0..500).prop_map(Answer::Manifest),
    ]
}

/// One byte is another one, and the end is missing.
fn changed(mut bytes: Vec<u8>, (at, byte, cut): (usize, u8, usize)) -> Vec<u8> {
    if !bytes.is_empty() {
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
    }
    bytes
}

proptest! {
    #[test]
    fn random_questions_and_answers_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..MAX_QUESTION_BYTES),
    ) {
        if let Some(Question::Manifest(name)) = Question::decode(&bytes) {
            prop_assert!(name.len() <= bytes.len());
        }
        if let Some(Answer::Manifest(manifest)) = Answer::decode(&bytes) {
            prop_assert!(manifest.len() <= bytes.len());
        }
    }

    #[test]
    fn a_changed_question_never_panics(question in question(), change in any::<(usize, u8, usize)>()) {
        let bytes = postcard::to_stdvec(&question).expect("serializes");
        prop_assert_eq!(Question::decode(&bytes), Some(question));
        let _ = Question::decode(&changed(bytes, change));
    }

    #[test]
    fn a_changed_answer_never_panics(answer in answer(), change in any::<(usize, u8, usize)>()) {
        let bytes = postcard::to_stdvec(&answer).expect("serializes");
        prop_assert_eq!(Answer::decode(&bytes), Some(answer));
        let _ = Answer::decode(&changed(bytes, change));
    }
}
