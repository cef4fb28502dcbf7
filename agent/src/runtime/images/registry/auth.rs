//! How a registry wants to be asked: the challenges of its 401, and who we can say that we are
//! (distribution-spec: token authentication; RFC 9110 for the challenges). Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use proto::cri;

/// Who pulls.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// A refresh token, for which the token server gives short-lived ones.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

/// CRI's credentials make no sense.
#[derive(Debug, thiserror::Error)]
#[error("the credentials' field \"auth\" is not the base64 of USER:PASSWORD")]
pub struct BadAuth;

impl Credentials {
    /// Of a pull of an image of `registry`; none where they are meant for another server.
    pub fn new(auth: cri::AuthConfig, registry: &str) -> Result<Credentials, BadAuth> {
        let server = auth.server_address.trim_start_matches("https://");
        let server = server.trim_start_matches("http://").split('/').next().unwrap_or_default();
        if !server.is_empty() && familiar(server) != familiar(registry) {
            return Ok(Credentials::Anonymous);
        }
        if !auth.registry_token.is_empty() {
            return Ok(Credentials::Bearer(auth.registry_token));
        }
        if !auth.identity_token.is_empty() {
            return Ok(Credentials::Identity(auth.identity_token));
        }
        if !auth.username.is_empty() {
            return Ok(Credentials::Basic { username: auth.username, password: auth.password });
        }
        if auth.auth.is_empty() {
            return Ok(Credentials::Anonymous);
        }
        let bytes = STANDARD.decode(auth.auth.trim()).map_err(|_| BadAuth)?;
        let text = String::from_utf8(bytes).map_err(|_| BadAuth)?;
        let (username, password) = text.trim_end_matches('\0').split_once(':').ok_or(BadAuth)?;
        Ok(Credentials::Basic { username: username.to_owned(), password: password.to_owned() })
    }

    /// The header of Basic authentication.
    pub fn basic(&self) -> Option<HeaderValue> {
        let Credentials::Basic { username, password } = self else { return None };
        let mut value: HeaderValue =
            format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))).parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// The Docker Hub under all its names.
fn familiar(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq)]
pub enum Challenge {
    Basic,
    /// Where to fetch a token, and for what.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenges of a `WWW-Authenticate` header that are understood.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    for (scheme, parameters) in schemes(header) {
        let get = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            found.push(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
    }
    found
}

type Parameters = Vec<(String, String)>;

/// Schemes and their parameters: `Bearer realm="…",scope="a,b", Basic realm=x`.
fn schemes(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        let (word, after) = rest.split_at(end);
        match after.trim_start().strip_prefix('=') {
            Some(value) if !found.is_empty() => {
                let (value, after) = value_of(value.trim_start());
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            Some(_) => return found,
            None => {
                found.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, character) in quoted.char_indices() {
        match character {
            _ if escaped => {
                value.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// What a token server is asked with.
pub fn query(service: Option<&str>, scope: &str, username: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", scope);
    if let Some(username) = username {
        query.append_pair("account", username);
    }
    query.finish()
}

/// The same for a refresh token, as a form.
pub fn form(service: Option<&str>, scope: &str, token: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token");
    form.append_pair("refresh_token", token);
    form.append_pair("client_id", "coracle");
    form.append_pair("scope", scope);
    if let Some(service) = service {
        form.append_pair("service", service);
    }
    form.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        let table = [
            (r#"Basic realm="r""#, vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://t/x",service="s, t",scope="repository:a/b:pull,push""#,
                vec![bearer("https://t/x", Some("s, t"), Some("repository:a/b:pull,push"))],
            ),
            (
                r#"Negotiate, bearer Realm = "https://t/\"x", BASIC realm=a"#,
                vec![bearer("https://t/\"x", None, None), Challenge::Basic],
            ),
            (r#"Bearer service="s""#, vec![]),
            ("", vec![]),
            ("=", vec![]),
            (r#"Bearer realm="unfinished"#, vec![bearer("unfinished", None, None)]),
        ];
        for (header, expected) in table {
            assert_eq!(challenges(header), expected, "{header}");
        }
    }

    #[test]
    fn credentials_go_to_their_server_only() {
        let auth = |auth: &str, server: &str| cri::AuthConfig {
            auth: auth.into(),
            server_address: server.into(),
            ..Default::default()
        };
        let basic = Credentials::Basic { username: "me".into(), password: "secret:word".into() };
        let encoded = STANDARD.encode("me:secret:word");
        let of = |auth| Credentials::new(auth, "docker.io").ok();
        assert!(of(auth(&encoded, "")) == Some(basic.clone()));
        assert!(of(auth(&encoded, "https://index.docker.io/v1/")) == Some(basic));
        assert!(of(auth(&encoded, "quay.io")) == Some(Credentials::Anonymous));
        assert!(of(auth("???", "")).is_none() && of(auth(&STANDARD.encode("me"), "")).is_none());
        let tokens = cri::AuthConfig {
            username: "u".into(),
            identity_token: "i".into(),
            ..Default::default()
        };
        assert!(of(tokens.clone()) == Some(Credentials::Identity("i".into())));
        let token = cri::AuthConfig { registry_token: "r".into(), ..tokens };
        assert!(of(token) == Some(Credentials::Bearer("r".into())));
    }
}
