//! `cargo xtask bench` and `soak`: the long runs. Each benchmark is a program of the crate that it
//! measures and prints ratios against a reference of the same run.

use crate::step::{cargo, command, run};
use crate::{image, machine};

/// Each benchmark's program below `target/release`, in the order of the README's table.
const BENCHMARKS: &[&str] = &[
    "bench_cluster",
    "examples/bench_runtime",
    "examples/bench_images",
    "bench_watch",
    "bench_scale",
    "examples/bench_edge",
    "examples/bench_store",
    "examples/bench_codec",
    "examples/bench_scheduler",
];

/// All of them, or those whose names contain an argument.
pub fn bench(names: &[String]) -> Result<(), String> {
    let wanted =
        |name: &str| names.is_empty() || names.iter().any(|wanted| name.contains(wanted.as_str()));
    machine::install(&[machine::TO_BUILD, machine::TO_RUN, machine::TO_TEST])?;
    // The whole workspace, or its dependencies are built once more for every package.
    run("build", cargo(&["build", "--release", "--workspace", "--bins", "--examples"]))?;
    let image = image::build()?;
    for name in BENCHMARKS.iter().filter(|name| wanted(name)) {
        let program = image::target_directory().join("release").join(name);
        let mut program = command(&program.to_string_lossy(), &[]);
        program.env("CORACLE_HELLO_IMAGE", &image);
        run(name, program)?;
    }
    if wanted("controllers") {
        run("controllers", cargo(&["bench", "--workspace", "--bench", "controllers"]))?;
    }
    Ok(())
}

/// What every change is tested for in little, at length: the test file, tests of it, and what makes
/// them long.
type LongRun = (&'static str, &'static [&'static str], Long);
type Long = &'static [(&'static str, &'static str)];

const LONG_RUNS: &[LongRun] = &[
    ("leaks", &[], &[("CORACLE_LIVES", "100")]),
    ("churn", &[], &[("CORACLE_KILLS", "200")]),
    (
        "watch_stress",
        &[],
        &[("CORACLE_WATCHERS", "2000"), ("CORACLE_WRITES", "60000"), ("CORACLE_RATE", "1000")],
    ),
    ("linearizable", &[], &[("CORACLE_SEEDS", "20"), ("CORACLE_ROUNDS", "12")]),
    ("flood", &[], &[("CORACLE_CONNECTIONS", "100000")]),
    ("forward", &[], &[("CORACLE_FORWARD_CONNECTIONS", "10000"), ("CORACLE_FORWARD_MIB", "1024")]),
    ("oracle", &[], &[("CORACLE_CLUSTERS", "50000")]),
    ("runtime", &["random"], &[("CORACLE_CALLS", "10000")]),
    ("virtual_time", &["completions"], &[("CORACLE_COMPLETIONS", "10000")]),
    (
        "chaos",
        &["a_day_on_which_all_goes_wrong"],
        &[("CORACLE_NODES", "500"), ("CORACLE_PODS", "10000"), ("CORACLE_MINUTES", "1440")],
    ),
    (
        "runtime",
        &["an_image_of_two_gigabytes", "many_files"],
        &[("CORACLE_BIG_IMAGE", "1"), ("CORACLE_MANY_FILES", "1000000")],
    ),
];

/// All of [`LONG_RUNS`], or those of the test files named. The environment may say otherwise how long
/// each is.
pub fn soak(names: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_RUN, machine::TO_TEST])?;
    run("build", cargo(&["build", "--release", "--workspace", "--bins"]))?;
    let image = image::build()?;
    for (file, tests, long) in LONG_RUNS {
        if !names.is_empty() && !names.iter().any(|name| name == file) {
            continue;
        }
        let mut soak = cargo(&["test", "--release", "--workspace", "--test", file]);
        soak.args(["--", "--nocapture"]).args(*tests).env("CORACLE_HELLO_IMAGE", &image);
        for (name, value) in *long {
            soak.env(name, std::env::var(name).unwrap_or_else(|_| (*value).into()));
        }
        run(file, soak)?;
    }
    Ok(())
}
