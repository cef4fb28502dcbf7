//! Namespaces. A deleted one stays, Terminating, until whoever empties it takes the last finalizer
//! out of its spec.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::lens::Lens;
use super::metadata::sentences;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Field, NameRule, Strategy, name, only_status};

/// The finalizer of the controller that empties namespaces.
const FINALIZER: &str = "kubernetes";
/// The label by which a namespace can be selected; always its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub struct Namespace;

impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, object: &mut Value) {
        let name = object.at("metadata").text("name").to_string();
        if !name.is_empty() {
            object.section("metadata").section("labels").set(NAME_LABEL, name);
        }
    }

    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        self.default(new);
        new.set("status", json!({ "phase": "Active" }));
        let spec = new.section("spec");
        let mut finalizers = spec.items("finalizers").to_vec();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        spec.set("finalizers", finalizers);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        self.default(new);
        new.take_over("status", old);
        new.section("spec").take_over("finalizers", old.at("spec"));
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        only_status(new, old);
        self.default(new);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let path = Path::root("spec");
        let path = path.field("finalizers");
        let finalizers = object.at("spec").items("finalizers").iter().filter_map(Value::as_str);
        finalizers
            .enumerate()
            .flat_map(|(index, text)| sentences(&path.index(index), text, finalizer(text)))
            .collect()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let phase = new.at("status").text("phase");
        let terminating = old.at("metadata").has("deletionTimestamp");
        let detail = match (terminating, phase) {
            (false, "Active") | (true, "Terminating") => return Vec::new(),
            (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
            (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
        };
        vec![FieldError::invalid("status.phase", phase, detail)]
    }

    fn held(&self, object: &Value) -> bool {
        !object.at("spec").vacant("finalizers")
    }

    fn begin_delete(&self, object: &mut Value) {
        object.section("status").set("phase", "Terminating");
    }

    fn fields(&self) -> &'static [Field] {
        const { &[Field::text("status.phase")] }
    }

    fn columns(&self) -> &'static [Column] {
        const STATUS: Column = column("Status", "string", 0, "The status of the namespace");
        &[table::NAME, STATUS, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let phase = object.at("status").text("phase");
        vec![table::name(object), phase.into(), table::age(object, now)]
    }
}

fn finalizer(text: &str) -> Vec<String> {
    let problems = name::qualified(text);
    if problems.is_empty() && !text.contains('/') && text != FINALIZER {
        return vec!["name is neither a standard finalizer name nor is it fully qualified".into()];
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_namespace() {
        let (row, user) = (&proto::kind::NAMESPACE, &proto::user::User::default());
        let now = Time::from_unix(0);
        let ctx = Context { row, now, random: 0, user, subresource: "" };
        let mut namespace = json!({"metadata": {"name": "n"}, "status": {"phase": "Odd"}});
        Namespace.prepare_create(&mut namespace, &ctx);
        assert_eq!(
            namespace,
            json!({
                "metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        );
        assert!(Namespace.held(&namespace) && Namespace.validate(&namespace).is_empty());
        let mut changed = json!({"metadata": {"name": "n"}});
        Namespace.prepare_update(&mut changed, &namespace, &ctx);
        assert_eq!(changed, namespace);
        let old = namespace.clone();
        Namespace.begin_delete(&mut namespace);
        assert_eq!(
            Namespace.validate_status(&namespace, &old)[0].to_string(),
            "status.phase: Invalid value: \"Terminating\": may only be 'Active' if \
             `deletionTimestamp` is empty"
        );
        namespace["spec"]["finalizers"] = json!([]);
        assert!(!Namespace.held(&namespace));
    }
}
