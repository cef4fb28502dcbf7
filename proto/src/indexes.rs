//! Lists of completion indexes as a Job's status and policies have them: `1,3-5,7`.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode>

use std::fmt;

/// Indexes from 0 on, as ranges (both ends inclusive) in order and with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads a list of increasing indexes that are below `completions`.
    pub fn parse(text: &str, completions: i64) -> Result<Indexes, String> {
        let mut indexes = Indexes::default();
        let number = |text: &str| {
            let parsed: i64 = text
                .parse()
                .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
            match parsed >= completions {
                true => Err(format!("too large index: {text:?}")),
                false => Ok(parsed),
            }
        };
        let order = |previous: i64, current: i64| {
            format!("non-increasing order, previous: {previous}, current: {current}")
        };
        for interval in text.split(',').filter(|_| !text.is_empty()) {
            let parts: Vec<&str> = interval.split('-').collect();
            if parts.len() > 2 {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval \
                     can have at most two parts separated by '-'"
                ));
            }
            let from = number(parts[0])?;
            if let Some((_, last)) = indexes.0.last().filter(|(_, last)| *last >= from) {
                return Err(order(*last, from));
            }
            let to = parts.get(1).map_or(Ok(from), |part| number(part))?;
            if parts.len() == 2 && from >= to {
                return Err(order(from, to));
            }
            indexes.append(from, to);
        }
        Ok(indexes)
    }

    /// A range after all others.
    fn append(&mut self, from: i64, to: i64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == from => *last = to,
            _ => self.0.push((from, to)),
        }
    }

    pub fn ranges(&self) -> &[(i64, i64)] {
        &self.0
    }

    /// How many there are.
    pub fn count(&self) -> i64 {
        self.0.iter().map(|(from, to)| to - from + 1).sum()
    }

    pub fn contains(&self, index: i64) -> bool {
        let place = self.0.partition_point(|(_, to)| *to < index);
        self.0.get(place).is_some_and(|(from, _)| *from <= index)
    }

    /// Those below a number.
    pub fn below(&self, end: i64) -> Indexes {
        let ranges = self.0.iter().filter(|(from, _)| *from < end);
        Indexes(ranges.map(|(from, to)| (*from, (*to).min(end - 1))).collect())
    }

    /// Those that either has.
    pub fn union(&self, other: &Indexes) -> Indexes {
        let mut ranges: Vec<(i64, i64)> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        let mut union = Indexes::default();
        for (from, to) in ranges {
            match union.0.last_mut() {
                Some((_, last)) if from <= *last + 1 => *last = to.max(*last),
                _ => union.0.push((from, to)),
            }
        }
        union
    }

    /// How many both have.
    pub fn common(&self, other: &Indexes) -> i64 {
        self.count() + other.count() - self.union(other).count()
    }
}

impl FromIterator<i64> for Indexes {
    fn from_iter<I: IntoIterator<Item = i64>>(indexes: I) -> Indexes {
        let mut indexes: Vec<i64> = indexes.into_iter().collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut list = Indexes::default();
        for index in indexes {
            list.append(index, index);
        }
        list
    }
}

/// Three or more in a row become a range.
impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (from, to)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match to - from {
                0 => write!(f, "{comma}{from}")?,
                1 => write!(f, "{comma}{from},{to}")?,
                _ => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_indexes() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,2-5,7"] {
            assert_eq!(Indexes::parse(text, 8).unwrap().to_string(), text);
        }
        let cases = [
            ("a", "cannot convert string to integer for index: \"a\""),
            ("8", "too large index: \"8\""),
            ("3,2", "non-increasing order, previous: 3, current: 2"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have \
                 at most two parts separated by '-'",
            ),
        ];
        for (text, error) in cases {
            assert_eq!(Indexes::parse(text, 8), Err(error.into()), "{text}");
        }
    }

    #[test]
    fn sets_of_indexes() {
        let read = |text: &str| Indexes::parse(text, 100).unwrap();
        for (a, b, union, common) in [
            ("", "", "", 0),
            ("1,3-5", "2", "1-5", 0),
            ("1-9", "3-5", "1-9", 3),
            ("3-5,9", "4-6,9-11", "3-6,9-11", 3),
        ] {
            assert_eq!(read(a).union(&read(b)).to_string(), union);
            assert_eq!(read(b).union(&read(a)).to_string(), union);
            assert_eq!(read(a).common(&read(b)), common);
        }
        let some = read("1,3-5,7");
        assert_eq!((some.count(), some.below(5).to_string()), (5, "1,3,4".into()));
        assert_eq!((0..9).filter(|index| some.contains(*index)).collect::<Indexes>(), some);
        assert_eq!([7, 4, 3, 5, 1, 4].into_iter().collect::<Indexes>(), some);
    }
}
