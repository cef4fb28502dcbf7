//! Schedules of CronJobs: five fields, a descriptor as `@daily`, or `@every 1h30m`; errors in the
//! words of the parser that Kubernetes uses.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax>

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::time::Time;

/// The times at which something is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    times: Times,
    /// Named in the schedule itself.
    zone: Option<Zone>,
}

#[derive(Clone, Debug, PartialEq)]
enum Times {
    /// So long after the last time.
    Every(Duration),
    /// The fields' values as bits, in the order of [`FIELDS`].
    Fields([u64; 5]),
}

/// The five fields: lowest and highest value, and names for the values from the lowest on.
const FIELDS: [(i64, i64, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// The bit of a field that leaves all values open.
const ANY: u64 = 1 << 63;

const DESCRIPTORS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// A schedule that is not due within so many years never is.
const YEARS: i16 = 5;

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone(TimeZone);

impl Zone {
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// The machine's.
    pub fn local() -> Zone {
        Zone(TimeZone::system())
    }

    /// By its name. The database's names are case-sensitive, jiff's look-up is not.
    pub fn named(name: &str) -> Option<Zone> {
        match name {
            "" | "UTC" => Some(Zone::UTC),
            "Local" => Some(Zone::local()),
            _ => {
                let zone = TimeZone::get(name).ok()?;
                (zone.iana_name() == Some(name)).then_some(Zone(zone))
            }
        }
    }

    /// The moment with this zone's offset (RFC 3339).
    pub fn show(&self, time: Time) -> String {
        let here = time.0.to_zoned(self.0.clone());
        match here.offset().seconds() {
            0 => time.to_string(),
            _ => here.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        }
    }
}

impl Schedule {
    /// Five fields, a descriptor, or `@every` with a duration; a time zone (`TZ=UTC`) may stand
    /// before.
    pub fn parse(schedule: &str) -> Result<Schedule, String> {
        let zoned = schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=");
        let (zone, text) = match schedule.split_once(' ') {
            Some((zone, rest)) if zoned => {
                let name = zone.split_once('=').map_or("", |(_, name)| name);
                let unknown = || format!("provided bad location {name}: unknown time zone {name}");
                (Some(Zone::named(name).ok_or_else(unknown)?), rest.trim())
            }
            _ => (None, schedule),
        };
        Ok(Schedule { times: times(text)?, zone })
    }

    /// The first time after a moment, in the zone that the schedule names or in `zone`. A local
    /// time that a change of the clock leaves out is no time, one that it repeats is two. `None`
    /// where there is none in the years to come.
    pub fn next(&self, after: Time, zone: &Zone) -> Option<Time> {
        let after = after.0.as_second() - i64::from(after.0.subsec_nanosecond() < 0);
        match &self.times {
            Times::Every(period) => {
                Some(Time(Timestamp::from_second(after + period.as_secs() as i64).ok()?))
            }
            Times::Fields(fields) => due(fields, after, &self.zone.as_ref().unwrap_or(zone).0),
        }
    }
}

impl Schedule {
    /// The last time after one moment and not after another.
    pub fn last(&self, after: Time, until: Time, zone: &Zone) -> Option<Time> {
        let first = self.next(after, zone).filter(|first| *first <= until)?;
        if let Times::Every(period) = &self.times {
            let periods = until.since(first).as_secs() / period.as_secs();
            return Some(first.plus(*period * u32::try_from(periods).unwrap_or(u32::MAX)));
        }
        // Back from the end, in steps that grow until there is one.
        let mut window = Duration::from_secs(60);
        let mut last = loop {
            let start = Time(until.0.saturating_sub(window).unwrap_or(after.0)).max(after);
            match self.next(start, zone).filter(|next| *next <= until) {
                Some(next) => break next,
                None if start == after => break first,
                None => window *= 2,
            }
        };
        while let Some(next) = self.next(last, zone).filter(|next| *next <= until) {
            last = next;
        }
        Some(last)
    }
}

fn times(text: &str) -> Result<Times, String> {
    if let Some(duration) = text.strip_prefix("@every ") {
        let period = seconds(duration).ok_or_else(|| {
            format!("failed to parse duration {text}: time: invalid duration {duration:?}")
        })?;
        return Ok(Times::Every(Duration::from_secs(period.max(1.0) as u64)));
    }
    let text = match DESCRIPTORS.iter().find(|(name, _)| *name == text) {
        Some((_, fields)) => fields,
        None if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
        None => text,
    };
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let found = fields.len();
        return Err(format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" ")));
    }
    let mut values = [0; 5];
    for ((field, bounds), values) in fields.iter().zip(FIELDS).zip(&mut values) {
        for part in field.split(',').filter(|part| !part.is_empty()) {
            *values |= range(part, bounds)?;
        }
    }
    Ok(Times::Fields(values))
}

