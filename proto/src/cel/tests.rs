use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn document() -> Value {
    json!({"components": {"schemas": {
        "io.example.Widget": {
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [{"$ref": "#/components/schemas/io.example.Meta"}]},
                "spec": {"default": {}, "allOf": [{"$ref": "#/components/schemas/io.example.Spec"}]},
            },
            "x-kubernetes-group-version-kind": [
                {"group": "example.com", "version": "v1", "kind": "Widget"},
            ],
        },
        "io.example.Gadget": {
            "type": "object",
            "properties": {"metadata": {"type": "object"}, "size": {"type": "integer"}},
            "x-kubernetes-group-version-kind": [
                {"group": "example.com", "version": "v1", "kind": "Gadget"},
            ],
        },
        "io.example.Meta": {"type": "object", "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "creationTimestamp": {"type": "string", "format": "date-time"},
        }},
        "io.example.Spec": {"type": "object", "properties": {
            "replicas": {"type": "integer", "format": "int32"},
            "ratio": {"type": "number"},
            "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
            "data": {"type": "string", "format": "byte"},
            "names": {"type": "array", "items": {"type": "string"}},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/io.example.Spec"}},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "for": {"type": "boolean"},
            "a-b/c": {"type": "string"},
            "loop": {"$ref": "#/components/schemas/io.example.Loop"},
            "amount": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        }},
        "io.example.Loop": {"$ref": "#/components/schemas/io.example.Loop"},
    }}})
}

fn of_kind(kind: &str) -> Option<Type> {
    Schema::of_kind(Arc::new(document()), "example.com", "v1", kind)?.ty(kind)
}

fn environment() -> Environment {
    let environment = policy::environment(of_kind("Widget").unwrap(), of_kind("Gadget"));
    let optional = Type::optional(Type::Int);
    let variables = [
        ("count", "object.spec.replicas + 1"),
        ("double", "variables.count * 2"),
        ("wrong", "object.nothing"),
        ("spec", "object.spec"),
    ];
    policy::with_variables(environment, variables).with("any", Type::Dyn).with("maybe", optional)
}

