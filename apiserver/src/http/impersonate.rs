//! `Impersonate-User`, `-Group` and `-Uid`: acting as somebody else, for those who may
//! (kubernetes.io/docs, Authentication, "User impersonation").

use std::sync::Arc;

use http::HeaderMap;
use proto::{status::Status, user::User};

use crate::{
    authn::AUTHENTICATED,
    authz::{self, Attributes, NodeView, What},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";

/// The user to go on as: `user`, unless the headers name another. 403 where `user` may not.
pub(super) fn resolve(
    user: Arc<User>,
    headers: &HeaderMap,
    nodes: &dyn NodeView,
) -> Result<Arc<User>, Status> {
    let texts = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let groups: Vec<String> = texts(GROUP).map(String::from).collect();
    let Some(name) = texts(USER).next().filter(|name| !name.is_empty()) else {
        if headers.keys().any(|header| header.as_str().starts_with("impersonate-")) {
            let why = "requested [] without impersonating a user";
            return Err(Status::internal(why));
        }
        return Ok(user);
    };
    check(&user, ("", "users", name), nodes)?;
    for group in &groups {
        check(&user, ("", "groups", group), nodes)?;
    }
    let uid = texts(UID).next().unwrap_or_default();
    if !uid.is_empty() {
        check(&user, ("authentication.k8s.io", "uids", uid), nodes)?;
    }
    if headers.keys().any(|header| header.as_str().starts_with("impersonate-extra-")) {
        return Err(Status::bad_request("extra fields cannot be impersonated"));
    }
    let mut other =
        User { name: name.to_string(), uid: uid.to_string(), groups, ..User::default() };
    if !other.groups.iter().any(|group| group == AUTHENTICATED) {
        other.groups.push(AUTHENTICATED.into());
    }
    Ok(Arc::new(other))
}

fn check(
    user: &User,
    (group, resource, name): (&str, &str, &str),
    nodes: &dyn NodeView,
) -> Result<(), Status> {
    let what = What::Resource { group, resource, subresource: "", namespace: "", name };
    authz::authorize(&Attributes { user, verb: "impersonate", what }, nodes)
        .map_err(|why| Status::forbidden(group, resource, name, &why))
}
