//! The Pod Security Standards, one function per control.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::Level;
use crate::kinds::lens::Lens;

/// What is judged: a pod or a template of one, as of a minor version.
pub struct Subject<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
    pub minor: u32,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Check = fn(&Subject) -> Option<Violation>;

/// Level, the minor version since which it is made, the check, and a later one that covers it.
/// Ordered as violations are listed.
static CHECKS: &[(Level, u32, Check, Option<Check>)] = &[
    (Level::Baseline, 0, app_armor, None),
    (Level::Baseline, 0, added_capabilities, Some(dropped_capabilities)),
    (Level::Baseline, 0, host_namespaces, None),
    (Level::Baseline, 0, host_paths, None),
    (Level::Baseline, 0, host_ports, None),
    (Level::Baseline, 34, probed_hosts, None),
    (Level::Baseline, 0, privileged, None),
    (Level::Baseline, 0, proc_mount, None),
    (Level::Baseline, 0, se_linux, None),
    (Level::Baseline, 0, seccomp_allowed, Some(seccomp_required)),
    (Level::Baseline, 0, sysctls, None),
    (Level::Baseline, 0, windows_host_process, None),
    (Level::Restricted, 8, privilege_escalation, None),
    (Level::Restricted, 22, dropped_capabilities, None),
    (Level::Restricted, 0, volume_types, None),
    (Level::Restricted, 0, non_root, None),
    (Level::Restricted, 23, non_root_user, None),
    (Level::Restricted, 19, seccomp_required, None),
];

/// Everything the level forbids of the subject.
pub fn evaluate(level: Level, subject: &Subject) -> Vec<Violation> {
    let made =
        |check: &&(Level, u32, Check, Option<Check>)| check.0 <= level && subject.minor >= check.1;
    let covered = |by: Check| {
        let mut made = CHECKS.iter().filter(made);
        made.any(|(_, _, check, _)| std::ptr::fn_addr_eq(*check, by))
    };
    let checks = CHECKS.iter().filter(made).filter(|(.., by)| !by.is_some_and(covered));
    checks.filter_map(|(_, _, check, _)| check(subject)).collect()
}

fn app_armor(subject: &Subject) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let typed = |context: &Value| {
        let kind = context.at("appArmorProfile").text("type").to_string();
        if matches!(&*kind, "" | "RuntimeDefault" | "Localhost") { None } else { Some(kind) }
    };
    let (mut setters, values) = subject.setters(typed);
    let mut values: Vec<String> = values.into_iter().collect();
    let annotations = subject.metadata.pairs("annotations").filter_map(|(key, value)| {
        let value = value.as_str()?;
        let fine =
            value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        (key.starts_with(ANNOTATION) && !fine).then(|| format!("{key}={value:?}"))
    });
    let annotations: Vec<String> = annotations.collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).into());
        values.extend(annotations);
    }
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        setters.join(" and "),
        quoted(&values)
    );
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violated(!setters.is_empty(), reason, detail)
}

fn added_capabilities(subject: &Subject) -> Option<Violation> {
    const DEFAULT: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (containers, added) = subject.adding(DEFAULT);
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        named(&containers),
        quoted(&added)
    );
    violated(!containers.is_empty(), "non-default capabilities", detail)
}

fn host_namespaces(subject: &Subject) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| subject.spec.flag(field) == Some(true))
        .map(|field| format!("{field}=true"));
    let shared: Vec<String> = shared.collect();
    violated(!shared.is_empty(), "host namespaces", shared.join(", "))
}

fn host_paths(subject: &Subject) -> Option<Violation> {
    let volumes = subject.spec.items("volumes").iter();
    let names: Vec<&str> =
        volumes.filter(|it| it.has("hostPath")).map(|it| it.text("name")).collect();
    let detail = format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    violated(!names.is_empty(), "hostPath volumes", detail)
}

fn host_ports(subject: &Subject) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = subject.containers_where(|container| {
        let used = container.items("ports").iter().filter_map(|port| port.int("hostPort"));
        let used: Vec<String> = used.filter(|port| *port != 0).map(|it| it.to_string()).collect();
        ports.extend(used.iter().cloned());
        !used.is_empty()
    });
    let ports: Vec<String> = ports.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        named(&containers),
        plural("uses", "use", containers.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.join(", ")
    );
    violated(!containers.is_empty(), "hostPort", detail)
}