#[test]
fn what_types_expressions_have() {
    let environment = environment();
    for (expression, expected) in [
        ("1 + 2", "int"),
        ("1u < 2.0 && 1 <= 2u", "bool"),
        ("'a' + 'b'", "string"),
        ("b'a' + b'b'", "bytes"),
        ("[1, 2] + [3]", "list(int)"),
        ("{'a': 1}", "map(string, int)"),
        ("[]", "list(dyn)"),
        ("null", "null"),
        ("true ? 1 : any", "dyn"),
        ("type(1) == int", "bool"),
        ("type(1)", "type(int)"),
        ("type(timestamp('2026-01-01T00:00:00Z')) == google.protobuf.Timestamp", "bool"),
        ("duration('1h') + timestamp(0)", "timestamp"),
        ("timestamp(0) - timestamp(1)", "duration"),
        ("object.metadata.creationTimestamp < timestamp('2026-01-01T00:00:00Z')", "bool"),
        ("object.metadata.creationTimestamp.getFullYear('UTC')", "int"),
        ("object.metadata.labels['a']", "string"),
        ("object.metadata.labels.a", "string"),
        ("'a' in object.metadata.labels && 'b' in ['b']", "bool"),
        ("object.metadata.namespace == object.metadata.__namespace__", "bool"),
        ("object.spec.replicas", "int"),
        ("object.spec.ratio", "double"),
        ("object.spec.data", "bytes"),
        ("object.spec.port", "dyn"),
        ("object.spec.amount", "dyn"),
        ("object.spec.open.whatever.x > 1", "bool"),
        ("object.spec.__for__", "bool"),
        ("object.spec.a__dash__b__slash__c", "string"),
        ("object.spec.names", "list(string)"),
        ("object.spec.parts", "list(Widget.spec.parts.@idx)"),
        ("object.spec.parts[0].parts[0].parts[0].replicas", "int"),
        ("object.spec == oldObject.spec || object == null", "bool"),
        ("has(object.spec.replicas)", "bool"),
        ("has(any.a.b)", "bool"),
        ("any.a.b[3].c", "dyn"),
        ("any.a.all(x, x > 1)", "bool"),
        ("params.size > 1 && params.metadata.name == 'x' && params.kind == 'Gadget'", "bool"),
        ("object.spec.parts.all(p, p.replicas > 1)", "bool"),
        ("object.spec.parts.exists(p, p.names.exists(n, n == object.metadata.name))", "bool"),
        ("object.spec.parts.exists_one(p, p.replicas == 1)", "bool"),
        ("object.spec.parts.map(p, p.replicas)", "list(int)"),
        ("object.spec.parts.map(p, p.ratio > 0.5, p.names)", "list(list(string))"),
        ("object.spec.parts.filter(p, p.__for__)", "list(Widget.spec.parts.@idx)"),
        ("object.metadata.labels.all(k, k.startsWith('a'))", "bool"),
        ("object.metadata.labels.all(k, v, k != v)", "bool"),
        ("object.spec.names.exists(i, n, i > 0 && n == 'a')", "bool"),
        ("object.spec.names.existsOne(i, n, i == size(n))", "bool"),
        ("object.spec.names.transformList(i, n, i + size(n))", "list(int)"),
        ("object.spec.names.transformList(i, n, i > 0, n)", "list(string)"),
        ("object.spec.names.transformMap(i, n, n + '!')", "map(int, string)"),
        ("object.metadata.labels.transformMapEntry(k, v, {v: k})", "map(string, string)"),
        ("object.spec.?replicas", "optional_type(int)"),
        ("object.?spec.?replicas.orValue(1)", "int"),
        ("object.metadata.labels[?'a'].hasValue()", "bool"),
        ("maybe.optMap(m, m + 1)", "optional_type(int)"),
        ("maybe.optFlatMap(m, optional.of('a'))", "optional_type(string)"),
        ("maybe.or(optional.none()).value()", "int"),
        ("optional.of(any.x)", "optional_type(dyn)"),
        ("[1, ?maybe]", "list(int)"),
        ("{?'a': maybe}", "map(string, int)"),
        ("dyn(1) == 'a'", "bool"),
        ("[1, 2, 3].sum() + [1].max()", "int"),
        ("['a'].isSorted() && ['a'].indexOf('a') == 0", "bool"),
        ("'a,b'.split(',').join('-').lowerAscii()", "string"),
        ("'%d'.format([1])", "string"),
        ("'abc'.find('b') + 'abc'.findAll('[a-c]', 2)[0]", "string"),
        ("url('https://a').getQuery()['q'][0]", "string"),
        ("quantity('1Gi').add(1).isLessThan(quantity('2Gi'))", "bool"),
        ("ip('127.0.0.1').isLoopback() && ip.isCanonical('::1')", "bool"),
        ("type(ip('::1')) == net.IP", "bool"),
        ("cidr('10.0.0.0/8').containsIP(ip('10.0.0.1'))", "bool"),
        ("semver('v1.0', true).major()", "int"),
        ("format.dns1123Label().validate('a').hasValue()", "bool"),
        ("sets.contains(object.spec.names, ['a'])", "bool"),
        ("request.userInfo.groups.exists(g, g == 'a') && request.kind.group == ''", "bool"),
        ("request.options.anything", "dyn"),
        ("namespaceObject.metadata.labels['a']", "string"),
        ("authorizer.group('apps').resource('deployments').check('get').allowed()", "bool"),
        ("authorizer.requestResource.check('get').reason()", "string"),
        ("variables.double", "int"),
        ("variables.wrong.more", "dyn"),
        ("variables.spec.more", "dyn"),
    ] {
        let found = check(expression, &environment).map_err(|problems| report(&problems));
        assert_eq!(found.map(|ty| ty.to_string()), Ok(expected.into()), "{expression}");
    }
}

