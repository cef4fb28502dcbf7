//! The variables of admission policies.
//! <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>

use super::types::Type;
use super::{Environment, check};

type Declared = &'static [(&'static str, &'static str)];

/// Objects that are the same for every policy, each of those before it and of CEL's types.
const OBJECTS: &[(&str, Declared)] = &[
    (
        "kubernetes.GroupVersionKind",
        &[("group", "string"), ("version", "string"), ("kind", "string")],
    ),
    (
        "kubernetes.GroupVersionResource",
        &[("group", "string"), ("version", "string"), ("resource", "string")],
    ),
    (
        "kubernetes.UserInfo",
        &[
            ("username", "string"),
            ("uid", "string"),
            ("groups", "list(string)"),
            ("extra", "map(string, list(string))"),
        ],
    ),
    (
        REQUEST,
        &[
            ("kind", "kubernetes.GroupVersionKind"),
            ("resource", "kubernetes.GroupVersionResource"),
            ("subResource", "string"),
            ("requestKind", "kubernetes.GroupVersionKind"),
            ("requestResource", "kubernetes.GroupVersionResource"),
            ("requestSubResource", "string"),
            ("name", "string"),
            ("namespace", "string"),
            ("operation", "string"),
            ("userInfo", "kubernetes.UserInfo"),
            ("dryRun", "bool"),
            ("options", "dyn"),
        ],
    ),
    (
        "kubernetes.NamespaceMetadata",
        &[
            ("name", "string"),
            ("generateName", "string"),
            ("namespace", "string"),
            ("labels", "map(string, string)"),
            ("annotations", "map(string, string)"),
            ("UID", "string"),
            ("creationTimestamp", "timestamp"),
            ("deletionGracePeriodSeconds", "int"),
            ("deletionTimestamp", "timestamp"),
            ("generation", "int"),
            ("resourceVersion", "string"),
            ("finalizers", "list(string)"),
        ],
    ),
    ("kubernetes.NamespaceSpec", &[("finalizers", "list(string)")]),
    (
        "kubernetes.NamespaceCondition",
        &[
            ("status", "string"),
            ("type", "string"),
            ("lastTransitionTime", "timestamp"),
            ("message", "string"),
            ("reason", "string"),
        ],
    ),
    (
        "kubernetes.NamespaceStatus",
        &[("conditions", "list(kubernetes.NamespaceCondition)"), ("phase", "string")],
    ),
    (
        NAMESPACE,
        &[
            ("metadata", "kubernetes.NamespaceMetadata"),
            ("spec", "kubernetes.NamespaceSpec"),
            ("status", "kubernetes.NamespaceStatus"),
        ],
    ),
];
const REQUEST: &str = "kubernetes.AdmissionRequest";
const NAMESPACE: &str = "kubernetes.Namespace";

/// What expressions of a policy see of requests about objects of this type; parameters where the policy
/// has a kind of them.
pub fn environment(object: Type, params: Option<Type>) -> Environment {
    let authorization = |name| Type::read(&format!("kubernetes.authorization.{name}"));
    let environment = Environment::default()
        .with("object", object.clone())
        .with("oldObject", object)
        .with("request", declared(REQUEST))
        .with("namespaceObject", declared(NAMESPACE))
        .with("authorizer", authorization("Authorizer"))
        .with("authorizer.requestResource", authorization("ResourceCheck"));
    match params {
        Some(params) => environment.with("params", params),
        None => environment,
    }
}

/// The same with `variables`, by their names and expressions: each sees those before it. One that is
/// wrong itself may be anything, and so may objects in variables.
pub fn with_variables<'a>(
    environment: Environment,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Environment {
    let mut known: Vec<(String, Type)> = Vec::new();
    let with = |known: &[(String, Type)]| {
        let all = Type::object("kubernetes.variables", known.iter().cloned());
        environment.clone().with("variables", all)
    };
    for (name, expression) in variables {
        let ty = check(expression, &with(&known)).unwrap_or(Type::Dyn);
        known.push((name.into(), kept(&ty)));
    }
    with(&known)
}

/// What is known of a variable by its expression's type.
fn kept(ty: &Type) -> Type {
    match ty {
        Type::Object(..) | Type::Opaque(..) | Type::Type(_) => Type::Dyn,
        other => other.with_inner(kept),
    }
}

fn declared(name: &str) -> Type {
    let Some((name, fields)) = OBJECTS.iter().find(|(own, _)| *own == name) else {
        return Type::read(name);
    };
    let of = |ty: &str| match ty.strip_prefix("list(").and_then(|ty| ty.strip_suffix(')')) {
        Some(element) => Type::list(declared(element)),
        None => declared(ty),
    };
    Type::object(name, fields.iter().map(|(field, ty)| (field.to_string(), of(ty))))
}
