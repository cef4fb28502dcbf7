//! Who is asking: from the request's extension (in one process), the client certificate, or a
//! bearer token. The edge calls it before anything else reads the request; nothing here may look at
//! what is asked for.

use std::{collections::HashMap, path::Path, sync::Arc};

use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use proto::{status::Status, user::User};

/// The group of everyone who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";

/// The identity in the certificate that a connection presented. Set on every request of the
/// connection; the certificate has been verified against the authority by then.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<User>);

/// Who asks, as later steps see it. `None` in it means nobody in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Known(Arc<User>),
    Anonymous,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("reading the token file {path}")]
    Read { path: String, source: std::io::Error },
    #[error("line {line} of the token file {path} must have at least token, user name and uid")]
    Columns { path: String, line: usize },
    #[error("line {line} of the token file {path} has an unfinished quote")]
    Quote { path: String, line: usize },
}

/// Knows the tokens.
#[derive(Debug, Default)]
pub struct Authenticator {
    tokens: HashMap<String, Arc<User>>,
}

impl Authenticator {
    /// `tokens` is a CSV file of `token,user,uid,"group1,group2"`.
    pub fn new(tokens: Option<&Path>) -> Result<Authenticator, TokenFileError> {
        let Some(path) = tokens else { return Ok(Authenticator::default()) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: name.clone(), source })?;
        Ok(Authenticator { tokens: parse_tokens(&name, &text)? })
    }

    /// 401 where a credential is there and wrong.
    pub fn identify(&self, parts: &Parts) -> Result<Identity, Status> {
        if let Some(user) = parts.extensions.get::<Arc<User>>() {
            return Ok(Identity::Known(user.clone()));
        }
        if let Some(user) = parts.extensions.get::<User>() {
            return Ok(Identity::Known(Arc::new(authenticated(user.clone()))));
        }
        if let Some(Peer(user)) = parts.extensions.get::<Peer>() {
            return Ok(Identity::Known(user.clone()));
        }
        match bearer(&parts.headers) {
            Some(token) => match self.tokens.get(token) {
                Some(user) => Ok(Identity::Known(user.clone())),
                None => Err(Status::unauthorized()),
            },
            None if parts.headers.contains_key(AUTHORIZATION) => Err(Status::unauthorized()),
            None => Ok(Identity::Anonymous),
        }
    }
}

/// The user a verified client certificate names: CN and the Os. `None` without a common name.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
    let groups =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(String::from);
    Some(authenticated(User { name, groups: groups.collect(), ..User::default() }))
}

fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn parse_tokens(path: &str, text: &str) -> Result<HashMap<String, Arc<User>>, TokenFileError> {
    let mut tokens = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let columns = columns(line)
            .ok_or_else(|| TokenFileError::Quote { path: path.into(), line: line_number })?;
        let [token, name, uid, rest @ ..] = columns.as_slice() else {
            return Err(TokenFileError::Columns { path: path.into(), line: line_number });
        };
        if token.is_empty() {
            continue;
        }
        let groups = rest.first().map(String::as_str).unwrap_or_default();
        let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
        let user = User {
            name: name.clone(),
            uid: uid.clone(),
            groups: groups.map(String::from).collect(),
            ..User::default()
        };
        tokens.insert(token.clone(), Arc::new(authenticated(user)));
    }
    Ok(tokens)
}

/// The columns of a CSV line; `None` for a quote that does not end.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let column = columns.last_mut().expect("there is always one");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                column.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            ' ' if !quoted && column.is_empty() => {}
            c => column.push(c),
        }
    }
    (!quoted).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files() {
        let tokens = parse_tokens("f", "t1,alice,1,\"devs,ops\"\n\n# no one\nt2,bob,2\n").unwrap();
        assert_eq!(tokens["t1"].groups, ["devs", "ops", AUTHENTICATED]);
        assert_eq!(tokens["t2"].name, "bob");
        assert_eq!(
            parse_tokens("f", "t1,alice\n").unwrap_err().to_string(),
            "line 1 of the token file f must have at least token, user name and uid"
        );
        assert!(parse_tokens("f", "t1,alice,1,\"devs").is_err());
    }

    #[test]
    fn a_wrong_credential_is_not_nobody() {
        let tokens = parse_tokens("f", "t1,alice,1").unwrap();
        let authenticator = Authenticator { tokens };
        let identify = |value: Option<&str>| {
            let mut request = http::Request::builder();
            if let Some(value) = value {
                request = request.header(AUTHORIZATION, value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            authenticator.identify(&parts)
        };
        assert!(
            matches!(identify(Some("Bearer t1")), Ok(Identity::Known(user)) if user.name == "alice")
        );
        assert_eq!(identify(None), Ok(Identity::Anonymous));
        assert_eq!(identify(Some("Bearer other")).unwrap_err().code, 401);
        assert_eq!(identify(Some("Basic YTpi")).unwrap_err().code, 401);
    }
}
