//! The target that `CORACLE_FUZZ` names, under libFuzzer, beginning with the target's seeds in the
//! folder that `CORACLE_CORPUS` names.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tests::fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("CORACLE_FUZZ").expect("CORACLE_FUZZ names a target");
    TARGETS.iter().find(|target| target.name == name).expect("there is no such target")
});

fuzz_target!(
    init: {
        let corpus = PathBuf::from(std::env::var_os("CORACLE_CORPUS").expect("CORACLE_CORPUS"));
        for (number, seed) in TARGET.seeds.iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{number}")), seed).expect("a seed");
        }
    },
    |data: &[u8]| (TARGET.run)(data)
);
