//! The expressions in CEL by which DeviceClasses and requests select devices, as far as that can be said
//! of them before there is a device: the API server refuses what the scheduler could not use.
//! <https://kubernetes.io/docs/reference/using-api/cel/>
//!
//! Anybody who may make a claim may write one, so that each has a bound: on how deep it is, and on how
//! much there is to evaluate. The types of attributes are not known: what an expression does with one of
//! another type is found out when it is evaluated.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};

use crate::cel::{self, Environment, Problem, Type};

/// Of an expression, in bytes.
pub const LONGEST: usize = 10 * 1024;
/// Of parentheses, and of what else nests.
const DEEPEST: usize = 64;
/// Operations, counted before they are done.
const COSTLIEST: u64 = 200_000;
/// How much of a collection is reckoned with whose size is not written down; no device has more of
/// anything.
const COLLECTION: u64 = 64;

/// What expressions see.
static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let by_domain = |value| Type::map(Type::String, Type::map(Type::String, value));
    let fields = [
        ("driver", Type::String),
        ("attributes", by_domain(Type::Any)),
        ("capacity", by_domain(Type::opaque("kubernetes.Quantity"))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    let fields = fields.map(|(name, ty)| (name.to_string(), ty));
    Environment::default().with("device", Type::object("kubernetes.DRADevice", fields))
});

/// One expression that can be used.
#[derive(Debug)]
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
    if cel::nesting(expression) > DEEPEST {
        return Err(Refusal::TooComplex);
    }
    cel::deep(expression, || checked(expression))
        .unwrap_or_else(|| Err(Refusal::Invalid("compilation failed: it cannot be parsed".into())))
}

fn checked(source: &str) -> Result<Selector, Refusal> {
    let wrong = |problems: Vec<Problem>| {
        Refusal::Invalid(format!("compilation failed: {}", cel::report(&problems)))
    };
    if let Some(problem) = cel::misread(source) {
        return Err(wrong(vec![problem]));
    }
    let mut expression = cel::parse(source).map_err(wrong)?;
    cel::bind(&mut expression);
    match cel::check_parsed(&expression, source, &ENVIRONMENT).map_err(wrong)? {
        Type::Bool | Type::Any => {}
        other => {
            let detail = format!("must evaluate to bool or the unknown type, not {other}");
            return Err(Refusal::Invalid(detail));
        }
    }
    let mut found = Found { texts: BTreeSet::new() };
    match found.look(&expression, 0)? > COSTLIEST {
        true => Err(Refusal::TooComplex),
        false => Ok(Selector { expression, texts: found.texts }),
    }
}

/// What an expression consists of.
struct Found {
    texts: BTreeSet<String>,
}

impl Found {
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
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) | Expr::Struct(_) => {}
            // The evaluator fails where these should find nothing.
            Expr::Call(call)
                if [operators::OPT_SELECT, operators::OPT_INDEX]
                    .contains(&call.func_name.as_str()) =>
            {
                let detail = "compilation failed: optional selection is not supported";
                return Err(Refusal::Invalid(detail.into()));
            }
            Expr::Call(call) => {
                for part in call.target.as_deref().into_iter().chain(&call.args) {
                    cost = cost.saturating_add(self.look(part, depth)?);
                }
            }
            Expr::Select(select) => cost += self.look(&select.operand, depth)?,
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
            // Nobody here evaluates these.
            Expr::Comprehension(all) if all.iter_var2.is_some() => {
                let detail =
                    "compilation failed: comprehensions of two variables are not supported";
                return Err(Refusal::Invalid(detail.into()));
            }
            Expr::Comprehension(all) => {
                for part in [&all.iter_range, &all.accu_init] {
                    cost = cost.saturating_add(self.look(part, depth)?);
                }
                let mut once = 0u64;
                for part in [&all.loop_cond, &all.loop_step] {
                    once = once.saturating_add(self.look(part, depth)?);
                }
                cost = cost.saturating_add(self.look(&all.result, depth)?);
                let times = match &all.iter_range.expr {
                    Expr::List(list) => list.elements.len() as u64,
                    _ => COLLECTION,
                };
                cost = cost.saturating_add(times.saturating_mul(once));
            }
        }
        Ok(cost)
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
            ("device.attributes['d'].version.isGreaterThan(semver('1.2.3'))", ""),
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
                "compilation failed: ERROR: <input>:1:6: undeclared reference to 'Thing' (in \
                 container '')\n | Thing{a: 1}.a == 1\n | .....^",
            ),
            (
                "device.driver == 1",
                "compilation failed: ERROR: <input>:1:15: found no matching overload for '_==_' \
                 applied to '(string, int)'\n | device.driver == 1\n | ..............^",
            ),
            (
                "device.capacity['d'].memory > 1",
                "compilation failed: ERROR: <input>:1:29: found no matching overload for '_>_' \
                 applied to '(kubernetes.Quantity, int)'\n | device.capacity['d'].memory > 1\n | \
                 ............................^",
            ),
            (
                "device.attributes['d'].exists(k, v, v == 1)",
                "compilation failed: comprehensions of two variables are not supported",
            ),
            (
                "device.?driver.hasValue()",
                "compilation failed: optional selection is not supported",
            ),
            ("[1]", "must evaluate to bool or the unknown type, not list(int)"),
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

    /// The evaluator knows nothing of the macros that are unfolded here.
    #[test]
    fn what_is_unfolded_can_be_evaluated() {
        use kube_cel::KubeCelExt;
        use kube_cel::cel::{Context, Value, to_value};

        let device =
            serde_json::json!({"driver": "d", "attributes": {"d": {"ecc": true, "model": "x"}}});
        let mut context = Context::default().with_all();
        context.add_variable_from_value("device", to_value(device).unwrap());
        for expression in [
            "cel.bind(own, device.attributes['d'], own.ecc && own.model == 'x')",
            "optional.of(device.driver).optMap(d, d + '!').orValue('') == 'd!'",
        ] {
            let selector = compile(expression).unwrap();
            let found = context.resolve(&selector.expression);
            assert_eq!(found, Ok(Value::Bool(true)), "{expression}");
        }
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
