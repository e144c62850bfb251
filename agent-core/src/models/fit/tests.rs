//! What people are told about fit, and that the numbers behind it hold.

use agent_api::hardware::GpuDevice;

use super::*;

const GB: u64 = 1_000_000_000;

/// Llama 3 8B in Q4_K_M.
fn eight_billion() -> GgufInfo {
    GgufInfo {
        architecture: "llama".into(),
        file_type: Some(15),
        parameters: 8_030_000_000,
        layers: 32,
        embedding: 4096,
        heads: 32,
        heads_kv: 8,
        feed_forward: 14_336,
        vocabulary: 128_256,
        merges: 280_147,
        context_train: 131_072,
        weight_bytes: 4_900_000_000,
        embedding_bytes: 300_000_000,
        output_bytes: 430_000_000,
        layer_bytes: vec![130_300_000; 32],
        ..GgufInfo::default()
    }
}

fn ram(limit: u64) -> Capacity {
    Capacity { ram_limit: limit, ram_bandwidth: Some(40e9), ..Capacity::default() }
}

fn with_gpu(ram_limit: u64, gpu_limit: u64) -> Capacity {
    Capacity { gpu_limit, gpu_usable: true, gpu_bandwidth: Some(500e9), ..ram(ram_limit) }
}

#[test]
fn the_parts_add_up_to_what_a_person_can_check() {
    let need = need(&eight_billion(), 8192, 1);
    assert_eq!(need.weights, 4_900_000_000);
    // 32 layers x 8 heads x (128 + 128) x 2 bytes x 8,192 tokens
    assert_eq!(need.cache, 32 * 8 * 256 * 2 * 8192);
    assert!((150_000_000..250_000_000).contains(&need.overhead), "{need:?}");
    assert_eq!(need.total(), need.weights + need.cache + need.overhead);
}

#[test]
fn what_fits_into_ram_says_how_much_and_how_fast() {
    let fit = fit(&eight_billion(), 8192, 1, None, &ram(16 * GB));
    assert_eq!((fit.verdict, fit.gpu_layers, fit.gpu_bytes), (Verdict::FitsRam, 0, 0));
    // 40 GB/s through 4.6 GB of weights and 0.5 GB of cache.
    assert_eq!(fit.tokens_per_s, Some(7.8));
    assert_eq!(fit.reason, "6.2 GB at 8k, up to 7.8 tok/s");
    assert!(fit.exact);
}

#[test]
fn without_a_measurement_no_speed_is_claimed() {
    let capacity = Capacity { ram_bandwidth: None, ..ram(16 * GB) };
    let fit = fit(&eight_billion(), 8192, 1, None, &capacity);
    assert_eq!((fit.tokens_per_s, fit.reason.as_str()), (None, "6.2 GB at 8k"));
}

#[test]
fn what_does_not_fit_says_what_it_needs_and_what_would_fit() {
    let info = eight_billion();
    let too_long = fit(&info, 131_072, 1, None, &ram(16 * GB));
    assert_eq!(too_long.verdict, Verdict::WontFit);
    assert_eq!(too_long.tokens_per_s, None);
    assert!(too_long.reason.starts_with("needs 22.4 GB, you have 16.0 GB"), "{}", too_long.reason);
    let (_, context) = too_long.reason.rsplit_once("up to ").expect("names a context");
    let context: u32 = context.trim_end_matches('k').parse().expect("a number of k");
    let at = |context| fit(&info, context * 1024, 1, None, &ram(16 * GB)).verdict;
    assert_eq!((at(context), at(context + 1)), (Verdict::FitsRam, Verdict::WontFit));

    let too_large = fit(&info, 4096, 4, None, &ram(4 * GB));
    assert_eq!(too_large.reason, "needs 7.2 GB, you have 4.0 GB");
}

#[test]
fn more_memory_never_makes_it_worse() {
    let info = eight_billion();
    let (mut best, mut layers) = (Verdict::WontFit, 0);
    for gigabytes in 0..20 {
        let fit = fit(&info, 8192, 2, None, &with_gpu(8 * GB, gigabytes * GB));
        assert!(fit.verdict <= best && fit.gpu_layers >= layers, "{gigabytes} GB: {fit:?}");
        (best, layers) = (fit.verdict, fit.gpu_layers);
    }
    assert_eq!((best, layers), (Verdict::FitsGpu, 33));
}

#[test]
fn a_small_gpu_takes_as_many_layers_as_fit() {
    let info = eight_billion();
    let split = fit(&info, 8192, 1, None, &with_gpu(16 * GB, 4 * GB));
    assert_eq!(split.verdict, Verdict::Splits);
    assert!((1..32).contains(&split.gpu_layers) && split.gpu_bytes <= 4 * GB, "{split:?}");
    let words = format!("{} of 33 layers on the GPU", split.gpu_layers);
    assert!(split.reason.contains(&words), "{}", split.reason);
    let slow = fit(&info, 8192, 1, None, &ram(16 * GB)).tokens_per_s;
    let fast = fit(&info, 8192, 1, None, &with_gpu(16 * GB, 16 * GB)).tokens_per_s;
    assert!(slow < split.tokens_per_s && split.tokens_per_s < fast);
}

