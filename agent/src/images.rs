//! The images of a node, as its agent cares for them over CRI: credentials for those that are private,
//! whose pods may use what was pulled with them, and which go when the disk is full.

pub mod credentials;
pub mod garbage;
pub mod providers;
pub mod records;
