//! Which rows of a long table are in the document: those in view and a few around them.

use std::ops::Range;

/// Height of a row, in CSS pixels; `.peers td` in the style sheet has the same.
pub const ROW: f64 = 36.0;

/// Rows above and below the view, so that a step with a key or a small scroll finds its row.
const AROUND: usize = 12;

/// Rows to draw when the first row is `above` pixels above the top of the view (negative: below)
/// and the view is `height` high.
pub fn window(total: usize, above: f64, height: f64) -> Range<usize> {
    let first = (above / ROW).floor().max(0.0) as usize;
    let last = ((above + height) / ROW).ceil().max(0.0) as usize;
    let start = first.saturating_sub(AROUND).min(total);
    start..(last + AROUND).clamp(start, total)
}

/// How far to scroll so that row `place` is in view below `covered` pixels of head and above the
/// bottom; 0 if it is.
pub fn scroll_to(place: usize, above: f64, height: f64, covered: f64) -> f64 {
    let top = place as f64 * ROW - above;
    if top < covered {
        top - covered
    } else if top + ROW > height {
        top + ROW - height
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_near_the_view_are_drawn() {
        assert_eq!(window(2_000, 0.0, 720.0), 0..20 + AROUND);
        let middle = window(2_000, 1_000.0 * ROW, 720.0);
        assert_eq!(middle, 1_000 - AROUND..1_020 + AROUND);
        assert_eq!(window(2_000, 5_000.0 * ROW, 720.0), 2_000..2_000);
        assert_eq!(window(5, 0.0, 720.0), 0..5);
        assert_eq!(window(0, 0.0, 720.0), 0..0);
    }

    #[test]
    fn a_table_below_the_view_draws_its_first_rows_only() {
        assert_eq!(window(2_000, -900.0, 720.0), 0..AROUND);
    }

    #[test]
    fn a_row_outside_is_scrolled_to_and_one_inside_is_left() {
        assert_eq!(scroll_to(2, 0.0, 720.0, 36.0), 0.0);
        assert_eq!(scroll_to(30, 0.0, 720.0, 36.0), 31.0 * ROW - 720.0);
        assert!(scroll_to(3, 20.0 * ROW, 720.0, 36.0) < 0.0);
    }
}
