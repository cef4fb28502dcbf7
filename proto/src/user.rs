//! Who asks.

use std::collections::BTreeMap;

/// An authenticated identity. In one process it travels as a request extension; over the wire it
/// comes from a certificate (CN, O) or a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// What else is known, by qualified key, as authorizers and admission may want it.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|group| group.to_string()).collect();
        User { name: name.into(), groups, ..User::default() }
    }
}
