//! Files in which the node keeps what must survive the agent, in the kubelet's form and with its checksum:
//! either can take over where the other ended.

use std::fs;
use std::io;
use std::path::Path;

/// Of a value that is written out as `text`: 32 bits of FNV-1a.
pub fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Replaces the file as a whole.
pub fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, file)
}

/// None where there is no such file.
pub fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
