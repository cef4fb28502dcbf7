//! The expressions in CEL by which DeviceClasses and requests select devices, as far as that can be said
//! of them before there is a device: the API server refuses what the scheduler could not use.
//! <https://kubernetes.io/docs/reference/using-api/cel/>
//!
//! Anybody who may make a claim may write one, so that each has a bound: on how deep it is, and on how
//! much there is to evaluate. Types are not checked: what an expression does with an attribute of
//! another type is found out when it is evaluated, as it is for attributes whose type is not known.

use std::collections::BTreeSet;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, operators,
};
use kube_cel::cel::{ParseErrors, Program};

/// Of an expression, in bytes.
pub const LONGEST: usize = 10 * 1024;
/// Of parentheses, and of what else nests.
const DEEPEST: usize = 64;
/// Operations, counted before they are done.
const COSTLIEST: u64 = 200_000;
/// How much of a collection is reckoned with whose size is not written down; no device has more of
/// anything.
const COLLECTION: u64 = 64;
/// A parser follows what it reads with its stack; only shallow expressions leave this one.
const STACK: usize = 64 << 20;

/// What `device` has.
const FIELDS: &[&str] = &["allowMultipleAllocations", "attributes", "capacity", "driver"];
/// Names that CEL has of itself: its types.
const TYPES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "dyn",
    "google",
    "int",
    "list",
    "map",
    "null_type",
    "optional_type",
    "string",
    "type",
    "uint",
];
/// Functions with a namespace, whose parts look like variables.
const NAMESPACES: &[&str] = &["base64", "cel", "format", "math", "optional", "sets", "strings"];
/// What is not a bool, whatever it is applied to.
const NUMBERS: &[&str] = &[
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::NEGATE,
];

/// One expression that can be used.
pub struct Selector {
    pub expression: IdedExpr,
    /// Every text in it: a domain of which a device has nothing is empty, not an error.
    pub texts: BTreeSet<String>,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not an expression that says yes or no of a device; as kube-apiserver words it.
    #[error("{0}")]
    Invalid(String),
    #[error("too complex, exceeds cost limit")]
    TooComplex,
}

/// Compiles it, on a thread of its own, whose stack is large enough for whatever [`LONGEST`] can nest.
pub fn compile(expression: &str) -> Result<Selector, Refusal> {
    if nesting(expression) > DEEPEST {
        return Err(Refusal::TooComplex);
    }
    let work = || {
        let program = Program::compile(expression).map_err(|errors| unread(&errors, expression))?;
        let mut found = Found { source: expression, texts: BTreeSet::new(), scope: Vec::new() };
        let mut expression = program.expression().clone();
        bind(&mut expression);
        let cost = found.look(&expression, 0)?;
        if let Some(kind) = otherwise(&expression) {
            let detail = format!("must evaluate to bool or the unknown type, not {kind}");
            return Err(Refusal::Invalid(detail));
        }
        match cost > COSTLIEST {
            true => Err(Refusal::TooComplex),
            false => Ok(Selector { expression, texts: found.texts }),
        }
    };
    let failed = |why: String| Refusal::Invalid(format!("compilation failed: {why}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| failed(format!("no thread to compile it: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("it cannot be parsed".into())))
    })
}

/// Makes of every `cel.bind(name, value, expression)`, which the parser takes for a call, a loop that
/// runs no turn: what it starts with has the name in what it ends with.
fn bind(expression: &mut IdedExpr) {
    for part in parts(&mut expression.expr) {
        bind(part);
    }
    let Expr::Call(call) = &mut expression.expr else { return };
    let of_cel = call.target.as_ref().is_some_and(|it| is_named(it, "cel"));
    if call.func_name != "bind" || !of_cel || call.args.len() != 3 {
        return;
    }
    let Expr::Ident(name) = call.args[0].expr.clone() else { return };
    let (Some(result), Some(accu_init)) = (call.args.pop(), call.args.pop()) else { return };
    let made = |expr: Expr| IdedExpr { id: expression.id, expr };
    let bound = ComprehensionExpr {
        iter_range: made(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "#unused".into(),
        iter_var2: None,
        accu_var: name.clone(),
        accu_init,
        loop_cond: made(Expr::Ident(name.clone())),
        loop_step: made(Expr::Ident(name)),
        result,
    };
    expression.expr = Expr::Comprehension(Box::new(bound));
}

fn parts(expression: &mut Expr) -> Vec<&mut IdedExpr> {
    fn of_entry(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
        match entry {
            EntryExpr::StructField(field) => vec![&mut field.value],
            EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
        }
    }
    match expression {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref_mut().into_iter().chain(&mut call.args).collect(),
        Expr::Select(select) => vec![&mut select.operand],
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(all) => all.entries.iter_mut().flat_map(|it| of_entry(&mut it.expr)).collect(),
        Expr::Struct(_) => Vec::new(),
        Expr::Comprehension(all) => {
            let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } =
                &mut **all;
            vec![iter_range, accu_init, loop_cond, loop_step, result]
        }
    }
}

