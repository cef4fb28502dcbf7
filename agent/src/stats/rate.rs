//! Rates of CPU time, from one asker to the next.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Two samples closer to each other say nothing, further apart nothing of now. In nanoseconds.
const LEAST: i64 = 1_000_000_000;
const MOST: i64 = 120_000_000_000;

/// The last sample of each id, and the rate that it came to.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Known>>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    at: i64,
    total: u64,
    rate: Option<u64>,
}

impl Rates {
    /// Takes the samples (id, nanoseconds since 1970, nanoseconds of CPU time) and returns the rates
    /// that are known, in billionths of a core. What is not sampled any more is forgotten.
    pub fn next(&self, samples: Vec<(String, i64, u64)>) -> HashMap<String, u64> {
        let mut known = self.0.lock();
        let mut next = HashMap::with_capacity(samples.len());
        for (id, at, total) in samples {
            let before = known.get(&id).copied();
            next.insert(id, step(before, at, total));
        }
        *known = next;
        known.iter().filter_map(|(id, known)| Some((id.clone(), known.rate?))).collect()
    }
}

fn step(before: Option<Known>, at: i64, total: u64) -> Known {
    let new = Known { at, total, rate: None };
    let Some(before) = before else { return new };
    match (at - before.at, total.checked_sub(before.total)) {
        (..LEAST, Some(_)) => before,
        (LEAST..=MOST, Some(used)) => {
            let rate =
                u128::from(used) * 1_000_000_000 / u128::from((at - before.at).unsigned_abs());
            Known { rate: u64::try_from(rate).ok(), ..new }
        }
        // Too old, or the count has begun anew.
        _ => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_one_asker_to_the_next() {
        const SECOND: i64 = 1_000_000_000;
        let rates = Rates::default();
        let next = |at: i64, total: u64| {
            let rates = rates.next(vec![("a".to_string(), at, total)]);
            rates.get("a").copied()
        };
        assert_eq!(next(100 * SECOND, 5_000_000_000), None);
        // Half a core for two seconds.
        assert_eq!(next(102 * SECOND, 6_000_000_000), Some(500_000_000));
        // Too soon: the same again.
        assert_eq!(next(102 * SECOND + 1, 7_000_000_000), Some(500_000_000));
        assert_eq!(next(104 * SECOND, 6_000_000_000), Some(0));
        assert_eq!(next(106 * SECOND, 1), None);
        assert_eq!(next(306 * SECOND, 2), None);
        assert_eq!(rates.next(Vec::new()), HashMap::new());
        assert_eq!(next(307 * SECOND, 3), None);
    }
}
