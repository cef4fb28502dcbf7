//! The queues of a level. Each flow is dealt a hand of queues by its hash (shuffle sharding), so
//! that a busy flow fills few queues and others find one that it does not share; the queues are
//! served in turn (start-time fair queueing, a request counting one).

use std::collections::VecDeque;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::Seat;
use super::config::Queuing;

#[derive(Default)]
pub(super) struct Queues {
    queues: Vec<Queue>,
    /// The virtual time: the start of the request that was served last.
    now: u64,
}

#[derive(Default)]
struct Queue {
    /// With the virtual time at which each may start.
    waiting: VecDeque<(u64, oneshot::Sender<Seat>)>,
    /// The virtual time at which the next one that comes may start.
    next: u64,
}

impl Queues {
    /// Requests that wait. Some may have given up; they leave when it is their turn.
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    /// False where the flow's queues are full.
    pub fn wait(&mut self, queuing: &Queuing, flow: &str, waiter: oneshot::Sender<Seat>) -> bool {
        if self.queues.len() < queuing.queues {
            self.queues.resize_with(queuing.queues, Queue::default);
        }
        let hand = hand(flow, queuing.queues, queuing.hand_size).into_iter();
        let Some(shortest) = hand.min_by_key(|index| self.queues[*index].waiting.len()) else {
            return false;
        };
        let now = self.now;
        let queue = &mut self.queues[shortest];
        queue.waiting.retain(|(_, waiter)| !waiter.is_closed());
        if queue.waiting.len() >= queuing.queue_length_limit {
            return false;
        }
        let start = queue.next.max(now);
        queue.next = start + 1;
        queue.waiting.push_back((start, waiter));
        true
    }

    /// The request whose turn it is.
    pub fn next(&mut self) -> Option<oneshot::Sender<Seat>> {
        loop {
            let due = |queue: &&mut Queue| queue.waiting.front().map(|(start, _)| *start);
            let waiting = self.queues.iter_mut().filter(|queue| !queue.waiting.is_empty());
            let (start, waiter) = waiting.min_by_key(due)?.waiting.pop_front()?;
            self.now = self.now.max(start);
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
    }
}

/// The queues that a flow may use: as many as the hand is large, all different.
pub(super) fn hand(flow: &str, queues: usize, size: usize) -> Vec<usize> {
    let digest = Sha256::digest(flow.as_bytes());
    let mut entropy = u64::from_be_bytes(digest[..8].first_chunk().copied().unwrap_or_default());
    let mut deck: Vec<usize> = (0..queues).collect();
    let mut hand = Vec::with_capacity(size);
    while hand.len() < size && !deck.is_empty() {
        let left = deck.len() as u64;
        hand.push(deck.swap_remove((entropy % left) as usize));
        entropy /= left;
    }
    hand
}
