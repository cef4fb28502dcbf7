//! A table's content as data, and the difference between two as one nftables transaction.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Everything in the proxy's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    pub chains: BTreeMap<String, Chain>,
    /// Sets, and maps: sets whose elements have a value.
    pub sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type nat hook prerouting priority dstnat;`, empty for a chain that others jump to.
    pub hook: &'static str,
    pub rules: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// `map` or `set`.
    pub keyword: &'static str,
    /// `type ipv4_addr . inet_proto : verdict;`. It must not change under one name.
    pub declaration: String,
    /// Key to value; the value is empty in a set.
    pub elements: BTreeMap<String, String>,
}

/// The commands that turn `old` into `new` when given to `nft -f` at once, which does all or
/// nothing. Empty if there is nothing to do. Without `old` the table is made anew, whatever is
/// there.
pub fn transaction(table: &str, old: Option<&RuleSet>, new: &RuleSet) -> String {
    let mut script = String::new();
    let nothing = RuleSet::default();
    if old.is_none() {
        line(&mut script, format_args!("add table ip {table}"));
        line(&mut script, format_args!("delete table ip {table}"));
        line(&mut script, format_args!("add table ip {table}"));
    }
    let old = old.unwrap_or(&nothing);
    declare(&mut script, table, old, new);
    let no_elements = BTreeMap::new();
    for (name, set) in &old.sets {
        let Some(kept) = new.sets.get(name) else { continue };
        let gone =
            set.elements.iter().filter(|(key, value)| kept.elements.get(*key) != Some(value));
        elements(&mut script, "delete", table, name, gone.map(|(key, _)| key.clone()));
    }
    for (name, chain) in &new.chains {
        if old.chains.get(name).is_none_or(|old| old.rules != chain.rules) {
            for rule in &chain.rules {
                line(&mut script, format_args!("add rule ip {table} {name} {rule}"));
            }
        }
    }
    for (name, set) in &new.sets {
        let before = old.sets.get(name).map_or(&no_elements, |set| &set.elements);
        let added = set.elements.iter().filter(|(key, value)| before.get(*key) != Some(value));
        let text = |(key, value): (&String, &String)| match value.as_str() {
            "" => key.clone(),
            value => format!("{key} : {value}"),
        };
        elements(&mut script, "add", table, name, added.map(text));
    }
    remove(&mut script, table, old, new);
    script
}

/// Sets and chains come first, because rules and elements refer to them; changed chains are
/// emptied, so that they can be filled.
fn declare(script: &mut String, table: &str, old: &RuleSet, new: &RuleSet) {
    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        let Set { keyword, declaration, .. } = set;
        line(script, format_args!("add {keyword} ip {table} {name} {{ {declaration} }}"));
    }
    for (name, chain) in &new.chains {
        match old.chains.get(name) {
            None if chain.hook.is_empty() => {
                line(script, format_args!("add chain ip {table} {name}"));
            }
            None => {
                line(script, format_args!("add chain ip {table} {name} {{ {} }}", chain.hook));
            }
            Some(old) if old.rules != chain.rules && !old.rules.is_empty() => {
                line(script, format_args!("flush chain ip {table} {name}"));
            }
            Some(_) => {}
        }
    }
}

/// Chains are emptied before any is deleted, because they refer to each other, and sets go last.
fn remove(script: &mut String, table: &str, old: &RuleSet, new: &RuleSet) {
    let gone = || old.chains.keys().filter(|name| !new.chains.contains_key(*name));
    for command in ["flush", "delete"] {
        for name in gone() {
            line(script, format_args!("{command} chain ip {table} {name}"));
        }
    }
    for (name, set) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
        line(script, format_args!("delete {} ip {table} {name}", set.keyword));
    }
}

fn elements(
    script: &mut String,
    command: &str,
    table: &str,
    set: &str,
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<_> = elements.collect();
    if !elements.is_empty() {
        let elements = elements.join(", ");
        line(script, format_args!("{command} element ip {table} {set} {{ {elements} }}"));
    }
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(elements: &[(&str, &str)]) -> Set {
        let pair = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        let elements = elements.iter().map(pair).collect();
        Set { keyword: "map", declaration: "type mark : verdict;".into(), elements }
    }

    fn chain(rules: &[&str]) -> Chain {
        Chain { hook: "", rules: rules.iter().map(|rule| rule.to_string()).collect() }
    }

    #[test]
    fn only_what_changed() {
        let old = RuleSet {
            chains: [("a", &["x"][..]), ("b", &["y"]), ("c", &["z"])]
                .map(|(name, rules)| (name.to_owned(), chain(rules)))
                .into(),
            sets: [("m".to_owned(), set(&[("1", "goto a"), ("2", "goto b"), ("3", "goto c")]))]
                .into(),
        };
        assert_eq!(transaction("t", Some(&old), &old), "");
        let mut new = old.clone();
        new.chains.remove("c");
        new.chains.insert("b".into(), chain(&["w"]));
        new.chains.insert("d".into(), chain(&["v"]));
        new.sets.insert("m".into(), set(&[("1", "goto a"), ("2", "goto d")]));
        let expected = "\
            add chain ip t d\n\
            flush chain ip t b\n\
            delete element ip t m { 2, 3 }\n\
            add rule ip t b w\n\
            add rule ip t d v\n\
            add element ip t m { 2 : goto d }\n\
            flush chain ip t c\n\
            delete chain ip t c\n";
        let order = transaction("t", Some(&old), &new);
        let mut sorted: Vec<_> = order.lines().collect();
        let mut wanted: Vec<_> = expected.lines().collect();
        sorted.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(sorted, wanted);
        let place = |line: &str| order.lines().position(|other| other == line).unwrap();
        assert!(place("add chain ip t d") < place("add element ip t m { 2 : goto d }"));
        assert!(place("delete element ip t m { 2, 3 }") < place("delete chain ip t c"));
        assert!(transaction("t", None, &old).starts_with("add table ip t\ndelete table ip t\n"));
    }
}
