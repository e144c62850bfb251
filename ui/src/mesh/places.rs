//! Where a time zone is on the globe, and what people call it.
//!
//! `zones.txt` is made from the IANA time zone database (public domain), version 2025b: names and
//! coordinates of `zone.tab`, to a tenth of a degree, and older names with what they are now.

use std::{collections::BTreeMap, sync::OnceLock};

const ZONES: &str = include_str!("zones.txt");

/// Degrees north and east.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub latitude: f64,
    pub longitude: f64,
}

#[derive(Clone, Copy, Debug)]
enum Row {
    At(Point),
    Renamed(&'static str),
}

fn table() -> &'static BTreeMap<&'static str, Row> {
    static TABLE: OnceLock<BTreeMap<&'static str, Row>> = OnceLock::new();
    TABLE.get_or_init(|| ZONES.lines().filter_map(row).collect())
}

fn row(line: &'static str) -> Option<(&'static str, Row)> {
    let mut words = line.split(' ');
    let (zone, second) = (words.next()?, words.next()?);
    Some(match words.next() {
        None => (zone, Row::Renamed(second)),
        Some(east) => {
            let point = Point { latitude: second.parse().ok()?, longitude: east.parse().ok()? };
            (zone, Row::At(point))
        }
    })
}

/// Today's name of a zone; the name itself where it is not known.
pub fn current(zone: &str) -> &str {
    match table().get(zone) {
        Some(Row::Renamed(now)) => now,
        _ => zone,
    }
}

/// Where a zone is; `None` for one that is no place, as `UTC`, or not known.
pub fn locate(zone: &str) -> Option<Point> {
    match table().get(current(zone)) {
        Some(Row::At(point)) => Some(*point),
        _ => None,
    }
}

/// The place that a zone is named after: `America/Argentina/Buenos_Aires` is Buenos Aires.
pub fn name(zone: &str) -> String {
    let zone = current(zone);
    zone.rsplit('/').next().unwrap_or(zone).replace('_', " ")
}

/// The part of the world in a zone's name: `Europe`.
pub fn area(zone: &str) -> &str {
    let zone = current(zone);
    zone.split_once('/').map_or("", |(area, _)| area)
}

/// Zones in whose name every typed word is, at most `most`; places that begin with it first.
pub fn search(typed: &str, most: usize) -> Vec<&'static str> {
    let typed = typed.to_lowercase();
    let words: Vec<&str> = typed.split_whitespace().collect();
    let found: Vec<_> = table()
        .keys()
        .filter_map(|zone| {
            let text = zone.to_lowercase().replace('_', " ");
            let place = name(zone).to_lowercase();
            let fits = words.iter().all(|word| text.contains(word) || place.contains(word));
            fits.then(|| (!place.starts_with(typed.trim()), place, current(zone)))
        })
        .collect();
    let found = super::in_order(found, Ord::cmp);
    let mut zones: Vec<&str> = Vec::new();
    for (_, _, zone) in found {
        // An older name leads to the zone that is there already.
        if !zones.contains(&zone) {
            zones.push(zone);
        }
        if zones.len() == most {
            break;
        }
    }
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_has_a_place_and_every_old_name_leads_to_one() {
        assert!(table().len() > 500);
        for (zone, row) in table() {
            let point = locate(zone).unwrap_or_else(|| panic!("{zone} {row:?} is nowhere"));
            assert!(point.latitude.abs() <= 90.0 && point.longitude.abs() <= 180.0, "{zone}");
            assert!(!name(zone).is_empty());
        }
    }

    #[test]
    fn places_are_named_as_people_say_them() {
        assert_eq!(name("America/Argentina/Buenos_Aires"), "Buenos Aires");
        assert_eq!(name("Asia/Calcutta"), "Kolkata");
        assert_eq!(name("Mars/Olympus_Mons"), "Olympus Mons");
        assert_eq!((name("UTC").as_str(), area("UTC")), ("UTC", ""));
        assert_eq!(area("Europe/Berlin"), "Europe");
        let berlin = locate("Europe/Berlin").expect("Berlin is somewhere");
        assert_eq!((berlin.latitude, berlin.longitude), (52.5, 13.4));
        assert_eq!(locate("Mars/Olympus_Mons"), None);
    }

    #[test]
    fn the_search_finds_cities_old_names_and_areas() {
        assert_eq!(search("berl", 8), ["Europe/Berlin"]);
        assert_eq!(search("calcutta", 8), ["Asia/Kolkata"]);
        assert_eq!(search("new york", 1), ["America/New_York"]);
        assert!(search("europe", 8).len() == 8);
        assert!(search("nowhere at all", 8).is_empty());
    }
}