/// The first minute after a moment (in seconds) that has the fields' values.
fn due(fields: &[u64; 5], after: i64, zone: &TimeZone) -> Option<Time> {
    let [minutes, hours, days, months, weekdays] = *fields;
    let has = |values: u64, value: i8| values & (1 << value) != 0;
    let mut at = (after.div_euclid(60) + 1) * 60;
    let mut last_year = None;
    loop {
        let moment = Timestamp::from_second(at).ok()?;
        let here = moment.to_zoned(zone.clone());
        if here.year() > *last_year.get_or_insert(here.year() + YEARS) {
            return None;
        }
        let day = has(days, here.day());
        let weekday = has(weekdays, here.weekday().to_sunday_zero_offset());
        // Where both are given one is enough.
        let this_day = match (days | weekdays) & ANY {
            0 => day || weekday,
            _ => day && weekday,
        };
        let date = if !has(months, here.month()) {
            here.date().last_of_month().tomorrow().ok()
        } else if !this_day {
            here.date().tomorrow().ok()
        } else if !has(hours, here.hour()) {
            at += 60 * (60 - i64::from(here.minute()));
            continue;
        } else if !has(minutes, here.minute()) {
            at += 60;
            continue;
        } else {
            return Some(Time(moment));
        };
        at = date?.to_zoned(zone.clone()).ok()?.timestamp().as_second();
    }
}

