//! Text of expressions: what it says, and where in it something is wrong.

use std::fmt;

use kube_cel::cel::IdedExpr;
use kube_cel::cel::parser::{ParseErrors, Parser};

use super::macros;

/// Of brackets, and of what else nests.
const DEEPEST: usize = 64;

/// Something wrong with an expression. Shown as cel-go shows it, with the line and a mark below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub message: String,
    /// The line itself.
    pub text: String,
}

impl Problem {
    pub(super) fn at_start(source: &str, message: impl Into<String>) -> Problem {
        Problem::new(source, 1, 1, message.into())
    }

    fn new(source: &str, line: usize, column: usize, message: String) -> Problem {
        let text = source.lines().nth(line - 1).unwrap_or_default().to_string();
        Problem { line, column, message, text }
    }

    fn at(source: &str, offset: usize, message: String) -> Problem {
        let before = source.get(..offset).unwrap_or(source);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Problem::new(source, line, before[start..].chars().count() + 1, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { line, column, message, text } = self;
        let dots = ".".repeat(column - 1);
        let text = text.replace('\t', " ");
        write!(f, "ERROR: <input>:{line}:{column}: {message}\n | {text}\n | {dots}^")
    }
}

/// All of them, one below the other.
pub fn report(problems: &[Problem]) -> String {
    let all: Vec<String> = problems.iter().map(Problem::to_string).collect();
    all.join("\n")
}

/// Reads an expression and unfolds the macros in it. Uses the caller's stack.
pub fn parse(source: &str) -> Result<IdedExpr, Vec<Problem>> {
    if nesting(source) > DEEPEST {
        let message = format!("expression recursion limit exceeded: {DEEPEST}");
        return Err(vec![Problem::at_start(source, message)]);
    }
    let mut expression = parser().parse(source).map_err(|errors| unread(&errors, source))?;
    macros::unfold(&mut expression);
    Ok(expression)
}

fn parser() -> Parser {
    Parser::new().enable_optional_syntax(true)
}

fn unread(errors: &ParseErrors, source: &str) -> Vec<Problem> {
    let one = |error: &kube_cel::cel::ParseError| {
        let (line, column) = (error.pos.0.max(1), error.pos.1.max(1));
        Problem::new(source, line.unsigned_abs(), column.unsigned_abs(), error.msg.clone())
    };
    errors.errors.iter().map(one).collect()
}

/// Problems, given by the part of the expression that they are in, in the order of the text.
pub(super) fn locate(source: &str, found: Vec<(u64, String)>) -> Vec<Problem> {
    // The parser tells where its parts were only when something was wrong: a bracket too many at the
    // end leaves the rest as it is.
    let places = parser().parse(&format!("{source}\n)")).err();
    let places = places.and_then(|errors| errors.errors.first()?.source_info.clone());
    let place = |id| places.as_ref().and_then(|places| places.offset_for(id));
    let one = |(id, message)| {
        let offset = place(id).map_or(0, |(start, _)| start as usize);
        Problem::at(source, offset, message)
    };
    let mut problems: Vec<Problem> = found.into_iter().map(one).collect();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    // Macros repeat some of their parts.
    let mut seen = Vec::new();
    problems.retain(|problem| {
        let new = !seen.contains(problem);
        seen.push(problem.clone());
        new
    });
    problems
}

/// The expression with blanks for what is within quotes.
fn unquoted(source: &str) -> String {
    let (mut quote, mut escaped) = (None, false);
    let plain = |byte: u8| {
        let inside = quote.is_some();
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if byte == b'\\' => escaped = true,
            Some(open) if byte == open => quote = None,
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            _ => {}
        }
        let shown = byte.is_ascii() && (!inside || byte == b'\n');
        char::from(if shown { byte } else { b' ' })
    };
    source.bytes().map(plain).collect()
}

/// Where the parser takes an even number of signs for one: `!!x` for `!x`. That does not change what is
/// right or wrong, but what it evaluates to.
pub fn misread(source: &str) -> Option<Problem> {
    let text = unquoted(source);
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, byte)| !byte.is_ascii_whitespace()).collect();
    let sign = |at: usize| match bytes.get(at) {
        Some((_, b'!')) if bytes.get(at + 1).is_none_or(|(_, next)| *next != b'=') => Some(b'!'),
        Some((_, b'-')) => Some(b'-'),
        _ => None,
    };
    let mut at = 0;
    while at < bytes.len() {
        let Some(first) = sign(at) else {
            at += 1;
            continue;
        };
        let start = at;
        while sign(at) == Some(first) {
            at += 1;
        }
        let operand =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b')' | b']' | b'}');
        let takes_away = first == b'-' && start > 0 && operand(bytes[start - 1].1);
        let signs = at - start - usize::from(takes_away);
        if signs > 0 && signs.is_multiple_of(2) {
            let sign = char::from(first);
            let message =
                format!("an even number of '{sign}' in a row is not supported: leave them out");
            return Some(Problem::at(source, bytes[start].0, message));
        }
    }
    None
}

/// How deep brackets nest, or signs before each other, from the text alone.
pub fn nesting(expression: &str) -> usize {
    let (mut depth, mut deepest, mut signs) = (0usize, 0usize, 0usize);
    for byte in unquoted(expression).bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match byte {
            b'!' | b'-' => signs += 1,
            blank if blank.is_ascii_whitespace() => {}
            _ => signs = 0,
        }
        deepest = deepest.max(depth).max(signs);
    }
    deepest
}
