use serde_json::{Value, json};

use super::*;

/// One socket of four cores with two threads each: 0 and 4 are one core.
fn machine() -> Topology {
    let place = |cpu: u32| (cpu, Place { core: cpu % 4, ..Place::default() });
    Topology { places: (0..8).map(place).collect() }
}

fn open(root: &Path) -> Result<CpuManager, StartError> {
    open_with(root, Options::default())
}

fn open_with(root: &Path, options: Options) -> Result<CpuManager, StartError> {
    CpuManager::fixed(root, machine(), Ok("0".parse().unwrap()), options)
}

fn asks(name: &str, cpu: &str) -> Value {
    json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": "1Mi"}}})
}

fn pod(uid: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
}

fn shown(manager: &CpuManager, pod: &Pod) -> String {
    let cpus = manager.of(pod);
    let cpus = cpus.iter().map(|(name, cpus)| {
        let mark = if cpus.exclusive { "=" } else { "~" };
        format!("{name}{mark}{}", cpus.set)
    });
    cpus.collect::<Vec<_>>().join(" ")
}

#[test]
fn who_has_cpus_for_himself() {
    let sidecar = |name: &str, cpu: &str| {
        let mut container = asks(name, cpu);
        container["restartPolicy"] = "Always".into();
        container
    };
    let burstable = json!({"name": "a", "resources": {"requests": {"cpu": "2"}}});
    let whole = json!({"limits": {"cpu": "2", "memory": "1Mi"}});
    let table = [
        (json!({"containers": [asks("a", "2")]}), "a=1,5"),
        (json!({"containers": [asks("a", "1")]}), "a=4"),
        (json!({"containers": [asks("a", "1500m")]}), "a~0-7"),
        (json!({"containers": [asks("a", "1"), asks("b", "500m")]}), "a=4 b~0-3,5-7"),
        (json!({"containers": [burstable]}), "a~0-7"),
        (json!({"containers": [{"name": "a"}]}), "a~0-7"),
        (json!({"containers": [asks("a", "2")], "resources": whole}), "a~0-7"),
        // What is used at the start is used again, but not what a sidecar has.
        (
            json!({"initContainers": [asks("i", "2")], "containers": [asks("a", "2")]}),
            "a=1,5 i=1,5",
        ),
        (
            json!({"initContainers": [asks("i", "2")],
                "containers": [asks("a", "1"), asks("b", "2")]}),
            "a=1 b=4-5 i=1,5",
        ),
        (
            json!({"initContainers": [sidecar("i", "2")], "containers": [asks("a", "2")]}),
            "a=2,6 i=1,5",
        ),
    ];
    for (spec, expected) in table {
        let root = tempfile::tempdir().unwrap();
        let manager = open(root.path()).unwrap();
        let pod = pod("u", spec.clone());
        manager.allocate(&pod).unwrap();
        assert_eq!(shown(&manager, &pod), expected, "{spec}");
        // Again, and by who comes after.
        manager.allocate(&pod).unwrap();
        assert_eq!(shown(&open(root.path()).unwrap(), &pod), expected, "{spec}");
        manager.release("u");
        assert_eq!(manager.0.state.lock().shared, machine().all(), "{spec}");
    }
}

#[test]
fn nobody_gets_what_is_not_there() {
    let root = tempfile::tempdir().unwrap();
    let manager = open(root.path()).unwrap();
    let changes = manager.changes();
    let too_many = pod("a", json!({"containers": [asks("c", "1"), asks("d", "7")]}));
    let error = manager.allocate(&too_many).unwrap_err().to_string();
    let said = "not enough cpus available to satisfy request: requested=7, available=6";
    assert_eq!(error, said);
    assert!(!changes.has_changed().unwrap(), "nothing was given");
    let most = pod("b", json!({"containers": [asks("c", "7")]}));
    manager.allocate(&most).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(shown(&manager, &most), "c=1-7");
    assert_eq!(manager.exclusive("b", "c"), manager.allocatable());
    let other = pod("c", json!({"containers": [{"name": "c"}]}));
    assert_eq!(shown(&manager, &other), "c~0");
    manager.retain(|pod| pod != "b");
    assert_eq!(shown(&manager, &other), "c~0-7");
}

