//! A cluster that is deleted leaves nothing on the machine: no process, mount, namespace, link,
//! table or cgroup. `CORACLE_LIVES=100` for the long form.

use std::process::Command;

use tests::cluster::Cluster;
use tests::needs;
use tests::program::run;

const NAME: &str = "e2e-leak";
const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/hello.yaml");

#[test]
fn a_deleted_cluster_leaves_nothing() {
    needs!(root);
    let lives: usize =
        std::env::var("CORACLE_LIVES").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    for life in 1..=lives {
        let state;
        {
            let cluster = Cluster::create(NAME, &["--nodes", "3", "-f", HELLO]);
            state = cluster.state();
            let pods = cluster.ctl(&["get", "pods", "--no-headers"]).ok();
            assert_eq!(pods.lines().filter(|line| line.contains("Running")).count(), 3, "{pods}");
            if life % 2 == 0 {
                cluster.ctl(&["delete", "-f", HELLO]).ok();
            }
        }
        let left = left(&state.to_string_lossy());
        assert!(left.is_empty(), "life {life} of {lives} left:\n{}", left.join("\n"));
        eprintln!("life {life} of {lives} left nothing");
    }
}

/// Everything on the machine that bears the cluster's name or lies in its directory.
fn left(state: &str) -> Vec<String> {
    let said = |program: &str, arguments: &[&str]| run(Command::new(program).args(arguments)).out;
    let mut found = Vec::new();
    let mut look = |what: &str, text: String| {
        let ours =
            |line: &&str| line.contains(NAME) || line.contains(state) || line.contains("cor-e2e");
        found.extend(text.lines().filter(ours).map(|line| format!("{what}: {line}")));
    };
    look("mount", std::fs::read_to_string("/proc/self/mounts").unwrap());
    look("link", said("ip", &["-o", "link"]));
    look("namespace", said("ip", &["netns"]));
    look("table", said("nft", &["list", "tables"]));
    look("route", said("ip", &["route"]));
    look("cgroup", said("find", &["/sys/fs/cgroup", "-maxdepth", "4", "-type", "d"]));
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_ok() && pid != own {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            look("process", format!("{pid} {line}"));
        }
    }
    found
}
