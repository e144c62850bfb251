//! Numbers and times as people read them: thin units, thousands commas, `–` for what is unknown.
//!
//! Pure: the offset of the local time zone is a parameter, because only the page knows it.

/// Shown where a value is not known; never `0`.
pub const UNKNOWN: &str = "–";

/// Between a number and its unit: narrow, and never broken across lines.
const THIN: char = '\u{202f}';

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `1,284`
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 request`, `2 requests`
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// Large counts where space is short: `840`, `21.5k`, `3.2M`.
pub fn compact(n: u64) -> String {
    match n {
        0..10_000 => count(n),
        10_000..999_950 => format!("{}k", short(n as f64 / 1e3)),
        _ => format!("{}M", short(n as f64 / 1e6)),
    }
}

/// One decimal below 100, none above.
fn short(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { count(value.round() as u64) }
}

/// Files and disks, in powers of 1,000 as file managers show them: `10.5 GB`.
pub fn file_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would round to a four-digit number.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    let number = if unit == 0 { count(bytes) } else { short(value) };
    format!("{number}{THIN}{}", UNITS[unit])
}

/// Memory, in the units of files: a model's file and the memory that it takes are compared.
pub fn memory(bytes: u64) -> String {
    file_size(bytes)
}

/// A used and a total amount in the unit of the total: (`21.4`, `of 64.0 GB`).
pub fn part_of(used: u64, total: u64, scale: fn(u64) -> String) -> (String, String) {
    let total_text = scale(total);
    let unit = total_text.rsplit(THIN).next().unwrap_or_default();
    let in_unit = used as f64 / divisor(unit);
    // `0.0` would say that nothing is used.
    let used = if used > 0 && in_unit < 0.05 { scale(used) } else { short(in_unit) };
    (used, format!("of {total_text}"))
}

fn divisor(unit: &str) -> f64 {
    match unit {
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => 1.0,
    }
}

/// Bytes in a typed number of units of `scale` bytes; nothing typed is 0.
pub fn bytes_typed(typed: &str, scale: u64) -> Option<u64> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Some(0);
    }
    let unit = ["GB", "MB/s", "MB"].into_iter().find_map(|unit| typed.strip_suffix(unit));
    let typed = unit.unwrap_or(typed).trim();
    let bytes = typed.replace(',', ".").parse::<f64>().ok()? * scale as f64;
    // More than a petabyte is a slip of the finger.
    (0.0..=1e15).contains(&bytes).then_some(bytes.round() as u64)
}

/// Bytes as a number to be edited, in units of `scale` bytes: `120`, `1.5`.
pub fn amount(bytes: u64, scale: u64) -> String {
    let value = bytes as f64 / scale.max(1) as f64;
    ((value * 10.0).round() / 10.0).to_string()
}

/// 0 to 100, for bars. `None` where there is no total.
pub fn share(used: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| (used as f64 / total as f64 * 100.0).clamp(0.0, 100.0))
}

/// `34 %`
pub fn percent(value: f64) -> String {
    format!("{}{THIN}%", value.clamp(0.0, 100.0).round())
}

/// `61.8`
pub fn rate(per_second: f64) -> String {
    short(per_second.max(0.0))
}

/// `4.2 M`, `14.8 B`: how many weights a model has.
pub fn parameters(n: u64) -> String {
    match n {
        0..1_000_000 => count(n),
        1_000_000..1_000_000_000 => format!("{}{THIN}M", short(n as f64 / 1e6)),
        _ => format!("{}{THIN}B", short(n as f64 / 1e9)),
    }
}

/// A context length: `32k` where it is a whole number of 1,024s, else `4,000`.
pub fn context(tokens: u32) -> String {
    if tokens >= 1_024 && tokens.is_multiple_of(1_024) {
        format!("{}k", tokens / 1_024)
    } else {
        count(u64::from(tokens))
    }
}

/// The two largest units: `6 d 4 h`, `5 h 47 min`, `12 min`, `9 s`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{THIN}{big_unit}")
        } else {
            format!("{big}{THIN}{big_unit} {small}{THIN}{small_unit}")
        }
    };
    if ms >= DAY {
        two(ms / DAY, "d", ms % DAY / HOUR, "h")
    } else if ms >= HOUR {
        two(ms / HOUR, "h", ms % HOUR / MINUTE, "min")
    } else if ms >= 10 * MINUTE {
        format!("{}{THIN}min", ms / MINUTE)
    } else if ms >= MINUTE {
        two(ms / MINUTE, "min", ms % MINUTE / SECOND, "s")
    } else {
        format!("{}{THIN}s", ms / SECOND)
    }
}

/// Short waits: `210 ms`, `1.4 s`. What took less than one is not nothing.
pub fn wait(ms: f64) -> String {
    if ms < 1.0 {
        format!("<1{THIN}ms")
    } else if ms < 999.5 {
        format!("{}{THIN}ms", ms.round())
    } else if ms < 60_000.0 {
        format!("{:.1}{THIN}s", ms / 1_000.0)
    } else {
        duration(ms as i64)
    }
}

/// Whole seconds left, never less than none: `6 s`.
pub fn countdown(until_ms: i64, now_ms: i64) -> String {
    let left = (until_ms - now_ms).max(0);
    if left < MINUTE { format!("{}{THIN}s", (left + SECOND - 1) / SECOND) } else { duration(left) }
}

/// A moment in the local time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    days: i64,
    ms_of_day: i64,
}

impl LocalTime {
    /// `offset_ms` is what to add to UTC.
    pub fn new(at_ms: i64, offset_ms: i64) -> Self {
        let local = at_ms + offset_ms;
        Self { days: local.div_euclid(DAY), ms_of_day: local.rem_euclid(DAY) }
    }

    /// `14:32`
    pub fn clock(self) -> String {
        format!("{:02}:{:02}", self.ms_of_day / HOUR, self.ms_of_day % HOUR / MINUTE)
    }

    /// `14:32:07`
    pub fn clock_with_seconds(self) -> String {
        format!("{}:{:02}", self.clock(), self.ms_of_day % MINUTE / SECOND)
    }

    /// `20 Nov`
    pub fn date(self) -> String {
        let (_, month, day) = self.civil();
        format!("{day} {}", &MONTHS[month - 1][..3])
    }

    /// `Friday 20 November`
    pub fn long_date(self) -> String {
        let (_, month, day) = self.civil();
        format!("{} {day} {}", WEEKDAYS[self.days.rem_euclid(7) as usize], MONTHS[month - 1])
    }

    /// The clock for today, the date for any other day.
    pub fn clock_or_date(self, now: Self) -> String {
        if self.days == now.days { self.clock() } else { self.date() }
    }

    /// The clock for today, `21 Nov 08:00` for any other day.
    pub fn moment(self, now: Self) -> String {
        if self.days == now.days {
            self.clock()
        } else {
            format!("{} {}", self.date(), self.clock())
        }
    }

    /// A moment as RFC 3339 has it, in UTC: `2026-11-20T23:30:05Z`.
    pub fn rfc3339(at_ms: i64) -> String {
        let utc = Self::new(at_ms, 0);
        let (year, month, day) = utc.civil();
        format!("{year:04}-{month:02}-{day:02}T{}Z", utc.clock_with_seconds())
    }

    /// Year, month from 1, day from 1. Howard Hinnant's algorithm (`civil_from_days`).
    fn civil(self) -> (i64, usize, i64) {
        let shifted = self.days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month as usize, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.replace(THIN, " ")
    }

    #[test]
    fn counts_have_commas() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(
            (compact(9_999), compact(21_480), compact(999_960)),
            ("9,999".into(), "21.5k".into(), "1.0M".into())
        );
        assert_eq!(counted(1, "request", "requests"), "1 request");
        assert_eq!(counted(1_200, "request", "requests"), "1,200 requests");
    }

    #[test]
    fn sizes_never_show_four_digits() {
        assert_eq!(plain(&file_size(0)), "0 B");
        assert_eq!(plain(&file_size(4_300_000)), "4.3 MB");
        assert_eq!(plain(&file_size(999_999)), "1.0 MB");
        assert_eq!(plain(&memory(364_000_000)), "364 MB");
    }

    #[test]
    fn a_part_uses_the_unit_of_the_whole() {
        let (used, total) = part_of(512_000_000, 64_000_000_000, memory);
        assert_eq!((used.as_str(), plain(&total).as_str()), ("0.5", "of 64.0 GB"));
        assert_eq!(share(1, 0), None);
        assert_eq!(share(3, 2), Some(100.0));
    }

    #[test]
    fn typed_gigabytes_are_read_as_people_write_them() {
        let gigabytes = |typed| bytes_typed(typed, 1_000_000_000);
        assert_eq!(gigabytes("120"), Some(120_000_000_000));
        assert_eq!(gigabytes(" 1.5 GB "), Some(1_500_000_000));
        assert_eq!(gigabytes("1,5"), Some(1_500_000_000));
        assert_eq!(bytes_typed("40 MB/s", 1_000_000), Some(40_000_000));
        assert_eq!((gigabytes(""), gigabytes("GB"), gigabytes("abc")), (Some(0), None, None));
        assert_eq!((gigabytes("1 and 2"), gigabytes("-3"), gigabytes("1e30")), (None, None, None));
        assert_eq!(amount(120_000_000_000, 1_000_000_000), "120");
        assert_eq!(amount(1_500_000_000, 1_000_000_000), "1.5");
        assert_eq!(amount(2 << 30, 1_000_000_000), "2.1");
    }

    #[test]
    fn durations_keep_two_units() {
        for (ms, text) in [
            (-5, "0 s"),
            (9 * SECOND, "9 s"),
            (61 * SECOND, "1 min 1 s"),
            (2 * MINUTE, "2 min"),
            (12 * MINUTE + 30 * SECOND, "12 min"),
            (5 * HOUR + 47 * MINUTE, "5 h 47 min"),
            (6 * DAY + 4 * HOUR + 59 * MINUTE, "6 d 4 h"),
        ] {
            assert_eq!(plain(&duration(ms)), text);
        }
        assert_eq!((plain(&wait(0.0)), plain(&wait(1.0))), ("<1 ms".into(), "1 ms".into()));
        assert_eq!(plain(&wait(209.6)), "210 ms");
        assert_eq!(plain(&wait(1_440.0)), "1.4 s");
    }

    #[test]
    fn a_countdown_ends_at_zero_and_rounds_up() {
        assert_eq!(plain(&countdown(10_000, 4_001)), "6 s");
        assert_eq!(plain(&countdown(10_000, 10_000)), "0 s");
        assert_eq!(plain(&countdown(10_000, 99_000)), "0 s");
    }

    #[test]
    fn times_are_local() {
        // 2026-11-20 23:30:05 UTC
        let at = 1_795_217_405_000;
        let utc = LocalTime::new(at, 0);
        assert_eq!(utc.clock(), "23:30");
        assert_eq!(utc.clock_with_seconds(), "23:30:05");
        assert_eq!(utc.long_date(), "Friday 20 November");
        assert_eq!(LocalTime::rfc3339(at), "2026-11-20T23:30:05Z");
        let vienna = LocalTime::new(at, HOUR);
        assert_eq!(vienna.clock(), "00:30");
        assert_eq!(vienna.date(), "21 Nov");
        assert_eq!(utc.clock_or_date(vienna), "20 Nov");
        assert_eq!(vienna.clock_or_date(vienna), "00:30");
        assert_eq!(utc.moment(vienna), "20 Nov 23:30");
        assert_eq!(LocalTime::new(951_782_400_000, 0).long_date(), "Tuesday 29 February");
        assert_eq!(LocalTime::new(-1, 0).long_date(), "Wednesday 31 December");
    }

    #[test]
    fn model_facts_are_short() {
        assert_eq!(context(32_768), "32k");
        assert_eq!(context(4_000), "4,000");
        assert_eq!(plain(&parameters(4_200_000)), "4.2 M");
        assert_eq!(plain(&parameters(14_800_000_000)), "14.8 B");
        assert_eq!(rate(61.84), "61.8");
        assert_eq!(rate(4_100.2), "4,100");
        assert_eq!(plain(&percent(33.6)), "34 %");
    }
}
