//! Label and field selectors: the structured form of objects (metav1.LabelSelector), the parsed
//! form that matches, and the text form of queries (`app=web,tier in (a,b),!canary`).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::meta::{Labels, or_default};

/// A metav1.LabelSelector. Without requirements it selects everything; where it is absent, nothing
/// is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Labels::is_empty")]
    pub match_labels: Labels,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Expression>,
}

/// One entry of `matchExpressions`; also of node selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Expression {
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; in node selectors also `Gt` and `Lt`.
    pub operator: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A parsed label selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    Equals(String),
    NotEquals(String),
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// Why a text or structure is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Field { selector: String, term: String },
}

impl LabelSelector {
    /// The form that matches.
    pub fn selector(&self) -> Result<Selector, SelectorError> {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            test: Test::Equals(value.clone()),
        };
        let mut requirements: Vec<Requirement> = self.match_labels.iter().map(equals).collect();
        for expression in &self.match_expressions {
            requirements.push(expression.requirement(false)?);
        }
        Ok(Selector { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Expression {
    /// `numeric` admits the `Gt` and `Lt` of node selectors.
    pub fn requirement(&self, numeric: bool) -> Result<Requirement, SelectorError> {
        let values = || self.values.iter().cloned().collect();
        let number = || match self.values.as_slice() {
            [one] => one.parse().map_err(|_| {
                let why = format!("for 'Gt', 'Lt' operators, the value must be an integer: {one}");
                SelectorError::Requirement(why)
            }),
            _ => Err(SelectorError::Requirement(
                "for 'Gt', 'Lt' operators, exactly one value is required".into(),
            )),
        };
        let test = match self.operator.as_str() {
            "In" => Test::In(values()),
            "NotIn" => Test::NotIn(values()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::Absent,
            "Gt" if numeric => Test::Greater(number()?),
            "Lt" if numeric => Test::Less(number()?),
            other => return Err(SelectorError::Operator(other.into())),
        };
        Ok(Requirement { key: self.key.clone(), test })
    }
}

impl Requirement {
    /// Whether the value of the label (if it is there) passes.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Equals(wanted) => value == Some(wanted),
            Test::NotEquals(unwanted) => value != Some(unwanted),
            Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            Test::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl Selector {
    /// Selects every object.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Selects the objects that carry all these labels.
    pub fn of(labels: &Labels) -> Selector {
        let labels = LabelSelector { match_labels: labels.clone(), ..LabelSelector::default() };
        labels.selector().unwrap_or_default()
    }

    /// Reads the text of a `labelSelector` query parameter.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let mut tokens = Tokens { rest: text };
        let mut requirements = Vec::new();
        if tokens.peek().is_empty() {
            return Ok(Selector { requirements });
        }
        loop {
            requirements.push(requirement(&mut tokens)?);
            match tokens.next() {
                "" => break,
                "," => {}
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector { requirements })
    }

    /// This selector, and these requirements on top.
    pub fn and(mut self, more: impl IntoIterator<Item = Requirement>) -> Selector {
        self.requirements.extend(more);
        self
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// As [`Selector::matches`], over any way to look a label up.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

/// Splits a selector into words, parentheses, commas and operators.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn split(&self) -> (&'a str, &'a str) {
        let rest = self.rest.trim_start();
        for symbol in ["==", "!=", "=", "!", "(", ")", ",", ">", "<"] {
            if rest.starts_with(symbol) {
                return rest.split_at(symbol.len());
            }
        }
        let end = rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c));
        rest.split_at(end.unwrap_or(rest.len()))
    }

    /// The next word or symbol; empty at the end.
    fn peek(&self) -> &'a str {
        self.split().0
    }

    fn next(&mut self) -> &'a str {
        let (token, rest) = self.split();
        self.rest = rest;
        token
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let absent = tokens.peek() == "!";
    if absent {
        tokens.next();
    }
    let key = tokens.next();
    if is_symbol(key) {
        return Err(unexpected(key, "identifier"));
    }
    check_label_key(key)?;
    let requirement = |test| Requirement { key: key.into(), test };
    if absent {
        return Ok(requirement(Test::Absent));
    }
    if matches!(tokens.peek(), "" | ",") {
        return Ok(requirement(Test::Exists));
    }
    let test = match tokens.next() {
        "=" | "==" => Test::Equals(value(tokens)?),
        "!=" => Test::NotEquals(value(tokens)?),
        "in" => Test::In(values(tokens)?),
        "notin" => Test::NotIn(values(tokens)?),
        ">" => Test::Greater(number(tokens)?),
        "<" => Test::Less(number(tokens)?),
        other => {
            let expected = "in, notin, =, ==, !=, gt, lt";
            return Err(unexpected(other, expected));
        }
    };
    Ok(requirement(test))
}

/// A value may be empty: `a=,b=c`.
fn value(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    if matches!(tokens.peek(), "" | ",") {
        return Ok(String::new());
    }
    let value = tokens.next();
    if is_symbol(value) {
        return Err(unexpected(value, "identifier"));
    }
    check_label_value(value)?;
    Ok(value.into())
}

fn number(tokens: &mut Tokens<'_>) -> Result<i64, SelectorError> {
    let text = value(tokens)?;
    text.parse().map_err(|_| {
        let why = format!("values[0]: Invalid value: {text:?}: must be an integer");
        SelectorError::Requirement(why)
    })
}

fn values(tokens: &mut Tokens<'_>) -> Result<BTreeSet<String>, SelectorError> {
    match tokens.next() {
        "(" => {}
        other => return Err(unexpected(other, "'('")),
    }
    let mut values = BTreeSet::new();
    loop {
        match tokens.peek() {
            ")" | "," => values.insert(String::new()),
            _ => values.insert(value(tokens)?),
        };
        match tokens.next() {
            ")" => return Ok(values),
            "," => {}
            other => return Err(unexpected(other, "',', or ')'")),
        }
    }
}

fn is_symbol(token: &str) -> bool {
    matches!(token, "" | "==" | "!=" | "=" | "!" | "(" | ")" | "," | ">" | "<")
}

fn unexpected(found: &str, expected: &str) -> SelectorError {
    SelectorError::Requirement(format!("found '{found}', expected: {expected}"))
}

const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and \
     must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
     '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric \
     characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
     'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn check_label_key(key: &str) -> Result<(), SelectorError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_is_dns = prefix.is_none_or(|prefix| {
        let label = |label: &str| {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            !label.is_empty()
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        prefix.len() <= 253 && prefix.split('.').all(label)
    });
    if is_label_text(name) && !name.is_empty() && prefix_is_dns {
        return Ok(());
    }
    Err(SelectorError::Requirement(format!("key: Invalid value: {key:?}: {NAME_RULE}")))
}

