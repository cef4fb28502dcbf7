//! Who may do what: the API server is asked whether the caller may do to `nodes/SUBRESOURCE` of this
//! node what the path stands for (Kubernetes: Kubelet authorization, with the fine-grained
//! subresources that are stable since v1.36).

use std::time::Duration;

use client::{Client, Clock, endpoint};
use http::Method;
use proto::user::User;
use serde_json::json;

/// How long a yes and a no hold (kubelet: authorization.webhook.cacheAuthorizedTTL and
/// cacheUnauthorizedTTL).
const YES_LASTS: Duration = Duration::from_secs(300);
const NO_LASTS: Duration = Duration::from_secs(30);

pub struct Authorizer {
    node: String,
    reviews: endpoint::Authorizer,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// 403, with what the caller is told.
    Forbidden(String),
    /// 500: the API server did not answer.
    Error(String),
}

impl Authorizer {
    pub fn new(client: Client, clock: Clock, node: String) -> Authorizer {
        Authorizer { node, reviews: endpoint::Authorizer::new(client, clock, YES_LASTS, NO_LASTS) }
    }

    pub async fn authorize(&self, user: &User, method: &Method, path: &str) -> Result<(), Refused> {
        let verb = verb(method);
        let subresources = subresources(path);
        for subresource in subresources {
            let attributes = json!({"resourceAttributes": {
                "verb": verb,
                "version": "v1",
                "resource": "nodes",
                "subresource": subresource,
                "name": self.node,
            }});
            match self.reviews.allows(user, attributes).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    let error = client::error::chain(&error);
                    tracing::warn!(user = user.name, error, "cannot review an access");
                    return Err(Refused::Error(format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, \
                         subresource={subresource})",
                        user.name
                    )));
                }
            }
        }
        Err(Refused::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            subresources.join(" ")
        )))
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// What the path stands for; any of them suffices. The finer ones are asked first.
fn subresources(path: &str) -> &'static [&'static str] {
    let below = |root: &str| {
        let rest = path.strip_prefix(root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match () {
        () if below("/pods") || below("/runningpods") => &["pods", "proxy"],
        () if below("/healthz") => &["healthz", "proxy"],
        () if below("/configz") => &["configz", "proxy"],
        () if below("/stats") => &["stats"],
        () if below("/metrics") => &["metrics"],
        // As pods/log and others.
        () if below("/logs") => &["log"],
        () if below("/checkpoint") => &["checkpoint"],
        () => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_stands_for() {
        let cases: [(&str, &[&str]); 14] = [
            ("/pods", &["pods", "proxy"]),
            ("/pods/", &["pods", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/metricsx", &["proxy"]),
            ("/logs/", &["log"]),
            ("/containerLogs/a/b/c", &["proxy"]),
            ("/exec/a/b/c", &["proxy"]),
            ("/checkpoint/a/b/c", &["checkpoint"]),
            ("/", &["proxy"]),
        ];
        for (path, expected) in cases {
            assert_eq!(subresources(path), expected, "{path}");
        }
        assert_eq!((verb(&Method::POST), verb(&Method::HEAD)), ("create", ""));
    }
}
