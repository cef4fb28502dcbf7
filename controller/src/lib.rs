//! The controllers, and the framework they stand on. A controller is a pure function from an
//! object and a view of the others to a plan; the framework alone waits, retries and writes.
//! Nothing here opens a socket or reads a clock by itself.

pub mod execute;
pub mod plan;
pub mod run;
pub mod view;
