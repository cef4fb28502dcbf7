//! The expressions in CEL by which DeviceClasses and requests select devices.
//! <https://kubernetes.io/docs/reference/using-api/cel/>
//!
//! Anybody who may make a claim may write one, so that each has a bound: on how deep it is, and on how
//! much there is to evaluate. Upstream's API server refuses others; here they select nothing, and the
//! pod says why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Program, Value};
use parking_lot::Mutex;
use proto::view::device::{Attribute, Device};

/// Compiled expressions beyond this number are forgotten, all of them: they are compiled again soon.
const MOST: usize = 4096;
/// Of parentheses, and of what else nests.
const DEEPEST: usize = 64;
/// Operations, counted before they are done.
const COSTLIEST: u64 = 200_000;
/// How much of a collection is reckoned with whose size is not written down; no device has more of
/// anything.
const COLLECTION: u64 = 64;
/// A parser follows what it reads with its stack; only shallow expressions leave this one.
const STACK: usize = 64 << 20;

type Compiled = Arc<Result<Selector, String>>;

/// Every expression that is in use, and what they all may call.
pub struct Selectors {
    context: Context<'static>,
    compiled: Mutex<HashMap<String, Compiled>>,
}

/// One expression.
pub struct Selector {
    program: Program,
    /// Every text in it: a domain of which a device has nothing is empty, not an error.
    texts: BTreeSet<String>,
}

impl std::fmt::Debug for Selectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selectors").field("compiled", &self.compiled.lock().len()).finish()
    }
}

impl Default for Selectors {
    fn default() -> Selectors {
        Selectors { context: Context::default().with_all(), compiled: Mutex::default() }
    }
}

impl Selectors {
    /// The expression, compiled once, or why it cannot be.
    pub fn compiled(&self, expression: &str) -> Compiled {
        let mut compiled = self.compiled.lock();
        if let Some(known) = compiled.get(expression) {
            return Arc::clone(known);
        }
        if compiled.len() >= MOST {
            compiled.clear();
        }
        let made: Compiled = Arc::new(compile(expression));
        compiled.insert(expression.to_string(), Arc::clone(&made));
        made
    }

    /// Whether the expression selects the device of this driver.
    pub fn selects(&self, expression: &str, driver: &str, device: &Device) -> Result<bool, String> {
        let compiled = self.compiled(expression);
        let selector = match &*compiled {
            Ok(selector) => selector,
            Err(why) => return Err(format!("CEL compile error: {why}")),
        };
        let mut scope = self.context.new_inner_scope();
        let device = self.value(driver, device, &selector.texts);
        scope.add_variable_from_value("device", device.map_err(runtime)?);
        match selector.program.execute(&scope).map_err(|error| runtime(error.to_string()))? {
            Value::Bool(selects) => Ok(selects),
            other => {
                let kind = other.type_of();
                Err(format!("CEL result of type {kind} could not be converted to bool"))
            }
        }
    }

    /// What an expression calls `device`.
    fn value(
        &self,
        driver: &str,
        device: &Device,
        domains: &BTreeSet<String>,
    ) -> Result<Value, String> {
        let mut attributes = by_domain(domains);
        for (name, attribute) in &device.attributes {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            let Some(value) = self.attribute(attribute)? else { continue };
            attributes.entry(domain.into()).or_default().insert(id.into(), value);
        }
        let mut capacities = by_domain(domains);
        for (name, capacity) in &device.capacity {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            let value = self.call("quantity", &capacity.value.to_string())?;
            capacities.entry(domain.into()).or_default().insert(id.into(), value);
        }
        let shared = device.allow_multiple_allocations.unwrap_or(false);
        let fields = [
            ("driver", text(driver)),
            ("attributes", map(attributes.into_iter().map(|(key, own)| (key, map(own))))),
            ("capacity", map(capacities.into_iter().map(|(key, own)| (key, map(own))))),
            ("allowMultipleAllocations", Value::Bool(shared)),
        ];
        Ok(map(fields.map(|(key, value)| (key.to_string(), value))))
    }

