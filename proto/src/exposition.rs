//! Metrics as text (Prometheus' text format, version 0.0.4): how a component writes what it counts
//! and how another reads it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

/// `Content-Type` of such a text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text that grows, family by family.
#[derive(Debug, Default)]
pub struct Text(String);

/// The samples of one name. One without samples is not mentioned.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

/// How values are spread: how many are at most as large as each bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds: the last counts all others.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Takes the values of another with the same bounds over, which has none afterwards.
    pub fn absorb(&mut self, other: &mut Histogram) {
        for (own, other) in self.counts.iter_mut().zip(&mut other.counts) {
            *own += std::mem::take(other);
        }
        self.sum += std::mem::take(&mut other.sum);
    }
}

impl Text {
    /// `help` begins with the stability in brackets: `[STABLE] …`.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family { text: &mut self.0, name, kind, help, begun: false }
    }

    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, Kind::Counter, help)
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family(name, Kind::Gauge, help)
    }

    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.write("", labels, None, value, None);
    }

    /// A value of that moment, in milliseconds since 1970.
    pub fn sample_at(&mut self, labels: &[(&str, &str)], value: f64, milliseconds: i64) {
        self.write("", labels, None, value, Some(milliseconds));
    }

    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut sum = 0;
        for (index, count) in histogram.counts.iter().enumerate() {
            sum += count;
            let bound = histogram.bounds.get(index).copied().unwrap_or(f64::INFINITY);
            self.write("_bucket", labels, Some(("le", &number(bound))), sum as f64, None);
        }
        self.write("_sum", labels, None, histogram.sum, None);
        self.write("_count", labels, None, sum as f64, None);
    }

    fn write(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        more: Option<(&str, &str)>,
        value: f64,
        at: Option<i64>,
    ) {
        let name = self.name;
        if !std::mem::replace(&mut self.begun, true) {
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
            *self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        }
        *self.text += name;
        *self.text += suffix;
        let mut separator = '{';
        for (label, value) in labels.iter().copied().chain(more) {
            self.text.push(separator);
            *self.text += label;
            *self.text += "=\"";
            for c in value.chars() {
                match c {
                    '\\' => *self.text += "\\\\",
                    '"' => *self.text += "\\\"",
                    '\n' => *self.text += "\\n",
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        self.text.push(' ');
        *self.text += &number(value);
        if let Some(at) = at {
            // Writing into a string does not fail.
            let _ = write!(self.text, " {at}");
        }
        self.text.push('\n');
    }
}

fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => value.to_string(),
    }
}

/// One line that says a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    /// Milliseconds since 1970.
    pub at: Option<i64>,
}

impl Sample {
    /// Empty where there is no such label.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A text that was read.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The type of each family, as it is written.
    pub kinds: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

/// A line that is none of this format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}: {text:?}")]
pub struct ParseError {
    line: usize,
    why: &'static str,
    text: String,
}

/// Reads a whole text.
pub fn parse(text: &str) -> Result<Parsed, ParseError> {
    let mut parsed = Parsed::default();
    for (index, line) in text.lines().enumerate() {
        let failed = |why| ParseError { line: index + 1, why, text: line.into() };
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.split_whitespace();
            if words.next() == Some("TYPE") {
                let (name, kind) = words.next().zip(words.next()).ok_or(failed("no type"))?;
                if parsed.kinds.insert(name.into(), kind.into()).is_some() {
                    return Err(failed("a second type"));
                }
            }
        } else if !line.is_empty() {
            parsed.samples.push(sample(line).map_err(failed)?);
        }
    }
    Ok(parsed)
}

fn sample(line: &str) -> Result<Sample, &'static str> {
    let end = line.find(['{', ' ', '\t']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    if name.is_empty() || !name.chars().all(valid) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err("no name");
    }
    let mut found = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = labels(inside, &mut found)?;
    }
    let mut words = rest.split_whitespace();
    let value = words.next().ok_or("no value")?;
    let value = value.parse().map_err(|_| "no number")?;
    let at = words.next().map(str::parse).transpose().map_err(|_| "no time")?;
    if words.next().is_some() {
        return Err("more than a value and a time");
    }
    Ok(Sample { name: name.into(), labels: found, value, at })
}

