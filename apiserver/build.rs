//! Makes the schema table: the types that the served kinds reach, from k8s-openapi's JSON schemas,
//! joined with the hand-kept facts in `src/schema/*.txt`, and of the resource metrics from `src/schema/metrics.json`. Two compressed files come out: the table,
//! and the descriptions (which only OpenAPI reads). A new kind needs a row in `proto::kind` and a
//! name in `kinds!` below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::Resource;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Registers each kind's schema and names its group, version and kind.
macro_rules! kinds {
    ($generator:ident, $kinds:ident, $($module:path { $($kind:ident),* })*) => {
        $($({
            use $module as module;
            type Kind = module::$kind;
            $generator.subschema_for::<Kind>();
            let name = <Kind as schemars::JsonSchema>::schema_name().into_owned();
            $kinds.insert(name, json!([Kind::GROUP, Kind::VERSION, Kind::KIND]));
        })*)*
    };
}

/// Where the types of `metrics.k8s.io/v1beta1` are in upstream's tree.
const METRICS: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1";

fn main() {
    let mut generator = SchemaSettings::draft07().into_generator();
    let mut kinds: BTreeMap<String, Value> = BTreeMap::new();
    kinds!(generator, kinds,
        k8s_openapi::api::admissionregistration::v1 {
            MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration
        }
        k8s_openapi::api::apps::v1 {
            ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet
        }
        k8s_openapi::api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview }
        k8s_openapi::api::authorization::v1 {
            LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview,
            SubjectAccessReview
        }
        k8s_openapi::api::autoscaling::v1 { HorizontalPodAutoscaler, Scale }
        k8s_openapi::api::autoscaling::v2 { HorizontalPodAutoscaler }
        k8s_openapi::api::batch::v1 { CronJob, Job }
        k8s_openapi::api::certificates::v1 { CertificateSigningRequest }
        k8s_openapi::api::coordination::v1 { Lease }
        k8s_openapi::api::core::v1 {
            Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
            PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController,
            ResourceQuota, Secret, Service, ServiceAccount
        }
        k8s_openapi::api::discovery::v1 { EndpointSlice }
        k8s_openapi::api::events::v1 { Event }
        k8s_openapi::api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
        k8s_openapi::api::networking::v1 {
            IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR
        }
        k8s_openapi::api::node::v1 { RuntimeClass }
        k8s_openapi::api::policy::v1 { Eviction, PodDisruptionBudget }
        k8s_openapi::api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
        k8s_openapi::api::resource::v1 {
            DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice
        }
        k8s_openapi::api::scheduling::v1 { PriorityClass }
        k8s_openapi::api::storage::v1 {
            CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
            VolumeAttributesClass
        }
        k8s_openapi::apimachinery::pkg::apis::meta::v1 { Status }
    );
    let options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>();
    kinds.insert(options.into(), json!(["", "v1", "DeleteOptions"]));

    // The group that k8s-openapi does not know.
    let more = std::fs::read_to_string("src/schema/metrics.json").expect("src/schema/metrics.json");
    let more: Map<String, Value> = serde_json::from_str(&more).expect("src/schema/metrics.json");
    for kind in ["NodeMetrics", "PodMetrics"] {
        kinds.insert(format!("{METRICS}.{kind}"), json!(["metrics.k8s.io", "v1beta1", kind]));
    }

    let facts = Facts::read(Path::new("src/schema"));
    let mut descriptions = Map::new();
    let types: Vec<Value> = generator
        .take_definitions(false)
        .into_iter()
        .chain(more)
        .filter(|(name, schema)| scalar(name).is_none() && schema["properties"].is_object())
        .map(|(name, schema)| type_row(&name, &schema, &kinds, &facts, &mut descriptions))
        .collect();
    facts.all_used(&types);
    write("schema.json.zst", &Value::Array(types));
    write_columns(&descriptions);
    write("descriptions.json.zst", &Value::Object(descriptions));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/schema");
}

fn write(file: &str, value: &Value) {
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let bytes = zstd::encode_all(value.to_string().as_bytes(), 19).expect("zstd in memory");
    std::fs::write(Path::new(&out).join(file), bytes).expect("OUT_DIR is writable");
}