    fn attribute(&self, attribute: &Attribute) -> Result<Option<Value>, String> {
        Ok(match attribute {
            Attribute { int: Some(number), .. } => Some(Value::Int(*number)),
            Attribute { bool: Some(flag), .. } => Some(Value::Bool(*flag)),
            Attribute { string: Some(own), .. } => Some(text(own)),
            Attribute { version: Some(version), .. } => Some(self.call("semver", version)?),
            _ => None,
        })
    }

    /// Values of Kubernetes' own types can only be had from their functions.
    fn call(&self, function: &str, argument: &str) -> Result<Value, String> {
        let program = Program::compile(&format!("{function}(text)"));
        let program = program.map_err(|error| error.to_string())?;
        let mut scope = self.context.new_inner_scope();
        scope.add_variable_from_value("text", text(argument));
        program.execute(&scope).map_err(|error| error.to_string())
    }
}

fn runtime(why: String) -> String {
    format!("CEL runtime error: {why}")
}

fn by_domain(domains: &BTreeSet<String>) -> BTreeMap<String, BTreeMap<String, Value>> {
    domains.iter().map(|domain| (domain.clone(), BTreeMap::new())).collect()
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_string()))
}

fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (Key::String(Arc::new(key)), value));
    Value::Map(Map { map: Arc::new(entries.collect()) })
}

