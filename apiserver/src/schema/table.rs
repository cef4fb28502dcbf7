//! Loads the table that build.rs made: decompressed and indexed once, on first use.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::{Condition, Default, Field, Merging, Shape, Slot, Strategy, Type, TypeRef};

/// As build.rs wrote it.
pub const SOURCE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.json.zst"));

/// The table of the built-in kinds.
pub fn built_in() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        let text = zstd::decode_all(SOURCE).expect("build.rs compressed it");
        let rows: Vec<TypeRow> = serde_json::from_slice(&text).expect("build.rs wrote it");
        Table::new(rows)
    });
    &TABLE
}

/// Types by name and by kind.
pub struct Table {
    types: HashMap<Box<str>, TypeRef>,
    /// Sorted by group, version and kind.
    kinds: Vec<TypeRef>,
}

/// A type as build.rs writes it.
#[derive(Deserialize)]
struct TypeRow {
    name: Box<str>,
    kind: Option<[Box<str>; 3]>,
    #[serde(default)]
    atomic: bool,
    fields: Vec<FieldRow>,
    #[serde(default)]
    defaults: Vec<(String, Value, String)>,
    #[serde(default)]
    inlined: Vec<Message>,
}

/// A message whose fields JSON holds in the parent: its number, the facts of its fields, and the
/// messages inlined in it.
#[derive(Deserialize)]
struct Message(u32, BTreeMap<Box<str>, Box<str>>, Vec<Message>);

#[derive(Deserialize)]
struct FieldRow {
    name: Box<str>,
    shape: String,
    #[serde(default)]
    required: bool,
    /// `number*!:Go`, as in `fields.txt`; absent for fields of an inlined message.
    fact: Option<String>,
    #[serde(default)]
    list: Vec<String>,
    #[serde(default, rename = "enum")]
    values: Vec<Box<str>>,
    #[serde(default)]
    gate: Box<str>,
}

impl Table {
    pub fn named(&self, name: &str) -> Option<TypeRef> {
        self.types.get(name).cloned()
    }

    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef> {
        let key = [group, version, kind];
        let index = self.kinds.binary_search_by(|ty| kind_of(ty).cmp(&key)).ok()?;
        Some(self.kinds[index].clone())
    }

    pub fn kinds(&self) -> &[TypeRef] {
        &self.kinds
    }

    fn new(rows: Vec<TypeRow>) -> Table {
        let types: HashMap<Box<str>, TypeRef> =
            rows.iter().map(|row| (row.name.clone(), TypeRef::empty())).collect();
        for row in rows {
            let place = types[&row.name].clone();
            place.set(row.build(&types));
        }
        let mut kinds: Vec<TypeRef> =
            types.values().filter(|ty| ty.kind.is_some()).cloned().collect();
        kinds.sort_by(|a, b| kind_of(a).cmp(&kind_of(b)));
        Table { types, kinds }
    }
}

fn kind_of(ty: &Type) -> [&str; 3] {
    ty.kind.as_ref().map_or([""; 3], |kind| kind.each_ref().map(|part| &**part))
}

impl TypeRow {
    fn build(self, types: &HashMap<Box<str>, TypeRef>) -> Type {
        let mut inherited: BTreeMap<&str, &str> = BTreeMap::new();
        self.inlined.iter().for_each(|message| message.facts(&mut inherited));
        let mut fields = Vec::with_capacity(self.fields.len());
        let mut numbers = Vec::new();
        for row in &self.fields {
            let fact = row.fact.as_deref().or_else(|| inherited.get(&*row.name).copied());
            let fact = Fact::parse(fact.unwrap_or(""));
            if row.fact.is_some() {
                numbers.push((fact.number, Slot::Field(fields.len())));
            }
            fields.push(row.build(&fact, types));
        }
        numbers.extend(self.inlined.iter().map(|message| message.slot(&self.fields)));
        numbers.sort_by_key(|(number, _)| *number);
        Type {
            name: self.name,
            kind: self.kind,
            fields: fields.into(),
            atomic: self.atomic,
            defaults: self.defaults.into_iter().map(default).collect(),
            numbers: numbers.into(),
        }
    }
}

