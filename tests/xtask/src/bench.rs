//! `cargo xtask bench` and `soak`: the long runs. Each benchmark is a program of the crate that it
//! measures and prints ratios against a reference of the same run.

use crate::step::{cargo, run};
use crate::{image, machine};

/// Package, kind of target and name of each benchmark, in the order of the README's table.
const BENCHMARKS: &[(&str, &str, &str)] = &[
    ("tests", "--bin", "bench_cluster"),
    ("agent", "--example", "bench_runtime"),
    ("agent", "--example", "bench_images"),
    ("tests", "--bin", "bench_watch"),
    ("apiserver", "--example", "bench_edge"),
    ("apiserver", "--example", "bench_store"),
    ("apiserver", "--example", "bench_codec"),
    ("tests", "--bench", "controllers"),
];

/// All of them, or those whose names contain an argument.
pub fn bench(names: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_RUN, machine::TO_TEST])?;
    run("build", cargo(&["build", "--release", "--workspace", "--bins"]))?;
    let image = image::build()?;
    for (package, kind, name) in BENCHMARKS {
        if !names.is_empty() && !names.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        let verb = if *kind == "--bench" { "bench" } else { "run" };
        let mut program = cargo(&[verb, "--quiet", "--package", package, kind, name]);
        if *kind != "--bench" {
            program.arg("--release");
        }
        program.env("CORACLE_HELLO_IMAGE", &image);
        run(name, program)?;
    }
    Ok(())
}

/// Package, test file, tests of it, and what makes them long.
type LongRun = (&'static str, &'static str, &'static [&'static str], Long);
type Long = &'static [(&'static str, &'static str)];

const LONG_RUNS: &[LongRun] = &[
    ("tests", "leaks", &[], &[("CORACLE_LIVES", "100")]),
    ("tests", "churn", &[], &[("CORACLE_KILLS", "200")]),
    ("tests", "virtual_time", &["completions"], &[("CORACLE_COMPLETIONS", "10000")]),
    ("agent", "runtime", &["random"], &[("CORACLE_CALLS", "10000")]),
    (
        "agent",
        "runtime",
        &["an_image_of_two_gigabytes", "many_files"],
        &[("CORACLE_BIG_IMAGE", "1"), ("CORACLE_MANY_FILES", "1000000")],
    ),
];

/// A hundred cluster lives, two hundred deaths of a node's daemons, ten thousand completions of a Job,
/// ten thousand calls of the runtime, large images: all, or those of the test files named. The environment may say otherwise
/// how long each is.
pub fn soak(names: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_RUN, machine::TO_TEST])?;
    run("build", cargo(&["build", "--release", "--workspace", "--bins"]))?;
    let image = image::build()?;
    for (package, file, tests, long) in LONG_RUNS {
        if !names.is_empty() && !names.iter().any(|name| name == file) {
            continue;
        }
        let mut soak = cargo(&["test", "--release", "--package", package, "--test", file]);
        soak.args(["--", "--nocapture"]).args(*tests).env("CORACLE_HELLO_IMAGE", &image);
        for (name, value) in *long {
            soak.env(name, std::env::var(name).unwrap_or_else(|_| (*value).into()));
        }
        run(file, soak)?;
    }
    Ok(())
}
