//! Kinds that are asked, not stored: a POST is answered and leaves nothing behind. A row without
//! storage is served by its entry in [`HANDLERS`].

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::{
    kind::{self, Row},
    status::Status,
    user::User,
};
use serde_json::{Value, json};

use super::{Answer, Call, Content, object, write};
use crate::{
    authn,
    http::{Api, query::WriteOptions},
    kinds::lens::Lens,
};

mod access;

/// Answers the object that was posted: decoded, checked against its schema, in the namespace of
/// the URL.
type Handler = for<'a> fn(&'a Api, &'a Call<'a>, Value) -> BoxFuture<'a, Result<Value, Status>>;

static HANDLERS: &[(&Row, Handler)] = &[
    (&kind::BINDING, |api, call, object| Box::pin(bind(api, call, object))),
    (&kind::SELF_SUBJECT_REVIEW, |_, call, object| Box::pin(async { who_am_i(call, object) })),
    (&kind::TOKEN_REVIEW, |api, _, object| Box::pin(token(api, object))),
    (&kind::LOCAL_SUBJECT_ACCESS_REVIEW, |api, call, object| {
        Box::pin(async { access::of_subject(api.registry.authorizer(), call, object) })
    }),
    (&kind::SELF_SUBJECT_ACCESS_REVIEW, |api, call, object| {
        Box::pin(async { access::of_self(api.registry.authorizer(), call, object) })
    }),
    (&kind::SELF_SUBJECT_RULES_REVIEW, |api, call, object| {
        Box::pin(async { access::own_rules(api.registry.authorizer(), call, object) })
    }),
    (&kind::SUBJECT_ACCESS_REVIEW, |api, call, object| {
        Box::pin(async { access::of_subject(api.registry.authorizer(), call, object) })
    }),
];

/// A POST of a kind that is not stored.
pub async fn answer(api: &Api, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
    let handler = HANDLERS.iter().find(|(row, _)| *row == call.kind.row);
    let (_, handler) = handler.ok_or_else(Status::method_not_allowed)?;
    let options = WriteOptions::parse(call.query, call.user_agent, "CreateOptions")?;
    let (mut object, warnings) = write::decode(call, &body, &options)?;
    write::check_namespace(call, &mut object)?;
    let answer = handler(api, call, object).await?;
    Ok(Answer { code: 201, content: Content::Other(answer), warnings })
}

/// POST to `bindings`: the older form of `pods/NAME/binding`.
async fn bind(api: &Api, call: &Call<'_>, binding: Value) -> Result<Value, Status> {
    let name = object::meta(&binding).text("name").to_string();
    let pods = api.registry.of(&kind::POD);
    let call = Call { kind: pods, name: &name, subresource: "binding", ..*call };
    api.registry.bind_to(&call, &binding).await
}

fn who_am_i(call: &Call, mut review: Value) -> Result<Value, Status> {
    object::meta_mut(&mut review).set("creationTimestamp", object::time(call.now));
    review["status"] = json!({"userInfo": user_info(call.user)});
    Ok(review)
}

/// Whom a token speaks for, towards the audiences that the review names or else this API's.
async fn token(api: &Api, mut review: Value) -> Result<Value, Status> {
    let token = review.at("spec").text("token").to_string();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = review.at("spec").items("audiences").iter();
    let mut audiences: Vec<String> = asked.filter_map(Value::as_str).map(String::from).collect();
    if audiences.is_empty() {
        audiences = api.authenticator.audiences().to_vec();
    }
    review["status"] = match api.authenticator.token(&token, &audiences, &api.registry).await {
        Ok(proof) => json!({
            "authenticated": true,
            "user": user_info(&proof.user),
            "audiences": proof.audiences,
        }),
        Err(why) => json!({"user": {}, "error": authn::refusal(why)}),
    };
    Ok(review)
}

/// authentication.k8s.io/v1 UserInfo.
fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}
