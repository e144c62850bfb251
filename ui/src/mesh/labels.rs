//! Which labels fit beside their dots without covering each other, as in a printed map: the most
//! important first, each at the first of four places that is free.

/// Widths of the label's two parts per character, in the picture's units: a little more than the
/// average of a sans-serif face at 11.5.
const NAME_WIDTH: f64 = 6.3;
const FIGURE_WIDTH: f64 = 5.9;
const HEIGHT: f64 = 13.0;
/// Between the name and the figure.
const GAP: f64 = 4.0;
/// Longest name in a label; the rest is cut.
const NAME_CHARS: usize = 18;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    pub fn around(x: f64, y: f64, radius: f64) -> Self {
        Self { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    fn meets(self, other: Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn holds(self, other: Self) -> bool {
        self.left <= other.left
            && self.right >= other.right
            && self.top <= other.top
            && self.bottom >= other.bottom
    }
}

/// A label that would like to be beside its dot.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    pub x: f64,
    pub y: f64,
    /// Of the dot.
    pub radius: f64,
    pub name: String,
    pub figure: String,
    /// Placed even where it covers something, as this node's own.
    pub must: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    pub x: f64,
    pub y: f64,
    /// `start`, `middle` or `end`.
    pub anchor: &'static str,
    pub name: String,
    pub figure: String,
}

fn cut(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name.into();
    }
    let kept: String = name.chars().take(NAME_CHARS - 1).collect();
    format!("{}…", kept.trim_end())
}

fn width(name: &str, figure: &str) -> f64 {
    let gap = if figure.is_empty() { 0.0 } else { GAP };
    name.chars().count() as f64 * NAME_WIDTH + gap + figure.chars().count() as f64 * FIGURE_WIDTH
}

/// Places `wishes`, most important first, inside `frame` and outside of `taken`; at most `most`.
pub fn place(wishes: Vec<Wish>, frame: Area, mut taken: Vec<Area>, most: usize) -> Vec<Label> {
    let mut placed = Vec::new();
    for wish in wishes {
        if placed.len() == most {
            break;
        }
        let name = cut(&wish.name);
        let width = width(&name, &wish.figure);
        let off = wish.radius + 5.0;
        // Text hangs from its baseline; a quarter of its height is below.
        let spots = [
            ("start", wish.x + off, wish.y + 4.0, wish.x + off),
            ("end", wish.x - off, wish.y + 4.0, wish.x - off - width),
            ("middle", wish.x, wish.y - off - 1.0, wish.x - width / 2.0),
            ("middle", wish.x, wish.y + off + 9.0, wish.x - width / 2.0),
        ];
        let area = |y: f64, left: f64| Area {
            left,
            top: y - HEIGHT * 0.75,
            right: left + width,
            bottom: y + HEIGHT / 4.0,
        };
        let covered = |a: Area| taken.iter().filter(|other| a.meets(**other)).count();
        let inside = spots.into_iter().filter(|(_, _, y, left)| frame.holds(area(*y, *left)));
        let best = inside.min_by_key(|(_, _, y, left)| covered(area(*y, *left)));
        let Some((anchor, x, y, left)) = best else { continue };
        if wish.must || covered(area(y, left)) == 0 {
            taken.push(area(y, left));
            placed.push(Label { x, y, anchor, name, figure: wish.figure });
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Area = Area { left: 0.0, top: 0.0, right: 200.0, bottom: 100.0 };

    fn wish(x: f64, y: f64, name: &str) -> Wish {
        Wish { x, y, radius: 4.0, name: name.into(), figure: "9 ms".into(), must: false }
    }

    #[test]
    fn the_more_important_label_keeps_its_place_and_the_next_moves_aside() {
        let placed =
            place(vec![wish(60.0, 50.0, "near"), wish(66.0, 52.0, "far")], FRAME, Vec::new(), 9);
        assert_eq!(placed.len(), 2);
        assert_eq!((placed[0].anchor, placed[0].name.as_str()), ("start", "near"));
        assert_ne!(placed[1].anchor, "start");
    }

    #[test]
    fn labels_stay_inside_and_off_what_is_taken() {
        let right_edge = place(vec![wish(190.0, 50.0, "edge")], FRAME, Vec::new(), 9);
        assert_eq!(right_edge[0].anchor, "end");
        let everything = vec![FRAME];
        assert!(place(vec![wish(60.0, 50.0, "a")], FRAME, everything.clone(), 9).is_empty());
        let own = Wish { must: true, ..wish(60.0, 50.0, "own") };
        assert_eq!(place(vec![own], FRAME, everything, 9).len(), 1);
    }

    #[test]
    fn a_crowd_gets_few_labels_that_do_not_meet() {
        let crowd =
            (0..500).map(|n| wish(f64::from(n % 50) * 4.0, f64::from(n / 50) * 10.0, "peer"));
        let placed = place(crowd.collect(), FRAME, Vec::new(), 24);
        assert!(!placed.is_empty() && placed.len() <= 24);
        let long = place(vec![wish(20.0, 50.0, &"x".repeat(64))], FRAME, Vec::new(), 1);
        assert!(long[0].name.ends_with('…') && long[0].name.chars().count() == NAME_CHARS);
    }
}
