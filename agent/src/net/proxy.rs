//! The service proxy: Services, endpoints and host ports become the rules of one nftables table.
//!
//! [`rules()`] and [`transaction`] are pure; the executor gives the transaction to `nft`. Nothing but
//! the table named in the configuration is touched, so that several proxies may work in one
//! network namespace.

mod executor;
mod rule_set;
mod rules;
mod run;
mod service_port;

pub use executor::{NftError, Stale, apply, forget, stale};
pub use rule_set::{Chain, RuleSet, Set, transaction};
pub use rules::{Facts, rules};
pub use run::{Config, remove, run};
pub use service_port::{HostPort, Protocol, ServicePort, Target, host_ports, service_ports};
