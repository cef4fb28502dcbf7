//! Which CPUs somebody gets: whole sockets and NUMA nodes, then whole cores, then single threads, so
//! that nobody shares caches with others more than must be (Kubernetes: Node Resource Managers, static
//! policy). Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::options::Options;
use super::{CpuSet, Place, Topology};

/// `count` of the CPUs that are free, or None where there are fewer.
pub fn take(topology: &Topology, free: &CpuSet, count: usize, options: &Options) -> Option<CpuSet> {
    let free = free.common(&topology.all());
    if free.len() < count {
        return None;
    }
    let spread = options.spread.then(|| spread(topology, &free, count, options)).flatten();
    Some(spread.unwrap_or_else(|| packed(topology, &free, count, options)))
}

fn packed(topology: &Topology, free: &CpuSet, count: usize, options: &Options) -> CpuSet {
    let (free, taken) = (free.clone(), CpuSet::default());
    let mut taking = Taking { topology, free, taken, missing: count };
    taking.whole(|place| (place.socket, 0, 0));
    taking.whole(|place| (place.socket, place.numa, 0));
    if options.by_cache {
        taking.whole(|place| (place.socket, place.numa, place.cache));
        taking.of_one_cache();
    }
    taking.whole(|place| (place.socket, place.numa, place.core));
    taking.threads();
    taking.taken
}

/// As much of each of as few NUMA nodes as have enough together; None where one has, or where they
/// cannot be even.
fn spread(topology: &Topology, free: &CpuSet, count: usize, options: &Options) -> Option<CpuSet> {
    let mut nodes: BTreeMap<u32, CpuSet> = BTreeMap::new();
    for cpu in &free.0 {
        nodes.entry(topology.places[cpu].numa).or_default().0.insert(*cpu);
    }
    // What is given together: single threads, or cores.
    let unit = if options.whole_cores { topology.threads() } else { 1 };
    let nodes: Vec<CpuSet> = nodes.into_values().collect();
    for number in 1..=nodes.len() {
        let enough = combinations(nodes.len(), number)
            .into_iter()
            .filter(|chosen| chosen.iter().map(|node| nodes[*node].len()).sum::<usize>() >= count);
        let enough: Vec<Vec<usize>> = enough.collect();
        if enough.is_empty() {
            continue;
        }
        if number == 1 {
            return None;
        }
        let shares = enough.iter().filter_map(|chosen| shares(&nodes, chosen, count, unit));
        // What remains is to be even, too.
        let best = shares.min_by_key(|shares| unevenness(&nodes, shares));
        if let Some(best) = best {
            let parts =
                best.iter().map(|(node, share)| packed(topology, &nodes[*node], *share, options));
            return Some(parts.fold(CpuSet::default(), |all, part| all.union(&part)));
        }
    }
    None
}

/// How many each of these nodes gives: the same number of units, and what does not divide one by one
/// from those that have most.
fn shares(
    nodes: &[CpuSet],
    chosen: &[usize],
    count: usize,
    unit: usize,
) -> Option<BTreeMap<usize, usize>> {
    let units = count / unit;
    let each = units / chosen.len() * unit;
    let mut shares: BTreeMap<usize, usize> = chosen.iter().map(|node| (*node, each)).collect();
    if shares.iter().any(|(node, share)| nodes[*node].len() < *share) {
        return None;
    }
    let mut rest = count - each * chosen.len();
    let mut order: Vec<usize> = chosen.to_vec();
    order.sort_by_key(|node| (Reverse(nodes[*node].len()), *node));
    for node in order {
        let more = unit.min(rest);
        let share = shares.entry(node).or_default();
        if nodes[node].len() >= *share + more {
            (*share, rest) = (*share + more, rest - more);
        }
    }
    (rest == 0).then_some(shares)
}

/// The sum of the squares of what is left: among the same sums the least is the most even.
fn unevenness(nodes: &[CpuSet], shares: &BTreeMap<usize, usize>) -> usize {
    let left = nodes
        .iter()
        .enumerate()
        .map(|(node, cpus)| cpus.len() - shares.get(&node).copied().unwrap_or_default());
    left.map(|left| left * left).sum()
}

/// All ways to choose `number` of the first `all` numbers, in order.
fn combinations(all: usize, number: usize) -> Vec<Vec<usize>> {
    if number == 0 {
        return vec![Vec::new()];
    }
    let of_first = |last: usize| {
        let mut shorter = combinations(last, number - 1);
        shorter.iter_mut().for_each(|chosen| chosen.push(last));
        shorter
    };
    let mut found: Vec<Vec<usize>> = (number - 1..all).flat_map(of_first).collect();
    found.sort();
    found
}

struct Taking<'a> {
    topology: &'a Topology,
    free: CpuSet,
    taken: CpuSet,
    missing: usize,
}

type Group = (u32, u32, u32);

