//! Answers of the API server that hold for a while. Bounded: what is asked too much of is forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Clock;

/// As many as upstream's caches of reviews hold.
const MOST: usize = 8192;

pub struct Cache<K, V> {
    clock: Clock,
    answers: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub fn new(clock: Clock) -> Cache<K, V> {
        Cache { clock, answers: Mutex::default() }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let now = self.clock.instant();
        let answers = self.answers.lock();
        answers.get(key).filter(|(until, _)| now < *until).map(|(_, answer)| answer.clone())
    }

    pub fn put(&self, key: K, answer: V, lasts: Duration) {
        let now = self.clock.instant();
        let mut answers = self.answers.lock();
        if answers.len() >= MOST {
            answers.retain(|_, (until, _)| now < *until);
        }
        if answers.len() >= MOST {
            answers.clear();
        }
        answers.insert(key, (now + lasts, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time() {
        let cache = Cache::new(Clock::system());
        cache.put("a", 1, Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(cache.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(cache.get(&"a"), None);
    }

    #[tokio::test]
    async fn strangers_cannot_fill_the_memory() {
        let cache = Cache::new(Clock::system());
        (0..MOST * 2).for_each(|key| cache.put(key, (), Duration::from_secs(10)));
        assert!(cache.answers.lock().len() <= MOST);
        assert_eq!(cache.get(&(MOST * 2 - 1)), Some(()));
    }
}