impl Message {
    fn facts<'a>(&'a self, facts: &mut BTreeMap<&'a str, &'a str>) {
        facts.extend(self.1.iter().map(|(name, fact)| (&**name, &**fact)));
        self.2.iter().for_each(|message| message.facts(facts));
    }

    fn slot(&self, fields: &[FieldRow]) -> (u32, Slot) {
        let own = self.1.iter().filter_map(|(name, fact)| {
            let index = fields.iter().position(|field| field.name == *name)?;
            Some((Fact::parse(fact).number, Slot::Field(index)))
        });
        let inlined = self.2.iter().map(|message| message.slot(fields));
        let mut slots: Vec<_> = own.chain(inlined).collect();
        slots.sort_by_key(|(number, _)| *number);
        (self.0, Slot::Inlined(slots.into()))
    }
}

impl FieldRow {
    fn build(&self, fact: &Fact<'_>, types: &HashMap<Box<str>, TypeRef>) -> Field {
        let mut merging = Merging::Default;
        let mut strategy = Strategy::default();
        for word in &self.list {
            match word.split_once('=').unwrap_or((word, "")) {
                ("map", keys) => merging = Merging::Map(keys.split(',').map(Into::into).collect()),
                ("set", _) => merging = Merging::Set,
                ("atomic", _) => merging = Merging::Atomic,
                ("granular", _) => merging = Merging::Granular,
                ("merge", key) => (strategy.merge, strategy.key) = (true, key.into()),
                ("retainKeys", _) => strategy.retain_keys = true,
                ("replace", _) => strategy.replace = true,
                _ => unreachable!("build.rs wrote {word}"),
            }
        }
        let shape = shape(&self.shape, types);
        Field {
            name: self.name.clone(),
            required: self.required,
            pointer: fact.pointer,
            always: !fact.pointer && (fact.always || matches!(shape, Shape::Struct(_))),
            go: fact.go.into(),
            shape,
            merging,
            strategy,
            values: self.values.clone().into(),
            gate: self.gate.clone(),
        }
    }
}

/// What `fields.txt` says of a field.
struct Fact<'a> {
    number: u32,
    pointer: bool,
    always: bool,
    go: &'a str,
}

impl Fact<'_> {
    fn parse(text: &str) -> Fact<'_> {
        let (head, go) = text.split_once(':').unwrap_or((text, ""));
        let digits = head.trim_end_matches(['*', '!']);
        Fact {
            number: digits.parse().unwrap_or(0),
            pointer: head.contains('*'),
            always: head.contains('!'),
            go,
        }
    }
}

fn shape(word: &str, types: &HashMap<Box<str>, TypeRef>) -> Shape {
    if let Some(of) = word.strip_prefix("[]") {
        return Shape::List(Box::new(shape(of, types)));
    }
    if let Some(of) = word.strip_prefix("{}") {
        return Shape::Map(Box::new(shape(of, types)));
    }
    if let Some(name) = word.strip_prefix('#') {
        return Shape::Struct(types[name].clone());
    }
    match word {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "quantity" => Shape::Quantity,
        "intorstring" => Shape::IntOrString,
        "raw" => Shape::Raw,
        "fields" => Shape::Fields,
        _ => unreachable!("build.rs wrote {word}"),
    }
}

fn default((path, value, condition): (String, Value, String)) -> Default {
    let condition = match condition.split_once('=') {
        _ if condition.is_empty() => None,
        None => Some(Condition { field: condition.into(), values: Box::default() }),
        Some((field, values)) => Some(Condition {
            field: field.into(),
            values: values.split(',').map(Into::into).collect(),
        }),
    };
    Default { path: path.split('.').map(Into::into).collect(), value, condition }
}
