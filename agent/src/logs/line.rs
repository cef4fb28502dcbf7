//! One line of a log file: `<RFC 3339 time> <stream> <F or P> <text>`. A P(artial) line has no
//! end.

use proto::time::Time;

#[derive(Debug, PartialEq)]
pub struct Line<'a> {
    /// As it is written, with nanoseconds.
    pub time: &'a str,
    pub stream: &'a str,
    pub partial: bool,
    /// Without the newline.
    pub text: &'a [u8],
}

impl Line<'_> {
    /// What the container wrote.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text);
        if !self.partial {
            out.push(b'\n');
        }
    }

    pub fn at(&self) -> Option<Time> {
        self.time.parse().ok()
    }
}

/// None for anything else, as a line that is still being written.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n")?;
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (time, stream, tags) = (word()?, word()?, word()?);
    let text = parts.next()?;
    let partial = tags.split(':').next() == Some("P");
    Some(Line { time, stream, partial, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = parse(b"2024-01-01T00:00:00.123456789Z stderr F a b  c\n").unwrap();
        assert_eq!((line.stream, line.partial, line.text), ("stderr", false, &b"a b  c"[..]));
        assert_eq!(line.at().unwrap().to_string(), "2024-01-01T00:00:00Z");
        assert!(parse(b"2024-01-01T00:00:00Z stdout P x\n").unwrap().partial);
        assert_eq!(parse(b"2024-01-01T00:00:00Z stdout F \n").unwrap().text, b"");
        for bad in [&b"2024-01-01T00:00:00Z stdout F unfinished"[..], b"x\n", b"\n"] {
            assert_eq!(parse(bad), None);
        }
    }
}
