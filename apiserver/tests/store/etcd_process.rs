//! etcd servers on loopback, in a folder of their own, ended with the test.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Some members of one cluster.
pub struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    flags: Vec<String>,
    scheme: &'static str,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    /// `None`, and a loud word, where the machine has no etcd.
    pub fn start(count: usize) -> Option<Self> {
        Self::start_with(count, "http", |_| Vec::new())
    }

    /// With more flags, which may name files made in the folder.
    pub fn start_with(
        count: usize,
        scheme: &'static str,
        flags: impl FnOnce(&Path) -> Vec<String>,
    ) -> Option<Self> {
        let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
        if version.is_err() {
            eprintln!("SKIPPED: there is no etcd here (Debian package etcd-server)");
            return None;
        }
        // Held until all are chosen, so that they differ.
        let ports: Vec<TcpListener> =
            (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = ports.iter().map(|port| port.local_addr().unwrap().port()).collect();
        let member = |pair: &[u16]| Member { client: pair[0], peer: pair[1], process: None };
        let folder = tempfile::tempdir().unwrap();
        let flags = flags(folder.path());
        let members = ports.chunks(2).map(member).collect();
        let mut etcd = Self { folder, members, flags, scheme };
        (0..count).for_each(|i| etcd.start_member(i));
        Some(etcd)
    }

    pub fn start_member(&mut self, i: usize) {
        let peer = |(i, member): (usize, &Member)| format!("m{i}=http://127.0.0.1:{}", member.peer);
        let cluster: Vec<String> = self.members.iter().enumerate().map(peer).collect();
        let member = &self.members[i];
        let client_url = format!("{}://127.0.0.1:{}", self.scheme, member.client);
        let peer_url = format!("http://127.0.0.1:{}", member.peer);
        let data = self.folder.path().join(format!("m{i}"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("m{i}.log")))
            .unwrap();
        let process = Command::new("etcd")
            .args(["--name", &format!("m{i}"), "--data-dir", data.to_str().unwrap()])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .args(["--log-level", "error", "--logger", "zap"])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.members[i].process = Some(process);
    }

    /// SIGKILL.
    pub fn kill_member(&mut self, i: usize) {
        if let Some(mut process) = self.members[i].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn urls(&self) -> Vec<String> {
        let url = |member: &Member| format!("{}://127.0.0.1:{}", self.scheme, member.client);
        self.members.iter().map(url).collect()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for i in 0..self.members.len() {
            self.kill_member(i);
        }
    }
}