/// On a thread of its own, whose stack is large enough for whatever 10 KiB can nest.
fn compile(expression: &str) -> Result<Selector, String> {
    if nesting(expression) > DEEPEST {
        return Err(format!("nested deeper than {DEEPEST}"));
    }
    let work = || {
        let program = Program::compile(expression).map_err(|errors| errors.to_string())?;
        let mut found = Found::default();
        let cost = found.look(program.expression(), 0)?;
        match cost > COSTLIEST {
            true => Err("too complex, exceeds cost limit".into()),
            false => Ok(Selector { program, texts: found.texts }),
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("no thread to compile it: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("it cannot be parsed".into()))
    })
}

/// How deep brackets nest, or signs before each other, from the text alone.
fn nesting(expression: &str) -> usize {
    let (mut depth, mut deepest, mut signs) = (0usize, 0usize, 0usize);
    let (mut quote, mut escaped) = (None, false);
    for character in expression.chars() {
        if let Some(open) = quote {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                close if close == open => quote = None,
                _ => {}
            }
            continue;
        }
        match character {
            '"' | '\'' => quote = Some(character),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match character {
            '!' | '-' => signs += 1,
            blank if blank.is_whitespace() => {}
            _ => signs = 0,
        }
        deepest = deepest.max(depth).max(signs);
    }
    deepest
}

/// What an expression consists of.
#[derive(Default)]
struct Found {
    texts: BTreeSet<String>,
}

impl Found {
    /// How much there is to do at most, or why nobody should.
    fn look(&mut self, expression: &IdedExpr, depth: usize) -> Result<u64, String> {
        if depth > 4 * DEEPEST {
            return Err(format!("nested deeper than {}", 4 * DEEPEST));
        }
        let depth = depth + 1;
        let mut cost = 1u64;
        match &expression.expr {
            Expr::Literal(LiteralValue::String(text)) => {
                self.texts.insert(text.inner().to_string());
            }
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
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
            Expr::Map(all) => cost = self.entries(all.entries.iter().map(|it| &it.expr), depth)?,
            Expr::Struct(all) => {
                cost = self.entries(all.entries.iter().map(|it| &it.expr), depth)?
            }
            Expr::Comprehension(all) => {
                let mut once = 0u64;
                for part in [&all.loop_cond, &all.loop_step] {
                    once = once.saturating_add(self.look(part, depth)?);
                }
                for part in [&all.iter_range, &all.accu_init, &all.result] {
                    cost = cost.saturating_add(self.look(part, depth)?);
                }
                let times = match &all.iter_range.expr {
                    Expr::List(list) => list.elements.len() as u64,
                    _ => COLLECTION,
                };
                cost = cost.saturating_add(times.saturating_mul(once));
            }
        }
        Ok(cost)
    }

    fn entries<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a EntryExpr>,
        depth: usize,
    ) -> Result<u64, String> {
        let mut cost = 1u64;
        for entry in entries {
            let parts = match entry {
                EntryExpr::StructField(field) => vec![&field.value],
                EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
            };
            for part in parts {
                cost = cost.saturating_add(self.look(part, depth)?);
            }
        }
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        let text = r#"{"name": "gpu-0",
            "attributes": {"model": {"string": "a100"}, "cores": {"int": 8}, "ecc": {"bool": true},
                "driverVersion": {"version": "1.2.3"}, "other.example.com/slot": {"int": 3}},
            "capacity": {"memory": {"value": "40Gi"}},
            "allowMultipleAllocations": true}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_expressions_say_of_a_device() {
        let selectors = Selectors::default();
        let own = r#"device.attributes["gpu.example.com"]"#;
        let memory = r#"device.capacity["gpu.example.com"].memory"#;
        for (expression, expected) in [
            (r#"device.driver == "gpu.example.com""#.to_string(), Ok(true)),
            (r#"device.driver == "nic.example.com""#.to_string(), Ok(false)),
            (format!(r#"{own}.model == "a100" && {own}.cores >= 8 && {own}.ecc"#), Ok(true)),
            (format!(r#"{own}.model in ["h100", "b200"]"#), Ok(false)),
            (format!(r#"{own}.model.startsWith("a")"#), Ok(true)),
            (format!(r#"{memory}.compareTo(quantity("40Gi")) >= 0"#), Ok(true)),
            (format!(r#"{memory}.isGreaterThan(quantity("80Gi"))"#), Ok(false)),
            (format!(r#"{own}.driverVersion.isGreaterThan(semver("1.2.0"))"#), Ok(true)),
            (r#"device.attributes["other.example.com"].slot == 3"#.to_string(), Ok(true)),
            (r#"has(device.attributes["absent.example.com"].x)"#.to_string(), Ok(false)),
            (r#""model" in device.attributes["gpu.example.com"]"#.to_string(), Ok(true)),
            ("device.allowMultipleAllocations".to_string(), Ok(true)),
            ("true".to_string(), Ok(true)),
            (
                format!("{own}.absent == 1"),
                Err("CEL runtime error: No such key: absent".to_string()),
            ),
            (
                "1".to_string(),
                Err("CEL result of type int could not be converted to bool".to_string()),
            ),
        ] {
            let found = selectors.selects(&expression, "gpu.example.com", &device());
            assert_eq!(found, expected, "{expression}");
        }
        let refused = selectors.selects("device.", "d", &device()).unwrap_err();
        assert!(refused.starts_with("CEL compile error: "), "{refused}");
    }

    #[test]
    fn nobody_keeps_the_scheduler_busy() {
        let deep = format!("{}true{}", "(".repeat(4000), ")".repeat(4000));
        let signs = format!("{}true", "!".repeat(9000));
        let sums = format!("1{} > 0", "+1".repeat(4000));
        let all = "[1,2,3,4,5,6,7,8,9,10].all(a, ";
        let loops = format!("{}true{}", all.repeat(8), ")".repeat(8));
        let selectors = Selectors::default();
        for (expression, why) in
            [(deep, "nested"), (signs, "nested"), (sums, "nested"), (loops, "too complex")]
        {
            let refused = selectors.selects(&expression, "d", &device()).unwrap_err();
            let start = format!("CEL compile error: {why}");
            assert!(refused.starts_with(&start), "{refused}");
        }
    }
}
