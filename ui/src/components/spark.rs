//! A small trend line with its finding in words.

use leptos::prelude::*;

use crate::derived::derived;
use crate::format;

const WIDTH: f64 = 84.0;
const HEIGHT: f64 = 36.0;
/// Around the line, for its end dot.
const MARGIN: f64 = 3.0;

/// Points of a line through `values`, oldest first, from `0` to the largest.
fn points(values: &[f64], most: usize, width: f64) -> Vec<(f64, f64)> {
    let top = values.iter().copied().fold(0.0, f64::max);
    let step = (width - 2.0 * MARGIN) / (most.max(2) - 1) as f64;
    // A short history starts at the right, where now is.
    let first = width - MARGIN - step * values.len().saturating_sub(1) as f64;
    let place = |(i, v): (usize, &f64)| {
        let share = if top > 0.0 { v.max(0.0) / top } else { 0.0 };
        (first + step * i as f64, HEIGHT - MARGIN - share * (HEIGHT - 2.0 * MARGIN))
    };
    values.iter().enumerate().map(place).collect()
}

fn path(points: &[(f64, f64)]) -> String {
    let list: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    format!("M{}", list.join(" "))
}

/// What the line of the speed shows, in a sentence.
fn finding(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    if high <= 0.0 {
        return "Tokens per second, last 10 minutes: nothing was generated".into();
    }
    format!(
        "Tokens per second, last 10 minutes, between {} and {}",
        format::rate(low),
        format::rate(high)
    )
}

/// A line of up to `most` values.
#[component]
pub fn Spark(
    #[prop(into)] values: Signal<Vec<f64>>,
    most: usize,
    #[prop(default = WIDTH)] width: f64,
    /// What the line shows, in a sentence.
    #[prop(default = finding)]
    words: fn(&[f64]) -> String,
) -> impl IntoView {
    let line = derived(move || {
        let points = values.with(|v| points(v, most, width));
        (points.len() > 1).then_some(points)
    });
    let draw = move || {
        let points = line.get()?;
        let (first, last) = (*points.first()?, *points.last()?);
        let path = path(&points);
        let area = format!("{path} L{:.1} {HEIGHT} L{:.1} {HEIGHT}Z", last.0, first.0);
        Some(view! {
            <path class="spark-area" d=area></path>
            <path class="spark-line" d=path></path>
            <circle class="spark-dot" cx=last.0.to_string() cy=last.1.to_string() r="2.5"></circle>
        })
    };
    view! {
        <svg class="spark" viewBox=format!("0 0 {width} {HEIGHT}") width=width.to_string() height="36" role="img" aria-label=move || values.with(|v| words(v))>
            {draw}
        </svg>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_history_ends_at_the_right() {
        let line = points(&[0.0, 10.0], 60, WIDTH);
        assert_eq!(line[1], (WIDTH - MARGIN, MARGIN));
        assert_eq!(line[0].1, HEIGHT - MARGIN);
        assert!(line[0].0 > WIDTH / 2.0);
        assert!(points(&[], 60, WIDTH).is_empty());
    }

    #[test]
    fn the_label_says_what_the_line_shows() {
        assert_eq!(
            finding(&[39.0, 64.2]),
            "Tokens per second, last 10 minutes, between 39.0 and 64.2"
        );
        assert!(finding(&[0.0, 0.0]).contains("nothing"));
        assert!(finding(&[]).contains("nothing"));
    }
}