fn probed_hosts(subject: &Subject) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let mut containers = subject.containers_where(|container| {
        let lifecycle = container.at("lifecycle");
        let handlers = [
            container.at("livenessProbe"),
            container.at("readinessProbe"),
            container.at("startupProbe"),
            lifecycle.at("postStart"),
            lifecycle.at("preStop"),
        ];
        let named = handlers.iter().flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|action| handler.at(action).text("host").to_string())
        });
        let named: Vec<String> = named.filter(|host| !host.is_empty()).collect();
        hosts.extend(named.iter().cloned());
        !named.is_empty()
    });
    containers.sort_unstable();
    let hosts: Vec<String> = hosts.into_iter().collect();
    let detail = format!(
        "{} {} {} {}",
        named(&containers),
        plural("uses", "use", containers.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(&hosts)
    );
    violated(!containers.is_empty(), "probe or lifecycle host", detail)
}

fn privileged(subject: &Subject) -> Option<Violation> {
    let containers =
        subject.containers_where(|it| it.at("securityContext").flag("privileged") == Some(true));
    let detail = format!("{} must not set securityContext.privileged=true", named(&containers));
    violated(!containers.is_empty(), "privileged", detail)
}

fn proc_mount(subject: &Subject) -> Option<Violation> {
    if subject.has_own_users() {
        return None;
    }
    let mut kinds = BTreeSet::new();
    let containers = subject.containers_where(|container| {
        let kind = container.at("securityContext").text("procMount");
        let bad = !matches!(kind, "" | "Default");
        if bad {
            kinds.insert(kind.to_string());
        }
        bad
    });
    let kinds: Vec<String> = kinds.into_iter().collect();
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        named(&containers),
        quoted(&kinds)
    );
    violated(!containers.is_empty(), "procMount", detail)
}

fn se_linux(subject: &Subject) -> Option<Violation> {
    let engine = subject.minor >= 31;
    let bad_type = |options: &Value| {
        let kind = options.text("type");
        let fine = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (engine && kind == "container_engine_t");
        if fine { None } else { Some(kind.to_string()) }
    };
    let (mut user, mut role, mut types) = (false, false, BTreeSet::new());
    let (setters, _) = subject.setters(|context| {
        let options = context.at("seLinuxOptions");
        let (has_user, has_role) = (!options.vacant("user"), !options.vacant("role"));
        user |= has_user;
        role |= has_role;
        let kind = bad_type(options);
        types.extend(kind.clone());
        (kind.is_some() || has_user || has_role).then(String::new)
    });
    let types: Vec<String> = types.into_iter().collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        setters.join(" and "),
        data.join("; ")
    );
    violated(!setters.is_empty(), "seLinuxOptions", detail)
}

fn seccomp_allowed(subject: &Subject) -> Option<Violation> {
    let (setters, values) = subject.setters(bad_seccomp);
    seccomp_violation(&setters, &values)
}

fn sysctls(subject: &Subject) -> Option<Violation> {
    /// With the minor version since which it is allowed.
    const ALLOWED: &[(&str, u32)] = &[
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let set = subject.spec.at("securityContext").items("sysctls").iter();
    let forbidden = set.map(|sysctl| sysctl.text("name")).filter(|name| {
        !ALLOWED.iter().any(|(known, since)| known == name && subject.minor >= *since)
    });
    let forbidden: Vec<&str> = forbidden.collect();
    violated(!forbidden.is_empty(), "forbidden sysctls", forbidden.join(", "))
}

fn windows_host_process(subject: &Subject) -> Option<Violation> {
    let (setters, _) = subject.setters(|context| {
        let host = context.at("windowsOptions").flag("hostProcess") == Some(true);
        host.then(String::new)
    });
    let detail = format!(
        "{} must not set securityContext.windowsOptions.hostProcess=true",
        setters.join(" and ")
    );
    violated(!setters.is_empty(), "hostProcess", detail)
}

fn privilege_escalation(subject: &Subject) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let containers = subject.containers_where(|container| {
        container.at("securityContext").flag("allowPrivilegeEscalation") != Some(false)
    });
    let detail =
        format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&containers));
    violated(!containers.is_empty(), "allowPrivilegeEscalation != false", detail)
}

fn dropped_capabilities(subject: &Subject) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let keeping = subject.containers_where(|container| {
        let dropped = container.at("securityContext").at("capabilities").items("drop");
        !dropped.iter().any(|capability| capability == "ALL")
    });
    let (adding, added) = subject.adding(&["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adding),
            quoted(&added)
        ));
    }
    violated(!details.is_empty(), "unrestricted capabilities", details.join("; "))
}

fn volume_types(subject: &Subject) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in subject.spec.items("volumes") {
        let sources = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        let source = sources.filter(|key| *key != "name").find(|key| !volume.at(key).is_null());
        let source = source.unwrap_or("emptyDir");
        if !ALLOWED.contains(&source) {
            names.push(volume.text("name"));
            types.insert(source);
        }
    }
    let types: Vec<&str> = types.into_iter().collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(&types)
    );
    violated(!names.is_empty(), "restricted volume types", detail)
}

