//! Which CPUs somebody gets: whole sockets, then whole cores, then single threads, so that nobody shares
//! caches with others more than must be (Kubernetes: Node Resource Managers, static policy). Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{CpuSet, Place, Topology};

/// `count` of the CPUs that are free, or None where there are fewer.
pub fn take(topology: &Topology, free: &CpuSet, count: usize) -> Option<CpuSet> {
    let free = free.common(&topology.all());
    if free.len() < count {
        return None;
    }
    let mut taking = Taking { topology, free, taken: CpuSet::default(), missing: count };
    taking.whole(|place| (place.socket, 0));
    taking.whole(|place| (place.socket, place.core));
    taking.threads();
    Some(taking.taken)
}

struct Taking<'a> {
    topology: &'a Topology,
    free: CpuSet,
    taken: CpuSet,
    missing: usize,
}

impl Taking<'_> {
    /// Takes whole groups, as many as fit: first on sockets where something is taken already, then where
    /// the least is free, so that other sockets stay whole.
    fn whole(&mut self, group: impl Fn(&Place) -> (u32, u32)) {
        let mut groups: BTreeMap<(u32, u32), CpuSet> = BTreeMap::new();
        for (cpu, place) in &self.topology.places {
            groups.entry(group(place)).or_default().0.insert(*cpu);
        }
        groups.retain(|_, cpus| cpus.is_subset(&self.free));
        loop {
            let fitting = groups.iter().filter(|(_, cpus)| cpus.len() <= self.missing);
            let rank = |(socket, group): (u32, u32)| (self.socket_rank(socket), group);
            let Some(best) = fitting.map(|(key, _)| *key).min_by_key(|key| rank(*key)) else {
                return;
            };
            if let Some(cpus) = groups.remove(&best) {
                self.take(&cpus);
            }
        }
    }

    /// Takes single threads: those of cores that are in use already first.
    fn threads(&mut self) {
        while self.missing > 0 {
            let place = |cpu: u32| self.topology.places[&cpu];
            let free_of_core =
                |core: u32| self.free.0.iter().filter(|cpu| place(**cpu).core == core).count();
            let rank = |cpu: &u32| {
                let Place { socket, core } = place(*cpu);
                (self.socket_rank(socket), free_of_core(core), core, *cpu)
            };
            let Some(cpu) = self.free.0.iter().copied().min_by_key(rank) else { return };
            self.take(&[cpu].into_iter().collect());
        }
    }

    /// The best socket is the least.
    fn socket_rank(&self, socket: u32) -> (Reverse<bool>, usize, u32) {
        let on_it = |set: &BTreeSet<u32>| {
            let places = &self.topology.places;
            set.iter().filter(|cpu| places.get(cpu).is_some_and(|it| it.socket == socket)).count()
        };
        (Reverse(on_it(&self.taken.0) > 0), on_it(&self.free.0), socket)
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.free = self.free.without(cpus);
        self.taken = self.taken.union(cpus);
        self.missing -= cpus.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sockets` of `cores` of `threads`, numbered as Intel machines are: first threads first.
    fn machine(sockets: u32, cores: u32, threads: u32) -> Topology {
        let all = sockets * cores;
        let place = |cpu: u32| (cpu, Place { socket: cpu % all / cores, core: cpu % all });
        Topology { places: (0..all * threads).map(place).collect() }
    }

    #[test]
    fn neighbours_are_taken_together() {
        let (small, plain, large) = (machine(1, 4, 2), machine(1, 4, 1), machine(2, 3, 2));
        let table = [
            // One socket, four cores of two threads: 0 and 4 are one core.
            (&small, "0-7", 1, "0"),
            (&small, "0-7", 2, "0,4"),
            (&small, "0-7", 3, "0-1,4"),
            (&small, "1-7", 1, "4"),
            (&small, "1-7", 2, "1,5"),
            (&small, "1-3,7", 2, "3,7"),
            (&small, "0-7", 8, "0-7"),
            (&plain, "0-3", 2, "0-1"),
            (&plain, "1,3", 2, "1,3"),
            // Two sockets of three cores of two threads: 0-2,6-8 and 3-5,9-11.
            (&large, "0-11", 6, "0-2,6-8"),
            (&large, "1-11", 6, "3-5,9-11"),
            (&large, "1-11", 2, "1,7"),
            (&large, "0-11", 8, "0-3,6-9"),
            (&large, "2-11", 7, "3-6,9-11"),
            (&large, "0-2,6-8", 0, ""),
        ];
        for (topology, free, count, expected) in table {
            let taken = take(topology, &free.parse().unwrap(), count).unwrap();
            assert_eq!(taken.to_string(), expected, "{count} of {free}");
        }
        assert_eq!(take(&small, &"0-1".parse().unwrap(), 3), None);
    }
}