/// Reads `a="b",c="d"}` and returns what follows.
fn labels<'a>(
    mut rest: &'a str,
    found: &mut BTreeMap<String, String>,
) -> Result<&'a str, &'static str> {
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok(rest);
        }
        let (name, tail) = rest.split_once("=\"").ok_or("no label")?;
        let mut value = String::new();
        let mut characters = tail.char_indices();
        let end = loop {
            match characters.next().ok_or("a label without an end")? {
                (at, '"') => break at,
                (_, '\\') => match characters.next().ok_or("a label without an end")?.1 {
                    'n' => value.push('\n'),
                    c => value.push(c),
                },
                (_, c) => value.push(c),
            }
        };
        if found.insert(name.trim().into(), value).is_some() {
            return Err("a label twice");
        }
        rest = &tail[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut text = Text::default();
        text.counter("none_total", "[ALPHA] Never mentioned");
        let mut family = text.gauge("a_bytes", "[STABLE] Some \\ bytes");
        family.sample(&[], 1.5);
        family.sample_at(&[("pod", "a\"b\\c\nd"), ("x", "")], 1e18, 1_700_000_000_123);
        let mut spread = Histogram::new(&[0.1, 1.0]);
        [0.05, 0.1, 0.5, 7.0].into_iter().for_each(|value| spread.observe(value));
        text.family("t_seconds", Kind::Histogram, "[ALPHA] Time").histogram(&[("o", "p")], &spread);
        let text = text.finish();
        assert!(
            text.starts_with("# HELP a_bytes [STABLE] Some \\\\ bytes\n# TYPE a_bytes gauge\n")
        );
        let parsed = parse(&text).unwrap();
        assert_eq!(parsed.kinds.len(), 2);
        assert_eq!(parsed.kinds["t_seconds"], "histogram");
        let second = &parsed.samples[1];
        assert_eq!((second.label("pod"), second.label("x")), ("a\"b\\c\nd", ""));
        assert_eq!((second.value, second.at), (1e18, Some(1_700_000_000_123)));
        let of = |name: &str| -> Vec<(String, f64)> {
            let samples = parsed.samples.iter().filter(|sample| sample.name == name);
            samples.map(|sample| (sample.label("le").to_string(), sample.value)).collect()
        };
        let buckets = [("0.1", 2.0), ("1", 3.0), ("+Inf", 4.0)];
        assert_eq!(of("t_seconds_bucket"), buckets.map(|(le, count)| (le.to_string(), count)));
        assert_eq!(of("t_seconds_count")[0].1, 4.0);
        assert!((of("t_seconds_sum")[0].1 - 7.65).abs() < 1e-9);
    }

    #[test]
    fn values_are_taken_over() {
        let (mut all, mut some) = (Histogram::new(&[1.0]), Histogram::new(&[1.0]));
        all.observe(0.5);
        [0.5, 2.0].into_iter().for_each(|value| some.observe(value));
        all.absorb(&mut some);
        assert_eq!((all.count(), all.sum, some), (3, 3.0, Histogram::new(&[1.0])));
    }

    #[test]
    fn what_is_no_such_text_is_refused() {
        for bad in
            ["a", "a b", "{} 1", "a{b} 1", "a{b=\"c} 1", "a{b=\"c\",b=\"d\"} 1", "a 1 2 3", "1a 1"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("# TYPE a counter\n# TYPE a gauge\n").is_err());
        assert!(parse("# anything\n\na +Inf\na{} NaN\n").unwrap().samples[0].value.is_infinite());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z{}=\"\\\\, 0-9.#\n]{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_label_survives(value in ".{0,40}") {
            let mut text = Text::default();
            text.gauge("a", "[ALPHA] b").sample(&[("l", &value)], 1.0);
            let parsed = parse(&text.finish()).unwrap();
            proptest::prop_assert_eq!(parsed.samples[0].label("l"), value);
        }
    }
}