fn non_root(subject: &Subject) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if subject.has_own_users() {
        return None;
    }
    let (setters, _) =
        subject.setters(|context| (context.flag("runAsNonRoot") == Some(false)).then(String::new));
    if !setters.is_empty() {
        let setters = setters.join(" and ");
        let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
        return violated(true, REASON, detail);
    }
    let silent = subject.silent(|context| context.flag("runAsNonRoot").is_some());
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent));
    violated(!silent.is_empty(), REASON, detail)
}

fn non_root_user(subject: &Subject) -> Option<Violation> {
    if subject.has_own_users() {
        return None;
    }
    let (setters, _) =
        subject.setters(|context| (context.int("runAsUser") == Some(0)).then(String::new));
    let detail = format!("{} must not set runAsUser=0", setters.join(" and "));
    violated(!setters.is_empty(), "runAsUser=0", detail)
}

fn seccomp_required(subject: &Subject) -> Option<Violation> {
    if subject.is_windows() {
        return None;
    }
    let (setters, values) = subject.setters(bad_seccomp);
    if !setters.is_empty() {
        return seccomp_violation(&setters, &values);
    }
    let silent = subject.silent(|context| context.has("seccompProfile"));
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\"",
        named(&silent)
    );
    violated(!silent.is_empty(), "seccompProfile", detail)
}

fn bad_seccomp(context: &Value) -> Option<String> {
    let kind = context.at("seccompProfile").text("type");
    let bad = context.has("seccompProfile") && !matches!(kind, "RuntimeDefault" | "Localhost");
    bad.then(|| kind.to_string())
}

fn seccomp_violation(setters: &[String], values: &BTreeSet<String>) -> Option<Violation> {
    let values: Vec<&String> = values.iter().collect();
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters.join(" and "),
        quoted(&values)
    );
    violated(!setters.is_empty(), "seccompProfile", detail)
}

impl Subject<'_> {
    fn containers(&self) -> impl Iterator<Item = &Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(|list| self.spec.items(list))
    }

    /// The names of the containers that are `bad`.
    fn containers_where(&self, mut bad: impl FnMut(&Value) -> bool) -> Vec<&str> {
        self.containers().filter(|it| bad(it)).map(|it| it.text("name")).collect()
    }

    /// Who sets something bad in a security context: `pod` and the containers; and what it is.
    fn setters(
        &self,
        mut bad: impl FnMut(&Value) -> Option<String>,
    ) -> (Vec<String>, BTreeSet<String>) {
        let (mut setters, mut values) = (Vec::new(), BTreeSet::new());
        if let Some(value) = bad(self.spec.at("securityContext")) {
            setters.push("pod".to_string());
            values.insert(value);
        }
        let containers = self.containers_where(|container| {
            let found = bad(container.at("securityContext"));
            let is_bad = found.is_some();
            values.extend(found);
            is_bad
        });
        if !containers.is_empty() {
            setters.push(named(&containers));
        }
        (setters, values)
    }

    /// The containers that do not say what neither they nor the pod may leave unsaid.
    fn silent(&self, says: impl Fn(&Value) -> bool) -> Vec<&str> {
        match says(self.spec.at("securityContext")) {
            true => Vec::new(),
            false => self.containers_where(|container| !says(container.at("securityContext"))),
        }
    }

    /// Who adds capabilities other than these, and which.
    fn adding(&self, allowed: &[&str]) -> (Vec<&str>, Vec<String>) {
        let mut added = BTreeSet::new();
        let containers = self.containers_where(|container| {
            let context = container.at("securityContext").at("capabilities");
            let names = context.items("add").iter().filter_map(Value::as_str);
            let bad: Vec<&str> = names.filter(|name| !allowed.contains(name)).collect();
            added.extend(bad.iter().map(|name| name.to_string()));
            !bad.is_empty()
        });
        (containers, added.into_iter().collect())
    }

    /// What does not exist on Windows need not be set there.
    fn is_windows(&self) -> bool {
        self.minor >= 25 && self.spec.at("os").text("name") == "windows"
    }

    /// Root in a user namespace of its own is not root.
    fn has_own_users(&self) -> bool {
        self.minor >= 35 && self.spec.flag("hostUsers") == Some(false)
    }
}

fn violated(bad: bool, reason: &str, detail: String) -> Option<Violation> {
    bad.then(|| Violation { reason: reason.into(), detail })
}

fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`.
fn quoted<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    format!("\"{}\"", names.join("\", \""))
}
