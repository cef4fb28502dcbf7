//! Quantities (`500m`, `64Mi`, `1e3`) as Kubernetes' resource.Quantity reads and writes them:
//! exact to a billionth, rounded away from zero below that.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An exact amount and the way it was written. Compares by amount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// How a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    /// `1Ki`, `1Mi`.
    Binary,
    /// `1k`, `1M`.
    #[default]
    Decimal,
    /// `1e3`, `1e6`.
    Exponent,
}

/// Why a text is not a quantity; Kubernetes' sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// The largest amount of a binary suffix; larger ones are capped, as upstream caps them.
const BINARY_MAX: i128 = i64::MAX as i128 * NANO;
/// The largest decimal amount, 10 billion exa; larger ones are capped.
const MAX: i128 = 10i128.pow(28) * NANO;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From 10⁻⁹ in steps of three.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::Decimal };

    /// A whole number, written decimally.
    pub fn new(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format: Format::Decimal }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nano: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    /// A whole number of bytes, written with `Ki`, `Mi`, ….
    pub fn bytes(value: i64) -> Quantity {
        Quantity { nano: i128::from(value) * NANO, format: Format::Binary }
    }

    /// The amount in whole units, rounded up (away from zero).
    pub fn value(self) -> i64 {
        rounded(self.nano, NANO)
    }

    /// The amount in thousandths, rounded up (away from zero).
    pub fn milli(self) -> i64 {
        rounded(self.nano, NANO / 1000)
    }

    /// The smallest amount that is not less and is a whole number of steps above `from`.
    pub fn rounded_up(self, from: Quantity, step: Quantity) -> Quantity {
        if self <= from || step.nano <= 0 {
            return if self <= from { from } else { self };
        }
        let steps = (self.nano - from.nano + step.nano - 1) / step.nano;
        Quantity { nano: from.nano.saturating_add(steps.saturating_mul(step.nano)), ..self }
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether the amount is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    fn combined(self, other: Quantity, nano: i128) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nano: nano.clamp(-MAX, MAX), format }
    }
}

/// `amount / unit`, rounded away from zero and capped to 64 bits.
fn rounded(amount: i128, unit: i128) -> i64 {
    let whole = divide_away(amount, unit);
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

fn divide_away(amount: i128, unit: i128) -> i128 {
    let (whole, rest) = (amount / unit, amount % unit);
    if rest == 0 { whole } else { whole + amount.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        self.combined(other, self.nano + other.nano)
    }
}

impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self.combined(other, self.nano - other.nano)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Quantity;
    fn neg(self) -> Quantity {
        Quantity { nano: -self.nano, ..self }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(amounts: I) -> Quantity {
        amounts.fold(Quantity::ZERO, Add::add)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let end = unsigned.find(|c| !is_number(c)).unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError::Format);
        }
        let (scale, format) = suffix_scale(suffix)?;
        let nano = scaled(whole, fraction, scale);
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }
}

/// What a suffix multiplies with: a power of two or of ten.
#[derive(Clone, Copy)]
enum Scale {
    Two(u32),
    Ten(i32),
}

