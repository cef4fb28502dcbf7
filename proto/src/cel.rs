//! The types of expressions in CEL, checked before anything is evaluated: which variables and fields
//! there are, and which functions take them. Pure; who knows the variables of a place makes an
//! [`Environment`] of them.
//! <https://kubernetes.io/docs/reference/using-api/cel/>
//!
//! What is wrong is told in the words of cel-go, by which users and tests know it.

mod checker;
mod functions;
mod macros;
pub mod policy;
mod schema;
mod source;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;

pub use macros::bind;
pub use schema::Schema;
pub use source::{Problem, misread, nesting, parse, report};
pub use types::{Fields, Type};

use kube_cel::cel::IdedExpr;

/// Of an expression, in characters, as cel-go has it.
const LONGEST: usize = 100_000;
/// A parser and a checker follow what they read with their stack: so much of it for every byte of text,
/// and this at least. What is not used is only reserved.
const STACK: (usize, usize) = (8 << 10, 16 << 20);

/// The variables that an expression may name, besides the functions and types of CEL.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
}

impl Environment {
    /// Declares a variable; a name may have dots.
    pub fn with(mut self, name: &str, ty: Type) -> Environment {
        self.variables.insert(name.into(), ty);
        self
    }
}

/// The type of an expression, or everything that is wrong with it, in the order of the text.
pub fn check(expression: &str, environment: &Environment) -> Result<Type, Vec<Problem>> {
    let refused = |why: String| Err(vec![Problem::at_start(expression, why)]);
    let size = expression.chars().count();
    if size > LONGEST {
        let limit = LONGEST;
        return refused(format!(
            "expression code point size exceeds limit: size: {size}, limit {limit}"
        ));
    }
    let work = || check_parsed(&parse(expression)?, expression, environment);
    deep(expression, work).unwrap_or_else(|| refused("it cannot be parsed".into()))
}

/// As [`check`], of an expression that [`parse`] has made of `source`. Uses the caller's stack.
pub fn check_parsed(
    expression: &IdedExpr,
    source: &str,
    environment: &Environment,
) -> Result<Type, Vec<Problem>> {
    let (ty, found) = checker::check(expression, environment);
    if found.is_empty() { Ok(ty) } else { Err(source::locate(source, found)) }
}

/// Does this on a thread whose stack is large enough for the expression; `None` if it gave up.
pub fn deep<T: Send>(expression: &str, work: impl FnOnce() -> T + Send) -> Option<T> {
    let size = (expression.len() * STACK.0).max(STACK.1);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(size).spawn_scoped(scope, work);
        thread.ok()?.join().ok()
    })
}
