//! Whether lists of all objects, together with the writes whose revisions are known, can be
//! explained: each list shows what there was at one moment between its call and its return. The
//! revisions are the order; what is left to ask is whether it respects real time, and whether a list
//! is the state at its revision.

use std::collections::BTreeMap;

/// A list that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub called: u64,
    pub returned: u64,
    /// The list's resourceVersion.
    pub revision: u64,
    /// By object.
    pub items: BTreeMap<usize, Item>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    pub value: u64,
    /// The object's resourceVersion.
    pub revision: u64,
}

/// A write that was acknowledged, with what it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub called: u64,
    pub returned: u64,
    pub object: usize,
    pub item: Item,
}

/// Nothing, or what cannot be.
pub fn check(writes: &[Written], lists: &[List]) -> Result<(), String> {
    for list in lists {
        if let Some(item) = list.items.values().find(|item| item.revision > list.revision) {
            return Err(format!("{item:?} in a list of an older revision: {list:?}"));
        }
        for write in writes {
            one(write, list)?;
        }
    }
    in_real_time(lists)?;
    let mut ordered: Vec<&List> = lists.iter().collect();
    ordered.sort_by_key(|list| list.revision);
    ordered.windows(2).try_for_each(|pair| follows(pair[0], pair[1]))
}

/// A write and a list.
fn one(write: &Written, list: &List) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{why}: {write:?}, {list:?}"));
    let seen = write.item.revision <= list.revision;
    if !seen && write.returned < list.called {
        return refuse("a list is older than a write that was acknowledged before");
    }
    if seen && write.called > list.returned {
        return refuse("a list has the revision of a write that began after it");
    }
    let Some(item) = list.items.get(&write.object) else { return Ok(()) };
    if seen && item.revision < write.item.revision {
        return refuse("a list lacks a write of its past");
    }
    match (item.value == write.item.value) == (item.revision == write.item.revision) {
        true => Ok(()),
        false => refuse("a value has two revisions, or a revision two values"),
    }
}

/// What is called after another has returned is not older.
fn in_real_time(lists: &[List]) -> Result<(), String> {
    let (mut called, mut returned): (Vec<&List>, Vec<&List>) =
        (lists.iter().collect(), lists.iter().collect());
    called.sort_by_key(|list| list.called);
    returned.sort_by_key(|list| list.returned);
    let mut before = returned.into_iter().peekable();
    let mut newest: Option<&List> = None;
    for list in called {
        while let Some(done) = before.next_if(|done| done.returned < list.called) {
            if newest.is_none_or(|newest| newest.revision < done.revision) {
                newest = Some(done);
            }
        }
        if let Some(newest) = newest.filter(|newest| newest.revision > list.revision) {
            return Err(format!("a list is older than one before it: {newest:?}, {list:?}"));
        }
    }
    Ok(())
}

/// What is in the second and not in the first happened after the first.
fn follows(first: &List, second: &List) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{why}: {first:?}, {second:?}"));
    if first.revision == second.revision {
        return match first.items == second.items {
            true => Ok(()),
            false => refuse("two states of one revision"),
        };
    }
    for (object, item) in &second.items {
        if first.items.get(object) != Some(item) && item.revision <= first.revision {
            return refuse("a list lacks what a later one has from its past");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(called: u64, returned: u64, revision: u64, items: &[(usize, u64, u64)]) -> List {
        let items = items.iter().map(|(object, value, revision)| {
            (*object, Item { value: *value, revision: *revision })
        });
        List { called, returned, revision, items: items.collect() }
    }

    fn write(called: u64, returned: u64, object: usize, value: u64, revision: u64) -> Written {
        Written { called, returned, object, item: Item { value, revision } }
    }

    #[test]
    fn what_lists_may_show() {
        let cases: [(&str, Vec<Written>, Vec<List>, &str); 11] = [
            (
                "in turn",
                vec![write(0, 1, 0, 10, 5), write(2, 3, 1, 11, 6)],
                vec![list(4, 5, 6, &[(0, 10, 5), (1, 11, 6)]), list(6, 7, 8, &[(1, 11, 6)])],
                "",
            ),
            (
                "beside a write, without it",
                vec![write(0, 9, 0, 10, 5)],
                vec![list(1, 2, 4, &[])],
                "",
            ),
            (
                "a stale list",
                vec![write(0, 1, 0, 10, 5)],
                vec![list(2, 3, 4, &[])],
                "a list is older than a write",
            ),
            (
                "from the future",
                vec![write(4, 5, 0, 10, 5)],
                vec![list(2, 3, 5, &[])],
                "began after it",
            ),
            (
                "an old item at a new revision",
                vec![write(0, 1, 0, 10, 5), write(2, 3, 0, 11, 6)],
                vec![list(4, 5, 6, &[(0, 10, 5)])],
                "lacks a write of its past",
            ),
            (
                "another value",
                vec![write(0, 1, 0, 10, 5)],
                vec![list(4, 5, 6, &[(0, 11, 5)])],
                "a revision two values",
            ),
            (
                "an item newer than its list",
                vec![],
                vec![list(0, 1, 6, &[(0, 10, 7)])],
                "a list of an older revision",
            ),
            (
                "back in time",
                vec![],
                vec![list(0, 1, 6, &[]), list(2, 3, 5, &[])],
                "older than one before it",
            ),
            ("beside each other", vec![], vec![list(0, 3, 6, &[]), list(2, 5, 5, &[])], ""),
            (
                "two states",
                vec![],
                vec![list(0, 1, 6, &[(0, 10, 5)]), list(2, 3, 6, &[])],
                "two states of one revision",
            ),
            (
                "a hole",
                vec![],
                vec![list(0, 1, 6, &[]), list(2, 3, 7, &[(0, 10, 5)])],
                "lacks what a later one has",
            ),
        ];
        for (name, writes, lists, expected) in cases {
            let found = check(&writes, &lists).err().unwrap_or_default();
            assert!(found.contains(expected), "{name}: {found}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{name}: {found}");
        }
    }
}
