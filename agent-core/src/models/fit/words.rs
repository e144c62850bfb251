//! Verdicts as sentences.

use agent_api::fit::{Fit, Verdict};

use super::Capacity;
use crate::text::size;

/// `12.6 GB at 32k, up to 60 tok/s`.
pub(super) fn promise(fit: &Fit, layers: u32) -> String {
    let about = if fit.exact { "" } else { "about " };
    let mut text = format!("{about}{} at {}", size(fit.total_bytes), tokens(fit.context));
    if fit.verdict == Verdict::Splits {
        // The output matrix counts as a layer.
        text += &format!(", {} of {} layers on the GPU", fit.gpu_layers, layers + 1);
    }
    if let Some(speed) = fit.tokens_per_s {
        text += &format!(", up to {speed} tok/s");
    }
    text
}

/// `needs 66.0 GB, you have 54.0 GB`, and with which context it would fit.
pub(super) fn refusal(fit: &Fit, capacity: &Capacity, context: Option<u32>) -> String {
    let about = if fit.exact { "" } else { "about " };
    let in_ram = fit.total_bytes - fit.gpu_bytes;
    let short_of_gpu = fit.gpu_layers > 0 && fit.gpu_bytes > capacity.gpu_limit;
    let (needs, has, what) = if short_of_gpu {
        let what = format!(" of GPU memory for {} layers", fit.gpu_layers);
        (fit.gpu_bytes, capacity.gpu_limit, what)
    } else if fit.gpu_layers > 0 && !capacity.unified {
        (in_ram, capacity.ram_limit, " of RAM".to_owned())
    } else {
        (fit.total_bytes, capacity.ram_limit, String::new())
    };
    let (needs, has) = pair(needs, has);
    let mut text = format!("needs {about}{needs}{what}, you have {has}");
    if let Some(context) = context {
        text += &format!("; fits with a context of up to {}", tokens(context));
    }
    text
}

/// Two amounts, the first larger, that also look different.
fn pair(needs: u64, has: u64) -> (String, String) {
    let (short, has_short) = (size(needs), size(has));
    if short != has_short {
        return (short, has_short);
    }
    let megabytes = |n: u64| format!("{} MB", grouped(n.div_ceil(1_000_000)));
    let has_megabytes = format!("{} MB", grouped(has / 1_000_000));
    (megabytes(needs), has_megabytes)
}

/// `32k` for 32,768; other counts in full.
fn tokens(n: u32) -> String {
    if n >= 1024 && n.is_multiple_of(1024) {
        format!("{}k", n / 1024)
    } else {
        format!("{} tokens", grouped(n.into()))
    }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_written_as_people_say_them() {
        assert_eq!(tokens(32_768), "32k");
        assert_eq!(tokens(5_000), "5,000 tokens");
        assert_eq!(tokens(512), "512 tokens");
    }

    #[test]
    fn what_is_missing_by_little_is_not_hidden_by_rounding() {
        assert_eq!(pair(54_440_000_000, 54_410_000_000), ("54,440 MB".into(), "54,410 MB".into()));
        assert_eq!(pair(66_000_000_000, 54_000_000_000), ("66.0 GB".into(), "54.0 GB".into()));
    }
}
