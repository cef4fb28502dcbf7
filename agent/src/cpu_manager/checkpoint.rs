//! `cpu_manager_state`: the CPUs of the containers that have some for themselves, and those of all
//! others. The file is the kubelet's, checksum included.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::State;
use crate::checkpoint;

pub const FILE: &str = "cpu_manager_state";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read it: {0}")]
    Io(#[from] io::Error),
    #[error("it is not the JSON that it should be: {0}")]
    Json(#[from] serde_json::Error),
    #[error("checkpoint is corrupted")]
    Checksum,
    #[error("could not parse cpu set: {0}")]
    Set(String),
    #[error("configured policy {configured:?} differs from state checkpoint policy {found:?}")]
    Policy { configured: &'static str, found: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    checksum: u32,
}

/// None where there is no file. One of another policy is an error.
pub fn read(file: &Path, policy: &'static str) -> Result<Option<State>, Error> {
    let Some(text) = checkpoint::read(file)? else { return Ok(None) };
    let file: File = serde_json::from_slice(&text)?;
    if file.checksum != file.sum() {
        return Err(Error::Checksum);
    }
    if file.policy_name != policy {
        return Err(Error::Policy { configured: policy, found: file.policy_name });
    }
    let mut state =
        State { shared: file.default_cpu_set.parse().map_err(Error::Set)?, ..State::default() };
    for (pod, containers) in file.entries {
        for (container, cpus) in containers {
            let cpus = cpus.parse().map_err(Error::Set)?;
            state.exclusive.insert((pod.clone(), container), cpus);
        }
    }
    Ok(Some(state))
}

pub fn write(file: &Path, policy: &'static str, state: &State) -> io::Result<()> {
    let mut entries: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for ((pod, container), cpus) in &state.exclusive {
        entries.entry(pod.clone()).or_default().insert(container.clone(), cpus.to_string());
    }
    let (policy_name, default_cpu_set) = (policy.to_string(), state.shared.to_string());
    let mut content = File { policy_name, default_cpu_set, entries, checksum: 0 };
    content.checksum = content.sum();
    checkpoint::write(file, &serde_json::to_vec(&content)?)
}

impl File {
    /// Of the kubelet's struct as Go's deep printer shows it.
    fn sum(&self) -> u32 {
        let pod = |(pod, containers): (&String, &BTreeMap<String, String>)| {
            let containers = containers.iter().map(|(name, cpus)| format!("{name}:{cpus}"));
            format!("{pod}:map[{}]", containers.collect::<Vec<_>>().join(" "))
        };
        let entries = self.entries.iter().map(pod).collect::<Vec<_>>().join(" ");
        checkpoint::checksum(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} \
             Entries:(map[string]map[string]string)map[{entries}] Checksum:(checksum.Checksum)0}}",
            self.policy_name, self.default_cpu_set
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_kubelets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        assert!(read(&file, "static").unwrap().is_none());
        // As kubelets wrote them.
        let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
        let plain = r#"{"policyName":"static","defaultCpuSet":"0-27","checksum":273146150}"#;
        let full = r#"{"policyName":"static","defaultCpuSet":"0,13","entries":{"55784671-0e4e-49e2-b4d6-c0377ca14c81":{"app":"1-12"},"6c5f3038-adfc-485d-9943-3fd5e825300d":{"app":"14-27"}},"checksum":3558029577}"#;
        for (text, policy) in [(none, "none"), (plain, "static"), (full, "static")] {
            std::fs::write(&file, text).unwrap();
            let state = read(&file, policy).unwrap().unwrap();
            write(&file, policy, &state).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        std::fs::write(&file, plain.replace("27\"", "28\"")).unwrap();
        assert!(matches!(read(&file, "static"), Err(Error::Checksum)));
        std::fs::write(&file, none).unwrap();
        let error = read(&file, "static").unwrap_err().to_string();
        let said = "configured policy \"static\" differs from state checkpoint policy \"none\"";
        assert_eq!(error, said);
    }
}