#[test]
fn what_is_wrong_with_them() {
    let environment = environment();
    let overload =
        |name: &str, of: &str| format!("found no matching overload for '{name}' applied to '{of}'");
    let undefined = |name: &str| format!("undefined field '{name}'");
    let undeclared = |name: &str| format!("undeclared reference to '{name}' (in container '')");
    for (expression, column, expected) in [
        ("1 + 'a'", 3, overload("_+_", "(int, string)")),
        ("object.spec.replicas > '1'", 22, overload("_>_", "(int, string)")),
        ("'got ' + object.spec.replicas", 8, overload("_+_", "(string, int)")),
        ("object.spec.replicas == null", 22, overload("_==_", "(int, null)")),
        ("1 == 1.0", 3, overload("_==_", "(int, double)")),
        ("object.spec > 1", 13, overload("_>_", "(Widget.spec, int)")),
        (
            "object.spec.parts.exists(p, p.names.exists(n, n == p.data))",
            49,
            overload("_==_", "(string, bytes)"),
        ),
        ("1.startsWith('a')", 13, overload("startsWith", "int.(string)")),
        ("'a'.startsWith(1)", 15, overload("startsWith", "string.(int)")),
        ("size(1)", 5, overload("size", "(int)")),
        ("-'a'", 1, overload("-_", "(string)")),
        ("!1", 1, overload("!_", "(int)")),
        ("1 in ['a']", 3, overload("@in", "(int, list(string))")),
        ("object.spec.names['a']", 18, overload("_[_]", "(list(string), string)")),
        ("true ? 1 : 'a'", 6, overload("_?_:_", "(bool, int, string)")),
        ("['a'].sum()", 10, overload("sum", "list(string).()")),
        ("quantity('1').isLessThan(1)", 25, overload("isLessThan", "kubernetes.Quantity.(int)")),
        ("1.optMap(m, m)", 9, overload("hasValue", "int.()")),
        (
            "object.spec.names.filter(n, n)",
            25,
            overload("_?_:_", "(string, list(string), list(string))"),
        ),
        ("object.foo > 1", 7, undefined("foo")),
        ("has(object.spec.foo)", 4, undefined("foo")),
        ("object.spec.?foo", 12, undefined("foo")),
        ("object.spec.parts.all(p, p.foo)", 27, undefined("foo")),
        ("params.metadata.labels", 16, undefined("labels")),
        ("variables.later", 10, undefined("later")),
        ("request.object", 8, undefined("object")),
        ("namespaceObject.metadata.ownerReferences", 25, undefined("ownerReferences")),
        ("nope", 1, undeclared("nope")),
        ("nope.x.y == 1", 1, undeclared("nope")),
        ("nope(1)", 5, undeclared("nope")),
        ("'a'.nope()", 9, undeclared("nope")),
        ("math.greatest(1, 2)", 1, undeclared("math")),
        ("[1].all(x, true) && x", 21, undeclared("x")),
        ("object.spec.replicas.x", 21, "type 'int' does not support field selection".into()),
        ("1 && true", 1, "expected type 'bool' but found 'int'".into()),
        ("[1].all(x, x)", 12, "expected type 'bool' but found 'int'".into()),
        ("[1, 'a']", 5, "expected type 'int' but found 'string'".into()),
        ("{'a': 1, 'b': true}", 15, "expected type 'int' but found 'bool'".into()),
        ("[?1]", 3, "expected type 'optional_type(int)' but found 'int'".into()),
        (
            "object.spec.all(x, true)",
            7,
            "expression of type 'Widget.spec' cannot be range of a comprehension (must be list, \
             map, or dynamic)"
                .into(),
        ),
    ] {
        let problems = check(expression, &environment).expect_err(expression);
        let found = problems.first().map(|problem| (problem.column, problem.message.clone()));
        assert_eq!(found, Some((column, expected)), "{expression}");
    }
}

#[test]
fn how_it_is_shown() {
    for (source, expected) in [
        (
            "true &&\n  nope // '",
            "ERROR: <input>:2:3: undeclared reference to 'nope' (in container '')\n |   nope // '\n \
             | ..^",
        ),
        (
            "'é' == x && y",
            "ERROR: <input>:1:8: undeclared reference to 'x' (in container '')\n | 'é' == x && y\n \
             | .......^\nERROR: <input>:1:13: undeclared reference to 'y' (in container '')\n | 'é' \
             == x && y\n | ............^",
        ),
        (
            "[1].optMap(x, nope + 1)",
            "ERROR: <input>:1:11: found no matching overload for 'hasValue' applied to 'list(int).()'\n | \
             [1].optMap(x, nope + 1)\n | ..........^\nERROR: <input>:1:11: found no matching overload \
             for 'value' applied to 'list(int).()'\n | [1].optMap(x, nope + 1)\n | \
             ..........^\nERROR: <input>:1:15: undeclared reference to 'nope' (in container '')\n | \
             [1].optMap(x, nope + 1)\n | ..............^",
        ),
    ] {
        let problems = check(source, &Environment::default()).unwrap_err();
        assert_eq!(report(&problems), expected);
    }
}

#[test]
fn signs_that_the_parser_misreads() {
    for (source, column) in [
        ("!!a", Some(1)),
        ("b && ! !a", Some(6)),
        ("1 + --2", Some(5)),
        ("1 ---2", Some(3)),
        ("!!!a", None),
        ("!a", None),
        ("1 --2", None),
        ("a != b", None),
        ("'!!' == \"--\"", None),
        ("f(-1) - -2", None),
    ] {
        assert_eq!(misread(source).map(|problem| problem.column), column, "{source}");
    }
}

#[test]
fn whatever_is_written_is_answered() {
    let sums = format!("1{}", " + 1".repeat(2_400));
    let fields = format!("any{}", ".a".repeat(4_900));
    let (deep, long) = ("(".repeat(90), "1 ".repeat(60_000));
    let environment = environment();
    assert_eq!(check(&sums, &environment), Ok(Type::Int));
    assert_eq!(check(&fields, &environment), Ok(Type::Dyn));
    for (source, expected) in [
        (deep, "expression recursion limit exceeded: 64"),
        (long, "expression code point size exceeds limit: size: 120000, limit 100000"),
        ("1 +".into(), "Syntax error: "),
        ("has(1)".into(), "invalid argument to has() macro"),
    ] {
        let problems = check(&source, &environment).unwrap_err();
        assert!(problems[0].message.starts_with(expected), "{problems:?}");
    }
}
