//! `cargo xtask`: what a person or CI runs in a checkout. It depends on nothing but the standard
//! library, so that it is there within a second on a machine that has only a Rust toolchain.

mod bench;
mod clients;
mod fuzz;
mod image;
mod machine;
mod step;
mod test;
mod up;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  up      install what is missing, build, start a three-node cluster with the hello Deployment
  down    delete that cluster
  image   build the hello image archive and print its path
  test    install what is missing and pass all tests
  vm      the runtime's tests in a virtual machine with cgroup v2 alone ([NAME…])
  bench   print the measured figures, as ratios against references of the same run
  fuzz    every parser of strangers' bytes under libFuzzer (--seconds N, TARGET…)
  soak    the long runs: what the tests do in little, for as long as it takes to believe it";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let result = match arguments.first().map(String::as_str) {
        Some("up") => up::up(rest),
        Some("down") => up::down(),
        Some("image") => image::build().map(|path| println!("{}", path.display())),
        Some("test") => test::test(rest),
        Some("vm") => vm::vm(rest),
        Some("bench") => bench::bench(rest),
        Some("fuzz") => fuzz::fuzz(rest),
        Some("soak") => bench::soak(rest),
        _ => Err(USAGE.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
