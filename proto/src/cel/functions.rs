//! The functions there are, from `functions.txt`, and those that exist for many types alike.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::types::{Type, split};

/// One way to call a function.
#[derive(Debug)]
pub struct Overload {
    /// Called on its first argument.
    pub member: bool,
    pub arguments: Vec<Type>,
    pub result: Type,
}

/// Types whose values have an order.
const ORDERED: &[Type] = &[
    Type::Bool,
    Type::Int,
    Type::Uint,
    Type::Double,
    Type::String,
    Type::Bytes,
    Type::Timestamp,
    Type::Duration,
];
const NUMBERS: &[Type] = &[Type::Int, Type::Uint, Type::Double];
const SUMMABLE: &[Type] = &[Type::Int, Type::Uint, Type::Double, Type::Duration];

static FUNCTIONS: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<String, Vec<Overload>> = HashMap::new();
    let lines = include_str!("functions.txt").lines();
    let read = lines.filter(|line| !line.starts_with('#')).filter_map(declaration);
    for (name, overload) in read.chain(families()) {
        functions.entry(name.into()).or_default().push(overload);
    }
    functions
});

/// The overloads of a function, none if there is no such function.
pub fn overloads(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

fn declaration(line: &'static str) -> Option<(&'static str, Overload)> {
    let (call, result) = line.split_once(" -> ")?;
    let (head, arguments) = call.strip_suffix(')').and_then(last_bracket)?;
    let (receiver, name) = match (head.strip_prefix('!'), head.rsplit_once('.')) {
        // `_?._` and `!_` are names as well.
        (Some(name), _) if name.contains('.') => (None, name),
        (None, Some((receiver, name))) => (Some(receiver), name),
        _ => (None, head),
    };
    let arguments = receiver.into_iter().chain(split(arguments)).map(Type::read).collect();
    let overload = Overload { member: receiver.is_some(), arguments, result: Type::read(result) };
    Some((name, overload))
}

/// What is before the bracket that the end of the text belongs to, and what is in it.
fn last_bracket(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate().rev() {
        match byte {
            b')' => depth += 1,
            b'(' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            b'(' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Comparisons, numbers of different types too; what lists of comparable values have.
fn families() -> impl Iterator<Item = (&'static str, Overload)> {
    let made = |name, member, arguments, result| (name, Overload { member, arguments, result });
    let mut all = Vec::new();
    for name in ["_<_", "_<=_", "_>_", "_>=_"] {
        for ty in ORDERED {
            all.push(made(name, false, vec![ty.clone(), ty.clone()], Type::Bool));
        }
        for (left, right) in
            NUMBERS.iter().flat_map(|left| NUMBERS.iter().map(move |it| (left, it)))
        {
            if left != right {
                all.push(made(name, false, vec![left.clone(), right.clone()], Type::Bool));
            }
        }
    }
    for ty in ORDERED {
        let list = || vec![Type::list(ty.clone())];
        all.push(made("isSorted", true, list(), Type::Bool));
        all.push(made("min", true, list(), ty.clone()));
        all.push(made("max", true, list(), ty.clone()));
    }
    for ty in SUMMABLE {
        all.push(made("sum", true, vec![Type::list(ty.clone())], ty.clone()));
    }
    all.into_iter()
}
