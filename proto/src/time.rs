//! Time as the API writes it: `Time` has whole seconds and a `Z`, `MicroTime` always six digits
//! (metav1.Time, metav1.MicroTime).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A moment, in UTC. Serialises with whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Timestamp);

impl Time {
    /// The moment `seconds` after 1970.
    pub fn from_unix(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
    }

    /// This moment and `duration`, saturating.
    pub fn plus(self, duration: Duration) -> Time {
        let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        Time(self.0.saturating_add(duration).unwrap_or(Timestamp::MAX))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }

    /// As MicroTime writes it.
    pub fn micro(self) -> String {
        self.0.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

impl std::str::FromStr for Time {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Time, jiff::Error> {
        text.parse().map(Time)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A moment with microseconds (leases, events).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroTime(pub Time);

impl Serialize for MicroTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.micro())
    }
}

impl<'de> Deserialize<'de> for MicroTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MicroTime, D::Error> {
        Time::deserialize(deserializer).map(MicroTime)
    }
}

/// A day in UTC, as `2026-01-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(jiff::civil::Date);

impl Day {
    /// The day of a moment.
    pub fn of(time: Time) -> Day {
        Day(time.0.to_zoned(jiff::tz::TimeZone::UTC).date())
    }

    /// When the next one begins.
    pub fn end(self) -> Time {
        let next = self.0.saturating_add(jiff::Span::new().days(1));
        let midnight = next.to_zoned(jiff::tz::TimeZone::UTC);
        Time(midnight.map_or(Timestamp::MAX, |midnight| midnight.timestamp()))
    }
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%d"))
    }
}

impl std::str::FromStr for Day {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Day, jiff::Error> {
        jiff::civil::Date::strptime("%Y-%m-%d", text).map(Day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_the_api_writes_it() {
        let time: Time = "2024-02-29T12:00:00.123456Z".parse().unwrap();
        assert_eq!(time.to_string(), "2024-02-29T12:00:00Z");
        assert_eq!(time.micro(), "2024-02-29T12:00:00.123456Z");
        assert_eq!(Time::from_unix(0).micro(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Time::from_unix(5).since(Time::from_unix(9)), Duration::ZERO);
    }
}