/// Each error with the line that it is in.
fn unread(errors: &ParseErrors, source: &str) -> Refusal {
    let one = |error: &kube_cel::cel::ParseError| {
        let (line, column) = (error.pos.0.max(1), error.pos.1.max(1));
        located(source, line.unsigned_abs(), column.unsigned_abs(), &error.msg)
    };
    let all: Vec<String> = errors.errors.iter().map(one).collect();
    Refusal::Invalid(format!("compilation failed: {}", all.join("\n")))
}

fn located(source: &str, line: usize, column: usize, message: &str) -> String {
    let text = source.lines().nth(line - 1).unwrap_or_default();
    let dots = ".".repeat(column - 1);
    format!("ERROR: <input>:{line}:{column}: {message}\n | {text}\n | {dots}^")
}

/// At the first place outside of texts where this stands for itself: a name, or a `.` and a name.
fn misnamed(source: &str, word: &str, message: &str) -> Refusal {
    let plain = unquoted(source);
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let alone = |at: &usize| {
        let before = plain[..*at].bytes().next_back();
        let after = plain[at + word.len()..].bytes().next();
        let begins = word.starts_with('.') || !before.is_some_and(|it| part(it) || it == b'.');
        begins && !after.is_some_and(part)
    };
    let at = plain.match_indices(word).map(|(at, _)| at).find(alone).unwrap_or(0);
    let line = plain[..at].matches('\n').count() + 1;
    let start = plain[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let column = source[start..at].chars().count() + 1;
    Refusal::Invalid(format!("compilation failed: {}", located(source, line, column, message)))
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

/// What it is for sure, if that is no bool.
fn otherwise(expression: &IdedExpr) -> Option<&'static str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => None,
        Expr::Literal(LiteralValue::Int(_)) => Some("int"),
        Expr::Literal(LiteralValue::UInt(_)) => Some("uint"),
        Expr::Literal(LiteralValue::Double(_)) => Some("double"),
        Expr::Literal(LiteralValue::String(_)) => Some("string"),
        Expr::Literal(LiteralValue::Bytes(_)) => Some("bytes"),
        Expr::Literal(LiteralValue::Null) => Some("null"),
        Expr::List(_) => Some("list"),
        Expr::Map(_) => Some("map"),
        Expr::Call(CallExpr { func_name, args, .. }) if NUMBERS.contains(&func_name.as_str()) => {
            args.iter().find_map(otherwise)
        }
        Expr::Select(select) if !select.test && is_device(&select.operand) => {
            match select.field.as_str() {
                "driver" => Some("string"),
                "attributes" | "capacity" => Some("map"),
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_device(expression: &IdedExpr) -> bool {
    is_named(expression, "device")
}

fn is_named(expression: &IdedExpr, name: &str) -> bool {
    matches!(&expression.expr, Expr::Ident(own) if own == name)
}

/// How deep brackets nest, or signs before each other, from the text alone.
fn nesting(expression: &str) -> usize {
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

/// What an expression consists of.
struct Found<'a> {
    source: &'a str,
    texts: BTreeSet<String>,
    /// The variables of the loops that are being looked at.
    scope: Vec<String>,
}

impl Found<'_> {
    /// How much there is to do at most, or why nobody should.
    fn look(&mut self, expression: &IdedExpr, depth: usize) -> Result<u64, Refusal> {
        if depth > 4 * DEEPEST {
            return Err(Refusal::TooComplex);
        }
        let depth = depth + 1;
        let mut cost = 1u64;
        match &expression.expr {
            Expr::Literal(LiteralValue::String(text)) => {
                self.texts.insert(text.inner().to_string());
            }
            Expr::Ident(name) => self.declared(name)?,
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Call(call) => {
                let target = call.target.as_deref();
                // Of `math.greatest(…)` the first part is no variable.
                let of = target.filter(|target| {
                    !matches!(&target.expr, Expr::Ident(name) if NAMESPACES.contains(&name.as_str()))
                });
                for part in of.into_iter().chain(&call.args) {
                    cost = cost.saturating_add(self.look(part, depth)?);
                }
            }
            Expr::Select(select) => {
                let field = select.field.as_str();
                if is_device(&select.operand) && !FIELDS.contains(&field) {
                    let message = format!("undefined field '{field}'");
                    return Err(misnamed(self.source, &format!(".{field}"), &message));
                }
                cost += self.look(&select.operand, depth)?;
            }
            Expr::List(list) => {
                for element in &list.elements {
                    cost = cost.saturating_add(self.look(element, depth)?);
                }
            }
            Expr::Map(all) => {
                for entry in &all.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    for part in [&entry.key, &entry.value] {
                        cost = cost.saturating_add(self.look(part, depth)?);
                    }
                }
            }
            // There are no types whose values could be written down so.
            Expr::Struct(all) => return Err(self.undeclared(&all.type_name)),
            Expr::Comprehension(all) => {
                for part in [&all.iter_range, &all.accu_init] {
                    cost = cost.saturating_add(self.look(part, depth)?);
                }
                let outer = self.scope.len();
                let inner = [Some(&all.iter_var), all.iter_var2.as_ref(), Some(&all.accu_var)];
                self.scope.extend(inner.into_iter().flatten().cloned());
                let mut once = 0u64;
                for part in [&all.loop_cond, &all.loop_step] {
                    once = once.saturating_add(self.look(part, depth)?);
                }
                cost = cost.saturating_add(self.look(&all.result, depth)?);
                self.scope.truncate(outer);
                let times = match &all.iter_range.expr {
                    Expr::List(list) => list.elements.len() as u64,
                    _ => COLLECTION,
                };
                cost = cost.saturating_add(times.saturating_mul(once));
            }
        }
        Ok(cost)
    }

    fn declared(&self, name: &String) -> Result<(), Refusal> {
        let known = name == "device" || TYPES.contains(&name.as_str()) || self.scope.contains(name);
        match known {
            true => Ok(()),
            false => Err(self.undeclared(name)),
        }
    }

    fn undeclared(&self, name: &str) -> Refusal {
        let message = format!("undeclared reference to '{name}' (in container '')");
        misnamed(self.source, name, &message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        for (expression, expected) in [
            ("device.driver == 'd'", ""),
            ("device.attributes['d'].x.startsWith('a') && has(device.capacity['d'].memory)", ""),
            ("device.attributes['d'].all(name, name != 'x')", ""),
            ("['a', 'b'].exists(one, one == device.driver)", ""),
            ("device.attributes['d'].flag", ""),
            ("device.allowMultipleAllocations", ""),
            ("quantity('1Gi').isLessThan(device.capacity['d'].memory)", ""),
            ("math.greatest(1, 2) == 2", ""),
            ("cel.bind(own, device.attributes['d'], own.one && own.other)", ""),
            ("type(device.driver) == string", ""),
            (
                "device.driver == nonsense",
                "compilation failed: ERROR: <input>:1:18: undeclared reference to 'nonsense' (in \
                 container '')\n | device.driver == nonsense\n | .................^",
            ),
            (
                "device.driver == 'x y'\n  && y",
                "compilation failed: ERROR: <input>:2:6: undeclared reference to 'y' (in \
                 container '')\n |   && y\n | .....^",
            ),
            (
                "device.brand == 'a'",
                "compilation failed: ERROR: <input>:1:7: undefined field 'brand'\n | device.brand \
                 == 'a'\n | ......^",
            ),
            (
                "Thing{a: 1}.a == 1",
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'Thing' (in \
                 container '')\n | Thing{a: 1}.a == 1\n | ^",
            ),
            ("1", "must evaluate to bool or the unknown type, not int"),
            ("'a' + 'b'", "must evaluate to bool or the unknown type, not string"),
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
        ] {
            let refusal = compile(expression).err().map(|why| why.to_string());
            assert_eq!(refusal.unwrap_or_default(), expected, "{expression}");
        }
        let Err(Refusal::Invalid(unread)) = compile("device.driver ==") else { panic!() };
        let start = "compilation failed: ERROR: <input>:1:17: Syntax error: ";
        assert!(unread.starts_with(start), "{unread}");
        assert!(unread.ends_with("\n | device.driver ==\n | ................^"), "{unread}");
    }

    #[test]
    fn bounds() {
        let deep = format!("{}true{}", "(".repeat(4000), ")".repeat(4000));
        let signs = format!("{}true", "!".repeat(9000));
        let sums = format!("1{} > 0", "+1".repeat(4000));
        let all = "[1,2,3,4,5,6,7,8,9,10].all(a, ";
        let loops = format!("{}true{}", all.repeat(8), ")".repeat(8));
        for expression in [deep, signs, sums, loops] {
            assert_eq!(compile(&expression).err(), Some(Refusal::TooComplex));
        }
    }
}