/// The descriptions that `columns.txt` asks for, as constants.
fn write_columns(descriptions: &Map<String, Value>) {
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let file = std::fs::read_to_string("src/schema/columns.txt").expect("src/schema/columns.txt");
    let mut text = String::new();
    for line in file.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, path) = line.split_once(' ').expect(line);
        let (ty, field) = path.rsplit_once('.').expect(line);
        let description = descriptions[&full(ty)][field].as_str().expect(line);
        text += &format!("pub const {name}: &str = {description:?};\n");
    }
    std::fs::write(Path::new(&out).join("columns.rs"), text).expect("OUT_DIR is writable");
}

/// The hand-kept facts, keyed by full type name.
struct Facts {
    /// Type → field (or `+Inlined`) → what follows the equals sign.
    fields: BTreeMap<String, BTreeMap<String, String>>,
    /// `type.field` → words.
    lists: BTreeMap<String, Vec<String>>,
    /// Types that server-side apply takes as a whole.
    atomic: BTreeSet<String>,
    /// Type → its defaults, in order: path, value, condition.
    defaults: BTreeMap<String, Vec<(String, Value, String)>>,
    /// Go type → its values.
    enums: BTreeMap<String, Vec<String>>,
    /// `type.field` → the feature gate that is off.
    gates: BTreeMap<String, String>,
}

impl Facts {
    fn read(folder: &Path) -> Facts {
        let text = |file: &str| {
            let text = std::fs::read_to_string(folder.join(file)).expect(file);
            text.lines()
                .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        let mut facts = Facts {
            fields: BTreeMap::new(),
            lists: BTreeMap::new(),
            atomic: BTreeSet::new(),
            defaults: BTreeMap::new(),
            enums: BTreeMap::new(),
            gates: BTreeMap::new(),
        };
        let mut current = String::new();
        for line in text("fields.txt") {
            if !line.starts_with(' ') {
                current = full(&line);
                continue;
            }
            let fields = facts.fields.entry(current.clone()).or_default();
            for word in line.split_whitespace() {
                let (name, rest) = word.split_once('=').expect(word);
                fields.insert(name.into(), rest.into());
            }
        }
        for line in text("lists.txt") {
            let (name, words) = line.split_once(' ').expect("a field and words");
            match name {
                "atomic" => drop(facts.atomic.insert(full(words))),
                field => {
                    let words = words.split(' ').map(str::to_string).collect();
                    facts.lists.insert(full(field), words);
                }
            }
        }
        for line in text("enums.txt") {
            let (name, values) = line.split_once(' ').expect("a type and its values");
            let values = values.split(' ').map(|value| value.replace('"', ""));
            facts.enums.insert(name.into(), values.collect());
        }
        for line in text("gates.txt") {
            let (field, gate) = line.split_once(' ').expect("a field and its gate");
            facts.gates.insert(full(field), gate.into());
        }
        for line in text("defaults.txt") {
            let (rest, condition) = line.split_once(" when ").unwrap_or((&line, ""));
            let (name, value) = rest.split_once(' ').expect("a field and a value");
            let end = name.match_indices('.').nth(2).expect("group.version.Type.field").0;
            facts.defaults.entry(full(&name[..end])).or_default().push((
                name[end + 1..].into(),
                serde_json::from_str(value).expect(value),
                condition.into(),
            ));
        }
        facts
    }

    /// A fact about a field that does not exist is a typing mistake; facts about types that are not
    /// served yet may stand.
    fn all_used(&self, types: &[Value]) {
        let fields: BTreeMap<&str, BTreeSet<&str>> = types
            .iter()
            .map(|row| {
                let names = row["fields"].as_array().expect("fields").iter();
                (
                    row["name"].as_str().expect("name"),
                    names.flat_map(|f| f["name"].as_str()).collect(),
                )
            })
            .collect();
        let check = |name: &str, field: &str| {
            let known = fields.get(name).is_none_or(|fields| fields.contains(field));
            assert!(known, "src/schema: {name} has no field {field}");
        };
        for name in self.lists.keys().chain(self.gates.keys()) {
            let (name, field) = name.rsplit_once('.').expect("type.field");
            check(name, field);
        }
        for (name, defaults) in &self.defaults {
            defaults
                .iter()
                .for_each(|(path, ..)| check(name, path.split('.').next().unwrap_or("")));
        }
    }
}

/// `core.v1.Pod` → `io.k8s.api.core.v1.Pod`.
fn full(short: &str) -> String {
    match short {
        name if name.starts_with("io.") => name.into(),
        name if name.starts_with("meta.v1.") => format!("io.k8s.apimachinery.pkg.apis.{name}"),
        name => format!("io.k8s.api.{name}"),
    }
}

/// The types that are one value on the wire.
fn scalar(name: &str) -> Option<&'static str> {
    Some(match name.rsplit('.').next()? {
        "Time" => "time",
        "MicroTime" => "microtime",
        "Duration" => "duration",
        "Quantity" => "quantity",
        "IntOrString" => "intorstring",
        "RawExtension" => "raw",
        "FieldsV1" => "fields",
        _ => return None,
    })
}

