//! What etcd's errors mean. Its codes are too coarse; its messages are part of its interface.

use crate::store::{Revision, StoreError};

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No member answered, or one that could not: the call may be made again.
    Unanswered,
    Compacted,
    /// The revision has not been reached.
    Future,
    NoSpace,
    TooLarge,
    /// What making the call again does not cure.
    Refused,
}

/// gRPC's numbers.
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const DEADLINE_EXCEEDED: i32 = 4;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;

pub fn classify(error: &etcd_client::Error) -> Failure {
    use etcd_client::Error;
    match error {
        Error::GRpcStatus(status) => of_status(status.code() as i32, status.message()),
        Error::TransportError(_) | Error::IoError(_) => Failure::Unanswered,
        _ => Failure::Refused,
    }
}

fn of_status(code: i32, message: &str) -> Failure {
    const MESSAGES: [(&str, Failure); 6] = [
        ("required revision has been compacted", Failure::Compacted),
        ("required revision is a future revision", Failure::Future),
        ("database space exceeded", Failure::NoSpace),
        ("request is too large", Failure::TooLarge),
        ("message larger than max", Failure::TooLarge),
        ("too many operations in txn request", Failure::TooLarge),
    ];
    if let Some((_, failure)) = MESSAGES.iter().find(|(known, _)| message.contains(known)) {
        return *failure;
    }
    match code {
        CANCELLED | UNKNOWN | DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE => Failure::Unanswered,
        _ => Failure::Refused,
    }
}

impl Failure {
    /// The error of a call that asked for a revision.
    pub fn explain(self, requested: Revision) -> StoreError {
        match self {
            Failure::Compacted => StoreError::Compacted { requested, oldest: None },
            Failure::Future => StoreError::Future { requested, current: 0 },
            Failure::NoSpace => StoreError::NoSpace,
            Failure::TooLarge => StoreError::TooLarge,
            Failure::Unanswered | Failure::Refused => StoreError::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_count_before_codes() {
        let table = [
            (11, "etcdserver: mvcc: required revision has been compacted", Failure::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Failure::Future),
            (8, "etcdserver: mvcc: database space exceeded", Failure::NoSpace),
            (3, "etcdserver: request is too large", Failure::TooLarge),
            (8, "grpc: received message larger than max (3 vs. 2)", Failure::TooLarge),
            (14, "etcdserver: leader changed", Failure::Unanswered),
            (14, "etcdserver: request timed out", Failure::Unanswered),
            (7, "etcdserver: permission denied", Failure::Refused),
        ];
        for (code, message, failure) in table {
            assert_eq!(of_status(code, message), failure, "{message}");
        }
    }
}
