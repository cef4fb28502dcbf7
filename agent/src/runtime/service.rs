//! CRI v1 over gRPC. Every method converts, calls, and turns the error into a status; what it means
//! is elsewhere.

mod image;
mod runtime;

use client::error::chain;
use tonic::{Code, Status};

use super::engine::{Engine, Error};
use super::images::{ImageError, PullError};

/// Both services of CRI. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub engine: Engine,
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let code = match &error {
            Error::NotFound { .. } => Code::NotFound,
            Error::Invalid(_) | Error::Bandwidth(_) | Error::Image(ImageError::Name(_)) => {
                Code::InvalidArgument
            }
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::NotRunning(_) | Error::NoNetwork => Code::FailedPrecondition,
            Error::Timeout { .. } => Code::DeadlineExceeded,
            Error::Pull(PullError::NotFound { .. }) => Code::NotFound,
            Error::Pull(PullError::Denied { .. }) => Code::PermissionDenied,
            // Unknown for all else, as upstream's kubelet takes the code for a part of the message.
            _ => Code::Unknown,
        };
        Status::new(code, chain(&error))
    }
}

/// What CRI has and this runtime does not.
fn absent<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{method} is not supported")))
}
