//! NodeMetrics and PodMetrics: what is used at the moment. They are not stored but measured when they
//! are asked for (`node::usage`).

use proto::quantity::Quantity;
use proto::time::Time;
use serde_json::Value;

use super::lens::Lens;
use super::table::{self, column};
use super::{Column, Strategy};

pub struct ResourceMetrics;

impl Strategy for ResourceMetrics {
    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("CPU", "string", 0, "CPU time used, in cores, as the mean of the window"),
                column("Memory", "string", 0, "Memory in use: the working set"),
                column("Window", "string", 0, "The time in which it was measured"),
            ]
        }
    }

    fn cells(&self, object: &Value, _now: Time) -> Vec<Value> {
        let own = object.get("usage").into_iter();
        let usages = own.chain(object.items("containers").iter().map(|one| one.at("usage")));
        let (mut cpu, mut memory) = (Quantity::ZERO, Quantity::ZERO);
        for usage in usages {
            let amount = |name: &str| usage.text(name).parse().unwrap_or(Quantity::ZERO);
            cpu += amount("cpu");
            memory += amount("memory");
        }
        let window = object.text("window").into();
        vec![table::name(object), cpu.to_string().into(), memory.to_string().into(), window]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_summed_up() {
        let usage = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let pod = json!({
            "metadata": {"name": "p"},
            "window": "15s",
            "containers": [{"usage": usage("250m", "1Mi")}, {"usage": usage("1500u", "1Mi")}],
        });
        let cells = ResourceMetrics.cells(&pod, Time::from_unix(0));
        assert_eq!(cells, [json!("p"), json!("251500u"), json!("2Mi"), json!("15s")]);
        let node = json!({"metadata": {"name": "n"}, "window": "1s", "usage": usage("1", "2Ki")});
        let cells = ResourceMetrics.cells(&node, Time::from_unix(0));
        assert_eq!(cells, [json!("n"), json!("1"), json!("2Ki"), json!("1s")]);
    }
}
