//! Running programs and reading what they say.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// What a program printed and how it ended.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub command: String,
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl Said {
    /// Its stdout, if it ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{} failed\n{}{}", self.command, self.out, self.err);
        self.out
    }

    /// Its stderr, if it ended with code 1.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_eq!(self.code, 1, "{} should fail\n{}{}", self.command, self.out, self.err);
        self.err
    }
}

/// A program that cargo built in this profile, as `ctl`.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().expect("target/PROFILE/deps, or without deps");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let program = folder.join(name);
    assert!(program.is_file(), "{} is not built: run `cargo xtask test`", program.display());
    program
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Said {
    run_with_input(command, "")
}

/// The same with text on stdin.
pub fn run_with_input(command: &mut Command, input: &str) -> Said {
    use std::io::Write;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let input = input.to_string();
    // On its own thread: a program may talk before it has read everything, or never read.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let Output { status, stdout, stderr } =
        child.wait_with_output().expect("a child can be awaited");
    writer.join().expect("writing does not panic");
    Said {
        command: name,
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
        code: status.code().unwrap_or(-1),
    }
}
