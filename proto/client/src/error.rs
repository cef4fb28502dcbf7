//! Why a request did not do what it should.

use proto::status::Status;

use crate::BoxError;

/// What went wrong between asking and having the answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no.
    #[error("{0}")]
    Status(Box<Status>),
    #[error("{method} {path}: the request could not be written")]
    Request { method: http::Method, path: String, source: http::Error },
    #[error("{method} {path}: no answer from the API server at {server}")]
    Transport { method: http::Method, path: String, server: String, source: BoxError },
    #[error("{path}: the answer broke off")]
    Body { path: String, source: BoxError },
    #[error("{path}: the answer is not what was asked for")]
    Decode { path: String, source: serde_json::Error },
    #[error("{path}: the connection could not become a stream")]
    Upgrade { path: String, source: BoxError },
}

impl Error {
    /// The API server's answer, where there is one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Status(status) => Some(status),
            _ => None,
        }
    }

    fn is(&self, code: u16, reason: &str) -> bool {
        self.status().is_some_and(|status| status.code == code && status.reason == reason)
    }

    pub fn is_not_found(&self) -> bool {
        self.is(404, "NotFound")
    }

    pub fn is_forbidden(&self) -> bool {
        self.is(403, "Forbidden")
    }

    pub fn is_conflict(&self) -> bool {
        self.is(409, "Conflict")
    }

    pub fn is_already_exists(&self) -> bool {
        self.is(409, "AlreadyExists")
    }

    /// The revision asked for is no longer there: list again.
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(|status| status.code == 410)
    }

    /// The namespace is being deleted: nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        let details = self.status().and_then(|status| status.details.as_deref());
        details.is_some_and(|details| {
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        })
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::Status(Box::new(status))
    }
}

/// An error and its causes in one line, for people and logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
