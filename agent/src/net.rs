//! The node's network: pods' links and addresses, routes to the other nodes, Services and DNS.
//!
//! [`pod`] is called by the runtime, the rest by the agent; [`proxy`] runs also outside a node, so
//! that Services answer from the machine itself. Each module owns one facility of the kernel
//! (links, routes of our protocol number, one nftables table) and touches nothing else of it.

pub mod cidr;
pub mod dns;
pub mod namespace;
pub mod netlink;
pub mod pod;
pub mod proxy;

pub use cidr::Cidr;
