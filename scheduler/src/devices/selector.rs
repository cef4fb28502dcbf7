//! The expressions in CEL by which DeviceClasses and requests select devices.
//! <https://kubernetes.io/docs/reference/using-api/cel/>
//!
//! The API server refuses those that cannot be used. One that has got past it selects nothing, and the
//! pod says why.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube_cel::KubeCelExt;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, Program, Value};
use parking_lot::Mutex;
use proto::device_selector::{Refusal, Selector, compile};
use proto::view::device::{Attribute, Device};

/// Compiled expressions beyond this number are forgotten, all of them: they are compiled again soon.
const MOST: usize = 4096;

type Compiled = Arc<Result<Selector, Refusal>>;

/// Every expression that is in use, and what they all may call.
pub struct Selectors {
    context: Context<'static>,
    compiled: Mutex<HashMap<String, Compiled>>,
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
        match scope.resolve(&selector.expression).map_err(|error| runtime(error.to_string()))? {
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
            (format!("cel.bind(own, {own}, own.ecc && own.cores == 8)"), Ok(true)),
            ("true".to_string(), Ok(true)),
            (
                format!("{own}.absent == 1"),
                Err("CEL runtime error: No such key: absent".to_string()),
            ),
            (
                format!("{own}.cores"),
                Err("CEL result of type int could not be converted to bool".to_string()),
            ),
        ] {
            let found = selectors.selects(&expression, "gpu.example.com", &device());
            assert_eq!(found, expected, "{expression}");
        }
        let refused = selectors.selects("device.", "d", &device()).unwrap_err();
        assert!(refused.starts_with("CEL compile error: "), "{refused}");
    }
}
