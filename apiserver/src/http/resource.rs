//! Requests to resources: which verb it is, whether it may, and what the registry makes of it.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{Method, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use proto::{
    kind::{self, Row},
    selector::FieldSelector,
    status::Status,
    user::User,
};

use super::{
    Api,
    accept::{self, Encoding, Offer, Wanted},
    answer, body, component_status, compress,
    exchange::{Asked, Exchange, Source},
    header_text,
    query::Query,
    resource_metrics,
    target::ResourcePath,
    websocket, what,
};
use crate::{
    authz::Attributes,
    node,
    registry::{Answer, Call, Kind, review, token},
    schema,
};

pub(super) async fn handle(
    api: &Arc<Api>,
    parts: &mut Parts,
    body: Body,
    path: &ResourcePath<'_>,
    (proven, user): (&Arc<User>, &Arc<User>),
    exchange: &mut Exchange,
) -> Result<Response, Status> {
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let uri = parts.uri.clone();
    let query = Query::parse(uri.query());
    let verb = verb(&parts.method, path, &query)?;
    let fields = selector(path, &query);
    let fields = fields.as_ref();
    let selected = fields.and_then(|fields| fields.required("metadata.name"));
    let name = selected.unwrap_or(&path.name);
    let (what, version) = (what(path, name), &*path.version);
    let asked = Asked { user: proven, acting: user, verb, what, version, query: &query };
    exchange.admit(api, parts, asked).await?;
    let verdict = api.registry.authorizer().authorize(&Attributes { user, verb, what, fields });
    exchange.decided(&verdict);
    verdict.map_err(|why| Status::forbidden(&path.group, &path.resource, &path.name, &why))?;
    let kind = find(api, path, verb)?;
    let notes = exchange.notes();
    let streams = node::answers(&path.subresource);
    let call = Call {
        kind,
        verb,
        namespace: &path.namespace,
        name: &path.name,
        subresource: &path.subresource,
        user,
        query: &query,
        user_agent: header_text(parts, header::USER_AGENT).unwrap_or_default(),
        content_type: header_text(parts, header::CONTENT_TYPE).unwrap_or_default(),
        wanted: match streams {
            true => accept::PLAIN,
            false => wanted(parts, &query, kind.row, verb)?,
        },
        now: api.clock.now(),
        notes: notes.as_deref(),
    };
    if streams {
        return match websocket::asked(&call, parts) {
            true => {
                let response = node::handle(api, &call, parts, body, None).await?;
                websocket::carry(parts, upgrade, response, websocket::Frames::Binary).await
            }
            false => node::handle(api, &call, parts, body, upgrade).await,
        };
    }
    let registry = &api.registry;
    let result = match (verb, &*path.subresource) {
        ("get" | "list", "") if *kind.row.group == *kind::NODE_METRICS.group => {
            resource_metrics::answer(api, &call).await
        }
        ("get" | "list", "") if !kind.row.is_stored() => component_status::answer(api, &call).await,
        ("get", "" | "status" | "approval" | "ephemeralcontainers" | "resize") => {
            registry.get(&call).await
        }
        ("get", "scale") => registry.get_scale(&call).await,
        ("list", "") => registry.list(&call).await,
        ("watch", "") => return watch(api, &call, parts, upgrade).await,
        ("get" | "list" | "watch", _) => Err(Status::method_not_allowed()),
        _ => write(api, &call, body, exchange).await,
    };
    let wire = parts.extensions.get::<Source>().is_some();
    let mut response = answer::answer(&call, result?, wire)?;
    answer::warn(&mut response, deprecation(kind.row));
    Ok(compress::response(response, header_text(parts, header::ACCEPT_ENCODING)))
}

async fn write(
    api: &Api,
    call: &Call<'_>,
    body: Body,
    exchange: &mut Exchange,
) -> Result<Answer, Status> {
    let body = body::read(body).await?;
    if exchange.wants_body()
        && let Some(value) = call.value(&body)
    {
        exchange.requested(value);
    }
    let registry = &api.registry;
    match (call.verb, call.subresource) {
        ("create", "") if !call.kind.row.is_stored() => review::answer(api, call, body).await,
        ("create", "token") => token::create(api, call, body).await,
        ("create", "") => registry.create(call, body).await,
        ("update", "" | "status" | "approval" | "ephemeralcontainers" | "resize") => {
            registry.update(call, body).await
        }
        ("patch", "" | "status" | "approval" | "ephemeralcontainers" | "resize") => {
            registry.patch(call, body).await
        }
        ("delete", "") => registry.delete(call, body).await,
        ("deletecollection", "") => registry.delete_collection(call, body).await,
        _ => registry.write_subresource(call, body).await,
    }
}

