//! Durations as Go reads and writes them (metav1.Duration, query parameters). In nanoseconds.

/// Go's `time.ParseDuration`: `1h30m`, `1.5s`, `-2ms`, `0`. In nanoseconds.
pub fn parse(text: &str) -> Result<i64, String> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("\u{b5}s", 1e3),
        ("\u{3bc}s", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, size) =
            known.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += number * size;
        rest = tail;
    }
    if total > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if negative { -(total as i64) } else { total as i64 })
}

/// Go's `Duration.String`, of what is not negative: `1m0.5s`, `15.083s`, `20ms`, `0s`.
pub fn write(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let fraction = |amount: u64, unit: u64, name: &str| {
        let digits = unit.to_string().len() - 1;
        let text = format!("{}.{:0digits$}", amount / unit, amount % unit);
        let text = if digits == 0 { amount.to_string() } else { text };
        let text = if text.contains('.') { text.trim_end_matches('0') } else { &text };
        format!("{}{name}", text.trim_end_matches('.'))
    };
    match nanoseconds {
        0 => "0s".into(),
        1..1_000 => fraction(nanoseconds, 1, "ns"),
        1_000..1_000_000 => fraction(nanoseconds, 1_000, "\u{b5}s"),
        1_000_000..SECOND => fraction(nanoseconds, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanoseconds / (60 * SECOND), nanoseconds % (60 * SECOND));
            let seconds = fraction(rest, SECOND, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5\u{b5}s"),
            (20_000_000, "20ms"),
            (1_000_000_000, "1s"),
            (10_000_000_000, "10s"),
            (15_083_000_000, "15.083s"),
            (60_500_000_000, "1m0.5s"),
            (7_260_000_000_000, "2h1m0s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(write(nanoseconds), text);
            assert_eq!(parse(text), Ok(nanoseconds as i64), "{text}");
        }
    }
}
