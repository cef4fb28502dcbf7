//! `Impersonate-User`, `-Group`, `-Uid` and `-Extra-KEY`: acting as somebody else, for those who
//! may (kubernetes.io/docs, Authentication, "User impersonation"). Each part is asked of the
//! authorizer by itself.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use proto::{status::Status, user::User};

use super::target::decode;
use crate::{
    authn::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, service_account},
    authz::{Attributes, Authorizer, What},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user to go on as: `user`, unless the headers name another. 403 where `user` may not.
pub(super) fn resolve(
    user: Arc<User>,
    headers: &HeaderMap,
    authorizer: &Authorizer,
) -> Result<Arc<User>, Status> {
    if !headers.keys().any(|header| header.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.filter(|value| !value.is_empty()).map(String::from).collect()
    };
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys().map(|header| header.as_str()) {
        if let Some(key) = header.strip_prefix(EXTRA) {
            let key = decode(key).to_lowercase();
            extra.entry(key).or_default().extend(texts(header));
        }
    }
    let (groups, uid) = (texts(GROUP), texts(UID).into_iter().next().unwrap_or_default());
    let Some(name) = texts(USER).into_iter().next() else {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        let parts = [groups, vec![uid], extra.into_values().flatten().collect()].concat();
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let why = format!("requested [{}] without impersonating a user", parts.join(" "));
        return Err(Status::internal(why));
    };
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let what = What::Resource { group, resource, subresource, namespace, name };
        let attributes = Attributes { user: &user, verb: "impersonate", what, fields: None };
        authorizer
            .authorize(&attributes)
            .map_err(|why| Status::forbidden(group, resource, name, &why))
    };
    let account = service_account::account_of(&name);
    match account {
        Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name)?,
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    for (key, values) in &extra {
        for value in values {
            may(AUTHENTICATION, "userextras", key, "", value)?;
        }
    }
    if !uid.is_empty() {
        may(AUTHENTICATION, "uids", "", "", &uid)?;
    }
    let groups = match account {
        Some((namespace, _)) if groups.is_empty() => service_account::groups(namespace),
        _ => groups,
    };
    Ok(Arc::new(User { groups: complete(&name, groups), name, uid, extra }))
}

/// Everyone is authenticated or not; naming either group decides it.
fn complete(name: &str, mut groups: Vec<String>) -> Vec<String> {
    let has = |name: &str| groups.iter().any(|group| group == name);
    match name {
        ANONYMOUS if !has(UNAUTHENTICATED) => groups.push(UNAUTHENTICATED.into()),
        ANONYMOUS => {}
        _ if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) => groups.push(AUTHENTICATED.into()),
        _ => {}
    }
    groups
}
