//! Every field by which CRI v1 asks something of a container or a pod, and what becomes of it: a field
//! that the standard has and this list has not would be one that is read by nobody.

use std::collections::BTreeMap;

/// What the runtime does with a field.
enum Field {
    /// It does what the field says; a test of this file's neighbours shows it.
    Real,
    /// There is nothing here that the field could mean, and why.
    Nothing(&'static str),
}

const FACTS: &str = "shared/data/cri-v1-fields.json";

use Field::{Nothing, Real};

const WINDOWS: Field = Nothing("a node of Linux");
const NO_PAUSE: Field = Nothing("of a pause container, which pods here do without");
const SELINUX: Field = Nothing("refused where SELinux is, meaningless where it is not");

const FIELDS: &[(&str, &[(&str, Field)])] = &[
    (
        "PodSandboxConfig",
        &[
            ("metadata", Real),
            ("hostname", Real),
            ("log_directory", Real),
            ("dns_config", Real),
            ("port_mappings", Nothing("the node's service proxy forwards ports")),
            ("labels", Real),
            ("annotations", Real),
            ("linux", Real),
            ("windows", WINDOWS),
        ],
    ),
    (
        "LinuxPodSandboxConfig",
        &[
            ("cgroup_parent", Real),
            ("security_context", Real),
            ("sysctls", Real),
            ("overhead", Real),
            ("resources", Real),
        ],
    ),
    (
        "LinuxSandboxSecurityContext",
        &[
            ("namespace_options", Real),
            ("selinux_options", SELINUX),
            ("run_as_user", NO_PAUSE),
            ("run_as_group", NO_PAUSE),
            ("readonly_rootfs", NO_PAUSE),
            ("supplemental_groups", NO_PAUSE),
            ("supplemental_groups_policy", NO_PAUSE),
            ("privileged", NO_PAUSE),
            ("seccomp", NO_PAUSE),
            ("apparmor", NO_PAUSE),
            ("seccomp_profile_path", NO_PAUSE),
        ],
    ),
    (
        "NamespaceOption",
        &[
            ("network", Real),
            ("pid", Real),
            ("ipc", Real),
            ("target_id", Real),
            ("userns_options", Real),
        ],
    ),
    ("UserNamespace", &[("mode", Real), ("uids", Real), ("gids", Real)]),
    (
        "ContainerConfig",
        &[
            ("metadata", Real),
            ("image", Real),
            ("command", Real),
            ("args", Real),
            ("working_dir", Real),
            ("envs", Real),
            ("mounts", Real),
            ("devices", Real),
            ("labels", Real),
            ("annotations", Real),
            ("log_path", Real),
            ("stdin", Real),
            ("stdin_once", Real),
            ("tty", Real),
            ("linux", Real),
            ("windows", WINDOWS),
            ("CDI_devices", Real),
            ("stop_signal", Real),
        ],
    ),
    (
        "LinuxContainerSecurityContext",
        &[
            ("capabilities", Real),
            ("privileged", Real),
            ("namespace_options", Real),
            ("selinux_options", SELINUX),
            ("run_as_user", Real),
            ("run_as_group", Real),
            ("run_as_username", Real),
            ("readonly_rootfs", Real),
            ("supplemental_groups", Real),
            ("supplemental_groups_policy", Real),
            ("no_new_privs", Real),
            ("masked_paths", Real),
            ("readonly_paths", Real),
            ("seccomp", Real),
            ("apparmor", Real),
            ("apparmor_profile", Real),
            ("seccomp_profile_path", Real),
        ],
    ),
    (
        "LinuxContainerResources",
        &[
            ("cpu_period", Real),
            ("cpu_quota", Real),
            ("cpu_shares", Real),
            ("memory_limit_in_bytes", Real),
            ("oom_score_adj", Real),
            ("cpuset_cpus", Real),
            ("cpuset_mems", Real),
            ("hugepage_limits", Real),
            ("unified", Real),
            ("memory_swap_limit_in_bytes", Real),
        ],
    ),
    (
        "Mount",
        &[
            ("container_path", Real),
            ("host_path", Real),
            ("readonly", Real),
            ("selinux_relabel", SELINUX),
            ("propagation", Real),
            ("uidMappings", Real),
            ("gidMappings", Real),
            ("recursive_read_only", Real),
            ("image", Real),
            ("image_sub_path", Real),
            ("mount_options", Real),
        ],
    ),
    ("Device", &[("container_path", Real), ("host_path", Real), ("permissions", Real)]),
    ("RuntimeHandlerFeatures", &[("recursive_read_only_mounts", Real), ("user_namespaces", Real)]),
    (
        "RuntimeFeatures",
        &[
            ("supplemental_groups_policy", Real),
            ("user_namespaces_host_network", Real),
            ("mount_options", Real),
        ],
    ),
];

#[test]
fn every_field_is_accounted_for() {
    let above = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let facts = above.map(|folder| folder.join(FACTS)).find(|path| path.exists());
    let Some(facts) = facts else {
        eprintln!("SKIPPED: no {FACTS} beside the repository to compare with");
        return;
    };
    let facts: serde_json::Value = serde_json::from_slice(&std::fs::read(facts).unwrap()).unwrap();
    for (message, fields) in FIELDS {
        let known: BTreeMap<&str, &Field> =
            fields.iter().map(|(name, field)| (*name, field)).collect();
        let standard = facts["messages"][message].as_object().unwrap();
        let missing: Vec<&String> =
            standard.keys().filter(|name| !known.contains_key(name.as_str())).collect();
        assert!(missing.is_empty(), "{message}: nobody says what becomes of {missing:?}");
        for (name, field) in known {
            assert!(standard.contains_key(name), "{message} has no {name}");
            if let Nothing(why) = field {
                assert!(!why.is_empty(), "{message}.{name}");
            }
        }
    }
}
