//! The networks that Services take their addresses from: those of the cluster's ServiceCIDRs.
//! <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>

use serde_json::Value;

use super::range::Addresses;
use crate::kinds::check;
use crate::kinds::lens::Lens;
use crate::store::{Guard, Range, Store, StoreError};

const CIDRS: &str = "/registry/servicecidrs/";

/// A network that addresses may be given out of.
pub struct Ready {
    pub addresses: Addresses,
    /// That its ServiceCIDR is still as it was read: so no address comes out of one that is on its
    /// way to be deleted.
    pub guard: Option<Guard>,
}

/// The networks of `default`'s family that are ready, `default` first; `default` alone until there
/// is any ServiceCIDR.
pub async fn ready(store: &dyn Store, default: Addresses) -> Result<Vec<Ready>, StoreError> {
    let page = store.list(Range { prefix: CIDRS, ..Range::default() }).await?;
    if page.items.is_empty() {
        return Ok(vec![Ready { addresses: default, guard: None }]);
    }
    let mut ranges = Vec::new();
    for item in &page.items {
        let object: Value = serde_json::from_slice(&item.value).unwrap_or_default();
        if !is_ready(&object) {
            continue;
        }
        let guard = Guard { key: item.key.clone(), expected: item.mod_revision };
        let networks = check::texts(object.at("spec"), "cidrs").filter_map(|it| it.parse().ok());
        let family = networks.filter(|it: &Addresses| it.is_ipv6() == default.is_ipv6());
        ranges.extend(family.map(|addresses| Ready { addresses, guard: Some(guard.clone()) }));
    }
    ranges.sort_by_key(|range| range.addresses != default);
    Ok(ranges)
}

/// A ServiceCIDR of which nobody has said otherwise is ready.
fn is_ready(object: &Value) -> bool {
    let mut conditions = object.at("status").items("conditions").iter();
    let ready = conditions.find(|condition| condition.text("type") == "Ready");
    !object.at("metadata").has("deletionTimestamp")
        && ready.is_none_or(|condition| condition.text("status") == "True")
}
