//! POST to `serviceaccounts/NAME/token`: a TokenRequest comes back with a token that lives as long
//! as the account, and as the object it is bound to.

use std::time::Duration;

use bytes::Bytes;
use proto::{
    kind::{self, Row},
    status::{FieldError, Status},
};
use serde_json::Value;

use super::{Answer, Call, Content, object, write};
use crate::{
    authn::{
        AuthnOptions,
        service_account::{Bound, Claims, Reference, user_name},
    },
    codec::{self, Decoded},
    http::{Api, query::WriteOptions},
    kinds::lens::Lens,
};

const KIND: (&str, &str, &str) = ("authentication.k8s.io", "v1", "TokenRequest");
const HOUR: i64 = 3600;
/// The shortest life.
const LEAST: i64 = 600;
/// What agents ask for a pod's own token: such a token is made to last, and warns from then on.
const WARN_ONLY: i64 = HOUR + 7;
const EXTENDED: i64 = 365 * 24 * HOUR;

pub async fn create(api: &Api, call: &Call<'_>, body: Bytes) -> Result<Answer, Status> {
    let options = WriteOptions::parse(call.query, call.user_agent, "CreateOptions")?;
    let Decoded { value: mut request, strict } =
        codec::decode_kind(write::format(call)?, &body, KIND)?;
    let mut warnings = write::judge(&options, strict, |problems| {
        codec::strict_error("TokenRequest", "v1", problems)
    })?;
    check_names(call, &request)?;
    let account = read(api, &kind::SERVICE_ACCOUNT, call.namespace, call.name).await?;
    // Before defaults: nodes may name no audience but those of their pods.
    warnings.extend(api.registry.admit_body(call, &mut request, options.dry_run).await?);
    prepare(api, call, &mut request);
    validate(&request)?;
    let bound = bound(api, call, &request, &account).await?;
    let authn = api.authenticator.options();
    warnings.extend(shorten(authn, &mut request));
    let claims = claims(api, call, &request, bound);
    let token = api
        .authenticator
        .keys()
        .sign(&claims)
        .map_err(|error| Status::internal(format!("failed to generate token: {error}")))?;
    let end = call.now.plus(Duration::from_secs(expiration(&request).unsigned_abs()));
    let status = request.section("status");
    status.set("token", token);
    status.set("expirationTimestamp", object::time(end));
    Ok(Answer { code: 201, content: Content::Other(request), warnings })
}

fn expiration(request: &Value) -> i64 {
    request.at("spec").int("expirationSeconds").unwrap_or(HOUR)
}

fn audiences(request: &Value) -> Vec<String> {
    let audiences = request.at("spec").items("audiences").iter();
    audiences.filter_map(Value::as_str).map(String::from).collect()
}

fn check_names(call: &Call, request: &Value) -> Result<(), Status> {
    for (field, url) in [("name", call.name), ("namespace", call.namespace)] {
        let given = object::meta(request).text(field);
        if !given.is_empty() && given != url {
            let why = format!("must match the service account {field} if specified");
            let error = FieldError::invalid(format!("metadata.{field}"), given, why);
            let (group, _, kind) = KIND;
            return Err(Status::invalid(group, kind, call.name, &[error]));
        }
    }
    Ok(())
}

/// What the server fills in.
fn prepare(api: &Api, call: &Call, request: &mut Value) {
    let metadata = object::meta_mut(request);
    metadata.set("name", call.name);
    metadata.set("namespace", call.namespace);
    metadata.set("creationTimestamp", object::time(call.now));
    request.drop("status");
    let spec = request.section("spec");
    if spec.vacant("audiences") {
        spec.set("audiences", api.authenticator.audiences().to_vec());
    }
    spec.fill("expirationSeconds", HOUR);
}

