//! The real kubectl against `ctl server`: transcripts in `kubectl/*.txt`, one per family of commands.
//! A line there is a case; `tests::script` says how they read. Each has a server of its own.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::kubectl::Kubectl;
use tests::program::built;
use tests::script::Shell;
use tests::server::Server;
use tests::wait::until;

macro_rules! transcripts {
    ($($name:ident: $nodes:literal nodes,)*) => {$(
        #[test]
        fn $name() {
            play(stringify!($name), include_str!(concat!("kubectl/", stringify!($name), ".txt")), $nodes);
        }
    )*};
}

transcripts! {
    access: 0 nodes,
    apply: 0 nodes,
    change: 0 nodes,
    create: 0 nodes,
    delete: 3 nodes,
    discover: 0 nodes,
    get: 0 nodes,
    jobs: 3 nodes,
    nodes: 3 nodes,
    rollout: 3 nodes,
    serve: 0 nodes,
    sets: 3 nodes,
    tokens: 0 nodes,
}

/// Every resource that the server names is as Kubernetes has it, down to its verbs.
#[test]
fn resources_are_those_of_kubernetes() {
    let facts = "shared/data/kubernetes-1.36/api-resources.json";
    let Some(facts) = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find_map(|folder| std::fs::read(folder.join(facts)).ok())
    else {
        eprintln!("SKIPPED: needs {facts}");
        return;
    };
    let facts: Vec<serde_json::Value> = serde_json::from_slice(&facts).expect("facts are JSON");
    let words = |list: &serde_json::Value| -> Vec<String> {
        let words = list.as_array().into_iter().flatten();
        words.map(|word| word.as_str().expect("words").to_string()).collect()
    };
    let server = Server::start(&["--ephemeral"]);
    let Some(kubectl) = Kubectl::find(&server.kubeconfig()) else { return };
    let said = kubectl.run(&["api-resources", "-o", "wide", "--no-headers"]).ok();
    assert!(said.lines().count() > 40, "{said}");
    for line in said.lines() {
        let mut columns: Vec<&str> = line.split_whitespace().collect();
        if !matches!(columns[2], "true" | "false") {
            columns.remove(1);
        }
        let [name, version, namespaced, kind, verbs] = columns[..5] else { panic!("{line}") };
        // Upstream's is served by an add-on.
        if version.starts_with("metrics.k8s.io/") {
            continue;
        }
        let fact = facts
            .iter()
            .find(|fact| fact["name"] == name && fact["groupVersion"] == version)
            .unwrap_or_else(|| panic!("Kubernetes has no {version} {name}"));
        let expected =
            (fact["kind"].as_str(), fact["namespaced"].to_string(), words(&fact["verbs"]));
        let verbs = verbs.split(',').map(str::to_string).collect();
        assert_eq!((Some(kind), namespaced.to_string(), verbs), expected, "{line}");
        let short = words(&fact["shortNames"]).join(",");
        assert_eq!(line.split_whitespace().nth(1) == Some(&short), !short.is_empty(), "{line}");
    }
}

fn play(name: &str, script: &str, nodes: usize) {
    let server = Server::start(&["--ephemeral"]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let Some(kubectl) = Kubectl::find(&server.kubeconfig()) else { return };
    let _nodes = (nodes > 0).then(|| Nodes::start(&server, nodes));
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(path("bin")).expect("a folder for kubectl");
    let link = Path::new(&path("bin")).join("kubectl");
    std::os::unix::fs::symlink(kubectl.program(), link).expect("a link to kubectl");
    // A copy: scripts change the namespace of their context.
    std::fs::copy(server.kubeconfig(), path("config")).expect("a kubeconfig of its own");
    let shell = Shell::new(folder.path())
        .with("PATH", format!("{}:/usr/bin:/bin", path("bin")))
        .with("HOME", folder.path().to_string_lossy())
        .with("TMPDIR", folder.path().to_string_lossy())
        .with("KUBECONFIG", path("config"))
        .with("KUBECACHEDIR", path("cache"));
    shell.plays(&format!("tests/tests/kubectl/{name}.txt"), script);
}

/// Nodes whose containers exist in memory only.
struct Nodes(Child);

impl Nodes {
    fn start(server: &Server, nodes: usize) -> Nodes {
        let child = Command::new(built("ctl"))
            .args(["simulate", "--nodes", &nodes.to_string(), "--kubeconfig"])
            .arg(server.kubeconfig())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ctl starts");
        let child = Nodes(child);
        until("simulated nodes to be ready", 30, || {
            let said = server.ctl(&["get", "nodes"]).out;
            (said.matches(" Ready ").count() == nodes).then_some(())
        });
        child
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.kill().expect("our own child can be killed");
        self.0.wait().expect("our own child can be awaited");
    }
}