#[test]
fn the_owners_number_of_layers_is_kept_or_refused() {
    let info = eight_billion();
    let ten = fit(&info, 8192, 1, Some(10), &with_gpu(16 * GB, 16 * GB));
    assert_eq!((ten.verdict, ten.gpu_layers), (Verdict::Splits, 10));
    let none = fit(&info, 8192, 1, Some(0), &with_gpu(16 * GB, 16 * GB));
    assert_eq!(none.verdict, Verdict::FitsRam);
    let all = fit(&info, 8192, 1, Some(99), &with_gpu(16 * GB, 4 * GB));
    assert_eq!(all.verdict, Verdict::WontFit);
    assert!(all.reason.contains("of GPU memory for 33 layers, you have 4.0 GB"), "{}", all.reason);
}

#[test]
fn a_gpu_that_the_runner_cannot_use_does_not_count() {
    let capacity = Capacity { gpu_usable: false, ..with_gpu(16 * GB, 80 * GB) };
    let fit = fit(&eight_billion(), 8192, 1, None, &capacity);
    assert_eq!((fit.verdict, fit.gpu_limit_bytes), (Verdict::FitsRam, 0));
}

#[test]
fn shared_memory_is_not_counted_twice() {
    let capacity = Capacity { unified: true, ..with_gpu(5 * GB, 5 * GB) };
    assert_eq!(fit(&eight_billion(), 8192, 1, None, &capacity).verdict, Verdict::WontFit);
}

#[test]
fn experts_that_rest_cost_memory_but_no_time() {
    let dense = eight_billion();
    let mixture =
        GgufInfo { experts: 8, experts_used: 2, expert_bytes: 4_000_000_000, ..dense.clone() };
    let rate = |info| fit(info, 8192, 1, None, &ram(16 * GB)).tokens_per_s;
    assert!(rate(&mixture) > rate(&dense).map(|rate| rate * 2.0));
}

#[test]
fn a_model_that_is_mapped_and_rearranged_is_in_memory_twice() {
    let info = GgufInfo { repacked_bytes: 1_000_000_000, ..eight_billion() };
    assert_eq!(need(&info, 512, 1).weights, 4_900_000_000, "this type is read, not mapped");
    let mapped = GgufInfo { file_type: Some(12), ..info };
    assert_eq!(need(&mapped, 512, 1).weights, 5_900_000_000);
}

#[test]
fn a_catalogue_entry_is_estimated_and_says_so() {
    let guessed = fit_shape(8_030_000_000, 4_900_000_000, None, 8192, 1, &ram(16 * GB));
    let known = fit(&eight_billion(), 8192, 1, None, &ram(16 * GB));
    assert!(!guessed.exact && guessed.reason.starts_with("about "), "{}", guessed.reason);
    let ratio = guessed.total_bytes as f64 / known.total_bytes as f64;
    assert!((0.85..1.25).contains(&ratio), "{ratio}");
    let shape = Shape {
        layers: Some(32),
        width: Some(4096),
        heads: Some(32),
        kv_heads: Some(8),
        feed_forward: Some(14_336),
        vocabulary: Some(128_256),
        ..Shape::default()
    };
    let shaped = fit_shape(8_030_000_000, 4_900_000_000, Some(&shape), 8192, 1, &ram(16 * GB));
    assert!(shaped.exact);
    assert_eq!(shaped.cache_bytes, known.cache_bytes);
}

#[test]
fn absurd_numbers_are_answered_without_a_panic() {
    for info in [
        GgufInfo::default(),
        GgufInfo {
            layers: 1024,
            embedding: u32::MAX,
            heads: 1,
            heads_kv: u32::MAX,
            feed_forward: u32::MAX,
            vocabulary: u32::MAX,
            merges: u32::MAX,
            experts: 1,
            experts_used: u32::MAX,
            expert_feed_forward: u32::MAX,
            weight_bytes: u64::MAX,
            embedding_bytes: u64::MAX,
            state_inner: u32::MAX,
            state_size: u32::MAX,
            ..GgufInfo::default()
        },
    ] {
        for capacity in [ram(0), ram(u64::MAX), with_gpu(u64::MAX, u64::MAX)] {
            fit(&info, u32::MAX, u32::MAX, Some(u32::MAX), &capacity);
            fit(&info, 0, 0, None, &capacity);
        }
    }
    fit_shape(u64::MAX, u64::MAX, None, u32::MAX, u32::MAX, &ram(1));
    fit_shape(0, 0, None, 0, 0, &ram(1));
}

#[test]
fn the_owners_reserve_is_not_for_models() {
    let gpu = |usable| GpuDevice {
        name: "A card".into(),
        memory_bytes: Some(8 * GB),
        driver: None,
        source: "nvml".into(),
        usable,
        reason: None,
    };
    let gpus = vec![gpu(true), gpu(true), gpu(false)];
    let hardware = Hardware { memory_bytes: 32 * GB, gpus, ..Hardware::default() };
    let capacity = Capacity::of(&hardware, 2 * GB, GB, None);
    assert_eq!((capacity.ram_limit, capacity.gpu_limit), (30 * GB, 14 * GB));
    assert!(capacity.gpu_usable);
    let processor = Hardware { gpus: vec![gpu(false)], ..hardware };
    assert!(!Capacity::of(&processor, 40 * GB, GB, None).gpu_usable);
    assert_eq!(Capacity::of(&processor, 40 * GB, GB, None).ram_limit, 0);
}
