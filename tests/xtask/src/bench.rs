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

/// A hundred cluster lives, then images too large for every day's tests.
pub fn soak(rest: &[String]) -> Result<(), String> {
    let lives = match rest {
        [] => "100",
        [flag, number] if flag == "--lives" => number,
        _ => return Err("usage: cargo xtask soak [--lives N]".into()),
    };
    machine::install(&[machine::TO_BUILD, machine::TO_RUN])?;
    run("build", cargo(&["build", "--release", "--workspace", "--bins"]))?;
    let image = image::build()?;
    let mut soak = cargo(&["test", "--release", "--package", "tests", "--test", "leaks"]);
    soak.args(["--", "--nocapture"]).env("CORACLE_LIVES", lives).env("CORACLE_HELLO_IMAGE", image);
    run("soak", soak)?;
    let mut images = cargo(&["test", "--release", "--package", "agent", "--test", "runtime"]);
    images.args(["--", "--nocapture", "an_image_of_two_gigabytes", "many_files"]);
    images.env("CORACLE_BIG_IMAGE", "1").env("CORACLE_MANY_FILES", "1000000");
    run("large images", images)
}
