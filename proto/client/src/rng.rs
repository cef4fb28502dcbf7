//! Randomness and ids as inputs: names, uids, ports and jitter come from an [`Rng`], seeded in
//! tests so that a failure can be replayed.

#![allow(clippy::disallowed_methods, reason = "this is the one place that makes randomness")]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng as _, SeedableRng};

/// The letters of generated names: no vowels and nothing that looks like a vowel, so that no word
/// appears by chance (k8s.io/apimachinery util/rand).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A source of random numbers, shared by its clones.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// Seeded by the operating system.
    pub fn from_os() -> Rng {
        let rng = StdRng::try_from_rng(&mut SysRng).expect("the kernel has random bytes");
        Rng(Arc::new(Mutex::new(rng)))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Rng {
        Rng(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub fn u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number in `0..n`, evenly; 0 when `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(n)) >> 64) as u64
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }

    /// A random (version 4) UUID, as `metadata.uid` has it.
    pub fn uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// The five letters that `generateName` appends.
    pub fn suffix(&self) -> String {
        let mut rng = self.0.lock();
        let letter = |rng: &mut StdRng| {
            let index = (u64::from(rng.next_u32()) * ALPHABET.len() as u64) >> 32;
            char::from(ALPHABET[index as usize])
        };
        (0..5).map(|_| letter(&mut rng)).collect()
    }

    /// A duration between `duration` and `duration * (1 + factor)`.
    pub fn jitter(&self, duration: Duration, factor: f64) -> Duration {
        let unit = (self.u64() >> 11) as f64 / (1u64 << 53) as f64;
        duration.mul_f64(1.0 + unit * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_and_in_range() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.suffix(), b.suffix());
        assert_ne!(Rng::from_os().uuid(), Rng::from_os().uuid());
        let suffix = a.suffix();
        assert!(suffix.len() == 5 && suffix.bytes().all(|letter| ALPHABET.contains(&letter)));
        assert!((0..1000).all(|_| a.below(3) < 3));
        assert_eq!(a.below(0), 0);
        let jittered = a.jitter(Duration::from_secs(10), 0.5);
        assert!(jittered >= Duration::from_secs(10) && jittered <= Duration::from_secs(15));
        assert_eq!(a.uuid().as_bytes()[14], b'4');
    }
}
