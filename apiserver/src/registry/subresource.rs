//! Subresources that are more than a part of their object: scale, binding, eviction, finalize.

use bytes::Bytes;
use proto::status::{FieldError, Status};
use serde_json::{Value, json};

use super::{
    Answer, Call, Content, Registry, delete, object,
    write::{self, Draft, Managed, Way},
};
use crate::{
    codec::{self, Decoded},
    http::query::WriteOptions,
    kinds::{lens::Lens, pod::binding},
    patch::{self, PatchKind},
};

const SCALE: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

/// Makes the Scale that is wanted, and warnings, from the one that is.
type MakeScale<'a> = dyn Fn(&Value) -> Result<(Value, Vec<String>), Status> + Send + Sync + 'a;

impl Registry {
    /// A write to a subresource other than status.
    pub async fn write_subresource(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        match (call.subresource, call.verb) {
            ("scale", "update") => self.put_scale(call, body).await,
            ("scale", "patch") => self.patch_scale(call, body).await,
            ("binding", "create") => self.bind(call, body).await,
            ("eviction", "create") => self.evict(call, body).await,
            ("finalize", "update") => self.finalize(call, body).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    pub async fn get_scale(&self, call: &Call<'_>) -> Result<Answer, Status> {
        self.fresh().await?;
        let object = object::decode(&*self.entry(call)?)?;
        Ok(Answer::ok(Content::Other(scale_of(&object))))
    }

    async fn put_scale(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let options = WriteOptions::parse(call.query, call.user_agent, "UpdateOptions")?;
        let Decoded { value, strict } = codec::decode_kind(write::format(call)?, &body, SCALE)?;
        let warnings =
            write::judge(&options, strict, |list| codec::strict_error("Scale", "v1", list))?;
        self.scale(call, &options, &move |_| Ok((value.clone(), warnings.clone()))).await
    }

    async fn patch_scale(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let kind = super::patch::patch_kind(call)?;
        let options = WriteOptions::parse(call.query, call.user_agent, "PatchOptions")?;
        let format = super::patch::format(kind);
        let Decoded { value: body, .. } = codec::parse(format, &body)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        self.scale(call, &options, &move |scale| {
            let patched = match kind {
                PatchKind::Json => patch::json(scale, &body)?,
                // A Scale has no lists: the three others mean the same.
                _ => patch::merge(scale, &body),
            };
            Ok((patched, Vec::new()))
        })
        .await
    }

    async fn scale(
        &self,
        call: &Call<'_>,
        options: &WriteOptions,
        make: &MakeScale<'_>,
    ) -> Result<Answer, Status> {
        let answer = self
            .replace(call, options, Way::Object, &|old| {
                let old = old.ok_or_else(|| call.not_found())?;
                let (scale, warnings) = make(&scale_of(old))?;
                check_scale(call, &scale)?;
                let mut object = old.clone();
                let metadata = object::meta_mut(&mut object);
                metadata.take_over("resourceVersion", object::meta(&scale));
                if object::meta(&scale).has("uid") {
                    metadata.take_over("uid", object::meta(&scale));
                }
                let replicas = scale.at("spec").int("replicas").unwrap_or(0);
                object.section("spec").set("replicas", replicas);
                Ok(Draft { object, warnings, managed: Managed::Update })
            })
            .await?;
        let object = match &answer.content {
            Content::Entry(entry) => object::decode(entry)?,
            Content::Object(value) => value.clone(),
            _ => return Ok(answer),
        };
        Ok(Answer { content: Content::Other(scale_of(&object)), ..answer })
    }

    /// POST of a Binding: the pod gets its node, once.
    async fn bind(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let kind = ("", "v1", "Binding");
        let decoded = codec::decode_kind(write::format(call)?, &body, kind)?;
        let status = self.bind_to(call, &decoded.value).await?;
        Ok(Answer { code: 201, ..Answer::ok(Content::Other(status)) })
    }

    /// The Status that answers a binding of the call's pod.
    pub(super) async fn bind_to(&self, call: &Call<'_>, binding: &Value) -> Result<Value, Status> {
        let options = WriteOptions::parse(call.query, call.user_agent, "CreateOptions")?;
        let name = object::meta(binding).text("name");
        if !name.is_empty() && name != call.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let mut binding = binding.clone();
        self.admit_body(call, &mut binding, options.dry_run).await?;
        self.replace(call, &options, Way::Made, &|old| {
            let mut object = old.ok_or_else(|| call.not_found())?.clone();
            binding::bind(&mut object, &binding, call.now)?;
            Ok(Draft { object, warnings: Vec::new(), managed: Managed::Update })
        })
        .await?;
        Ok(created())
    }

    /// PUT of a namespace's spec.finalizers; the last one removed lets a terminating namespace go.
    async fn finalize(&self, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
        let options = WriteOptions::parse(call.query, call.user_agent, "UpdateOptions")?;
        let (given, warnings) = write::decode(call, &body, &options)?;
        self.replace(call, &options, Way::Made, &|old| {
            let old = old.ok_or_else(|| call.not_found())?;
            let mut object = old.clone();
            object::meta_mut(&mut object).take_over("resourceVersion", object::meta(&given));
            object.section("spec").take_over("finalizers", given.at("spec"));
            write::refuse_invalid(call, call.name, call.kind.strategy.validate(&object))?;
            Ok(Draft { object, warnings: warnings.clone(), managed: Managed::Update })
        })
        .await
    }
}

/// The Status of a 201.
pub(super) fn created() -> Value {
    let mut status = Status::success();
    status.code = 201;
    delete::status_value(&status)
}

/// autoscaling/v1 Scale of an object with spec.replicas, status.replicas and spec.selector.
fn scale_of(object: &Value) -> Value {
    let metadata = object::meta(object);
    let mut shown = json!({"name": metadata["name"], "namespace": metadata["namespace"]});
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        shown.take_over(field, metadata);
    }
    let mut status = json!({"replicas": object.at("status").int("replicas").unwrap_or(0)});
    let mut selector = object.at("spec").at("selector").clone();
    if object.text("kind") == "ReplicationController" {
        selector = json!({ "matchLabels": selector }); // the one kind whose selector is a map
    }
    let selector = serde_json::from_value::<proto::selector::LabelSelector>(selector);
    if let Ok(Ok(selector)) = selector.map(|selector| selector.selector()) {
        status["selector"] = selector.to_string().into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": shown,
        "spec": {"replicas": object.at("spec").int("replicas").unwrap_or(0)},
        "status": status,
    })
}

fn check_scale(call: &Call, scale: &Value) -> Result<(), Status> {
    let name = object::meta(scale).text("name");
    if name != call.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let replicas = scale.at("spec").at("replicas");
    match replicas.as_i64() {
        Some(count) if count < 0 => {
            let why = "must be greater than or equal to 0";
            let error = FieldError::invalid("spec.replicas", count, why);
            Err(Status::invalid("autoscaling", "Scale", name, &[error]))
        }
        None if !replicas.is_null() => Err(Status::bad_request(
            "json: cannot unmarshal into Go struct field \
                                     ScaleSpec.spec.replicas of type int32",
        )),
        _ => Ok(()),
    }
}
