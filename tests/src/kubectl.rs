//! The real kubectl: `$KUBECTL`, or the newest `kubectl.1.NN` beside the one on the PATH, or that
//! one. Older than 1.32 is no reference.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine;
use crate::program::{Said, run, run_with_input};

const OLDEST: u32 = 32;

pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// `None`, said loudly, where there is none that is new enough.
    pub fn find(kubeconfig: &Path) -> Option<Kubectl> {
        let named = std::env::var_os("KUBECTL").map(PathBuf::from);
        let program = named.or_else(newest);
        let minor = program.as_deref().map(minor).unwrap_or(0);
        if minor < OLDEST {
            eprintln!("SKIPPED a part: needs kubectl 1.{OLDEST} or newer; KUBECTL names one");
            return None;
        }
        Some(Kubectl { program: program?, kubeconfig: kubeconfig.to_path_buf() })
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        run(&mut self.command(arguments))
    }

    /// With a manifest on stdin.
    pub fn with(&self, arguments: &[&str], input: &str) -> Said {
        run_with_input(&mut self.command(arguments), input)
    }

    /// The program's file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Discovery must be asked of this server, not read from another's cache.
        let cache = self.kubeconfig.with_extension("cache");
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(cache);
        command.args(arguments);
        command
    }
}

fn newest() -> Option<PathBuf> {
    let on_path = machine::find("kubectl")?;
    let real = std::fs::canonicalize(&on_path).unwrap_or(on_path);
    let folders = [real.parent()?.to_path_buf(), "/usr/lib/google-cloud-sdk/bin".into()];
    let mut versions: Vec<(u32, PathBuf)> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let minor = name.strip_prefix("kubectl.1.")?.parse().ok()?;
            Some((minor, file.path()))
        })
        .collect();
    versions.sort();
    Some(versions.pop().map_or(real, |(_, path)| path))
}

fn minor(program: &Path) -> u32 {
    let version = run(Command::new(program).args(["version", "--client", "--output=json"])).out;
    let version: serde_json::Value = serde_json::from_str(&version).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    minor.trim_end_matches('+').parse().unwrap_or(0)
}
