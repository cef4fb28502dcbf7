//! The ResourceClaims of a pod (dynamic resource allocation), what its containers use of them, and
//! what its status says of them.

use std::collections::{BTreeSet, HashSet};

use proto::status::{FieldError, Problem};
use serde_json::{Value, json};

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// What a pod calls its claims.
pub type Names<'a> = BTreeSet<&'a str>;

pub fn names(spec: &Value) -> Names<'_> {
    let names = spec.items("resourceClaims").iter().map(|claim| claim.text("name"));
    names.filter(|name| !name.is_empty()).collect()
}

/// Validates `resourceClaims` of the spec at `path`; `meta` is the pod's, null in a template.
pub fn validate(path: &Path, spec: &Value, meta: &Value, errors: &mut Errors) {
    let path = path.field("resourceClaims");
    let mut seen = HashSet::new();
    for (index, claim) in spec.items("resourceClaims").iter().enumerate() {
        if super::is_mirror(meta) {
            errors.push(FieldError::forbidden("", "static pods do not support resource claims"));
            continue;
        }
        one(&path.index(index), claim, &mut seen, errors);
    }
}

fn one<'a>(path: &Path, claim: &'a Value, seen: &mut HashSet<&'a str>, errors: &mut Errors) {
    let field = path.field("name");
    match claim.text("name") {
        "" => errors.push(FieldError::required(field, "")),
        name if !seen.insert(name) => errors.push(FieldError::duplicate(field, name)),
        name => check::label(&field, name, errors),
    }
    let sources = ["resourceClaimName", "resourceClaimTemplateName"];
    let detail = match sources.iter().filter(|source| claim.has(source)).count() {
        0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
        1 => "",
        _ => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
    };
    if !detail.is_empty() {
        // As Go writes the struct.
        let value = json!({
            "Name": claim.text("name"),
            "ResourceClaimName": claim.at(sources[0]),
            "ResourceClaimTemplateName": claim.at(sources[1]),
        });
        errors.push(FieldError::invalid(path, value, detail));
    }
    for source in sources.iter().filter(|source| claim.has(source)) {
        check::subdomain(&path.field(source), claim.text(source), errors);
    }
}

/// Validates the `claims` of a container's resources, which name the pod's claims or single
/// requests of them, each once.
pub fn used(path: &Path, claims: &[Value], names: &Names, errors: &mut Errors) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        if seen.contains(&(name, "")) {
            errors.push(FieldError::duplicate(path, name));
        } else {
            if !request.is_empty() {
                check::label(&path.field("request"), request, errors);
            }
            if seen.contains(&(name, request)) {
                errors.push(FieldError::duplicate(path, format!("{name}/{request}")));
            } else if request.is_empty() {
                for _ in seen.iter().filter(|(other, _)| *other == name) {
                    errors.push(FieldError::duplicate(path, name));
                }
            }
            seen.insert((name, request));
        }
        if !names.contains(name) {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_string();
            match names.is_empty() {
                true => detail += " which is empty",
                false => {
                    let names: Vec<&str> = names.iter().copied().collect();
                    detail += &format!(": {}", names.join(", "));
                }
            }
            errors.push(FieldError::new(path, Problem::NotFound(name.into()), detail));
        }
    }
}

/// Validates what the status at `path` says of the claims of this spec.
pub fn status(path: &Path, status: &Value, spec: &Value, errors: &mut Errors) {
    let known = names(spec);
    let list = path.field("resourceClaimStatuses");
    let mut seen = HashSet::new();
    for (index, claim) in status.items("resourceClaimStatuses").iter().enumerate() {
        let path = list.index(index);
        let name = claim.text("name");
        if !known.contains(name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(path.field("name"), name, detail));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.field("name"), name));
        }
        if claim.has("resourceClaimName") {
            let claim = claim.text("resourceClaimName");
            check::subdomain(&path.field("resourceClaimName"), claim, errors);
        }
    }
    if status.has("extendedResourceClaimStatus") {
        let path = path.field("extendedResourceClaimStatus");
        extended(&path, status.at("extendedResourceClaimStatus"), spec, errors);
    }
}

/// The claim that was made for extended resources, and which request of it answers which.
fn extended(path: &Path, status: &Value, spec: &Value, errors: &mut Errors) {
    let list = path.field("requestMappings");
    if status.vacant("requestMappings") {
        let detail = "at least one request mapping is required";
        errors.push(FieldError::required(list, detail));
    }
    let mut seen = HashSet::new();
    for (index, mapping) in status.items("requestMappings").iter().enumerate() {
        let item = list.index(index);
        let keys = ["containerName", "resourceName", "requestName"];
        let [container, resource, request] = keys.map(|key| mapping.text(key));
        let containers = spec.items("initContainers").iter().chain(spec.items("containers"));
        match containers.clone().find(|known| known.text("name") == container) {
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or \
                              spec.containers.name";
                errors.push(FieldError::invalid(item.field(keys[0]), container, detail));
            }
            Some(known) if !known.at("resources").at("requests").has(resource) => {
                let detail = "must match the extended resource name of an entry in \
                              spec.initContainers.resources.requests or \
                              spec.containers.resources.requests";
                errors.push(FieldError::invalid(item.field(keys[1]), resource, detail));
            }
            Some(_) => {}
        }
        check::label(&path.field(keys[2]), request, errors);
        if !seen.insert((container, resource, request)) {
            for key in keys {
                errors.push(FieldError::duplicate(item.field(key), mapping.text(key)));
            }
        }
    }
    let field = path.field("resourceClaimName");
    match status.text("resourceClaimName") {
        "" => errors.push(FieldError::required(field, "")),
        name => check::subdomain(&field, name, errors),
    }
}
