//! A cron expression in a time zone: its times, and its words. Pure.

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::ScheduleError;
use crate::clock::DAY_MS;

/// Longest expression: five lists of every value have 300 characters.
const CRON_BYTES: usize = 400;
/// Longest name of a zone; the longest of today has 32 letters.
const ZONE_BYTES: usize = 64;
/// A run that is this much late is on time: the clock is looked at every minute, and the task before
/// it may have kept the database busy.
const ON_TIME_MS: i64 = 90_000;

/// When something is due. Five fields, so that a minute lies between two times.
///
/// Where the clock is put forward, a time of day that is left out is run at the next one there is;
/// where it is put back, a fixed time of day runs once, and an expression that repeats (`*`, steps,
/// lists) runs in both hours.
#[derive(Clone, Debug)]
pub(super) struct Timetable {
    cron: Cron,
    zone: TimeZone,
}

/// What is due at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Planned times to run now, oldest first: those on time, or else one for those that were missed.
    pub run: Vec<i64>,
    /// The next time after now; `None`: never again.
    pub next_ms: Option<i64>,
}

/// The parser's reason, in a form that fits into a sentence.
fn in_words(error: &CronError) -> String {
    match error {
        CronError::ComponentError(what) => what.trim_end_matches('.').to_lowercase(),
        other => other.to_string().trim_end_matches('.').to_owned(),
    }
}

impl Timetable {
    /// `zone` absent: this computer's.
    pub(super) fn parse(cron: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let zone = match zone {
            None => TimeZone::system(),
            Some(name) => named_zone(name)?,
        };
        let wrong = |why: String| ScheduleError::Cron { cron: shortened(cron), why };
        let text = cron.trim();
        if text.len() > CRON_BYTES {
            return Err(wrong(format!("it is longer than {CRON_BYTES} characters")));
        }
        let fields = text.split_whitespace().count();
        if text.starts_with('@') {
            const KNOWN: [&str; 6] =
                ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
            if !KNOWN.iter().any(|known| known.eq_ignore_ascii_case(text)) {
                return Err(wrong(format!("of the names with @ there are {}", KNOWN.join(", "))));
            }
        } else if fields != 5 {
            return Err(wrong(format!(
                "it has {fields} fields and takes five: minute, hour, day of the month, month, day of the week"
            )));
        }
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Optional).build();
        let cron = parser.parse(text).map_err(|e| wrong(in_words(&e)))?;
        Ok(Self { cron, zone })
    }

    /// The zone's name; `None`: it is this computer's and has none.
    pub(super) fn zone_name(&self) -> Option<&str> {
        self.zone.iana_name()
    }

    /// The expression in words: `At 06:30, on Monday.`
    pub(super) fn words(&self) -> String {
        plainly(&self.cron.describe())
    }

    /// The first time after this one; `None`: there is none.
    pub(super) fn next_after(&self, ms: i64) -> Option<i64> {
        let next = self.cron.find_next_occurrence(&self.at(ms)?, false).ok()?;
        // A search whose start lies within a second gives that second again.
        Some(next.timestamp().as_millisecond()).filter(|next| *next > ms)
    }

    /// The last time up to this one, itself included.
    fn last_until(&self, ms: i64) -> Option<i64> {
        let last = self.cron.find_previous_occurrence(&self.at(ms)?, true).ok()?;
        Some(last.timestamp().as_millisecond()).filter(|last| *last <= ms)
    }

    fn at(&self, ms: i64) -> Option<Zoned> {
        // Whole seconds: that is what expressions know of.
        let second = Timestamp::from_second(ms.div_euclid(1_000)).ok()?;
        Some(second.to_zoned(self.zone.clone()))
    }

    /// What is due now, when everything up to `done_ms` was dealt with. `make_up`: missed runs are
    /// made up for by one.
    pub(super) fn plan(&self, done_ms: i64, now_ms: i64, make_up: bool) -> Plan {
        // The clock was wrong by a lot when that was written, and was put right.
        let done_ms = if done_ms > now_ms + DAY_MS { now_ms } else { done_ms };
        let mut run = Vec::new();
        let mut from = done_ms.max(now_ms - ON_TIME_MS - 1);
        while let Some(next) = self.next_after(from).filter(|next| *next <= now_ms) {
            run.push(next);
            from = next;
        }
        if run.is_empty() && make_up {
            run.extend(self.last_until(now_ms).filter(|missed| *missed > done_ms));
        }
        Plan { run, next_ms: self.next_after(now_ms.max(done_ms)) }
    }
}

