//! Tables of what one kind refuses and shows, asked over HTTP.

#![allow(dead_code, reason = "every test program uses a part of it")]

use serde_json::Value;

use super::api::{Api, Reply};

/// A valid object, and where its kind is served.
pub struct Kind<'a> {
    pub api: &'a Api,
    pub path: &'a str,
    pub base: Value,
}

/// A change to an object and the errors that it gives; none: it is fine.
pub struct Case {
    pub pointer: &'static str,
    pub value: Value,
    pub errors: &'static [&'static str],
}

impl Kind<'_> {
    pub async fn create(&self) -> Value {
        self.api.post(self.path, self.base.clone()).await.expect(201)
    }

    fn object(&self) -> String {
        format!("{}/{}", self.path, self.base["metadata"]["name"].as_str().unwrap())
    }

    pub async fn get(&self) -> Value {
        self.api.get(&self.object()).await.expect(200)
    }

    /// The errors about another new object with this change.
    pub async fn refused(&self, pointer: &str, value: Value) -> Vec<String> {
        let mut object = with(&self.base, pointer, value);
        if pointer != "/metadata/name" {
            let name = format!("other.{}", self.base["metadata"]["name"].as_str().unwrap());
            object = with(&object, "/metadata/name", name.into());
        }
        errors(&self.api.post(&format!("{}?dryRun=All", self.path), object).await)
    }

    pub async fn refuses(&self, cases: &[Case]) {
        for case in cases {
            let found = self.refused(case.pointer, case.value.clone()).await;
            assert_eq!(found, case.errors, "{} = {}", case.pointer, case.value);
        }
    }

    /// The errors about this change of the object that is there.
    pub async fn update(&self, pointer: &str, value: Value) -> Vec<String> {
        let object = with(&self.get().await, pointer, value);
        errors(&self.api.put(&self.object(), object).await)
    }

    pub async fn keeps(&self, cases: &[Case]) {
        for case in cases {
            let found = self.update(case.pointer, case.value.clone()).await;
            assert_eq!(found, case.errors, "{} = {}", case.pointer, case.value);
        }
    }

    /// The columns of the object's table, and its first cells; ages are not compared.
    pub async fn shows(&self, columns: &str, cells: Value) {
        let accept = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
        let table = self.api.send(&format!("GET {}", self.object()), &[accept], "").await;
        let table = table.expect(200);
        let names = table["columnDefinitions"].as_array().unwrap().iter();
        let names: Vec<&str> = names.map(|column| column["name"].as_str().unwrap()).collect();
        assert_eq!(names.join(","), columns);
        let found = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(found.len(), names.len());
        for (index, cell) in cells.as_array().unwrap().iter().enumerate() {
            if names[index] != "Age" {
                assert_eq!(found[index], *cell, "{}", names[index]);
            }
        }
    }
}

/// `path: sentence` of every cause.
pub fn errors(reply: &Reply) -> Vec<String> {
    if reply.code < 300 {
        return Vec::new();
    }
    let status = reply.json();
    assert_eq!(reply.code, 422, "{status}");
    let causes = status["details"]["causes"].as_array().unwrap().iter();
    causes
        .map(|cause| {
            let text = |field: &str| cause[field].as_str().unwrap_or_default();
            format!("{}: {}", text("field"), text("message"))
        })
        .collect()
}

pub fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The object with the value at a JSON pointer, whose parents are there or are made.
pub fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let mut place = &mut object;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/");
        place = match place {
            Value::Array(items) => &mut items[step.parse::<usize>().expect("an index")],
            other => &mut other[step],
        };
    }
    *place = value;
    object
}
