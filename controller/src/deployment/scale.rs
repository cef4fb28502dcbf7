//! How many pods each ReplicaSet gets: rolling, proportional, and cleaning up.

use std::cmp::Reverse;

use proto::kind::REPLICA_SET;
use proto::view::IntOrString;
use proto::view::deployment::Deployment;

use crate::deployment::Rollout;
use crate::deployment::revision::{DESIRED, MAX, Set};

/// How many pods may be there beyond the wanted ones, and how many may be missing.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let update = &deployment.spec.strategy.rolling_update;
    let quarter = IntOrString::Text("25%".into());
    let total = i64::from(deployment.replicas());
    let resolve = |bound: &Option<IntOrString>, round_up| {
        let bound = bound.as_ref().unwrap_or(&quarter).scaled(total, round_up);
        bound.unwrap_or(0).clamp(0, i64::from(i32::MAX)) as i32
    };
    let surge = resolve(&update.max_surge, true);
    let unavailable = resolve(&update.max_unavailable, false);
    // Nothing would ever move if neither were allowed.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn rolls(deployment: &Deployment) -> bool {
    deployment.spec.strategy.kind != "Recreate"
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if rolls(deployment) { fenceposts(deployment).0 } else { 0 }
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    if !rolls(deployment) || deployment.replicas() == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(deployment.replicas())
}

impl Rollout<'_> {
    fn sets(&self) -> impl Iterator<Item = &Set> {
        self.new.iter().chain(&self.old)
    }

    fn total(&self) -> i32 {
        self.sets().map(|set| set.replicas).sum()
    }

    /// Whether the Deployment's size changed since its sets were sized.
    pub(super) fn is_scaling(&self) -> bool {
        let wanted = i64::from(self.deployment.replicas());
        let active = |set: &&Set| set.replicas > 0;
        self.sets().filter(active).any(|set| set.number(DESIRED).is_some_and(|old| old != wanted))
    }

    /// As many pods as the new set may have now.
    pub(super) fn room_for_new(&self) -> i32 {
        let wanted = self.deployment.replicas();
        let now = self.new.as_ref().map_or(0, |set| set.replicas);
        if !rolls(self.deployment) || now >= wanted {
            return wanted;
        }
        let room = wanted + max_surge(self.deployment) - self.total();
        now + room.clamp(0, wanted - now)
    }

    /// Sets the new set's size; says whether that is a change.
    pub(super) fn scale_new(&mut self, replicas: i32) -> bool {
        let deployment = self.deployment;
        let Some(new) = self.new.as_mut() else { return false };
        if new.entry.is_none() || new.replicas == replicas {
            return false;
        }
        new.resize(replicas, deployment);
        true
    }

    /// Takes pods from old sets as far as availability allows: first those that are not
    /// available anyway. Says whether anything changed.
    pub(super) fn scale_old_down(&mut self) -> bool {
        let deployment = self.deployment;
        let old: i32 = self.old.iter().map(|set| set.replicas).sum();
        if old == 0 {
            return false;
        }
        let least = deployment.replicas() - max_unavailable(deployment);
        let missing = |set: &Set| set.replicas - set.status.available_replicas;
        let room = self.total() - least - self.new.as_ref().map_or(0, missing);
        if room <= 0 {
            return false;
        }
        let mut unhealthy = room;
        for set in self.old.iter_mut().filter(|set| set.replicas > 0) {
            let count = missing(set).clamp(0, unhealthy);
            shrink(set, count, deployment);
            unhealthy -= count;
        }
        let available: i32 = self.sets().map(|set| set.status.available_replicas).sum();
        let mut spare = (available - least).max(0);
        for set in self.old.iter_mut().filter(|set| set.replicas > 0) {
            let count = set.replicas.min(spare);
            shrink(set, count, deployment);
            spare -= count;
        }
        self.old.iter().map(|set| set.replicas).sum::<i32>() != old
    }

    /// Spreads a change of the Deployment's size over its sets in proportion to theirs.
    pub(super) fn scale_proportionally(&mut self) {
        let deployment = self.deployment;
        let wanted = deployment.replicas();
        if let Some(only) = self.active_or_latest() {
            if only.replicas != wanted {
                only.resize(wanted, deployment);
            }
            return;
        }
        if self.new.as_ref().is_some_and(|new| saturated(new, wanted)) {
            for set in self.old.iter_mut().filter(|set| set.replicas > 0) {
                set.resize(0, deployment);
            }
            return;
        }
        if !rolls(deployment) {
            return;
        }
        let allowed = if wanted > 0 { wanted + max_surge(deployment) } else { 0 };
        let to_add = allowed - self.total();
        let mut sets: Vec<&mut Set> = self.new.iter_mut().chain(&mut self.old).collect();
        sets.retain(|set| set.replicas > 0);
        // The biggest first; among equals the newest gains and the oldest loses.
        sets.sort_by(|a, b| a.age().cmp(&b.age()));
        if to_add > 0 {
            sets.reverse();
        }
        sets.sort_by_key(|set| Reverse(set.replicas));
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(sets.len());
        for set in &sets {
            let part = match to_add - added {
                0 => 0,
                left if to_add > 0 => fraction(set, deployment).min(left),
                left => fraction(set, deployment).max(left),
            };
            added += part;
            sizes.push(set.replicas + part);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (set, size) in sets.into_iter().zip(sizes) {
            set.resize(size, deployment);
        }
    }

    /// The only set with pods; without any the new one, else the latest.
    fn active_or_latest(&mut self) -> Option<&mut Set> {
        let active = self.sets().filter(|set| set.replicas > 0).count();
        match active {
            0 if self.new.is_some() => self.new.as_mut(),
            0 => self.old.last_mut(),
            1 => self.new.iter_mut().chain(&mut self.old).find(|set| set.replicas > 0),
            _ => None,
        }
    }

    /// Deletes the oldest of the sets that only history needs.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit else { return };
        let entries = self.old.iter().filter_map(|set| Some((set, set.entry.as_ref()?)));
        let mut living: Vec<_> =
            entries.filter(|(_, entry)| entry.metadata.deletion_timestamp.is_none()).collect();
        living.sort_by_key(|(set, _)| set.revision());
        let surplus = living.len().saturating_sub(limit.max(0) as usize);
        for (set, entry) in living.into_iter().take(surplus) {
            let seen = entry.metadata.generation <= entry.status.observed_generation;
            if set.replicas == 0 && entry.status.replicas == 0 && entry.replicas() == 0 && seen {
                self.plan.delete(&REPLICA_SET, &entry.metadata);
            }
        }
    }
}

fn shrink(set: &mut Set, count: i32, deployment: &Deployment) {
    if count > 0 {
        set.resize(set.replicas - count, deployment);
    }
}

fn saturated(new: &Set, wanted: i32) -> bool {
    new.replicas == wanted
        && new.number(DESIRED) == Some(i64::from(wanted))
        && new.status.available_replicas == wanted
}

/// By how much a set would change if it kept its share of the Deployment.
fn fraction(set: &Set, deployment: &Deployment) -> i32 {
    if deployment.replicas() == 0 {
        return -set.replicas;
    }
    let size = f64::from(deployment.replicas() + max_surge(deployment));
    let before = set.number(MAX).unwrap_or(i64::from(deployment.status.replicas));
    if before == 0 {
        return 0;
    }
    let share = f64::from(set.replicas) * size / before as f64;
    share.round() as i32 - set.replicas
}