impl Taking<'_> {
    /// Takes whole groups, as many as fit: first where something is taken already, then where the least
    /// is free, so that other sockets and nodes stay whole.
    fn whole(&mut self, group: impl Fn(&Place) -> Group) {
        let mut groups: BTreeMap<Group, CpuSet> = BTreeMap::new();
        for (cpu, place) in &self.topology.places {
            groups.entry(group(place)).or_default().0.insert(*cpu);
        }
        groups.retain(|_, cpus| cpus.is_subset(&self.free));
        loop {
            let fitting = groups.iter().filter(|(_, cpus)| cpus.len() <= self.missing);
            let rank = |cpus: &CpuSet| {
                let first = cpus.0.first().map(|cpu| self.topology.places[cpu]);
                self.rank(&first.unwrap_or_default())
            };
            let best = fitting.min_by_key(|(key, cpus)| (rank(cpus), **key)).map(|(key, _)| *key);
            let Some(cpus) = best.and_then(|best| groups.remove(&best)) else { return };
            self.take(&cpus);
        }
    }

    /// Takes all that is missing of one cache that has as much: of those the one with the least.
    fn of_one_cache(&mut self) {
        let mut caches: BTreeMap<u32, CpuSet> = BTreeMap::new();
        for cpu in &self.free.0 {
            caches.entry(self.topology.places[cpu].cache).or_default().0.insert(*cpu);
        }
        let enough = caches.into_values().filter(|cpus| cpus.len() >= self.missing);
        let Some(cpus) = enough.min_by_key(CpuSet::len).filter(|_| self.missing > 0) else {
            return;
        };
        let others = self.free.without(&cpus);
        self.free = cpus;
        self.whole(|place| (place.socket, place.numa, place.core));
        self.threads();
        self.free = self.free.union(&others);
    }

    /// Takes single threads: those of cores that are in use already first.
    fn threads(&mut self) {
        while self.missing > 0 {
            let place = |cpu: u32| self.topology.places[&cpu];
            let free_of_core =
                |core: u32| self.free.0.iter().filter(|cpu| place(**cpu).core == core).count();
            let rank = |cpu: &u32| {
                let place = place(*cpu);
                (self.rank(&place), free_of_core(place.core), place.core, *cpu)
            };
            let Some(cpu) = self.free.0.iter().copied().min_by_key(rank) else { return };
            self.take(&[cpu].into_iter().collect());
        }
    }

    /// The best place is the least: by its socket, then by its NUMA node.
    fn rank(&self, place: &Place) -> [(Reverse<bool>, usize, u32); 2] {
        let rank = |number: fn(&Place) -> u32| {
            let on_it = |set: &BTreeSet<u32>| {
                let places = &self.topology.places;
                let same = |cpu: &&u32| places.get(cpu).map(number) == Some(number(place));
                set.iter().filter(same).count()
            };
            (Reverse(on_it(&self.taken.0) > 0), on_it(&self.free.0), number(place))
        };
        [rank(|place| place.socket), rank(|place| place.numa)]
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
        divided(sockets, 1, 1, cores, threads)
    }

    /// Sockets of NUMA nodes of caches of cores of threads.
    fn divided(sockets: u32, nodes: u32, caches: u32, cores: u32, threads: u32) -> Topology {
        let all = sockets * nodes * caches * cores;
        let place = |cpu: u32| {
            let core = cpu % all;
            let (cache, numa) = (core / cores, core / cores / caches);
            (cpu, Place { socket: numa / nodes, numa, cache: cache * cores, core })
        };
        Topology { places: (0..all * threads).map(place).collect() }
    }

    fn taken(topology: &Topology, free: &str, count: usize, options: &Options) -> String {
        take(topology, &free.parse().unwrap(), count, options).unwrap().to_string()
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
            let taken = taken(topology, free, count, &Options::default());
            assert_eq!(taken, expected, "{count} of {free}");
        }
        let few = take(&small, &"0-1".parse().unwrap(), 3, &Options::default());
        assert_eq!(few, None);
    }

    #[test]
    fn nodes_of_a_socket_stay_whole_while_they_can() {
        // Two sockets of two nodes of two cores: nodes 0-1, 2-3, 4-5 and 6-7.
        let topology = divided(2, 2, 1, 2, 1);
        for (free, count, expected) in [
            ("0-7", 2, "0-1"),
            ("1-7", 2, "2-3"),
            ("0-7", 4, "0-3"),
            ("0-7", 5, "0-4"),
            ("0,2-7", 3, "0,2-3"),
            ("1-3,5-7", 1, "1"),
        ] {
            let taken = taken(&topology, free, count, &Options::default());
            assert_eq!(taken, expected, "{count} of {free}");
        }
    }

    #[test]
    fn who_needs_several_nodes_has_as_much_of_each() {
        // Two nodes of four cores of two threads: 0-3,8-11 and 4-7,12-15.
        let topology = machine(2, 4, 2);
        let spread = Options { spread: true, ..Options::default() };
        let whole = Options { spread: true, whole_cores: true, ..Options::default() };
        for (options, free, count, expected) in [
            // One is enough.
            (&spread, "0-15", 8, "0-3,8-11"),
            (&spread, "0-15", 10, "0-2,4-6,8-9,12-13"),
            (&whole, "0-15", 10, "0-2,4-5,8-10,12-13"),
            (&spread, "0-15", 9, "0-2,4-5,8-9,12-13"),
            // Without enough on one of them they cannot be even.
            (&spread, "0,4-7,12-15", 9, "0,4-7,12-15"),
            (&spread, "0-15", 16, "0-15"),
        ] {
            assert_eq!(taken(&topology, free, count, options), expected, "{count} of {free}");
        }
        // Of three nodes two are enough: those of which as much is left.
        let three = machine(3, 4, 1);
        assert_eq!(taken(&three, "0-2,4-11", 6, &spread), "4-6,8-10");
    }

    #[test]
    fn few_caches() {
        // One node of three caches of four cores.
        let topology = divided(1, 1, 3, 4, 1);
        let by_cache = Options { by_cache: true, ..Options::default() };
        for (free, count, expected) in [
            ("0-11", 4, "0-3"),
            ("2-11", 3, "4-6"),
            ("2-11", 2, "2-3"),
            ("2-11", 6, "2-7"),
            ("1-3,5-7,9-11", 4, "1-3,5"),
        ] {
            assert_eq!(taken(&topology, free, count, &by_cache), expected, "{count} of {free}");
        }
    }
}
