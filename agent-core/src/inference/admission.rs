//! Whether a model may be loaded, decided before the runner touches the file.

use agent_api::runner::LoadModel;

use super::LoadOptions;
use crate::models::ModelFile;

/// Besides weights and KV cache llama.cpp takes buffers for the graph and the logits; seen 60 to
/// 110 MB for models of up to 0.5 B parameters at 512 tokens per micro-batch.
const OVERHEAD_BYTES: u64 = 128 << 20;

/// The load command, or the reason why the file is refused. `available` is the memory that may
/// be taken, including what the model now in memory gives back.
pub(super) fn admit(
    file: &ModelFile,
    options: LoadOptions,
    available: u64,
) -> Result<(LoadModel, u64), String> {
    let info = match &file.head {
        Ok(info) => info,
        Err(e) => return Err(format!("{} cannot be loaded: {e}.", file.path.display())),
    };
    // What the file cannot use is not reserved.
    let context = match info.context_train {
        0 => options.context,
        trained => options.context.min(trained),
    };
    let cache = info.kv_bytes(context, options.slots);
    let needs = info.weight_bytes.saturating_add(cache).saturating_add(OVERHEAD_BYTES);
    if needs > available {
        return Err(format!(
            "{} needs about {} of memory ({} weights, {} cache for {} requests of {context} tokens) \
             and {} is free. Close other programs, choose a smaller model, or lower context_length \
             or parallel in the settings.",
            file.id,
            gigabytes(needs),
            gigabytes(info.weight_bytes),
            gigabytes(cache),
            options.slots,
            gigabytes(available),
        ));
    }
    let load = LoadModel {
        path: file.path.display().to_string(),
        context,
        slots: options.slots,
        threads: options.threads,
        gpu_layers: 0,
    };
    Ok((load, needs))
}

/// `1.5 GB`, or `85 MB` below half a gigabyte.
fn gigabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let bytes = bytes as f64;
    if bytes < 5e8 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::models::gguf::{GgufError, GgufInfo};

    fn file(head: Result<GgufInfo, Arc<GgufError>>) -> ModelFile {
        ModelFile { id: "m".into(), path: "/models/m.gguf".into(), head, ..ModelFile::default() }
    }

    fn seven_billion() -> GgufInfo {
        GgufInfo {
            layers: 32,
            embedding: 4096,
            heads: 32,
            heads_kv: 8,
            context_train: 8192,
            weight_bytes: 4_000_000_000,
            ..GgufInfo::default()
        }
    }

    const OPTIONS: LoadOptions = LoadOptions { context: 16_384, slots: 2, threads: None };

    #[test]
    fn a_model_that_fits_gets_the_context_it_was_trained_for() {
        let (load, needs) =
            admit(&file(Ok(seven_billion())), OPTIONS, 8_000_000_000).expect("fits");
        assert_eq!(load.context, 8192);
        // 32 layers x 8 heads x 256 x 2 bytes x 8192 tokens x 2 slots = 2.1 GB
        assert!(needs > 6_000_000_000 && needs < 6_500_000_000, "{needs}");
    }

    #[test]
    fn a_model_too_large_is_refused_with_both_numbers_and_what_to_do() {
        let why = admit(&file(Ok(seven_billion())), OPTIONS, 3_000_000_000).expect_err("refused");
        assert!(why.contains("6.3 GB") && why.contains("3.0 GB is free"), "{why}");
        assert!(why.contains("smaller model"), "{why}");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let head = Err(Arc::new(GgufError::Truncated { has: 5, needs: 10 }));
        let why = admit(&file(head), OPTIONS, u64::MAX).expect_err("refused");
        assert!(why.contains("/models/m.gguf") && why.contains("cut off"), "{why}");
    }
}
