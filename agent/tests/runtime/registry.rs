//! Registries for tests: Debian's docker-registry on the loopback, and a proxy of our own before it
//! that counts, breaks and corrupts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, RANGE, WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::Digest;

pub const USER: &str = "puller";
pub const PASSWORD: &str = "secret-of-tests";
/// bcrypt of the password, as htpasswd writes it.
const HTPASSWD: &str = "puller:$2b$12$gOWHOrjAlSoCyg8Cz58dEuZ9EJYTXrmS7HinJiD/pQ0rm7AzjVg6.\n";
const TOKEN: &str = "a-token-for-one-pull";

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// The blobs of an OCI image, and its manifest: config first, then layers as (media type, bytes).
pub struct Oci {
    pub config: Vec<u8>,
    pub layers: Vec<(&'static str, Vec<u8>)>,
    pub manifest: Vec<u8>,
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

impl Oci {
    /// Of uncompressed layers, each packed as its media type says.
    pub fn new(layers: &[(&'static str, Vec<u8>)], settings: serde_json::Value) -> Oci {
        let diffs: Vec<String> = layers.iter().map(|(_, tar)| digest(tar)).collect();
        let layers: Vec<_> = layers.iter().map(|(kind, tar)| (*kind, packed(kind, tar))).collect();
        let config = serde_json::json!({
            "architecture": architecture(), "os": "linux", "config": settings,
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let described: Vec<_> = layers
            .iter()
            .map(|(kind, bytes)| {
                serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": described,
        });
        Oci { config, layers, manifest: serde_json::to_vec(&manifest).unwrap() }
    }
}

pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn packed(kind: &str, tar: &[u8]) -> Vec<u8> {
    match kind {
        GZIP => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gzip, tar).unwrap();
            gzip.finish().unwrap()
        }
        ZSTD => zstd::encode_all(tar, 1).unwrap(),
        _ => tar.to_vec(),
    }
}

/// A docker-registry process.
pub struct Registry {
    process: Child,
    config: PathBuf,
    pub address: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: &'static str,
    private: bool,
}

/// What a registry asks for.
#[derive(Default)]
pub struct Guard {
    pub tls: bool,
    /// Only with the user's password.
    pub private: bool,
    /// Only with a certificate of the registry's own authority.
    pub client_certificates: bool,
}

impl Registry {
    /// `None`, and said so, where there is no docker-registry.
    pub async fn start(folder: &Path, guard: Guard) -> Option<Registry> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let storage = folder.join("registry").display().to_string();
        let mut http = format!("addr: {address}");
        if guard.tls {
            certificates(folder);
            let file = |name: &str| folder.join(name).display().to_string();
            http += &format!(
                ", tls: {{certificate: {}, key: {}",
                file("server.pem"),
                file("server.key")
            );
            if guard.client_certificates {
                http += &format!(", clientcas: [{}]", file("ca.pem"));
            }
            http += "}";
        }
        let mut text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{{http}}}\n"
        );
        if guard.private {
            let users = folder.join("htpasswd");
            std::fs::write(&users, HTPASSWD).unwrap();
            text += &format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", users.display());
        }
        let config = folder.join("registry.yml");
        std::fs::write(&config, text).unwrap();
        let Some(process) = spawn(&config) else {
            eprintln!("SKIPPED: this test needs docker-registry");
            return None;
        };
        let client = client(guard.tls.then_some(folder), guard.client_certificates);
        let scheme = if guard.tls { "https" } else { "http" };
        let private = guard.private;
        let registry = Registry { process, config, address, client, scheme, private };
        registry.ready().await;
        Some(registry)
    }

    async fn ready(&self) {
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(&self.address).await.is_ok() {
                return;
            }
            client::Clock::system().sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("docker-registry does not serve");
    }

    /// As by `kill -9`.
    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub async fn restart(&mut self) {
        self.process = spawn(&self.config).expect("it was there before");
        self.ready().await;
    }

    pub async fn push(&self, repository: &str, tag: &str, image: &Oci) {
        let layers = image.layers.iter().map(|(_, bytes)| bytes);
        for blob in layers.chain([&image.config]) {
            self.push_blob(repository, blob).await;
        }
        self.push_manifest(repository, tag, &image.manifest).await;
    }

    pub async fn push_blob(&self, repository: &str, blob: &[u8]) {
        let started = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), b"", "").await;
        let location = started.headers()["location"].to_str().unwrap().to_owned();
        let path = location.split_once(&self.address).map_or(location.as_str(), |(_, path)| path);
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = format!("{path}{separator}digest={}", digest(blob));
        let stored = self.send("PUT", &url, blob, "application/octet-stream").await;
        assert_eq!(stored.status(), StatusCode::CREATED);
    }

    /// A blob as it is, for comparison.
    pub async fn blob(&self, repository: &str, digest: &str) -> Bytes {
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.send("GET", &path, b"", "").await.into_body()
    }

    pub async fn push_manifest(&self, repository: &str, reference: &str, manifest: &[u8]) {
        let parsed: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        let kind = parsed["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{reference}");
        let stored = self.send("PUT", &path, manifest, kind).await;
        assert_eq!(stored.status(), StatusCode::CREATED);
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        kind: &str,
    ) -> http::Response<Bytes> {
        use base64::Engine;
        let url = format!("{}://{}{path}", self.scheme, self.address);
        let mut request = http::Request::builder().method(method).uri(url);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if self.private {
            let pair = format!("{USER}:{PASSWORD}");
            let value = base64::engine::general_purpose::STANDARD.encode(pair);
            request = request.header(AUTHORIZATION, format!("Basic {value}"));
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        http::Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(config: &Path) -> Option<Child> {
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

/// An authority, a server's certificate and a client's of it, as PEM files.
fn certificates(folder: &Path) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "registry tests");
    let certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    for (name, purpose) in [
        ("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        ("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf =
            rcgen::CertificateParams::new(vec!["127.0.0.1".into(), "tls.test".into()]).unwrap();
        leaf.extended_key_usages = vec![purpose];
        let signed = leaf.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), signed.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn client(
    tls: Option<&Path>,
    certificate: bool,
) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(folder) = tls {
        roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match tls.filter(|_| certificate) {
        Some(folder) => {
            let chain = vec![CertificateDer::from_pem_file(folder.join("client.pem")).unwrap()];
            let key = rustls::pki_types::PrivateKeyDer::from_pem_file(folder.join("client.key"));
            config.with_client_auth_cert(chain, key.unwrap()).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Stands before a registry.
pub struct Proxy {
    pub address: String,
    pub state: Arc<Behaviour>,
    task: tokio::task::JoinHandle<()>,
}

/// What the proxy does and has seen.
pub struct Behaviour {
    upstream: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Path, and the header Range, of every GET.
    pub seen: Mutex<Vec<(String, Option<String>)>>,
    /// Bytes of blobs that went through.
    pub bytes: AtomicU64,
    /// So many blobs' GETs get a wrong byte.
    pub corrupt: AtomicU32,
    /// The next GETs of blobs break off after so many bytes, which are used up one by one.
    pub cut: Mutex<Vec<u64>>,
    /// The blob that comes to no harm.
    pub spared: Mutex<String>,
    /// Only with the token that it gives to the user.
    pub tokens: bool,
}

impl Proxy {
    pub async fn start(upstream: &str, tokens: bool) -> Proxy {
        let state = Arc::new(Behaviour {
            upstream: upstream.to_owned(),
            client: client(None, false),
            seen: Mutex::default(),
            bytes: AtomicU64::new(0),
            corrupt: AtomicU32::new(0),
            cut: Mutex::default(),
            spared: Mutex::default(),
            tokens,
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new().fallback(serve).with_state(state.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Proxy { address, state, task }
    }

    /// How often a blob was asked for.
    pub fn gets(&self, digest: &str) -> usize {
        self.state.seen.lock().iter().filter(|(path, _)| path.ends_with(digest)).count()
    }

    /// Where in a blob the requests for it began.
    pub fn ranges(&self, digest: &str) -> Vec<Option<String>> {
        let seen = self.state.seen.lock();
        let of = seen.iter().filter(|(path, _)| path.ends_with(digest));
        of.map(|(_, range)| range.clone()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(State(state): State<Arc<Behaviour>>, request: Request) -> Response {
    let (request, body) = request.into_parts();
    let path = request.uri.path().to_owned();
    let header = |name: http::HeaderName| {
        request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let answer = |status: StatusCode, body: String| {
        Response::builder().status(status).body(Body::from(body)).unwrap()
    };
    if state.tokens {
        if path == "/token" {
            let form = body.collect().await.unwrap().to_bytes();
            return token(header(AUTHORIZATION), &request, &form);
        }
        if header(AUTHORIZATION).as_deref() != Some(&format!("Bearer {TOKEN}")) {
            let realm = format!("http://{}/token", header(HOST).unwrap_or_default());
            let challenge =
                format!("Bearer realm=\"{realm}\",service=\"tests\",scope=\"repository:x:pull\"");
            let mut refused = answer(StatusCode::UNAUTHORIZED, String::new());
            refused.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
            return refused;
        }
    }
    let range = header(RANGE);
    let blob = request.method == http::Method::GET && path.contains("/blobs/");
    if request.method == http::Method::GET {
        state.seen.lock().push((path.clone(), range.clone()));
    }
    let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let url = format!("http://{}{path}{query}", state.upstream);
    let mut forwarded = http::Request::builder().method(request.method.clone()).uri(url);
    for name in ["accept", "range"] {
        if let Some(value) = request.headers.get(name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let forwarded = forwarded.body(Full::new(Bytes::new())).unwrap();
    let Ok(response) = state.client.request(forwarded).await else {
        return answer(StatusCode::BAD_GATEWAY, String::new());
    };
    let (parts, body) = response.into_parts();
    let spared = state.spared.lock().clone();
    let harm = blob && (spared.is_empty() || !path.ends_with(&spared));
    let corrupt = harm
        && state
            .corrupt
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok();
    let cut = if harm { state.cut.lock().pop() } else { None };
    let mut sent = 0;
    let mut first = true;
    let stream = body.into_data_stream().map(move |part| {
        let mut part = part.map_err(std::io::Error::other)?.to_vec();
        if blob {
            state.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        if std::mem::take(&mut first) && corrupt {
            let middle = part.len() / 2;
            part[middle] ^= 1;
        }
        if let Some(limit) = cut {
            let left = limit.saturating_sub(sent) as usize;
            if left == 0 {
                return Err(std::io::Error::other("cut"));
            }
            part.truncate(left);
        }
        sent += part.len() as u64;
        Ok(Bytes::from(part))
    });
    Response::from_parts(parts, Body::from_stream(stream))
}

/// The token server: for the user's password, or for the refresh token that is the password.
fn token(authorization: Option<String>, request: &http::request::Parts, form: &[u8]) -> Response {
    use base64::Engine;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let by_password = authorization == Some(format!("Basic {pair}"));
    let posted = request.method == http::Method::POST;
    let form = String::from_utf8_lossy(form).into_owned();
    let by_token = posted && form.contains(&format!("refresh_token={PASSWORD}"));
    let asked = if posted { &form } else { request.uri.query().unwrap_or_default() };
    let right = asked.contains("service=tests") && asked.contains("scope=repository%3Ax%3Apull");
    let (status, body) = match right && (by_password || by_token) {
        true if posted => (StatusCode::OK, format!(r#"{{"access_token":"{TOKEN}"}}"#)),
        true => (StatusCode::OK, format!(r#"{{"token":"{TOKEN}"}}"#)),
        false => (StatusCode::UNAUTHORIZED, String::new()),
    };
    Response::builder().status(status).body(Body::from(body)).unwrap()
}
