//! The storage that every cluster has: folders on the nodes' own disks. A claim gets a volume on
//! the node that was chosen for its pod; the volume is tied to that node.
//!
//! Only the node touches its disk, and the API is all that lies between: a node says in an
//! annotation of its Node where it keeps such folders, and makes each when it is mounted first. To
//! have one removed, the controller asks in another annotation of the Node; the node answers there
//! when that is done, and only then does the volume's object go.

mod claim;
mod volume;

use futures::future::join;
use proto::view::node::Node;

use crate::run::{self, Setup};

pub use claim::Provision;
pub use volume::Discard;

pub const NAME: &str = "coracle-host-path-provisioner";

/// Looks after claims and volumes until the future is dropped.
pub async fn run(setup: Setup) {
    join(run::run(Provision, setup.clone()), run::run(Discard, setup)).await;
}

/// Where the node keeps the folders; `None` if it offers none.
fn folder(node: &Node) -> Option<&str> {
    let folder = node.metadata.annotations.get(proto::volume::HOST_PATH_FOLDER)?;
    Some(folder.as_str()).filter(|folder| folder.starts_with('/'))
}