async fn watch(
    api: &Api,
    call: &Call<'_>,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, Status> {
    let frames = api.registry.watch(call).await?;
    let encoding = call.wanted.encoding;
    let mut response = answer::streaming(encoding, frames);
    answer::warn(&mut response, deprecation(call.kind.row));
    if !websocket::asked(call, parts) {
        return Ok(response);
    }
    let frames = match encoding {
        Encoding::Protobuf => websocket::Frames::Binary,
        Encoding::Json | Encoding::Indented | Encoding::Yaml => websocket::Frames::Text,
    };
    websocket::carry(parts, upgrade, response, frames).await
}

/// What the client wants to read; JSON is indented for people.
fn wanted(parts: &Parts, query: &Query, row: &Row, verb: &str) -> Result<Wanted, Status> {
    let accept = header_text(parts, header::ACCEPT);
    let offer =
        || Offer { protobuf: schema::of(row).is_some(), tables: has_tables(query, row, verb) };
    let mut wanted = match accept::is_plain(accept) {
        true => accept::PLAIN,
        false => accept::negotiate(accept, offer())?,
    };
    if wanted.encoding == Encoding::Json && is_pretty(parts, query) {
        wanted.encoding = Encoding::Indented;
    }
    Ok(wanted)
}

/// Reviews and the like have no table, and streaming lists come as objects only.
fn has_tables(query: &Query, row: &Row, verb: &str) -> bool {
    match verb {
        "create" => row.is_stored(),
        "watch" => !(query.flag("sendInitialEvents") && query.flag("allowWatchBookmarks")),
        _ => true,
    }
}

/// Asked for with `pretty`, or taken for granted of what people read with.
fn is_pretty(parts: &Parts, query: &Query) -> bool {
    match query.text("pretty") {
        "" => {
            let agent = header_text(parts, header::USER_AGENT).unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|reader| agent.starts_with(reader))
        }
        pretty => matches!(pretty, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// What upstream warns of on every request to a kind: group, kind, sentence.
const DEPRECATED: &[(&str, &str, &str)] = &[
    ("", "ComponentStatus", "v1 ComponentStatus is deprecated in v1.19+"),
    (
        "",
        "Endpoints",
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
];

fn deprecation(row: &Row) -> Option<&'static str> {
    let found = DEPRECATED.iter().find(|(group, kind, _)| *group == row.group && *kind == row.kind);
    found.map(|(_, _, sentence)| *sentence)
}

/// The verb of a request, as authorization and the registry name it.
fn verb(method: &Method, path: &ResourcePath, query: &Query) -> Result<&'static str, Status> {
    let collection = path.name.is_empty();
    Ok(match *method {
        Method::GET | Method::HEAD if path.watch => "watch",
        Method::GET | Method::HEAD if collection && query.flag("watch") => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        // Whatever a server behind the proxy understands.
        _ if path.subresource == "proxy" => "",
        _ => return Err(Status::method_not_allowed()),
    })
}

/// What a request to a collection is restricted to; with `metadata.name=NAME` it is about that
/// object only.
fn selector(path: &ResourcePath, query: &Query) -> Option<FieldSelector> {
    match path.name.is_empty() {
        true => FieldSelector::parse(query.find("fieldSelector")?).ok(),
        false => None,
    }
}

/// The kind, if the path and the verb fit it.
fn find<'a>(api: &'a Api, path: &ResourcePath, verb: &str) -> Result<&'a Arc<Kind>, Status> {
    let kind = api
        .registry
        .kind(&path.group, &path.version, &path.resource)
        .ok_or_else(Status::no_such_path)?;
    let row = kind.row;
    let everywhere = path.namespace.is_empty() && path.name.is_empty();
    let scoped = match row.namespaced {
        true => !path.namespace.is_empty() || everywhere && matches!(verb, "list" | "watch"),
        false => path.namespace.is_empty(),
    };
    if !scoped && everywhere {
        return Err(Status::method_not_allowed());
    }
    if !scoped {
        return Err(Status::no_such_path());
    }
    if !path.subresource.is_empty() {
        return match row.has_subresource(&path.subresource) {
            true => Ok(kind),
            false => Err(Status::no_such_path()),
        };
    }
    let fits = match verb {
        "create" => path.name.is_empty(),
        "update" | "patch" => !path.name.is_empty(),
        _ => true,
    };
    match fits && row.verbs.iter().any(|known| known == verb) {
        true => Ok(kind),
        false => Err(Status::method_not_allowed()),
    }
}
