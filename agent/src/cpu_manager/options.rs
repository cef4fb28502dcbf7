//! `--cpu-manager-policy-options`: those of the policy `static` that a kubelet knows without further
//! ado (Kubernetes: Node Resource Managers, static policy options).

use std::collections::BTreeMap;

use serde::Serialize;

/// One word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    name: Name,
    on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    FullPcpusOnly,
    DistributeCpusAcrossNuma,
    StrictCpuReservation,
    PreferAlignCpusByUncorecache,
}

const NAMES: [(&str, Name); 4] = [
    ("full-pcpus-only", Name::FullPcpusOnly),
    ("distribute-cpus-across-numa", Name::DistributeCpusAcrossNuma),
    ("strict-cpu-reservation", Name::StrictCpuReservation),
    ("prefer-align-cpus-by-uncorecache", Name::PreferAlignCpusByUncorecache),
];

/// Behind gates that are closed by default, and closed here.
const ALPHA: [&str; 2] = ["align-by-socket", "distribute-cpus-across-cores"];

/// All of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whole cores or nothing.
    pub whole_cores: bool,
    /// Who needs several NUMA nodes has as much of each.
    pub spread: bool,
    /// What is reserved is not for those who share, either.
    pub strict: bool,
    /// Of as few last-level caches as may be.
    pub by_cache: bool,
}

impl Options {
    pub fn new(choices: &[Choice]) -> Result<Options, String> {
        // Of one name the last word counts.
        let chosen: BTreeMap<Name, bool> = choices.iter().map(|it| (it.name, it.on)).collect();
        let on = |name: Name| chosen.get(&name).copied().unwrap_or_default();
        let options = Options {
            whole_cores: on(Name::FullPcpusOnly),
            spread: on(Name::DistributeCpusAcrossNuma),
            strict: on(Name::StrictCpuReservation),
            by_cache: on(Name::PreferAlignCpusByUncorecache),
        };
        match options.spread && options.by_cache {
            true => Err("static policy options prefer-align-cpus-by-uncorecache and \
                         distribute-cpus-across-numa cannot be used at the same time"
                .into()),
            false => Ok(options),
        }
    }
}

/// `NAME=BOOL`.
pub fn choice(text: &str) -> Result<Choice, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, name)| *name);
    let name = match known {
        Some(name) => name,
        None if ALPHA.contains(&name) => {
            return Err(format!("CPU Manager Policy Alpha-level Options not enabled: {name:?}"));
        }
        None => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
    };
    let on = match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => return Err(format!("bad value for option {text:?}: it is neither true nor false")),
    };
    Ok(Choice { name, on })
}

/// As the kubelet's configuration has them.
pub fn shown(choices: &[Choice]) -> BTreeMap<&'static str, String> {
    let name = |choice: &Choice| NAMES.iter().find(|(_, name)| *name == choice.name);
    let shown = choices.iter().filter_map(|it| Some((name(it)?.0, it.on.to_string())));
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_on_the_command_line() {
        let read = |text: &str| -> Result<Options, String> {
            let choices: Result<Vec<_>, _> = text.split(',').map(choice).collect();
            Options::new(&choices?)
        };
        let all = read(
            "full-pcpus-only=true,strict-cpu-reservation=1,\
                        distribute-cpus-across-numa=t,prefer-align-cpus-by-uncorecache=false",
        );
        let expected = Options { whole_cores: true, spread: true, strict: true, by_cache: false };
        assert_eq!(all.unwrap(), expected);
        assert_eq!(read("full-pcpus-only=true,full-pcpus-only=false").unwrap(), Options::default());
        for (text, why) in [
            ("odd=true", "unknown CPU Manager Policy option: \"odd\""),
            (
                "align-by-socket=true",
                "CPU Manager Policy Alpha-level Options not enabled: \"align-by-socket\"",
            ),
            (
                "full-pcpus-only=maybe",
                "bad value for option \"full-pcpus-only=maybe\": it is neither true nor false",
            ),
            (
                "distribute-cpus-across-numa=true,prefer-align-cpus-by-uncorecache=true",
                "static policy options prefer-align-cpus-by-uncorecache and \
                 distribute-cpus-across-numa cannot be used at the same time",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), why);
        }
        let choices = [choice("strict-cpu-reservation=T").unwrap()];
        assert_eq!(shown(&choices), [("strict-cpu-reservation", "true".to_string())].into());
    }
}
