//! Heads of good, odd, cut and damaged files.

use proptest::prelude::*;

use super::*;

fn demo_path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/edgecoder-demo-4m-q8_0.gguf"))
}

fn demo() -> Vec<u8> {
    std::fs::read(demo_path()).expect("the demo model is in the repository")
}

fn check(bytes: &[u8]) -> Result<GgufInfo, GgufError> {
    parse(bytes, bytes.len() as u64)
}

#[test]
fn the_demo_model_is_what_its_card_says() {
    let info = check(&demo()).expect("parses");
    assert_eq!(info.architecture, "llama");
    assert_eq!(info.quantization, "Q8_0");
    assert_eq!(info.parameters, 4_196_608);
    assert_eq!((info.layers, info.heads, info.heads_kv), (4, 4, 2));
    assert_eq!(info.context_train, 1_024);
    // 4 layers x 2 heads x (64 + 64) x 2 bytes x 1,024 tokens
    assert_eq!(info.kv_bytes(1_024, 1), 4 * 2 * 128 * 2 * 1_024);
    assert_eq!(u64::from(info.vocabulary) * 256 / 32 * 34, info.embedding_bytes);
    assert_eq!(info.layer_bytes.len(), 4);
    let parts = info.layer_bytes.iter().sum::<u64>() + info.embedding_bytes + info.output_bytes;
    assert!(info.weight_bytes - parts < 4_096, "only norms are left");
    assert!(info.feed_forward > 0 && info.merges > 0 && info.chat_template);
}

#[test]
fn what_is_kept_of_a_head_survives_being_stored() {
    let info = check(&demo()).expect("parses");
    let text = serde_json::to_string(&info).expect("writes");
    assert_eq!(serde_json::from_str::<GgufInfo>(&text).expect("reads"), info);
    assert_eq!(serde_json::from_str::<GgufInfo>("{}").expect("reads"), GgufInfo::default());
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let demo = demo();
    for keep in [demo.len() - 1, demo.len() / 2, 100_000, 5_000, 30] {
        let error = check(&demo[..keep]).expect_err("refused");
        assert!(matches!(error, GgufError::Truncated { .. }), "{keep}: {error}");
    }
    assert!(matches!(check(&demo[..10]), Err(GgufError::NotGguf)));
}

#[test]
fn other_files_are_refused() {
    assert!(matches!(check(b"PK\x03\x04 not a model at all......"), Err(GgufError::NotGguf)));
    let mut old = demo();
    old[4] = 1;
    assert!(matches!(check(&old), Err(GgufError::Version(1))));
}

