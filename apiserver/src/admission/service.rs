//! DenyServiceExternalIPs: nobody may claim an address for a Service by writing it down.

use proto::kind;
use serde_json::Value;

use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

pub(super) fn deny_external_ips(request: &Request, new: Option<&Value>) -> Result<(), Denied> {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let Some(new) = new.filter(|_| written && request.writes(&kind::SERVICE)) else {
        return Ok(());
    };
    let known = request.old.map_or(&[][..], |old| old.at("spec").items("externalIPs"));
    if new.at("spec").items("externalIPs").iter().all(|address| known.contains(address)) {
        return Ok(());
    }
    Err(request.forbidden("Use of external IPs is denied by admission control."))
}
