//! Cluster DNS on each node: it answers on the address of the pods' gateway, which their
//! resolv.conf names, from the agent's informers. No Service, no Deployment and no other node is
//! needed for a name to resolve.

mod records;
mod run;
mod server;
mod upstream;

pub use records::{Answer, Records, ServiceKey};
pub use run::{Config, run};
pub use server::{Sockets, serve};
pub use upstream::{Upstream, servers};
