//! Which devices a container gets (Kubernetes: Device Plugins). Pure.

use std::collections::BTreeSet;

type Ids = BTreeSet<String>;

/// What there is of a resource.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    pub healthy: Ids,
    /// By whichever container.
    pub used: Ids,
}

/// Who asks for how many devices of which resource.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub pod: &'a str,
    pub container: &'a str,
    pub resource: &'a str,
    pub count: usize,
}

/// What a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What it has already.
    Kept,
    New(Candidates),
}

/// Devices of which `more` are to be taken beside those that are `certain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    pub certain: Ids,
    pub free: Ids,
    pub more: usize,
}

/// In the kubelet's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error(
        "pod {pod:?} container {container:?} changed request for resource {resource:?} from {had} \
         to {count}"
    )]
    Changed { pod: String, container: String, resource: String, had: usize, count: usize },
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    #[error(
        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}"
    )]
    Sick(String),
    #[error(
        "requested number of devices unavailable for {resource}. Requested: {needed}, Available: \
         {available}"
    )]
    TooFew { resource: String, needed: usize, available: usize },
}

/// `held` is what the container has of it already; `reusable` is what init containers of its pod had.
pub fn choose(
    request: Request<'_>,
    held: &Ids,
    reusable: &Ids,
    stock: &Stock,
) -> Result<Choice, Refusal> {
    let Request { pod, container, resource, count } = request;
    if !held.is_empty() && held.len() != count {
        let (pod, container) = (pod.to_string(), container.to_string());
        let (resource, had) = (resource.to_string(), held.len());
        return Err(Refusal::Changed { pod, container, resource, had, count });
    }
    if stock.healthy.is_empty() {
        return Err(Refusal::NoneHealthy(resource.into()));
    }
    if !held.is_subset(&stock.healthy) {
        return Err(Refusal::Sick(resource.into()));
    }
    if !held.is_empty() {
        return Ok(Choice::Kept);
    }
    let certain: Ids = reusable.intersection(&stock.healthy).take(count).cloned().collect();
    let free: Ids = stock.healthy.difference(&stock.used).cloned().collect();
    let (needed, available) = (count - certain.len(), free.len());
    if available < needed {
        return Err(Refusal::TooFew { resource: resource.into(), needed, available });
    }
    Ok(Choice::New(Candidates { certain, free, more: needed }))
}

impl Candidates {
    /// The devices; those that the plugin prefers first, as far as they are free.
    pub fn take(self, preferred: &[String]) -> Ids {
        let liked = preferred.iter().filter(|id| self.free.contains(*id));
        let rest = self.free.iter().filter(|id| !preferred.contains(id));
        let mut taken = self.certain;
        let total = taken.len() + self.more;
        for id in liked.chain(rest) {
            if taken.len() == total {
                break;
            }
            taken.insert(id.clone());
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Ids {
        text.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn who_gets_what() {
        let words = |refusal: Refusal| Err(refusal.to_string());
        let asks = |count| Request { pod: "u", container: "c", resource: "e.com/x", count };
        let none = "no healthy devices present; cannot allocate unhealthy devices e.com/x";
        let sick = "previously allocated devices are no longer healthy; cannot allocate unhealthy \
                    devices e.com/x";
        let few = "requested number of devices unavailable for e.com/x. Requested: 2, Available: 1";
        let changed =
            "pod \"u\" container \"c\" changed request for resource \"e.com/x\" from 1 to 2";
        // How many, what the container has, what init containers had, what is healthy, what is used;
        // what it gets where the plugin prefers d, or why not.
        let table = [
            (1, "", "", "a b c d", "", Ok("d")),
            (2, "", "", "a b c d", "d", Ok("a b")),
            (2, "", "", "a b c d", "a", Ok("b d")),
            (1, "", "b", "a b c d", "b", Ok("b")),
            (2, "", "b", "a b c d", "b", Ok("b d")),
            (3, "", "a b", "a b c d", "a b", Ok("a b d")),
            // A device of an init container that is sick now is not reused.
            (1, "", "b", "a", "b", Ok("a")),
            (2, "a b", "", "a b", "a b", Ok("kept")),
            (2, "", "", "a b", "a", Err(few)),
            (1, "", "", "", "", Err(none)),
            (1, "a", "", "b", "a", Err(sick)),
            (2, "a", "", "a b", "a", Err(changed)),
        ];
        for (count, held, reusable, healthy, used, expected) in table {
            let stock = Stock { healthy: ids(healthy), used: ids(used) };
            let chosen = choose(asks(count), &ids(held), &ids(reusable), &stock);
            let chosen = chosen.map(|choice| match choice {
                Choice::Kept => ids("kept"),
                Choice::New(candidates) => candidates.take(&["d".into(), "x".into()]),
            });
            let expected = expected.map(ids).map_err(String::from);
            assert_eq!(chosen.or_else(words), expected, "{count} {healthy} {used}");
        }
    }
}
