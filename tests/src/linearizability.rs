//! Whether a history of concurrent operations on one object can be explained by some order of them
//! in which each happens at one moment between its call and its return (Wing and Gong's search,
//! with Lowe's memory of the states that were tried).

use std::collections::{HashMap, HashSet};

pub mod lists;

/// One operation: what was asked, what was answered, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub ask: Ask,
    pub answer: Answer,
    pub called: u64,
    /// `u64::MAX` where no answer came: it may still happen, or never.
    pub returned: u64,
}

/// Values are never written twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Read,
    Create(u64),
    /// Whatever is there.
    Write(u64),
    /// Only over this value.
    Replace(u64, u64),
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Value(u64),
    NotFound,
    /// It exists, or has another value than was expected.
    Conflict,
    /// None came.
    Unknown,
}

type State = Option<u64>;

impl Operation {
    /// The value that its client knows to be, or to have been, there.
    fn told(&self) -> Option<u64> {
        match (self.ask, self.answer) {
            (_, Answer::Value(value)) => Some(value),
            (Ask::Replace(value, _), Answer::Done | Answer::Conflict) => Some(value),
            _ => None,
        }
    }

    /// The state after it, where its answer fits the state before.
    fn step(&self, state: State) -> Option<State> {
        if let (Ask::Write(_), Answer::Conflict, Some(_)) = (self.ask, self.answer, state) {
            // The server has tried again and again, others were always faster.
            return Some(state);
        }
        let (expected, after) = match (self.ask, state) {
            (Ask::Read, None) => (Answer::NotFound, None),
            (Ask::Read, Some(value)) => (Answer::Value(value), state),
            (Ask::Create(value), None) => (Answer::Done, Some(value)),
            (Ask::Create(_), Some(_)) => (Answer::Conflict, state),
            (Ask::Write(_) | Ask::Replace(..) | Ask::Delete, None) => (Answer::NotFound, None),
            (Ask::Write(value), Some(_)) => (Answer::Done, Some(value)),
            (Ask::Replace(old, value), Some(current)) if old == current => {
                (Answer::Done, Some(value))
            }
            (Ask::Replace(..), Some(_)) => (Answer::Conflict, state),
            (Ask::Delete, Some(_)) => (Answer::Done, None),
        };
        match self.answer {
            // It may as well not have happened.
            Answer::Unknown if after == state => None,
            Answer::Unknown => Some(after),
            answer => (answer == expected).then_some(after),
        }
    }
}

/// Nothing, or the operations that no order explains: those that were left where the search came
/// furthest. The object is absent at first.
pub fn check(history: &[Operation]) -> Result<(), Vec<Operation>> {
    let mut history = without_difference(history);
    history.sort_by_key(|operation| operation.called);
    let mut unanswered = vec![0; history.len().div_ceil(64)];
    for (index, _) in history.iter().enumerate().filter(|(_, it)| it.answer == Answer::Unknown) {
        unanswered[index / 64] |= 1 << (index % 64);
    }
    let mut search = Search {
        done: vec![0; unanswered.len()],
        history,
        unanswered,
        tried: HashMap::new(),
        furthest: Vec::new(),
        most: 0,
    };
    match search.run() {
        true => Ok(()),
        false => Err(search.furthest),
    }
}

/// A value that nobody was told of.
const UNSEEN: u64 = u64::MAX;

/// The history with fewer differences, or those without an answer would have to be tried in every
/// combination: reads among them say nothing, and values that nobody was told of are one value.
fn without_difference(history: &[Operation]) -> Vec<Operation> {
    let told: HashSet<u64> = history.iter().filter_map(Operation::told).collect();
    let said = history.iter().filter(|it| (it.ask, it.answer) != (Ask::Read, Answer::Unknown));
    let known = |value: u64| if told.contains(&value) { value } else { UNSEEN };
    let less = said.map(|operation| {
        let ask = match operation.ask {
            Ask::Create(value) => Ask::Create(known(value)),
            Ask::Write(value) => Ask::Write(known(value)),
            Ask::Replace(old, value) => Ask::Replace(known(old), known(value)),
            ask @ (Ask::Read | Ask::Delete) => ask,
        };
        Operation { ask, ..operation.clone() }
    });
    less.collect()
}

struct Search {
    history: Vec<Operation>,
    /// A bit per operation that has its place.
    done: Vec<u64>,
    /// A bit per operation without an answer.
    unanswered: Vec<u64>,
    /// For the answered ones that had their place and the state, which of the others had been used.
    tried: HashMap<(Vec<u64>, State), Vec<Vec<u64>>>,
    furthest: Vec<Operation>,
    most: usize,
}

impl Search {
    /// Depth first, without recursion: histories are long.
    fn run(&mut self) -> bool {
        // What was placed, the state before it, and the candidates not yet tried there.
        let mut path: Vec<(usize, State)> = Vec::new();
        let mut state: State = None;
        let mut candidates = vec![self.candidates()];
        loop {
            if self.is_explained() {
                return true;
            }
            let next = candidates.last_mut().and_then(Vec::pop);
            let Some(index) = next else {
                candidates.pop();
                let Some((index, before)) = path.pop() else { return false };
                self.done[index / 64] &= !(1 << (index % 64));
                state = before;
                continue;
            };
            let Some(after) = self.history[index].step(state) else { continue };
            self.done[index / 64] |= 1 << (index % 64);
            if self.is_new(after) {
                path.push((index, state));
                state = after;
                self.remember(path.len());
                candidates.push(self.candidates());
            } else {
                self.done[index / 64] &= !(1 << (index % 64));
            }
        }
    }

