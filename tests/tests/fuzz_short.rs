//! The fuzz targets over damaged seeds: the short form of `cargo xtask fuzz`.

use client::Rng;
use tests::fuzz::TARGETS;

const ROUNDS: u64 = 1500;

#[test]
fn damaged_seeds_make_nothing_panic() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| Rng::from_os().u64());
    eprintln!("SEED={seed}");
    let rng = Rng::seeded(seed);
    for target in TARGETS {
        for round in 0..ROUNDS {
            let mut input = target.seeds[rng.below(target.seeds.len() as u64) as usize].to_vec();
            for _ in 0..round % 8 {
                damage(&rng, target.seeds, &mut input);
            }
            eprintln_on_panic(target.name, &input, || (target.run)(&input));
        }
    }
}

/// The long form has its own list: it is there before anything is compiled.
#[test]
fn the_long_form_knows_every_target() {
    let xtask = include_str!("../xtask/src/fuzz.rs");
    for target in TARGETS {
        assert!(xtask.contains(&format!("{:?}", target.name)), "{} is not listed", target.name);
    }
}

fn eprintln_on_panic(name: &str, input: &[u8], run: impl FnOnce() + std::panic::UnwindSafe) {
    if let Err(panic) = std::panic::catch_unwind(run) {
        eprintln!("{name}: {:?}", String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

/// Changes, repeats, drops or borrows a few bytes.
fn damage(rng: &Rng, seeds: &[&[u8]], input: &mut Vec<u8>) {
    let at = rng.below(input.len() as u64 + 1) as usize;
    let length = rng.below(8) as usize;
    let end = (at + length).min(input.len());
    match rng.below(5) {
        0 => drop(input.drain(at..end)),
        1 => {
            let part = input[at..end].to_vec();
            input.splice(at..at, part);
        }
        2 => input[at..end].iter_mut().for_each(|byte| *byte = rng.u64() as u8),
        3 => {
            let other = seeds[rng.below(seeds.len() as u64) as usize];
            let from = rng.below(other.len() as u64) as usize;
            let to = (from + 4 * length).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        _ => {
            const SHARP: &[u8] = b"{}[]\",:\\\0\xff&*!-|%()=0";
            input.insert(at, SHARP[rng.below(SHARP.len() as u64) as usize]);
        }
    }
}
