//! Services.

pub mod allocated;
pub mod families;
pub mod pool;
pub mod range;
pub mod ranges;
pub mod table;
pub mod validate;

use futures::future::BoxFuture;
use proto::status::{FieldError, Status};
use proto::time::Time;
use serde_json::{Value, json};

use super::lens::Lens;
use super::{Change, Column, Context, Field, NameRule, Reservation, Strategy};

pub struct Service;

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1035
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        default(object.section("spec"));
    }

    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        new.set("status", json!({ "loadBalancer": {} }));
        allocated::normalise(new.section("spec"), &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        new.take_over("status", old);
        let (spec, before) = (new.section("spec"), old.at("spec"));
        allocated::normalise(spec, before);
        allocated::take_over(spec, before);
        allocated::drop_stale(spec, before);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate::service(object.at("spec"))
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::update(new.at("spec"), old.at("spec"))
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        validate::status(new)
    }

    fn reserves(&self) -> bool {
        true
    }

    fn reserve<'a>(
        &'a self,
        change: Change<'a>,
        ctx: &'a Context<'a>,
        pool: &'a pool::Pool,
    ) -> BoxFuture<'a, Result<Reservation, Status>> {
        Box::pin(pool.reserve(change, ctx))
    }

    fn fields(&self) -> &'static [Field] {
        const { &[Field::text("spec.clusterIP"), Field::text("spec.type")] }
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        table::cells(object, now)
    }
}

/// Defaults that depend on other fields.
fn default(spec: &mut Value) {
    match spec.text("sessionAffinity") {
        "None" => spec.drop("sessionAffinityConfig"),
        "ClientIP" => {
            let config = spec.section("sessionAffinityConfig").section("clientIP");
            config.fill("timeoutSeconds", 10800);
        }
        _ => {}
    }
    for port in spec.items_mut("ports") {
        let target = port.at("targetPort");
        if target.is_null() || target.as_i64() == Some(0) || target.as_str() == Some("") {
            let number = port.at("port").clone();
            port.set("targetPort", number);
        }
    }
    if accessible(spec) && spec.vacant("externalTrafficPolicy") {
        spec.set("externalTrafficPolicy", "Cluster");
    }
}

fn kind(spec: &Value) -> &str {
    match spec.text("type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

/// Without an address of its own: DNS names its endpoints.
fn headless(spec: &Value) -> bool {
    spec.text("clusterIP") == "None"
        || spec.items("clusterIPs").first().and_then(Value::as_str) == Some("None")
}

fn needs_address(spec: &Value) -> bool {
    kind(spec) != "ExternalName" && !headless(spec)
}

/// Every port of the Service has a port on the nodes.
fn needs_node_ports(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.flag("allocateLoadBalancerNodePorts") != Some(false),
        _ => false,
    }
}

/// Nodes answer a load balancer's health checks.
fn needs_health_port(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

/// Can be reached from outside the cluster.
fn accessible(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !spec.vacant("externalIPs"),
        _ => false,
    }
}
