//! Which sandbox has which address of the node's pod CIDR, on disk.
//!
//! One symbolic link per address, pointing at the sandbox's id: creating it claims the address in
//! one step, so a crash leaves it either claimed or free. `last` points at the address given out
//! most recently: the next one is searched from there, so that an address rests as long as possible
//! before it is used again.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::net::Cidr;

/// The addresses of one node. The first of the range is the gateway's and, with the network's own
/// and the broadcast address, never given to a sandbox.
pub struct Addresses {
    range: Cidr,
    directory: PathBuf,
    state: Mutex<State>,
}

struct State {
    of_sandbox: HashMap<String, Ipv4Addr>,
    last: u64,
}

/// Why no address could be claimed or released.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("no free address in {0}")]
    Exhausted(Cidr),
    #[error("keep addresses in {}", path.display())]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

const LAST: &str = "last";
const LAST_NEW: &str = "last.new";

impl Addresses {
    /// Reads what earlier processes claimed in `directory`, which is made if missing.
    pub fn open(range: Cidr, directory: &Path) -> Result<Self, AddressError> {
        let failed = |source| AddressError::State { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut state = State { of_sandbox: HashMap::new(), last: 1 };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(target) = entry.path().read_link() else { continue };
            let (name, target) = (entry.file_name(), target.to_string_lossy().into_owned());
            match name.to_str().and_then(|name| name.parse().ok()) {
                Some(address) => {
                    state.of_sandbox.insert(target, address);
                }
                None if name == LAST => {
                    let last = target.parse::<Ipv4Addr>().ok().filter(|ip| range.contains(*ip));
                    state.last = last.map_or(1, |last| offset(range, last));
                }
                None => {}
            }
        }
        Ok(Self { range, directory: directory.to_owned(), state: Mutex::new(state) })
    }

    pub fn of(&self, sandbox: &str) -> Option<Ipv4Addr> {
        self.state.lock().of_sandbox.get(sandbox).copied()
    }

    /// The sandbox's address: the one it has, or a free one.
    pub fn claim(&self, sandbox: &str) -> Result<Ipv4Addr, AddressError> {
        let mut state = self.state.lock();
        if let Some(address) = state.of_sandbox.get(sandbox) {
            return Ok(*address);
        }
        // Between the gateway (1) and the broadcast address (size - 1).
        let usable = self.range.size().saturating_sub(3);
        for step in 0..usable {
            let place = 2 + (state.last - 1 + step) % usable;
            let Some(address) = self.range.nth(place) else { continue };
            match std::os::unix::fs::symlink(sandbox, self.path(&address.to_string())) {
                Ok(()) => {
                    state.last = place;
                    state.of_sandbox.insert(sandbox.to_owned(), address);
                    self.remember(address)?;
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
        Err(AddressError::Exhausted(self.range))
    }

    /// Frees the sandbox's address, if it has one.
    pub fn release(&self, sandbox: &str) -> Result<(), AddressError> {
        let mut state = self.state.lock();
        let Some(address) = state.of_sandbox.get(sandbox) else { return Ok(()) };
        match std::fs::remove_file(self.path(&address.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => {
                state.of_sandbox.remove(sandbox);
                Ok(())
            }
        }
    }

    fn remember(&self, last: Ipv4Addr) -> Result<(), AddressError> {
        let new = self.path(LAST_NEW);
        let write = || {
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(last.to_string(), &new)?;
            std::fs::rename(&new, self.path(LAST))
        };
        write().map_err(|source| self.failed(source))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn failed(&self, source: io::Error) -> AddressError {
        AddressError::State { path: self.directory.clone(), source }
    }
}

fn offset(range: Cidr, address: Ipv4Addr) -> u64 {
    u64::from(address.to_bits() - range.address().to_bits()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Addresses {
        Addresses::open("10.9.8.0/29".parse().unwrap(), directory).unwrap()
    }

    #[test]
    fn next_address_goes_round_and_survives_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = open(directory.path());
        let last_byte = |sandbox: &str| addresses.claim(sandbox).unwrap().octets()[3];
        assert_eq!([last_byte("a"), last_byte("b"), last_byte("a")], [2, 3, 2]);
        addresses.release("a").unwrap();
        addresses.release("a").unwrap();
        assert_eq!([last_byte("c"), last_byte("d")], [4, 5]);

        let addresses = open(directory.path());
        assert_eq!(addresses.of("b"), Some(Ipv4Addr::new(10, 9, 8, 3)));
        assert_eq!(addresses.of("a"), None);
        let last_byte = |sandbox: &str| addresses.claim(sandbox).unwrap().octets()[3];
        assert_eq!([last_byte("e"), last_byte("f")], [6, 2], "after the last one, then round");
        assert!(matches!(addresses.claim("g"), Err(AddressError::Exhausted(_))));
        addresses.release("c").unwrap();
        assert_eq!(addresses.claim("g").unwrap().octets()[3], 4);
    }
}
