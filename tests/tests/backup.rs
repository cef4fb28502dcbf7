//! `ctl server backup` of a running server, and `ctl server restore` on another machine.

use std::process::Command;

use tests::program::{built, run};
use tests::server::Server;

#[test]
fn a_server_is_backed_up_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let server = Server::start(&[]);
    for name in ["one", "two"] {
        server.ctl(&["create", "configmap", name, "--from-literal=a=b"]).ok();
    }
    let path = file.to_str().unwrap();
    let said = server.ctl(&["server", "backup", path]).ok();
    assert!(said.contains("objects at revision"), "{said}");
    let again = server.ctl(&["server", "backup", path]).fails();
    assert!(again.contains("the file exists"), "{again}");
    server.ctl(&["create", "configmap", "late", "--from-literal=a=b"]).ok();

    let data = folder.path().join("data");
    let restore = ["server", "restore", path, "--data-dir", data.to_str().unwrap()];
    let said = run(Command::new(built("ctl")).args(restore)).ok();
    assert!(said.contains("objects; clients that watch"), "{said}");
    let said = run(Command::new(built("ctl")).args(restore)).fails();
    assert!(said.contains("store.redb exists"), "{said}");
    let restored = Server::at(&data, &[]);
    let maps = restored.ctl(&["get", "configmaps", "-o", "name"]).ok();
    assert!(maps.contains("configmap/one") && maps.contains("configmap/two"), "{maps}");
    assert!(!maps.contains("late"), "{maps}");
}
