//! System call filters and AppArmor profiles.

use proto::cri::{self, security_profile::ProfileType};

use super::lab::{Lab, context, script};

fn profile(kind: ProfileType, reference: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind as i32, localhost_ref: reference.into() })
}

fn mode(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
    format!("{} {}", field("Seccomp:"), field("Seccomp_filters:"))
}

#[tokio::test]
async fn profiles_of_the_node_are_enforced() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let file = lab.folder.path().join("profile.json");
    let json = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO",
              "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] },
            { "names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["a_call_of_the_future"], "action": "SCMP_ACT_KILL" },
        ],
    });
    std::fs::write(&file, json.to_string()).unwrap();
    for (name, no_new_privs) in [("own", false), ("bound", true)] {
        let mut config = script(name, "sleep 1000");
        context(&mut config).seccomp = profile(ProfileType::Localhost, &file.display().to_string());
        context(&mut config).no_new_privs = no_new_privs;
        let id = lab.run(&pod, config).await;
        assert_eq!(mode(lab.pid(&id).await), "2 1");
        let told = lab.exec(&id, &["mkdir", "/tmp/x"]).await;
        assert!(String::from_utf8_lossy(&told.stderr).contains("No space left"), "{told:?}");
        let script = "kill -USR1 $$; kill -0 $$ && echo alive";
        let told = lab.exec(&id, &["sh", "-c", script]).await;
        assert_eq!(String::from_utf8_lossy(&told.stdout), "alive\n", "{told:?}");
        let told = lab.exec(&id, &["chroot", "/", "true"]).await;
        assert_eq!(told.exit_code, 128 + 31, "by SIGSYS: {told:?}");
        // Commands have the profile as it was, also when it has changed since.
        std::fs::write(&file, "{}").unwrap();
        assert_ne!(lab.exec(&id, &["mkdir", "/tmp/x"]).await.exit_code, 0);
        std::fs::write(&file, json.to_string()).unwrap();
    }
    lab.finish().await;
}

#[tokio::test]
async fn who_asks_for_none_has_none() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut open = script("open", "sleep 1000");
    context(&mut open).seccomp = profile(ProfileType::Unconfined, "");
    let mut default = script("default", "sleep 1000");
    context(&mut default).seccomp = profile(ProfileType::RuntimeDefault, "");
    let mut strong = script("strong", "sleep 1000");
    context(&mut strong).seccomp = profile(ProfileType::RuntimeDefault, "");
    context(&mut strong).privileged = true;
    for (config, expected) in [(open, "0 0"), (default, "2 1"), (strong, "0 0")] {
        let id = lab.run(&pod, config).await;
        assert_eq!(mode(lab.pid(&id).await), expected);
    }
    lab.finish().await;
}

#[tokio::test]
async fn profiles_that_are_none_are_refused() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let bad = lab.folder.path().join("bad.json");
    std::fs::write(&bad, r#"{"defaultAction": "SCMP_ACT_SING"}"#).unwrap();
    let bad = bad.display().to_string();
    for (path, expected) in [
        ("relative.json", "not an absolute path"),
        ("/nowhere/profile.json", "cannot load seccomp profile"),
        (bad.as_str(), "unknown action \"SCMP_ACT_SING\""),
        ("/dev/null", "is not a file"),
    ] {
        let mut config = script("refused", "true");
        context(&mut config).seccomp = profile(ProfileType::Localhost, path);
        let error = lab.try_create(&pod, config).await.unwrap_err();
        assert!(error.message().contains(expected), "{}", error.message());
    }
    if std::path::Path::new("/sys/module/apparmor").exists() {
        eprintln!("SKIPPED: the rest of this test needs a kernel without AppArmor");
    } else {
        let mut config = script("confined", "true");
        context(&mut config).apparmor = profile(ProfileType::Localhost, "web");
        let error = lab.try_create(&pod, config).await.unwrap_err();
        let told = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        assert_eq!(error.message(), told);
        let mut config = script("default", "exit 3");
        context(&mut config).apparmor = profile(ProfileType::RuntimeDefault, "");
        let id = lab.run(&pod, config).await;
        assert_eq!(lab.exited(&id).await.exit_code, 3);
    }
    lab.finish().await;
}

/// What `lab` runs is confined by the machine's AppArmor, where that is on and has its parser.
#[tokio::test]
async fn containers_are_confined_where_the_kernel_has_apparmor() {
    let on = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !on.is_ok_and(|text| text.trim() == "Y") || !machine_has("apparmor_parser") {
        eprintln!("SKIPPED: needs a kernel with AppArmor and apparmor_parser");
        return;
    }
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let unsaid = script("unsaid", "sleep 1000");
    let mut default = script("default", "sleep 1000");
    context(&mut default).apparmor = profile(ProfileType::RuntimeDefault, "");
    let mut named = script("named", "sleep 1000");
    context(&mut named).apparmor = profile(ProfileType::Localhost, "coracle-default");
    let mut open = script("open", "sleep 1000");
    context(&mut open).apparmor = profile(ProfileType::Unconfined, "");
    let mut strong = script("strong", "sleep 1000");
    context(&mut strong).privileged = true;
    let confined = "coracle-default (enforce)";
    for (mut config, expected) in [
        (unsaid, confined),
        (default, confined),
        (named, confined),
        (open, "unconfined"),
        (strong, "unconfined"),
    ] {
        // Able to mount, but for the profile.
        let capabilities =
            cri::Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() };
        context(&mut config).capabilities = Some(capabilities);
        let id = lab.run(&pod, config).await;
        let pid = lab.pid(&id).await;
        let told = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap();
        assert_eq!(told.trim(), expected);
        // Commands too.
        let told = lab.exec(&id, &["cat", "/proc/self/attr/current"]).await;
        assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), expected, "{told:?}");
        let told = lab.exec(&id, &["mount", "-t", "tmpfs", "none", "/tmp"]).await;
        assert_eq!(told.exit_code == 0, expected == "unconfined", "{told:?}");
        let told = lab.exec(&id, &["sh", "-c", "kill -0 1 && echo x >/tmp/x && cat /tmp/x"]).await;
        assert_eq!(told.exit_code, 0, "what is its own is allowed: {told:?}");
    }
    let mut unknown = script("unknown", "true");
    context(&mut unknown).apparmor = profile(ProfileType::Localhost, "web");
    let error = lab.try_create(&pod, unknown).await.unwrap_err();
    assert_eq!(error.message(), "apparmor profile not found web");
    lab.finish().await;
}

fn machine_has(program: &str) -> bool {
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin"]
        .iter()
        .any(|folder| std::path::Path::new(folder).join(program).exists())
}
