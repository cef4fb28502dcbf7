//! Pulls through a proxy, as the runtime's environment says: by a tunnel where the registry has
//! TLS, by requests that the proxy passes on where it has none.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::cri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::images::oci_image;
use super::lab::{Lab, Setup, skipped};
use super::registry::{Guard, Registry, digest};

/// The base64 of `user:p@ss`.
const CREDENTIALS: &str = "Basic dXNlcjpwQHNz";

/// A proxy that knows two names, which nobody else does.
struct Forward {
    address: String,
    /// First line of every request.
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Forward {
    async fn start(plain: &str, tls: &str) -> Forward {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (known, plain, tls) = (seen.clone(), plain.to_owned(), tls.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serve = forward(stream, known.clone(), plain.clone(), tls.clone());
                tokio::spawn(serve);
            }
        });
        Forward { address, seen, task }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    seen: Arc<Mutex<Vec<String>>>,
    plain: String,
    tls: String,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head.clone()).unwrap();
    let line = text.lines().next().unwrap().to_owned();
    let told = text.to_lowercase().contains(&CREDENTIALS.to_lowercase());
    seen.lock().push(line.clone());
    if !told {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(refusal).await.ok();
    }
    let tunnel = line == "CONNECT tls.test:443 HTTP/1.1";
    assert!(tunnel || line.contains(" http://plain.test/v2/"), "{line}");
    let mut server = TcpStream::connect(if tunnel { tls } else { plain }).await.unwrap();
    match tunnel {
        true => client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?,
        false => server.write_all(&head).await.ok()?,
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
}

fn hosts(folder: &Path, host: &str, text: &str) {
    let folder = folder.join("certs.d").join(host);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

async fn lab(folder: &Path, proxy: &str) -> Option<Lab> {
    let environment = vec![
        ("HTTP_PROXY", proxy.to_owned()),
        ("HTTPS_PROXY", proxy.to_owned()),
        ("NO_PROXY", String::new()),
    ];
    let registries = Some(folder.join("certs.d"));
    Lab::start_with(Setup { registries, environment, ..Setup::default() }).await
}

async fn pull(lab: &mut Lab, name: &str) -> Result<String, tonic::Status> {
    let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
    let request = cri::PullImageRequest { image, ..Default::default() };
    Ok(lab.images.pull_image(request).await?.into_inner().image_ref)
}

#[tokio::test]
async fn images_come_through_a_proxy() {
    if skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let part = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (one, other) = (part("plain"), part("tls"));
    let Some(plain) = Registry::start(&one, Guard::default()).await else { return };
    let guard = Guard { tls: true, ..Guard::default() };
    let Some(tls) = Registry::start(&other, guard).await else { return };
    let image = oci_image();
    plain.push("team/web", "1", &image).await;
    tls.push("team/web", "1", &image).await;
    hosts(folder.path(), "plain.test", "server = \"http://plain.test\"\n");
    let ca = other.join("ca.pem");
    hosts(folder.path(), "tls.test", &format!("server = \"https://tls.test\"\nca = {ca:?}\n"));
    let proxy = Forward::start(&plain.address, &tls.address).await;

    let address = format!("http://user:p%40ss@{}", proxy.address);
    let Some(mut lab) = self::lab(folder.path(), &address).await else { return };
    for name in ["plain.test/team/web:1", "tls.test/team/web:1"] {
        assert_eq!(pull(&mut lab, name).await.unwrap(), digest(&image.config), "{name}");
        assert_ne!(proxy.take(), [""; 0], "{name}");
    }
    // What is on this machine is reached without it.
    let local = format!("{}/team/web:1", plain.address);
    assert_eq!(pull(&mut lab, &local).await.unwrap(), digest(&image.config));
    assert_eq!(proxy.take(), [""; 0]);
    lab.finish().await;

    let address = format!("http://user:wrong@{}", proxy.address);
    let Some(mut lab) = self::lab(folder.path(), &address).await else { return };
    let error = pull(&mut lab, "tls.test/team/web:1").await.unwrap_err();
    let why = format!("the proxy {} refuses: 407 Proxy Authentication Required", proxy.address);
    assert!(error.message().contains(&why), "{}", error.message());
    let error = pull(&mut lab, "plain.test/team/web:1").await.unwrap_err();
    assert!(error.message().contains("407"), "{}", error.message());
    assert!(!error.message().contains("wrong"), "{}", error.message());
    lab.finish().await;
}
