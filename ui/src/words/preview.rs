//! What a pull would do, in words.

use agent_api::pull::PullPreview;

use super::fit;
use crate::format;

/// A pull makes sense: something is to be fetched and nothing forbids it.
pub fn can_pull(preview: &PullPreview) -> bool {
    preview.problem.is_none() && !(preview.already_installed && preview.download_bytes == 0)
}

/// `Pull 14.3 GB`; `anyway` where the computer could not load it.
pub fn button(preview: &PullPreview) -> String {
    if preview.already_installed && preview.download_bytes == 0 {
        return "Already here".into();
    }
    let size = format::file_size(preview.download_bytes);
    match &preview.fit {
        Some(fit) if !fit::fits(fit) => format!("Pull {size} anyway"),
        _ => format!("Pull {size}"),
    }
}

/// `14.3 GB in 1 file`, `4.1 of 14.3 GB in 3 files, the rest is here`
pub fn download(preview: &PullPreview) -> String {
    let files = format::counted(u64::from(preview.files), "file", "files");
    if preview.download_bytes >= preview.size_bytes {
        return format!("{} in {files}", format::file_size(preview.size_bytes));
    }
    if preview.download_bytes == 0 {
        return format!("nothing, all {} are here", format::file_size(preview.size_bytes));
    }
    let (part, of) = format::part_of(preview.download_bytes, preview.size_bytes, format::file_size);
    format!("{part} {of} in {files}, the rest is here")
}

/// `60.6 of 120 GB`, or without a budget what is left of the disk.
pub fn disk_after(preview: &PullPreview) -> String {
    if let Some(budget) = preview.disk_budget_bytes {
        let (part, of) = format::part_of(preview.disk_after_bytes, budget, format::file_size);
        return format!("{part} {of} budget");
    }
    let after = format::file_size(preview.disk_after_bytes);
    match preview.disk_free_bytes {
        Some(free) => {
            let left = format::file_size(free.saturating_sub(preview.download_bytes));
            format!("{after} of models, {left} free")
        }
        None => format!("{after} of models"),
    }
}

/// Nobody knows the line's speed before; the owner's limit gives the least.
pub fn least_time(preview: &PullPreview, limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|l| *l > 0)?;
    let seconds = preview.download_bytes / limit;
    (seconds > 0).then(|| {
        let ms = i64::try_from(seconds).unwrap_or(i64::MAX / 1_000) * 1_000;
        format!("{} or more at your limit of {}/s", format::duration(ms), format::file_size(limit))
    })
}

/// What "already installed" means for this pull.
pub fn already(preview: &PullPreview) -> &'static str {
    if preview.download_bytes == 0 {
        "Already installed, and the registry has nothing newer."
    } else {
        "Already installed; the registry has a newer version. This fetches what changed."
    }
}

#[cfg(test)]
mod tests {
    use agent_api::fit::Verdict;

    use super::*;
    use crate::words::fit::tests::fit as a_fit;

    fn preview() -> PullPreview {
        PullPreview {
            model: "devstral-small:24b".into(),
            source: "registry.example".into(),
            size_bytes: 14_300_000_000,
            download_bytes: 14_300_000_000,
            files: 1,
            fit: Some(a_fit(Verdict::FitsGpu)),
            license: None,
            disk_free_bytes: Some(412_000_000_000),
            disk_after_bytes: 60_600_000_000,
            disk_budget_bytes: Some(120_000_000_000),
            problem: None,
            already_installed: false,
        }
    }

    fn plain(text: &str) -> String {
        text.replace('\u{202f}', " ")
    }

    #[test]
    fn cost_is_said_before_the_button_and_on_it() {
        let p = preview();
        assert_eq!(plain(&button(&p)), "Pull 14.3 GB");
        assert_eq!(plain(&download(&p)), "14.3 GB in 1 file");
        assert_eq!(plain(&disk_after(&p)), "60.6 of 120 GB budget");
        let time = least_time(&p, Some(40_000_000)).map(|t| plain(&t));
        assert_eq!(time.as_deref(), Some("5 min 57 s or more at your limit of 40.0 MB/s"));
        assert_eq!(least_time(&p, None), None);
        assert!(can_pull(&p));
    }

    #[test]
    fn what_is_here_is_not_fetched_again() {
        let mut p = preview();
        p.download_bytes = 4_100_000_000;
        p.files = 3;
        assert_eq!(plain(&download(&p)), "4.1 of 14.3 GB in 3 files, the rest is here");
        p.already_installed = true;
        assert!(can_pull(&p));
        p.download_bytes = 0;
        assert!(!can_pull(&p));
        assert_eq!(button(&p), "Already here");
    }

    #[test]
    fn what_will_not_run_can_be_pulled_only_on_purpose() {
        let mut p = preview();
        p.fit = Some(a_fit(Verdict::WontFit));
        assert_eq!(plain(&button(&p)), "Pull 14.3 GB anyway");
        p.problem = Some("The disk budget is full.".into());
        assert!(!can_pull(&p));
        p.disk_budget_bytes = None;
        assert_eq!(plain(&disk_after(&p)), "60.6 GB of models, 398 GB free");
    }
}
