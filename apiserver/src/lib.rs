//! The API server: one pipeline for every kind, one store behind it.

pub mod admission;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod cache;
pub mod codec;
pub mod discovery;
mod doze;
pub mod flow;
pub mod http;
pub mod kinds;
pub mod metrics;
pub mod node;
pub mod openapi;
pub mod patch;
pub mod pki;
pub mod registry;
pub mod schema;
pub mod server;
pub mod store;

pub use server::{Options, Server, ServerError};
