//! What the machine offers, and skipping loudly what it does not.

use std::path::{Path, PathBuf};

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

/// Ends the test at once, saying why, where the machine lacks what it needs.
#[macro_export]
macro_rules! needs {
    (root) => {
        if !$crate::machine::is_root() {
            eprintln!("SKIPPED {}: needs root", module_path!());
            return;
        }
    };
    ($program:literal) => {
        if $crate::machine::find($program).is_none() {
            eprintln!("SKIPPED {}: needs {} on the PATH", module_path!(), $program);
            return;
        }
    };
}