/// Reads a prefix as a download would: more bytes whenever more are asked for.
fn read_prefix(file: &[u8]) -> (usize, GgufInfo) {
    let mut have = 16;
    loop {
        match parse_prefix(&file[..have], file.len() as u64) {
            Ok(info) => return (have, info),
            Err(GgufError::NeedsMore { needs }) => {
                let needs = usize::try_from(needs).expect("fits");
                assert!(needs > have && needs <= file.len(), "{needs} after {have}");
                have = needs;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn the_beginning_of_a_file_tells_its_shape() {
    let file = demo();
    let whole = check(&file).expect("parses");
    let (have, info) = read_prefix(&file);
    assert!(have < file.len() / 4, "{have} bytes were needed");
    assert_eq!((info.layers, info.embedding, info.heads_kv), (4, 256, 2));
    assert_eq!((info.context_train, info.vocabulary), (whole.context_train, whole.vocabulary));
    assert_eq!(info.capabilities(), whole.capabilities());
    assert!(info.weight_bytes > whole.weight_bytes && info.weight_bytes < whole.file_bytes);
    assert_eq!(parse_prefix(&file, file.len() as u64).expect("parses"), whole);
}

#[test]
fn a_prefix_that_is_damaged_does_not_ask_for_more() {
    let file = demo();
    let size = file.len() as u64;
    assert!(matches!(parse_prefix(b"<html>not found</html>....", size), Err(GgufError::NotGguf)));
    assert!(matches!(parse_prefix(b"GG", size), Err(GgufError::NeedsMore { .. })));
    // The file will be shorter than its head says.
    assert!(matches!(parse_prefix(&file[..40], 45), Err(GgufError::Truncated { .. })));
    let mut absurd = file[..64].to_vec();
    absurd[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(parse_prefix(&absurd, size), Err(GgufError::Damaged(_))));
}

#[test]
fn the_details_are_short_enough_to_show() {
    let details = read_details(demo_path()).expect("reads");
    assert!(details.template.is_some_and(|template| template.contains("message")));
    assert_eq!(details.metadata["general.architecture"], "llama");
    let tokens = details.metadata["tokenizer.ggml.tokens"].as_str().expect("a text");
    assert!(tokens.ends_with(" values"), "{tokens}");
    let text = serde_json::to_string(&details.metadata).expect("writes");
    assert!(text.len() < 20_000, "{} bytes", text.len());
    let error = read_details(Path::new("/nowhere.gguf")).expect_err("refused");
    assert!(matches!(error, GgufError::Io(_)));
}

/// A head with these keys and no tensors.
fn head_with(keys: &[(&str, Key<'_>)]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(0_u64.to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    for (name, key) in keys {
        text(&mut file, name);
        match key {
            Key::Number(n) => {
                file.extend(4_u32.to_le_bytes());
                file.extend(n.to_le_bytes());
            }
            Key::Bool(b) => {
                file.extend(7_u32.to_le_bytes());
                file.push(u8::from(*b));
            }
            Key::Text(value) => {
                file.extend(8_u32.to_le_bytes());
                text(&mut file, value);
            }
            Key::Numbers(numbers) => {
                file.extend([9_u32, 5].map(u32::to_le_bytes).concat());
                file.extend((numbers.len() as u64).to_le_bytes());
                numbers.iter().for_each(|n| file.extend(n.to_le_bytes()));
            }
            Key::Texts(texts) => {
                file.extend([9_u32, 8].map(u32::to_le_bytes).concat());
                file.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|value| text(&mut file, value));
            }
        }
    }
    file
}

enum Key<'a> {
    Number(u32),
    Bool(bool),
    Text(&'a str),
    Numbers(&'a [i32]),
    Texts(&'a [&'a str]),
}

fn info(keys: &[(&str, Key<'_>)]) -> GgufInfo {
    check(&head_with(keys)).expect("parses")
}

#[test]
fn what_a_model_can_do_is_read_from_its_file() {
    let chat = info(&[
        ("general.architecture", Key::Text("qwen3")),
        ("tokenizer.chat_template", Key::Text("{% if tools %}x{% endif %}<think>")),
        ("tokenizer.ggml.tokens", Key::Texts(&["a", "<|fim_prefix|>", "b"])),
    ]);
    use Capability::{Completion, Embedding, Insert, Thinking, Tools};
    assert_eq!(chat.capabilities(), [Completion, Tools, Insert, Thinking]);
    assert_eq!(chat.vocabulary, 3);
    let plain = info(&[("general.architecture", Key::Text("llama"))]);
    assert_eq!(plain.capabilities(), [Completion]);
    let bert = info(&[
        ("general.architecture", Key::Text("bert")),
        ("bert.attention.causal", Key::Bool(false)),
        ("bert.pooling_type", Key::Number(1)),
    ]);
    assert_eq!(bert.capabilities(), [Embedding]);
    let qwen = info(&[
        ("qwen3.pooling_type", Key::Number(3)),
        ("general.architecture", Key::Text("qwen3")),
    ]);
    assert_eq!(qwen.capabilities(), [Embedding], "the architecture may come last");
    let ranks =
        info(&[("general.architecture", Key::Text("bert")), ("bert.pooling_type", Key::Number(4))]);
    assert_eq!(ranks.capabilities(), []);
}

#[test]
fn layers_without_attention_have_no_cache() {
    // Like LFM2: short convolutions, and attention in some layers.
    let hybrid = info(&[
        ("general.architecture", Key::Text("lfm2")),
        ("lfm2.block_count", Key::Number(4)),
        ("lfm2.embedding_length", Key::Number(1024)),
        ("lfm2.attention.head_count", Key::Number(16)),
        ("lfm2.attention.head_count_kv", Key::Numbers(&[0, 0, 8, 0])),
        ("lfm2.shortconv.l_cache", Key::Number(3)),
    ]);
    let attention = 8 * 128 * 2 * 512;
    let states = 3 * 1024 * 2 * 4;
    assert_eq!(hybrid.kv_bytes(512, 2), 2 * (attention + states));
    assert!(hybrid.cache_is_exact());
}

#[test]
fn recurrent_models_need_the_same_for_every_context() {
    let mamba = info(&[
        ("general.architecture", Key::Text("mamba")),
        ("mamba.block_count", Key::Number(24)),
        ("mamba.embedding_length", Key::Number(768)),
        ("mamba.ssm.conv_kernel", Key::Number(4)),
        ("mamba.ssm.inner_size", Key::Number(1536)),
        ("mamba.ssm.state_size", Key::Number(16)),
    ]);
    // Per layer 3 columns of the convolution and 16 states of 1,536 numbers, 32 bits each.
    assert_eq!(mamba.kv_bytes(512, 1), 24 * (3 + 16) * 1536 * 4);
    assert_eq!(mamba.kv_bytes(65_536, 2), 2 * mamba.kv_bytes(512, 1));
}

#[test]
fn latent_attention_keeps_one_vector_per_token() {
    let keys = |mla: u32| {
        info(&[
            ("general.architecture", Key::Text("deepseek2")),
            ("deepseek2.block_count", Key::Number(27)),
            ("deepseek2.embedding_length", Key::Number(2048)),
            ("deepseek2.attention.head_count", Key::Number(16)),
            ("deepseek2.attention.head_count_kv", Key::Number(1)),
            ("deepseek2.attention.key_length", Key::Number(576)),
            ("deepseek2.attention.value_length", Key::Number(512)),
            ("deepseek2.attention.key_length_mla", Key::Number(mla)),
            ("deepseek2.attention.value_length_mla", Key::Number(mla)),
        ])
    };
    assert_eq!(keys(192).kv_bytes(1024, 1), 27 * 576 * 2 * 1024);
    assert_eq!(keys(0).kv_bytes(1024, 1), 27 * (576 + 512) * 2 * 1024);
}

#[test]
fn windows_shorten_what_is_read_and_not_what_is_kept() {
    let gemma = info(&[
        ("general.architecture", Key::Text("gemma3")),
        ("gemma3.block_count", Key::Number(26)),
        ("gemma3.embedding_length", Key::Number(1152)),
        ("gemma3.attention.head_count", Key::Number(4)),
        ("gemma3.attention.head_count_kv", Key::Number(1)),
        ("gemma3.attention.key_length", Key::Number(256)),
        ("gemma3.attention.value_length", Key::Number(256)),
        ("gemma3.attention.sliding_window", Key::Number(512)),
    ]);
    assert_eq!(gemma.sliding_layers(), 22, "one of six looks back on everything");
    assert_eq!(gemma.kv_bytes(8192, 1), 26 * 512 * 2 * 8192);
    assert_eq!(gemma.layer_cache(0).attended(4096), 512 * 2 * 512);
    assert_eq!(gemma.layer_cache(5).attended(4096), 512 * 2 * 4096);
}

#[test]
fn a_cache_is_as_long_as_llama_cpp_rounds_it() {
    let info = check(&demo()).expect("parses");
    assert_eq!(info.kv_bytes(1, 3), info.kv_bytes(256, 3));
    assert!(info.kv_bytes(257, 1) == info.kv_bytes(512, 1));
}

#[test]
fn a_file_with_more_layers_than_any_model_is_damaged() {
    let keys = [
        ("general.architecture", Key::Text("llama")),
        ("llama.block_count", Key::Number(u32::MAX)),
    ];
    assert!(matches!(check(&head_with(&keys)), Err(GgufError::Damaged(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_never_panics(
        position in 0_usize..4_000,
        bytes in proptest::collection::vec(any::<u8>(), 1..16),
        keep in 0_usize..200_000,
    ) {
        let mut file = demo();
        file[position..position + bytes.len()].copy_from_slice(&bytes);
        let parsed = [check(&file), parse_prefix(&file[..keep], file.len() as u64)];
        for info in parsed.into_iter().flatten() {
            let most = info.layer_bytes.len().max(info.heads_kv_per_layer.len());
            prop_assert!(most <= 1024, "{} layers", most);
            info.kv_bytes(u32::MAX, u32::MAX);
            info.capabilities();
        }
    }

    #[test]
    fn random_heads_never_panic(tail in proptest::collection::vec(any::<u8>(), 20..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(tail);
        let _ = check(&file);
        let _ = parse_prefix(&file, 1 << 40);
    }

    #[test]
    fn a_prefix_is_enough_or_says_how_much_is_missing(keep in 0_usize..300_000) {
        let file = demo();
        match parse_prefix(&file[..keep], file.len() as u64) {
            Ok(info) => prop_assert_eq!(info.layers, 4),
            Err(GgufError::NeedsMore { needs }) => prop_assert!(needs > keep as u64),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
