//! Why a command failed, as the one line its user reads.

use std::fmt::Display;

use client::error::chain;

/// A failed command. Everything a command does ends in one of these or in success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server said no.
    #[error("Error from server ({reason}): {context}{message}")]
    Server { reason: String, context: String, message: String },
    /// Anything else: what was being done, why it failed, and what to do.
    #[error("error: {0}")]
    Said(String),
    /// The command has said everything already.
    #[error("")]
    Silent,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn said(message: impl Display) -> Failure {
        Failure::Said(message.to_string())
    }

    /// Adds what was being done, as `error when creating "web.yaml": `.
    pub fn when(self, doing: impl Display) -> Failure {
        match self {
            Failure::Server { reason, message, .. } => {
                Failure::Server { reason, context: format!("error when {doing}: "), message }
            }
            Failure::Said(message) => Failure::Said(format!("error when {doing}: {message}")),
            Failure::Silent => Failure::Silent,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Failure::Server { reason, .. } if reason == "NotFound")
    }

    pub fn print(&self) {
        match self {
            Failure::Silent => {}
            failure => anstream::eprintln!("{failure}"),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        match &error {
            client::Error::Status(status) => {
                let reason = match status.reason.as_str() {
                    "" => "Unknown".to_string(),
                    reason => reason.to_string(),
                };
                Failure::Server { reason, context: String::new(), message: status.message.clone() }
            }
            client::Error::Transport { server, .. } => Failure::Said(format!(
                "the API server at {server} does not answer ({}): is the cluster running? \
                 \"ctl cluster list\" tells",
                cause(&error)
            )),
            _ => Failure::Said(chain(&error)),
        }
    }
}

/// The innermost cause.
fn cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => cause(source),
        None => error.to_string(),
    }
}