fn suffix_scale(suffix: &str) -> Result<(Scale, Format), ParseError> {
    if let Some(index) = DECIMAL.iter().position(|known| *known == suffix) {
        return Ok((Scale::Ten(index as i32 * 3 - 9), Format::Decimal));
    }
    if let Some(index) = BINARY.iter().position(|known| *known == suffix) {
        return Ok((Scale::Two(index as u32 * 10), Format::Binary));
    }
    let allowed = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
    if !suffix.chars().all(allowed) {
        return Err(ParseError::Format);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let exponent = exponent.parse().map_err(|_| ParseError::Suffix)?;
    Ok((Scale::Ten(exponent), Format::Exponent))
}

/// The digits times the scale in billionths, rounded up and capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes()).map(|digit| i128::from(digit - b'0'));
    let places = fraction.len() as i64;
    let (power, factor) = match scale {
        Scale::Two(bits) => (9 - places, 1i128 << bits),
        Scale::Ten(exponent) => (9 - places + i64::from(exponent), 1),
    };
    // Digits below a billionth only decide whether to round up, so they need not fit.
    let count = (whole.len() + fraction.len()) as i64;
    let binary_room = if factor > 1 { 18 } else { 0 };
    let keep = (count + power.min(0) + binary_room).clamp(0, count) as usize;
    let mut mantissa: i128 = 0;
    for digit in digits().take(keep) {
        mantissa = mantissa.saturating_mul(10).saturating_add(digit);
    }
    let lost = digits().skip(keep).any(|digit| digit != 0);
    let power = power + (count - keep as i64);
    let product = mantissa.saturating_mul(factor).saturating_add(i128::from(lost));
    let nano: i128 = match power {
        0.. => product.saturating_mul(10i128.saturating_pow(power.min(60) as u32)),
        _ if -power > 37 => i128::from(product > 0),
        _ => divide_away(product, 10i128.pow(-power as u32)),
    };
    let max = if factor > 1 { BINARY_MAX } else { MAX };
    nano.min(max)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.is_whole() && self.nano.abs() >= 1024 * NANO {
            let (mut value, mut step) = (self.nano / NANO, 0);
            while value % 1024 == 0 && step + 1 < BINARY.len() {
                (value, step) = (value / 1024, step + 1);
            }
            return write!(f, "{value}{}", BINARY[step]);
        }
        let (mut value, mut step) = (self.nano, 0);
        while value % 1000 == 0 && step + 1 < DECIMAL.len() {
            (value, step) = (value / 1000, step + 1);
        }
        match (self.format, step as i32 * 3 - 9) {
            (Format::Exponent, 0) => write!(f, "{value}"),
            (Format::Exponent, exponent) => write!(f, "{value}e{exponent}"),
            _ => write!(f, "{value}{}", DECIMAL[step]),
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// Reads a text or, as Kubernetes does, a bare number.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<'a> {
            #[serde(borrow)]
            Text(std::borrow::Cow<'a, str>),
            Whole(i64),
            Real(f64),
            Null(()),
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map_err(D::Error::custom),
            Written::Whole(value) => Ok(Quantity::new(value)),
            Written::Real(value) => value.to_string().parse().map_err(D::Error::custom),
            Written::Null(()) => Ok(Quantity::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_canonically() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("0.5Gi", "512Mi"),
            ("1024Mi", "1Gi"),
            ("1023", "1023"),
            ("1023Ki", "1023Ki"),
            ("0.5Ki", "512"),
            ("1.5Ki", "1536"),
            ("2048", "2048"),
            ("100000000", "100M"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("9999E", "9999E"),
            ("9Ei", "9223372036854775807"),
            ("1E3", "1e3"),
            ("1500e-3", "1500e-3"),
            ("0.1n", "1n"),
            ("1.00000000001", "1000000001n"),
            (".5", "500m"),
            ("5.", "5"),
            ("-1.5Mi", "-1536Ki"),
            ("+250m", "250m"),
            ("0.0000000000000000000000000000000000000000001", "1n"),
            ("1.1Ki", "1126400m"),
        ] {
            let quantity: Quantity = text.parse().expect(text);
            assert_eq!(quantity.to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in ["", "-", ".", "1.2.3", "1i", "1 Mi", "Mi", "1mi", "1e", "1e3k", "1é"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert_eq!("1kk".parse::<Quantity>(), Err(ParseError::Suffix));
    }

    #[test]
    fn arithmetic_rounds_up_and_keeps_the_format() {
        let read = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(read("1.1").value(), 2);
        assert_eq!(read("-1.1").value(), -2);
        assert_eq!(read("100u").milli(), 1);
        assert_eq!((read("1Gi") - read("512Mi")).to_string(), "512Mi");
        assert_eq!((Quantity::ZERO + read("2Ki")).to_string(), "2Ki");
        assert!(read("1Ki") > read("1k"));
        assert_eq!(read("1"), read("1000m"));
        let list: Vec<Quantity> = serde_json::from_str(r#"["1k", 2, 0.5]"#).unwrap();
        assert_eq!(list.into_iter().sum::<Quantity>(), read("1002500m"));
    }
}
