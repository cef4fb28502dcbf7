//! What the end-to-end tests share: the built programs as a user would run them. Only tests use
//! it; it reaches Coracle through its command lines and its API, never around them.

pub mod alone;
pub mod chaos;
pub mod cluster;
pub mod fuzz;
pub mod image;
pub mod kubectl;
pub mod linearizability;
pub mod machine;
pub mod program;
pub mod script;
pub mod server;
pub mod wait;
pub mod world;