fn check_label_value(value: &str) -> Result<(), SelectorError> {
    if is_label_text(value) {
        return Ok(());
    }
    Err(SelectorError::Requirement(format!("values[0]: Invalid value: {value:?}: {VALUE_RULE}")))
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |c: &u8| c.is_ascii_alphanumeric() || b"-_.".contains(c);
    bytes.len() <= 63
        && bytes.iter().all(inner)
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let joined =
                |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
            match test {
                Test::Equals(value) => write!(f, "{key}={value}")?,
                Test::NotEquals(value) => write!(f, "{key}!={value}")?,
                Test::In(values) => write!(f, "{key} in ({})", joined(values))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", joined(values))?,
                Test::Exists => f.write_str(key)?,
                Test::Absent => write!(f, "!{key}")?,
                Test::Greater(bound) => write!(f, "{key}>{bound}")?,
                Test::Less(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// A parsed field selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// `field = value`, or `field != value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub equal: bool,
    pub value: String,
}

impl FieldSelector {
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// `field=value`.
    pub fn equal(field: &str, value: &str) -> FieldSelector {
        let requirement =
            FieldRequirement { field: field.into(), equal: true, value: value.into() };
        FieldSelector { requirements: vec![requirement] }
    }

    /// Reads the text of a `fieldSelector` query parameter; `\,`, `\=` and `\\` are escapes.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let error = || SelectorError::Field { selector: text.into(), term: term.into() };
            let (field, equal, value) = split_term(term).ok_or_else(error)?;
            let value = unescape(value).ok_or_else(error)?;
            requirements.push(FieldRequirement { field: field.into(), equal, value });
        }
        Ok(FieldSelector { requirements })
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `field` must equal, where the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        let wanted = |r: &&FieldRequirement| r.equal && r.field == field;
        self.requirements.iter().find(wanted).map(|requirement| requirement.value.as_str())
    }

    /// `value` yields the object's value of a field, empty where it has none.
    pub fn matches<V: AsRef<str>>(&self, value: impl Fn(&str) -> V) -> bool {
        let holds = |r: &FieldRequirement| (value(&r.field).as_ref() == r.value) == r.equal;
        self.requirements.iter().all(holds)
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((field, equal, value));
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let (mut plain, mut chars) = (String::with_capacity(value.len()), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            ',' | '=' => return None,
            _ => plain.push(c),
        }
    }
    Some(plain)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if requirement.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}", requirement.field)?;
            for c in requirement.value.chars() {
                if "\\,=".contains(c) {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn label_selectors_match() {
        for (selector, object, expected) in [
            ("", "a=b", true),
            ("a=b", "a=b", true),
            ("a==b", "a=c", false),
            ("a!=b", "", true),
            ("a in (b, c)", "a=c", true),
            ("a in (b,c)", "", false),
            ("a notin (b,c)", "", true),
            ("a notin (b,c)", "a=b", false),
            ("a", "a=", true),
            ("!a", "a=", false),
            ("a=", "a=", true),
            ("a>4", "a=5", true),
            ("a<4", "a=5", false),
            ("x.io/tier in (web),!canary,app=a", "x.io/tier=web app=a", true),
        ] {
            let parsed = Selector::parse(selector).expect(selector);
            assert_eq!(parsed.matches(&labels(object)), expected, "{selector} on {object}");
            assert_eq!(Selector::parse(&parsed.to_string()).unwrap(), parsed, "{selector}");
        }
    }

    #[test]
    fn label_selectors_refused() {
        for text in ["a in", "a in (b", ",", "a,,b", "a=b c", "=b", "a~b", "-a=b", "a in b", "a>x"]
        {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn structured_selectors() {
        let text = r#"{"matchLabels":{"a":"b"},
            "matchExpressions":[{"key":"c","operator":"NotIn","values":["d"]}]}"#;
        let selector: LabelSelector = serde_json::from_str(text).unwrap();
        let selector = selector.selector().unwrap();
        assert!(selector.matches(&labels("a=b c=e")));
        assert!(!selector.matches(&labels("a=b c=d")));
        assert_eq!(selector.to_string(), "a=b,c notin (d)");
        let bad = Expression { key: "a".into(), operator: "Gt".into(), values: vec!["1".into()] };
        assert!(bad.requirement(false).is_err());
        assert!(bad.requirement(true).unwrap().matches(Some("2")));
    }

    #[test]
    fn field_selectors() {
        let selector =
            FieldSelector::parse(r"spec.nodeName=n1,status.phase!=Failed,x=a\,b").unwrap();
        let value = |field: &str| match field {
            "spec.nodeName" => "n1",
            "x" => "a,b",
            _ => "",
        };
        assert!(selector.matches(value));
        assert_eq!(selector.required("spec.nodeName"), Some("n1"));
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        assert!(FieldSelector::parse("nonsense").is_err());
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }
}