/// What the crate says of common expressions, as people say it.
fn plainly(words: &str) -> String {
    let mut text = words.to_owned();
    for (said, plain) in [
        ("At minute 0 past every hour", "Every hour"),
        ("At minute 0, of every ", "Every "),
        ("At every ", "Every "),
        ("on Monday, Tuesday, Wednesday, Thursday, and Friday", "on weekdays"),
    ] {
        text = text.replace(said, plain);
    }
    match text.strip_prefix("At ") {
        // Neither a day nor a month.
        Some(time) if time.contains(':') && !time.contains(',') => format!("Every day at {time}"),
        _ => text,
    }
}

fn named_zone(name: &str) -> Result<TimeZone, ScheduleError> {
    let name = name.trim();
    let known = (!name.is_empty() && name.len() <= ZONE_BYTES).then(|| TimeZone::get(name));
    match known {
        Some(Ok(zone)) => Ok(zone),
        _ => Err(ScheduleError::Zone(shortened(name))),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(ZONE_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(cron: &str) -> Timetable {
        Timetable::parse(cron, Some("Europe/Berlin")).expect("an expression")
    }

    fn ms(time: &str) -> i64 {
        time.parse::<Timestamp>().expect("a time").as_millisecond()
    }

    fn times(cron: &str, from: &str, count: usize) -> Vec<String> {
        let table = table(cron);
        let next = |ms: &i64| table.next_after(*ms);
        let first = table.next_after(ms(from));
        let times = std::iter::successors(first, next).take(count);
        times.map(|ms| Timestamp::from_millisecond(ms).expect("a time").to_string()).collect()
    }

    #[test]
    fn a_time_that_spring_leaves_out_is_run_when_the_clock_goes_on() {
        // On 29 March 2026 Berlin's clocks go from 02:00 to 03:00, at 01:00 UTC.
        assert_eq!(
            times("30 2 * * *", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
    }

    #[test]
    fn a_time_that_autumn_repeats_is_run_once_and_an_hourly_run_every_hour() {
        // On 25 October 2026 Berlin's clocks go from 03:00 back to 02:00, at 01:00 UTC.
        assert_eq!(
            times("30 2 * * *", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            times("0 * * * *", "2026-10-24T23:30:00Z", 4),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T03:00:00Z"
            ]
        );
    }

    #[test]
    fn zones_differ_and_wrong_ones_are_named() {
        let utc = Timetable::parse("0 6 * * *", Some("UTC")).expect("an expression");
        assert_eq!(utc.next_after(ms("2026-07-01T00:00:00Z")), Some(ms("2026-07-01T06:00:00Z")));
        assert_eq!(times("0 6 * * *", "2026-07-01T00:00:00Z", 1), ["2026-07-01T04:00:00Z"]);
        let error = Timetable::parse("0 6 * * *", Some("Mars/Olympus")).expect_err("refused");
        assert!(error.to_string().contains("Mars/Olympus"), "{error}");
    }

    #[test]
    fn five_fields_and_the_names_with_an_at_sign_are_taken_and_others_refused_with_a_reason() {
        for cron in ["*/5 * * * *", "@hourly", "@Daily", "0 9 * * MON-FRI", "0 0 L * *"] {
            assert!(Timetable::parse(cron, None).is_ok(), "{cron}");
        }
        for (cron, why) in [
            ("* * * * * *", "fields"),
            ("", "fields"),
            ("@reboot", "@hourly"),
            ("61 * * * *", "61"),
            ("0 0 * * FOO", "character"),
        ] {
            let error = Timetable::parse(cron, None).expect_err(cron).to_string();
            assert!(error.contains(why), "{cron}: {error}");
        }
    }

    #[test]
    fn an_expression_is_put_into_words() {
        for (cron, words) in [
            ("* * * * *", "Every minute."),
            ("*/5 * * * *", "Every 5 minutes."),
            ("@hourly", "Every hour."),
            ("15 * * * *", "At minute 15 past every hour."),
            ("0 */2 * * *", "Every 2 hours."),
            ("30 6 * * *", "Every day at 06:30."),
            ("30 6 * * 1-5", "At 06:30, on weekdays."),
            ("30 6 * * MON", "At 06:30, on Monday."),
            ("0 0 1 * *", "At 00:00, on day 1."),
        ] {
            assert_eq!(table(cron).words(), words, "{cron}");
        }
    }

    #[test]
    fn a_day_that_does_not_exist_never_comes() {
        assert_eq!(table("0 0 30 2 *").next_after(ms("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn a_run_is_due_once() {
        let hourly = table("0 * * * *");
        let (noon, next) = (ms("2026-07-01T12:00:00Z"), ms("2026-07-01T13:00:00Z"));
        let plan = hourly.plan(noon - 5, noon + 300, false);
        assert_eq!(plan, Plan { run: vec![noon], next_ms: Some(next) });
        let plan = hourly.plan(noon, noon + 400, false);
        assert_eq!(plan, Plan { run: vec![], next_ms: Some(next) });
    }

    #[test]
    fn two_minutes_that_passed_during_a_slow_submission_both_run() {
        let every = table("* * * * *");
        let noon = ms("2026-07-01T12:00:00Z");
        let plan = every.plan(noon - 60_000, noon + 61_000, false);
        assert_eq!(plan.run, [noon, noon + 60_000]);
    }

    #[test]
    fn missed_runs_are_left_out_or_made_up_for_by_one() {
        let hourly = table("0 * * * *");
        let (slept, woke) = (ms("2026-07-01T12:00:00Z"), ms("2026-07-01T16:20:00Z"));
        assert!(hourly.plan(slept, woke, false).run.is_empty());
        assert_eq!(hourly.plan(slept, woke, true).run, [ms("2026-07-01T16:00:00Z")]);
        // A run that is on time makes up for them, too.
        let on_time = ms("2026-07-01T16:00:00Z");
        assert_eq!(hourly.plan(slept, on_time + 10, true).run, [on_time]);
        assert!(hourly.plan(on_time, woke, true).run.is_empty(), "nothing was missed");
    }

    #[test]
    fn a_clock_that_was_far_ahead_does_not_stop_a_schedule() {
        let hourly = table("0 * * * *");
        let (future, now) = (ms("2036-01-01T00:00:00Z"), ms("2026-07-01T12:30:00Z"));
        let plan = hourly.plan(future, now, true);
        assert_eq!(plan, Plan { run: vec![], next_ms: Some(ms("2026-07-01T13:00:00Z")) });
    }

    proptest! {
        #[test]
        fn any_text_is_an_expression_or_a_sentence_about_it(
            text in r"[-*/,0-9A-Za-z@#?+ L]{0,40}",
            from in 0_i64..4_102_444_800_000,
        ) {
            if let Ok(table) = Timetable::parse(&text, Some("Europe/Berlin")) {
                table.words();
                if let Some(next) = table.next_after(from) {
                    prop_assert!(next > from);
                }
            }
        }

        #[test]
        fn expressions_of_numbers_have_times_that_grow_by_a_minute_or_more(
            minute in 0_u32..60, hour in 0_u32..24, step in 1_u32..30,
            from in 1_700_000_000_000_i64..1_900_000_000_000,
        ) {
            for cron in [format!("{minute} {hour} * * *"), format!("*/{step} {hour} * * *")] {
                let table = table(&cron);
                let first = table.next_after(from).expect("it comes");
                let second = table.next_after(first).expect("it comes again");
                prop_assert!(first > from && second - first >= 60_000, "{cron}: {first} {second}");
            }
        }

        #[test]
        fn arbitrary_text_does_no_harm(text in "\\PC{0,60}") {
            let _ = Timetable::parse(&text, None);
        }
    }
}
