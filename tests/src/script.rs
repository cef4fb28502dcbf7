//! Transcripts of a shell as tests: commands with what they print and how they end.
//!
//! ```text
//! # A comment, at the start or after an empty line.
//! $ kubectl create configmap a --from-literal=b=c
//! configmap/a created
//! $ kubectl create -f -
//! | {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
//! namespace/n created
//! $ kubectl get configmap nothing
//! Error from server (NotFound): configmaps "nothing" not found
//! [1]
//! ```
//!
//! `$` is a command for `sh`, its stdout and stderr as one; `>` continues its line, `|` is a line of
//! its stdin, `[N]` its exit code if not 0. `~$` is a command that is repeated until it prints what
//! is wanted. In what is wanted `*` is any text within a line, a line `...` any lines, and any number
//! of spaces between words is one.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::run_with_input;
use crate::wait::patiently;

/// Where scripts run: a folder of their own, and what is in their environment.
pub struct Shell {
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

#[derive(Debug, Default, PartialEq)]
struct Step {
    line: usize,
    command: String,
    repeated: bool,
    input: String,
    wanted: Vec<String>,
    code: i32,
}

impl Shell {
    pub fn new(folder: &Path) -> Shell {
        Shell { folder: folder.to_path_buf(), environment: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Shell {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs every step; panics at the end with all that did not print what was wanted.
    #[track_caller]
    pub fn plays(&self, name: &str, script: &str) {
        let mut wrong = String::new();
        for step in steps(script) {
            if let Err((said, code)) = self.play(&step) {
                let wanted = step.wanted.join("\n");
                let Step { line, command, code: wanted_code, .. } = step;
                let _ = write!(
                    wrong,
                    "\n{name}:{line}\n$ {command}\n--- wanted, [{wanted_code}]\n{wanted}\n\
                     --- got, [{code}]\n{said}\n"
                );
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    }

    /// What it printed and its exit code, if they are not as wanted.
    fn play(&self, step: &Step) -> Result<(), (String, i32)> {
        let mut last = (String::new(), 0);
        let mut look = || {
            let mut sh = Command::new("sh");
            sh.arg("-c").arg(format!("exec 2>&1\n{}", step.command)).current_dir(&self.folder);
            sh.envs(self.environment.iter().map(|(name, value)| (name, value)));
            let said = run_with_input(&mut sh, &step.input);
            let met = said.code == step.code && matches(&step.wanted, &said.out);
            last = (said.out.trim_end().to_string(), said.code);
            met
        };
        let met = if step.repeated { patiently(20, look) } else { look() };
        if met { Ok(()) } else { Err(last) }
    }
}

fn steps(script: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // After an empty line, where comments stand.
    let mut outside = true;
    for (index, line) in script.lines().enumerate() {
        let started = line.strip_prefix("$ ").or_else(|| line.strip_prefix("~$ "));
        if let Some(command) = started {
            steps.push(Step {
                line: index + 1,
                command: command.to_string(),
                repeated: line.starts_with('~'),
                ..Step::default()
            });
            outside = false;
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        let code = line.strip_prefix('[').and_then(|code| code.strip_suffix(']')?.parse().ok());
        if let Some(more) = line.strip_prefix("> ") {
            step.command += "\n";
            step.command += more;
        } else if let Some(input) = line.strip_prefix("| ") {
            step.input += input;
            step.input += "\n";
        } else if let Some(code) = code {
            step.code = code;
        } else if line.is_empty() {
            outside = true;
        } else if !(outside && line.starts_with("# ")) {
            step.wanted.push(line.trim_end().to_string());
        }
    }
    steps
}

/// Empty lines count for nothing.
fn matches(wanted: &[String], said: &str) -> bool {
    let wanted: Vec<Vec<char>> = wanted.iter().map(|line| letters(line)).collect();
    let said: Vec<Vec<char>> = said.lines().map(letters).filter(|line| !line.is_empty()).collect();
    sequence(&wanted, &said, &|wanted| wanted[..] == ['.'; 3], &|wanted, line| {
        sequence(wanted, line, &|wanted| *wanted == '*', &|wanted, found| wanted == found)
    })
}

/// Spaces after the first word count once: how wide a column is depends on what is in it.
fn letters(line: &str) -> Vec<char> {
    let mut letters: Vec<char> = Vec::new();
    let indent = line.len() - line.trim_start().len();
    for (at, letter) in line.trim_end().char_indices() {
        if at < indent || letter != ' ' || letters.last() != Some(&' ') {
            letters.push(letter);
        }
    }
    letters
}

/// Whether `found` is `wanted`, of which each element is either a gap of any length or one element.
fn sequence<W, F>(
    wanted: &[W],
    found: &[F],
    gap: &impl Fn(&W) -> bool,
    one: &impl Fn(&W, &F) -> bool,
) -> bool {
    let (mut w, mut f) = (0, 0);
    let mut last_gap = None;
    while f < found.len() {
        if w < wanted.len() && gap(&wanted[w]) {
            last_gap = Some((w, f));
            w += 1;
        } else if w < wanted.len() && one(&wanted[w], &found[f]) {
            (w, f) = (w + 1, f + 1);
        } else if let Some((at, from)) = last_gap {
            last_gap = Some((at, from + 1));
            (w, f) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    wanted[w..].iter().all(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_matches_what_is_said() {
        for (wanted, said, expected) in [
            (vec![], "", true),
            (vec![], "a", false),
            (vec!["a"], "a  \n\n", true),
            (vec!["a"], "a\nb", false),
            (vec!["...", "b"], "a\na\nb", true),
            (vec!["...", "b", "..."], "b", true),
            (vec!["...", "b"], "b\nc", false),
            (vec!["a*c"], "abbc", true),
            (vec!["a*c*"], "ac", true),
            (vec!["*a"], "aba", true),
            (vec!["a*c"], "abbcd", false),
            (vec!["[*]"], "[*]", true),
            (vec!["  a b"], "  a    b", true),
            (vec!["  a"], " a", false),
        ] {
            let wanted: Vec<String> = wanted.into_iter().map(str::to_string).collect();
            assert_eq!(matches(&wanted, said), expected, "{wanted:?} and {said:?}");
        }
    }

    #[test]
    fn a_script_is_steps() {
        let steps = steps("# intro\n$ a\n> b\n| in\n# out\n[2]\n\n# comment\n~$ c\n");
        let first = Step {
            line: 2,
            command: "a\nb".into(),
            input: "in\n".into(),
            wanted: vec!["# out".into()],
            code: 2,
            ..Step::default()
        };
        let second = Step { line: 9, command: "c".into(), repeated: true, ..Step::default() };
        assert_eq!(steps, [first, second]);
    }

    #[test]
    fn a_shell_plays() {
        let folder = tempfile::tempdir().unwrap();
        let shell = Shell::new(folder.path()).with("NAME", "value");
        shell.plays(
            "inline",
            "$ echo $NAME; echo error >&2; cat; exit 3\n| x\nvalue\nerror\nx\n[3]",
        );
        let step = &steps("$ echo b\na")[0];
        assert_eq!(shell.play(step), Err(("b".to_string(), 0)));
    }
}