fn type_row(
    name: &str,
    schema: &Value,
    kinds: &BTreeMap<String, Value>,
    facts: &Facts,
    descriptions: &mut Map<String, Value>,
) -> Value {
    let nothing = BTreeMap::new();
    let numbers = facts.fields.get(name).unwrap_or(&nothing);
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut texts = Map::new();
    texts.insert("".into(), schema["description"].clone());
    let empty = Map::new();
    let mut fields = Vec::new();
    for (field, schema) in schema["properties"].as_object().unwrap_or(&empty) {
        let description = schema["description"].as_str().unwrap_or("");
        texts.insert(field.clone(), description.into());
        let mut row = json!({ "name": field, "shape": shape(schema) });
        // k8s-openapi always has metadata; in JSON it may be absent.
        if required.contains(&field.as_str()) && field != "metadata" {
            row["required"] = true.into();
        }
        if let Some(fact) = numbers.get(field) {
            row["fact"] = fact.as_str().into();
        } else if !matches!(field.as_str(), "apiVersion" | "kind")
            && !inlined(numbers, field, facts)
        {
            panic!("src/schema/fields.txt: {name} lacks {field}");
        }
        if let Some(words) = facts.lists.get(&format!("{name}.{field}")) {
            row["list"] = words.clone().into();
        }
        if let Some(gate) = facts.gates.get(&format!("{name}.{field}")) {
            row["gate"] = gate.as_str().into();
        }
        let go = numbers.get(field).and_then(|fact| fact.split_once(':')).map_or("", |(_, go)| go);
        if let Some(values) = facts.enums.get(go) {
            row["enum"] = values.clone().into();
        }
        fields.push(row);
    }
    descriptions.insert(name.into(), Value::Object(texts));
    let mut row = json!({ "name": name, "fields": fields });
    if let Some(kind) = kinds.get(name) {
        row["kind"] = kind.clone();
    }
    if facts.atomic.contains(name) {
        row["atomic"] = true.into();
    }
    if let Some(defaults) = facts.defaults.get(name) {
        row["defaults"] = json!(defaults);
    }
    let messages = messages(numbers, facts);
    if !messages.is_empty() {
        row["inlined"] = messages.into();
    }
    row
}

/// The messages that JSON inlines: number, the numbers of the fields, the messages inlined in turn.
/// The inlined type has no schema of its own.
fn messages(numbers: &BTreeMap<String, String>, facts: &Facts) -> Vec<Value> {
    let inlined = numbers.iter().filter(|(field, _)| field.starts_with('+'));
    inlined
        .map(|(_, fact)| {
            let (number, name) = fact.split_once(':').expect("+Name=number:type");
            let number: u32 = number.trim_end_matches(['*', '!']).parse().expect(fact);
            let fields = facts.fields.get(&full(name)).expect(name);
            json!([number, fields, messages(fields, facts)])
        })
        .collect()
}

fn inlined(numbers: &BTreeMap<String, String>, field: &str, facts: &Facts) -> bool {
    numbers.iter().filter(|(name, _)| name.starts_with('+')).any(|(_, fact)| {
        let name = full(fact.split_once(':').expect("+Name=number:type").1);
        let fields = facts.fields.get(&name);
        fields.is_some_and(|fields| fields.contains_key(field) || inlined(fields, field, facts))
    })
}

/// A word for what the value is: a scalar, `#Type`, `[]` + shape, `{}` + shape.
fn shape(schema: &Value) -> String {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(reference) = reference {
        let name = reference.rsplit('/').next().expect("a reference has a name");
        return scalar(name).map_or_else(|| format!("#{name}"), str::to_string);
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("array"), _) => format!("[]{}", shape(&schema["items"])),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            format!("{{}}{}", shape(&schema["additionalProperties"]))
        }
        (Some("string"), Some("byte")) => "bytes".into(),
        (Some("string"), _) => "string".into(),
        (Some("boolean"), _) => "bool".into(),
        (Some("integer"), Some("int64")) => "int64".into(),
        (Some("integer"), _) => "int32".into(),
        (Some("number"), _) => "double".into(),
        other => panic!("no shape for {other:?}: {schema}"),
    }
}
