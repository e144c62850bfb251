//! The land of the world map, as dots.

/// One line per row of dots, from north to south: how many places are empty, how many have a dot,
/// and so on.
const ROWS: &str = include_str!("land.txt");

/// Between two dots of a row; rows are as far apart as in a grid of equal triangles.
const STEP: f64 = 5.5;
const ROW: f64 = 4.763;
const TOP: f64 = 2.75;

/// A path of zero-length strokes; round line ends make dots of them.
pub fn path() -> String {
    let mut out = String::new();
    for (row, line) in ROWS.lines().enumerate() {
        let left = if row % 2 == 0 { STEP / 2.0 } else { 0.0 };
        let mut pen = None;
        let mut at = 0_usize;
        for (place, number) in line.split(' ').filter_map(|n| n.parse::<usize>().ok()).enumerate() {
            if place % 2 == 1 {
                for dot in at..at + number {
                    let step = match pen {
                        None => {
                            format!("M{} {:.1}h0", left + dot as f64 * STEP, TOP + row as f64 * ROW)
                        }
                        Some(last) => format!("m{} 0h0", (dot - last) as f64 * STEP),
                    };
                    out.push_str(&step);
                    pen = Some(dot);
                }
            }
            at += number;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_has_land_in_every_part() {
        let path = path();
        assert!(path.starts_with('M') && path.len() < 40_000, "{}", path.len());
        assert!(path.matches("h0").count() > 3_000);
        assert!(path.matches('M').count() > 55, "rows from north to south");
    }
}