fn validate(request: &Value) -> Result<(), Status> {
    let seconds = expiration(request);
    let why = match seconds {
        ..LEAST => "may not specify a duration less than 10 minutes",
        0x1_0000_0001.. => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let (group, _, kind) = KIND;
    let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
    Err(Status::invalid(group, kind, "", &[error]))
}

/// No longer than the server allows; the warning that says so.
fn shorten(options: &AuthnOptions, request: &mut Value) -> Option<String> {
    let longest = options.service_account_max_token_expiration?.as_secs() as i64;
    let asked = expiration(request);
    (asked > longest).then(|| {
        request.section("spec").set("expirationSeconds", longest);
        format!("requested expiration of {asked} seconds shortened to {longest} seconds")
    })
}

/// The object, or 404.
async fn read(api: &Api, row: &Row, namespace: &str, name: &str) -> Result<Value, Status> {
    let cache = &api.registry.of(row).cache;
    let mut entry = cache.get(namespace, name);
    if entry.is_none() {
        api.registry.fresh().await?;
        entry = cache.get(namespace, name);
    }
    let entry = entry.ok_or_else(|| Status::not_found(&row.group, &row.resource, name))?;
    object::decode(&entry)
}

fn reference(object: &Value) -> Reference {
    let metadata = object::meta(object);
    Reference { name: metadata.text("name").into(), uid: metadata.text("uid").into() }
}

/// What the token will depend on.
async fn bound(
    api: &Api,
    call: &Call<'_>,
    request: &Value,
    account: &Value,
) -> Result<Bound, Status> {
    let mut bound = Bound {
        namespace: call.namespace.into(),
        serviceaccount: reference(account),
        ..Bound::default()
    };
    let asked = request.at("spec").at("boundObjectRef");
    if asked.is_null() {
        return Ok(bound);
    }
    let (group, version) =
        asked.text("apiVersion").split_once('/').unwrap_or(("", asked.text("apiVersion")));
    let (kind, name) = (asked.text("kind"), asked.text("name"));
    let found = match (group, kind) {
        ("", "Pod") => {
            let pod = read(api, &kind::POD, call.namespace, name).await?;
            if pod.at("spec").text("serviceAccountName") != call.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different \
                     serviceaccount name.",
                    call.name
                )));
            }
            bound.pod = Some(reference(&pod));
            bound.node = node_of(api, &pod).await?;
            &bound.pod
        }
        ("", "Secret") => {
            let secret = read(api, &kind::SECRET, call.namespace, name).await?;
            bound.secret = Some(reference(&secret));
            &bound.secret
        }
        ("", "Node") => {
            bound.node = Some(reference(&read(api, &kind::NODE, "", name).await?));
            &bound.node
        }
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let uid = asked.text("uid");
    match found {
        Some(found) if !uid.is_empty() && uid != found.uid => {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            Err(Status::conflict(group, kind, name, &why))
        }
        _ => Ok(bound),
    }
}

/// The node a pod is on; without a uid where there is no such object.
async fn node_of(api: &Api, pod: &Value) -> Result<Option<Reference>, Status> {
    let name = pod.at("spec").text("nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    match read(api, &kind::NODE, "", name).await {
        Ok(node) => Ok(Some(reference(&node))),
        Err(status) if status.code == 404 => {
            Ok(Some(Reference { name: name.into(), uid: String::new() }))
        }
        Err(status) => Err(status),
    }
}

fn claims(api: &Api, call: &Call, request: &Value, mut bound: Bound) -> Claims {
    let authn = &api.authenticator;
    let (iat, mut life, aud) = (call.now.0.as_second(), expiration(request), audiences(request));
    let ours = aud.iter().all(|audience| authn.audiences().contains(audience));
    let extend = authn.options().service_account_extend_token_expiration;
    if extend && ours && bound.pod.is_some() && life == WARN_ONLY {
        bound.warnafter = Some(iat + life);
        let longest = authn.options().service_account_max_token_expiration;
        life = longest.map_or(EXTENDED, |longest| EXTENDED.min(longest.as_secs() as i64));
    }
    Claims {
        aud,
        exp: iat + life,
        iat,
        iss: authn.issuer().into(),
        jti: api.registry.0.rng.uuid(),
        nbf: iat,
        sub: user_name(call.namespace, &bound.serviceaccount.name),
        kubernetes: bound,
    }
}