#[test]
fn what_must_be_reserved() {
    let open = |reserved: Result<&str, &str>| {
        let root = tempfile::tempdir().unwrap();
        let reserved = reserved.map(|set| set.parse().unwrap());
        let reserved = reserved.map_err(|amount| amount.parse().unwrap());
        let manager = CpuManager::fixed(root.path(), machine(), reserved, Options::default());
        manager.map(|it| it.allocatable().to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(open(Err("1100m")).unwrap(), "1-3,5-7");
    assert_eq!(open(Ok("0-1")).unwrap(), "2-7");
    let nothing =
        "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero";
    assert_eq!(open(Err("0")).unwrap_err(), nothing);
    assert!(open(Ok("8")).unwrap_err().contains("8, are not all among those of this machine, 0-7"));
    assert!(open(Err("9")).is_err());
}

#[test]
fn a_node_is_not_what_it_was() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("cpu_manager_state");
    open(root.path()).unwrap();
    let message = |outcome: Result<CpuManager, StartError>| outcome.err().unwrap().to_string();
    let drain =
        format!("please drain this node and delete the CPU manager checkpoint file {file:?}");
    let said = message(CpuManager::none(root.path()));
    assert_eq!(
        said,
        format!(
            "could not restore state from checkpoint: configured policy \"none\" differs from state \
             checkpoint policy \"static\", {drain} before restarting Kubelet"
        )
    );
    let mut fewer = machine();
    fewer.places.remove(&7);
    let said = message(CpuManager::fixed(
        root.path(),
        fewer,
        Ok("0".parse().unwrap()),
        Options::default(),
    ));
    let why = "current set of available CPUs \"0-6\" doesn't match with CPUs in state \"0-7\"";
    assert_eq!(said, format!("{why}, {drain}"));
    let taken = pod("u", json!({"containers": [asks("c", "2")]}));
    open(root.path()).unwrap().allocate(&taken).unwrap();
    let said = message(CpuManager::fixed(
        root.path(),
        machine(),
        Ok("1".parse().unwrap()),
        Options::default(),
    ));
    let why = "not all reserved cpus: \"1\" are present in defaultCpuSet: \"0,2-4,6-7\"";
    assert_eq!(said, format!("{why}, {drain}"));
    std::fs::remove_file(&file).unwrap();
    CpuManager::none(root.path()).unwrap();
    CpuManager::none(root.path()).unwrap();
}

#[test]
fn whole_cores_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    let manager =
        open_with(root.path(), Options { whole_cores: true, ..Options::default() }).unwrap();
    let refused = |uid: &str, cpus: &str| {
        let error = manager.allocate(&pod(uid, json!({"containers": [asks("c", cpus)]})));
        let error = error.unwrap_err();
        (error.reason(), error.to_string())
    };
    let odd = "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2";
    assert_eq!(refused("a", "3"), (Some("SMTAlignmentError"), odd.to_string()));
    let two = pod("b", json!({"containers": [asks("c", "2")]}));
    manager.allocate(&two).unwrap();
    assert_eq!(shown(&manager, &two), "c=1,5");
    // CPU 4 is free, but its core is not.
    let few = "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 4, \
               requested CPUs = 6, CPUs per core = 2";
    assert_eq!(refused("c", "6"), (Some("SMTAlignmentError"), few.to_string()));
}

#[test]
fn what_is_strictly_reserved_is_nobodys() {
    let root = tempfile::tempdir().unwrap();
    let strict = Options { strict: true, ..Options::default() };
    let manager = open_with(root.path(), strict).unwrap();
    let (own, any) = (
        pod("a", json!({"containers": [asks("c", "2")]})),
        pod("b", json!({"containers": [{"name": "c"}]})),
    );
    assert_eq!(shown(&manager, &any), "c~1-7");
    manager.allocate(&own).unwrap();
    assert_eq!(shown(&open_with(root.path(), strict).unwrap(), &any), "c~2-4,6-7");
    let error = open(root.path()).err().unwrap().to_string();
    let said = "not all reserved cpus: \"0\" are present in defaultCpuSet: \"2-4,6-7\"";
    assert!(error.starts_with(said), "{error}");
    let other = tempfile::tempdir().unwrap();
    open(other.path()).unwrap();
    let error = open_with(other.path(), strict).err().unwrap().to_string();
    let said = "some of strictly reserved cpus: \"0\" are present in defaultCpuSet: \"0-7\"";
    assert!(error.starts_with(said), "{error}");
}