/// `*`, `5`, `1-5`, `*/15`, `10-30/5`, `mon-fri`, as bits.
fn range(text: &str, (lowest, highest, names): (i64, i64, &[&str])) -> Result<u64, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let value = |text: &str| {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        named.map_or_else(|| number(text), |index| Ok(lowest + index as i64))
    };
    let open = matches!(ends[0], "*" | "?");
    let (from, mut to) = match ends[..] {
        _ if open => (lowest, highest),
        [one] => (value(one)?, value(one)?),
        [from, to] => (value(from)?, value(to)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            if ends.len() == 1 {
                to = highest;
            }
            number(step)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if from < lowest {
        return Err(format!("beginning of range ({from}) below minimum ({lowest}): {text}"));
    }
    if to > highest {
        return Err(format!("end of range ({to}) above maximum ({highest}): {text}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let any = if open && step == 1 { ANY } else { 0 };
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok((from..=to).step_by(step).fold(any, |values, value| values | 1 << value))
}

fn number(text: &str) -> Result<i64, String> {
    let number: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    match number < 0 {
        true => Err(format!("negative number ({number}) not allowed: {text}")),
        false => Ok(number),
    }
}

/// A duration as Go writes it: `1h30m`, `1.5s`.
fn seconds(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (amount, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += amount.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        let good = [
            "* * * * *",
            "*/61 * * * *",
            "0 0,12 1-7/2 JAN-mar mon-FRI",
            "? * ? * 0",
            "@daily",
            "@every 1h30m",
            "TZ=UTC 0 0 * * *",
        ];
        for schedule in good {
            assert!(Schedule::parse(schedule).is_ok(), "{schedule}");
        }
        let cases = [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("@often", "unrecognized descriptor: @often"),
            (
                "@every soon",
                "failed to parse duration @every soon: time: invalid duration \"soon\"",
            ),
            (
                "TZ=Mars/Base 0 0 * * *",
                "provided bad location Mars/Base: unknown time zone Mars/Base",
            ),
        ];
        for (schedule, error) in cases {
            assert_eq!(Schedule::parse(schedule), Err(error.into()), "{schedule}");
        }
    }

    /// The next times after a moment, as their zone shows them.
    fn following(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let zone = Zone::named(zone).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        let times =
            std::iter::successors(after.parse::<Time>().ok(), |time| schedule.next(*time, &zone));
        times.skip(1).take(count).map(|time| zone.show(time)).collect()
    }

    #[test]
    fn next_times() {
        let after = "2024-02-28T23:59:30Z";
        for (schedule, expected) in [
            ("* * * * *", vec!["2024-02-29T00:00:00Z", "2024-02-29T00:01:00Z"]),
            ("*/20 * * * *", vec!["2024-02-29T00:00:00Z", "2024-02-29T00:20:00Z"]),
            ("0 0 29 2 *", vec!["2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"]),
            ("30 9 * * mon-fri", vec!["2024-02-29T09:30:00Z", "2024-03-01T09:30:00Z"]),
            // Either the day of the month or that of the week, where both are given.
            (
                "0 0 13 * 5",
                vec!["2024-03-01T00:00:00Z", "2024-03-08T00:00:00Z", "2024-03-13T00:00:00Z"],
            ),
            // A step keeps a star from leaving the field open.
            ("0 0 */15 * 6", vec!["2024-03-01T00:00:00Z", "2024-03-02T00:00:00Z"]),
            ("@monthly", vec!["2024-03-01T00:00:00Z", "2024-04-01T00:00:00Z"]),
            ("@every 90s", vec!["2024-02-29T00:01:00Z", "2024-02-29T00:02:30Z"]),
            ("0 0 31 2 *", vec![]),
        ] {
            assert_eq!(following(schedule, "UTC", after, expected.len().max(1)), expected);
        }
    }

    #[test]
    fn last_times() {
        let read = |text: &str| text.parse::<Time>().unwrap();
        let (after, until) = (read("2024-01-01T00:00:00Z"), read("2024-03-01T12:34:56Z"));
        for (schedule, expected) in [
            ("* * * * *", Some("2024-03-01T12:34:00Z")),
            ("@monthly", Some("2024-03-01T00:00:00Z")),
            ("0 0 2 1 *", Some("2024-01-02T00:00:00Z")),
            ("0 0 1 1 *", None),
            ("@every 7h", Some("2024-03-01T09:00:00Z")),
        ] {
            let last = Schedule::parse(schedule).unwrap().last(after, until, &Zone::UTC);
            assert_eq!(last, expected.map(read), "{schedule}");
        }
    }

    #[test]
    fn clocks_change() {
        let (zone, spring) = ("America/New_York", "2012-03-11T04:00:00Z");
        let left_out = ["2012-03-12T02:30:00-04:00"];
        assert_eq!(following("30 2 * * *", zone, spring, 1), left_out);
        let hourly =
            ["2012-03-11T00:00:00-05:00", "2012-03-11T01:00:00-05:00", "2012-03-11T03:00:00-04:00"];
        assert_eq!(following("@hourly", zone, "2012-03-11T04:59:59Z", 3), hourly);
        let twice =
            ["2012-11-04T01:30:00-04:00", "2012-11-04T01:30:00-05:00", "2012-11-05T01:30:00-05:00"];
        assert_eq!(following("30 1 * * *", zone, "2012-11-04T04:00:00Z", 3), twice);
        // Half an hour, and a day without a midnight.
        let half = ["2024-10-06T01:00:00+10:30", "2024-10-06T03:00:00+11:00"];
        assert_eq!(
            following("0 1-3 * * *", "Australia/Lord_Howe", "2024-10-05T14:00:00Z", 2),
            half
        );
        let midnights = ["2024-03-09T00:00:00-05:00", "2024-03-11T00:00:00-04:00"];
        assert_eq!(following("@daily", "America/Havana", "2024-03-08T05:00:01Z", 2), midnights);
    }
}
