//! `cargo xtask bench` and `soak`: the long runs. Each benchmark is a program of the crate that it
//! measures and prints ratios against a reference of the same run.

use crate::step::{cargo, run};
use crate::{image, machine};

/// Package and example of each benchmark, in the order of the README's table.
const BENCHMARKS: &[(&str, &str)] = &[];

/// All of them, or those whose names contain an argument.
pub fn bench(names: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_RUN, machine::TO_TEST])?;
    run("build", cargo(&["build", "--release", "--workspace", "--bins"]))?;
    let image = image::build()?;
    for (package, example) in BENCHMARKS {
        if !names.is_empty() && !names.iter().any(|name| example.contains(name.as_str())) {
            continue;
        }
        let mut program =
            cargo(&["run", "--release", "--quiet", "--package", package, "--example", example]);
        program.env("CORACLE_HELLO_IMAGE", &image);
        run(example, program)?;
    }
    Ok(())
}

/// A hundred cluster lives.
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
    run("soak", soak)
}
