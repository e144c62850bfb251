//! Whether a model runs here, in a word.

use agent_api::fit::{Fit, Verdict};

use super::{Badge, Tone};
use crate::components::icon::Icon;

/// Below this an answer comes slower than most people read (about 250 words a minute).
const READING_TOKENS_PER_S: f64 = 6.0;

/// True where this computer has GPU memory that models may take.
pub fn has_gpu(fit: &Fit) -> bool {
    fit.gpu_limit_bytes > 0
}

/// Slow is what is known to be slow; without an estimate, what stays in RAM beside a GPU is.
fn slow(fit: &Fit) -> bool {
    fit.tokens_per_s.map_or(has_gpu(fit), |rate| rate < READING_TOKENS_PER_S)
}

pub fn badge(fit: &Fit) -> Badge {
    let (tone, icon, text) = match fit.verdict {
        Verdict::FitsGpu => (Tone::Good, Icon::Check, "Fits GPU"),
        Verdict::Splits if slow(fit) => (Tone::Attention, Icon::Warn, "GPU and RAM, slow"),
        Verdict::Splits => (Tone::Attention, Icon::Warn, "Fits GPU and RAM"),
        Verdict::FitsRam if slow(fit) => (Tone::Attention, Icon::Warn, "Fits RAM, slow"),
        Verdict::FitsRam => (Tone::Good, Icon::Check, "Fits RAM"),
        Verdict::WontFit => (Tone::Bad, Icon::X, "Won’t fit"),
    };
    let exact = if fit.exact { "" } else { " Estimated from the size of the file." };
    let hint = format!("{}.{exact}", fit.reason.trim_end_matches('.'));
    Badge { tone, icon: Some(icon), text: text.into(), hint }
}

pub fn fits(fit: &Fit) -> bool {
    fit.verdict != Verdict::WontFit
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn fit(verdict: Verdict) -> Fit {
        Fit {
            verdict,
            reason: "4.9 GB at 8k".into(),
            context: 8_192,
            parallel: 4,
            weights_bytes: 4_000_000_000,
            cache_bytes: 600_000_000,
            overhead_bytes: 300_000_000,
            total_bytes: 4_900_000_000,
            gpu_bytes: 0,
            gpu_layers: 0,
            gpu_limit_bytes: 0,
            ram_limit_bytes: 16_000_000_000,
            tokens_per_s: None,
            exact: true,
        }
    }

    #[test]
    fn ram_is_called_slow_only_where_that_is_known() {
        let word = |fit: &Fit| badge(fit).text;
        let mut in_ram = fit(Verdict::FitsRam);
        assert_eq!(word(&in_ram), "Fits RAM");
        in_ram.tokens_per_s = Some(3.0);
        assert_eq!(
            (word(&in_ram).as_str(), badge(&in_ram).tone),
            ("Fits RAM, slow", Tone::Attention)
        );
        in_ram.tokens_per_s = Some(14.0);
        assert_eq!(word(&in_ram), "Fits RAM");
        in_ram.tokens_per_s = None;
        in_ram.gpu_limit_bytes = 8_000_000_000;
        assert_eq!(word(&in_ram), "Fits RAM, slow");
    }

    #[test]
    fn the_badge_says_where_it_fits_and_how_sure_that_is() {
        assert_eq!(badge(&fit(Verdict::FitsGpu)).text, "Fits GPU");
        assert_eq!(badge(&fit(Verdict::WontFit)).tone, Tone::Bad);
        let mut guessed = fit(Verdict::FitsGpu);
        guessed.exact = false;
        assert_eq!(badge(&guessed).hint, "4.9 GB at 8k. Estimated from the size of the file.");
        assert!(!fits(&fit(Verdict::WontFit)));
        assert!(fits(&fit(Verdict::Splits)));
    }
}