    /// Whether nothing of the kind was tried: who has come as far with less used up has every choice
    /// that is left here.
    fn is_new(&mut self, state: State) -> bool {
        let done = self.done.iter().zip(&self.unanswered);
        let (answered, used): (Vec<u64>, Vec<u64>) =
            done.map(|(done, unanswered)| (done & !unanswered, done & unanswered)).unzip();
        let tried = self.tried.entry((answered, state)).or_default();
        let within = |less: &Vec<u64>| less.iter().zip(&used).all(|(less, used)| less & !used == 0);
        if tried.iter().any(within) {
            return false;
        }
        tried.push(used);
        true
    }

    fn has_place(&self, index: usize) -> bool {
        self.done[index / 64] >> (index % 64) & 1 == 1
    }

    /// Those that may come next: called before any of the rest has returned.
    fn candidates(&self) -> Vec<usize> {
        let (mut found, mut first_return) = (Vec::new(), u64::MAX);
        for (index, operation) in self.history.iter().enumerate() {
            if self.has_place(index) {
                continue;
            }
            if operation.called > first_return {
                break;
            }
            first_return = first_return.min(operation.returned);
            // Of those that do the same and have no answer, the first stands for all.
            let same = |other: &usize| {
                let other = &self.history[*other];
                (other.ask, other.answer) == (operation.ask, Answer::Unknown)
            };
            if operation.answer != Answer::Unknown || !found.iter().any(same) {
                found.push(index);
            }
        }
        // Popped from the end: those with answers are tried in the order of their calls first.
        found.sort_by_key(|index| std::cmp::Reverse(self.history[*index].returned));
        found
    }

    /// Operations without an answer need no place.
    fn is_explained(&self) -> bool {
        let mut rest = self.history.iter().enumerate();
        rest.all(|(index, operation)| self.has_place(index) || operation.answer == Answer::Unknown)
    }

    fn remember(&mut self, placed: usize) {
        if placed > self.most {
            self.most = placed;
            let rest = self.history.iter().enumerate();
            let rest = rest.filter(|(index, _)| !self.has_place(*index));
            self.furthest = rest.take(12).map(|(_, operation)| operation.clone()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Answer::{Conflict, Done, NotFound, Unknown, Value};
    use super::Ask::{Create, Delete, Read, Replace, Write};
    use super::*;

    fn history(operations: &[(Ask, Answer, u64, u64)]) -> Vec<Operation> {
        let operation = |(ask, answer, called, returned): &(Ask, Answer, u64, u64)| Operation {
            ask: *ask,
            answer: *answer,
            called: *called,
            returned: *returned,
        };
        operations.iter().map(operation).collect()
    }

    /// A minute without answers, as on a machine that is too busy: a search that tries every choice
    /// among them has no end.
    #[test]
    fn many_without_an_answer() {
        const NEVER: u64 = u64::MAX;
        let mut operations = Vec::new();
        for turn in 0..100 {
            let (time, value) = (turn * 10, turn * 4 + 1);
            operations.extend([
                (Create(value), Unknown, time, NEVER),
                (Write(value + 1), Unknown, time + 1, NEVER),
                (Delete, Unknown, time + 2, NEVER),
                (Replace(value.saturating_sub(4), value + 2), Unknown, time + 3, NEVER),
                (Read, Unknown, time + 4, NEVER),
            ]);
            if turn % 20 == 19 {
                operations.push((Read, Value(value - 4), time + 5, time + 6));
                operations.push((Read, NotFound, time + 7, time + 8));
            }
        }
        assert!(check(&history(&operations)).is_ok());
        operations.push((Read, Value(3_000), 1_000, 1_001));
        assert!(check(&history(&operations)).is_err());
    }

    #[test]
    fn what_an_order_explains_and_what_none_does() {
        const NEVER: u64 = u64::MAX;
        let cases: [(&str, &[(Ask, Answer, u64, u64)], bool); 9] = [
            (
                "in turn",
                &[
                    (Create(1), Done, 0, 1),
                    (Read, Value(1), 2, 3),
                    (Delete, Done, 4, 5),
                    (Read, NotFound, 6, 7),
                ],
                true,
            ),
            (
                "a stale read",
                &[(Create(1), Done, 0, 1), (Write(2), Done, 2, 3), (Read, Value(1), 4, 5)],
                false,
            ),
            (
                "a read beside the write",
                &[
                    (Create(1), Done, 0, 1),
                    (Write(2), Done, 2, 9),
                    (Read, Value(2), 3, 4),
                    (Read, Value(2), 5, 6),
                ],
                true,
            ),
            (
                "back again",
                &[
                    (Create(1), Done, 0, 1),
                    (Write(2), Done, 2, 9),
                    (Read, Value(2), 3, 4),
                    (Read, Value(1), 5, 6),
                ],
                false,
            ),
            ("two creates", &[(Create(1), Done, 0, 9), (Create(2), Done, 0, 9)], false),
            ("one of two creates", &[(Create(1), Conflict, 0, 9), (Create(2), Done, 0, 9)], true),
            (
                "no answer, and it happened",
                &[(Create(1), Unknown, 0, NEVER), (Read, NotFound, 1, 2), (Read, Value(1), 3, 4)],
                true,
            ),
            (
                "no answer, and it happened twice",
                &[
                    (Create(1), Unknown, 0, NEVER),
                    (Read, Value(1), 1, 2),
                    (Delete, Done, 3, 4),
                    (Read, Value(1), 5, 6),
                ],
                false,
            ),
            (
                "a lost update",
                &[
                    (Create(1), Done, 0, 1),
                    (Replace(1, 2), Done, 2, 9),
                    (Replace(1, 3), Done, 2, 9),
                ],
                false,
            ),
        ];
        for (name, operations, explained) in cases {
            assert_eq!(check(&history(operations)).is_ok(), explained, "{name}");
        }
    }
}
