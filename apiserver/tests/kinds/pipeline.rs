//! The pipeline of a write as far as it is pure: schema, defaults, preparation and validation.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::collections::BTreeMap;

use apiserver::kinds::{self, Context};
use apiserver::schema;
use proto::kind::Row;
use proto::time::Time;
use proto::user::User;
use serde_json::Value;

pub fn context(row: &Row) -> Context<'_> {
    static USER: User = User {
        name: String::new(),
        uid: String::new(),
        groups: Vec::new(),
        extra: BTreeMap::new(),
    };
    Context { row, now: Time::from_unix(0), random: 7, user: &USER, subresource: "" }
}

/// The object after defaulting, and what is wrong with it.
pub fn create(row: &Row, mut object: Value) -> (Value, Vec<String>) {
    let strict = schema::check(row, &mut object).expect("well typed");
    assert_eq!(strict, Vec::<String>::new());
    schema::default(row, &mut object);
    let strategy = kinds::strategy(row);
    strategy.default(&mut object);
    strategy.prepare_create(&mut object, &context(row));
    let errors = kinds::validate_create(&object, &context(row));
    (object, errors.iter().map(ToString::to_string).collect())
}

pub fn update(row: &Row, old: &Value, mut new: Value) -> (Value, Vec<String>) {
    schema::check(row, &mut new).expect("well typed");
    schema::default(row, &mut new);
    let strategy = kinds::strategy(row);
    strategy.default(&mut new);
    strategy.prepare_update(&mut new, old, &context(row));
    let errors = kinds::validate_update(&new, old, &context(row));
    (new, errors.iter().map(ToString::to_string).collect())
}

/// `base` with the value at each JSON pointer replaced, inserted, or (null) removed.
pub fn with(base: &Value, changes: &[(&str, Value)]) -> Value {
    let mut object = base.clone();
    for (pointer, value) in changes {
        let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {pointer}"));
        match (parent, value) {
            (Value::Object(map), Value::Null) => {
                map.remove(last);
            }
            (Value::Object(map), value) => {
                map.insert(last.replace("~1", "/"), value.clone());
            }
            (Value::Array(items), value) => match last {
                "-" => items.push(value.clone()),
                index => items[index.parse::<usize>().expect("an index")] = value.clone(),
            },
            (other, _) => panic!("{pointer}: {other}"),
        }
    }
    object
}

/// A change to an object and the errors that it must give, in order.
pub type Case = (&'static str, Value, &'static [&'static str]);

pub fn refuse(row: &Row, base: &Value, cases: &[Case]) {
    let (_, errors) = create(row, base.clone());
    assert_eq!(errors, Vec::<String>::new(), "the base is fine");
    for (pointer, value, expected) in cases {
        let (_, errors) = create(row, with(base, &[(pointer, value.clone())]));
        assert_eq!(errors, *expected, "{pointer} = {value}");
    }
}

/// What a change of an accepted object must be refused with, each change for itself.
pub fn refuse_change(row: &Row, old: &Value, cases: &[Case]) {
    let (old, errors) = create(row, old.clone());
    assert_eq!(errors, Vec::<String>::new(), "the base is fine");
    for (pointer, value, expected) in cases {
        let (_, errors) = update(row, &old, with(&old, &[(pointer, value.clone())]));
        assert_eq!(errors, *expected, "{pointer} = {value}");
    }
}

/// What a change of the status must be refused with.
pub fn refuse_status(row: &Row, old: &Value, cases: &[Case]) {
    for (pointer, value, expected) in cases {
        let new = with(old, &[(pointer, value.clone())]);
        let errors = kinds::validate_status(&new, old, &context(row));
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, *expected, "{pointer} = {value}");
    }
}

/// The cells of the object's row, joined by `|`.
pub fn cells(row: &Row, object: &Value, now: i64) -> String {
    let strategy = kinds::strategy(row);
    let cells = strategy.cells(object, Time::from_unix(now));
    assert_eq!(cells.len(), strategy.columns().len(), "a cell for every column");
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), String::from);
    cells.iter().map(text).collect::<Vec<_>>().join("|")
}
