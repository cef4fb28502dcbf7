//! Any calls, in any order, sensible or not, by several clients at once and with the runtime killed
//! in between: every one is answered, and once all sandboxes are removed nothing is left of them.
//! `CORACLE_CALLS=10000` for the long form, `CORACLE_SEED` to see a failure again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::Rng;
use parking_lot::Mutex;
use proto::cri::{
    self, NamespaceMode, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use tonic::Code;
use tonic::transport::Channel;

use super::lab::{IMAGE, context, script, words};
use super::network;

/// Clients that call at the same time, and calls between two deaths of the runtime.
const CLIENTS: usize = 4;
const LIFE: usize = 250;
/// More sandboxes than this are only stopped and removed.
const SANDBOXES: usize = 24;

/// What a runtime may say of a call it does not carry out. Nothing is lost on the way or undefined.
const REFUSALS: &[Code] = &[
    Code::NotFound,
    Code::InvalidArgument,
    Code::AlreadyExists,
    Code::FailedPrecondition,
    Code::DeadlineExceeded,
    Code::Unimplemented,
    // The start of a program that is not there, an exec in what has just ended.
    Code::Unknown,
];

/// What there is, and what was removed last: that is asked for, too.
#[derive(Default)]
struct Known {
    sandboxes: Vec<String>,
    containers: Vec<String>,
    removed: String,
}

/// One client of the runtime.
struct Caller {
    rng: Rng,
    known: Arc<Mutex<Known>>,
    numbers: Arc<AtomicUsize>,
    config: cri::PodSandboxConfig,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_calls_leave_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let calls = number("CORACLE_CALLS").unwrap_or(500) as usize;
    let seed = number("CORACLE_SEED").unwrap_or_else(|| Rng::from_os().below(1 << 32));
    eprintln!("CORACLE_SEED={seed} CORACLE_CALLS={calls}");
    let Some((mut lab, namespace)) = network::lab().await else { return };
    let rng = Rng::seeded(seed);
    let known = Arc::new(Mutex::new(Known::default()));
    let numbers = Arc::new(AtomicUsize::new(0));
    let mut left = calls;
    while left > 0 {
        let life = left.min(LIFE);
        left -= life;
        let callers: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let caller = Caller {
                    rng: Rng::seeded(rng.u64()),
                    known: known.clone(),
                    numbers: numbers.clone(),
                    config: lab.sandbox_config("pod"),
                    runtime: lab.runtime.clone(),
                    images: lab.images.clone(),
                };
                tokio::spawn(caller.call(life / CLIENTS))
            })
            .collect();
        let dies = rng.below(2) == 0;
        if dies {
            // Somewhere among the calls; whoever waits for an answer sees the connection break.
            lab.clock.sleep(std::time::Duration::from_millis(rng.below(300))).await;
            lab.kill();
        }
        for caller in callers {
            let refused = caller.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(dies || refused.is_none(), "seed {seed}: {refused:?}");
        }
        if dies {
            lab.revive().await;
        }
        let list = cri::ListContainersRequest::default();
        for container in lab.runtime.list_containers(list).await.unwrap().into_inner().containers {
            let status = lab.status(&container.id).await;
            assert_ne!(status.reason, "Unknown", "seed {seed}: an exit code was lost: {status:?}");
        }
        // Answers may have been lost.
        let list = cri::ListPodSandboxRequest::default();
        let list = lab.runtime.list_pod_sandbox(list).await.unwrap().into_inner().items;
        known.lock().sandboxes = list.into_iter().map(|sandbox| sandbox.id).collect();
    }
    lab.finish().await;
    network::links_gone(&namespace).await;
}

impl Caller {
    /// Makes calls; the status that says that there is no runtime ends them.
    async fn call(mut self, calls: usize) -> Option<tonic::Status> {
        for _ in 0..calls {
            match self.one().await {
                Ok(()) => {}
                Err(status) if gone(&status) => return Some(status),
                Err(status) => {
                    assert!(REFUSALS.contains(&status.code()), "{status:?}");
                    assert!(!status.message().is_empty(), "{status:?} says nothing");
                }
            }
        }
        None
    }

    async fn one(&mut self) -> Result<(), tonic::Status> {
        let (sandbox, container) = (self.sandbox_id(), self.container_id());
        match self.rng.below(24) {
            0..=3 => self.run_sandbox().await,
            4..=6 => self.create(sandbox, false).await,
            7..=11 => self.create(sandbox, true).await,
            12 => self.start(container).await,
            13 => {
                let timeout = self.rng.below(3) as i64 - 1;
                let request = cri::StopContainerRequest { container_id: container, timeout };
                self.runtime.stop_container(request).await.map(drop)
            }
            14 => {
                let request = cri::RemoveContainerRequest { container_id: container };
                self.runtime.remove_container(request).await.map(drop)
            }
            15 => {
                let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox };
                self.runtime.stop_pod_sandbox(request).await.map(drop)
            }
            16 | 17 => {
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
                self.runtime.remove_pod_sandbox(request).await?;
                let mut known = self.known.lock();
                known.sandboxes.retain(|id| *id != sandbox);
                known.removed = sandbox;
                Ok(())
            }
            18 => {
                let commands = [&["true"][..], &["nosuch"], &["sh", "-c", "exit 3"], &[]];
                let cmd = words(commands[self.rng.below(4) as usize]);
                let request = cri::ExecSyncRequest { container_id: container, cmd, timeout: 1 };
                self.runtime.exec_sync(request).await.map(drop)
            }
            19 => self.update(sandbox, container).await,
            20 => self.look(sandbox, container).await,
            21 => self.streams(sandbox, container).await,
            22 => {
                let request = cri::ReopenContainerLogRequest { container_id: container };
                self.runtime.reopen_container_log(request).await.map(drop)
            }
            _ => self.image().await,
        }
    }

    async fn run_sandbox(&mut self) -> Result<(), tonic::Status> {
        let mut config = self.config.clone();
        let number = match self.rng.below(8) {
            // The name of another sandbox, perhaps.
            0 => self.rng.below(20) as usize,
            _ => self.numbers.fetch_add(1, Ordering::Relaxed),
        };
        let metadata = config.metadata.as_mut().unwrap();
        metadata.name = format!("pod-{number}");
        metadata.uid = format!("{}-{number}", metadata.uid);
        let linux = config.linux.as_mut().unwrap();
        let options = linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
        match self.rng.below(8) {
            0..=3 => options.network = NamespaceMode::Pod as i32,
            4 => options.pid = NamespaceMode::Pod as i32,
            5 => drop(linux.sysctls.insert("vm.swappiness".into(), "1".into())),
            6 => config.metadata = None,
            _ => {}
        }
        if self.known.lock().sandboxes.len() >= SANDBOXES {
            return Ok(());
        }
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let id = self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        self.known.lock().sandboxes.push(id);
        Ok(())
    }

    /// Perhaps starts it, too.
    async fn create(&mut self, sandbox: String, starts: bool) -> Result<(), tonic::Status> {
        let scripts = ["sleep 1000", "exit 0", "exit 7", "sleep 0.01; exit 1", "sleep 9 & exit 2"];
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let program = scripts[self.rng.below(scripts.len() as u64) as usize];
        let mut config = script(&format!("c{number}"), program);
        match self.rng.below(12) {
            0 => config.command = words(&["nosuch"]),
            1 => config.image.as_mut().unwrap().image = "example.test/absent:1".into(),
            2 => config.mounts.push(cri::Mount {
                host_path: "/nonexistent".into(),
                container_path: "/data".into(),
                ..Default::default()
            }),
            3 => context(&mut config).run_as_user = Some(cri::Int64Value { value: -7 }),
            4 => config.working_dir = "not/absolute".into(),
            5 => config.metadata = None,
            6 => config.tty = true,
            7 => context(&mut config).readonly_rootfs = true,
            _ => {}
        }
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox,
            config: Some(config),
            sandbox_config: None,
        };
        let id = self.runtime.create_container(request).await?.into_inner().container_id;
        self.known.lock().containers.push(id.clone());
        if starts { self.start(id).await } else { Ok(()) }
    }

    async fn start(&mut self, id: String) -> Result<(), tonic::Status> {
        let request = cri::StartContainerRequest { container_id: id };
        self.runtime.start_container(request).await.map(drop)
    }

    async fn update(&mut self, sandbox: String, container: String) -> Result<(), tonic::Status> {
        let resources = cri::LinuxContainerResources {
            cpu_shares: self.rng.below(2000) as i64,
            memory_limit_in_bytes: (self.rng.below(64) as i64 - 1) << 20,
            ..Default::default()
        };
        if self.rng.below(2) == 0 {
            let request = cri::UpdateContainerResourcesRequest {
                container_id: container,
                linux: Some(resources),
                ..Default::default()
            };
            return self.runtime.update_container_resources(request).await.map(drop);
        }
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox,
            overhead: None,
            resources: Some(resources),
        };
        self.runtime.update_pod_sandbox_resources(request).await.map(drop)
    }

    /// What reads may not fail for a thing that a list has just shown, and lists never.
    async fn look(&mut self, sandbox: String, container: String) -> Result<(), tonic::Status> {
        self.runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?;
        self.runtime.list_containers(cri::ListContainersRequest::default()).await?;
        self.runtime.list_container_stats(cri::ListContainerStatsRequest::default()).await?;
        self.runtime.list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default()).await?;
        let status = cri::ContainerStatusRequest { container_id: container, verbose: true };
        self.runtime.container_status(status).await?;
        let status = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: true };
        self.runtime.pod_sandbox_status(status).await.map(drop)
    }

    /// Asks for streams and never comes for them.
    async fn streams(&mut self, sandbox: String, container: String) -> Result<(), tonic::Status> {
        let exec = cri::ExecRequest {
            container_id: container.clone(),
            cmd: words(&["sh"]),
            stdin: true,
            stdout: true,
            tty: self.rng.below(2) == 0,
            ..Default::default()
        };
        self.runtime.exec(exec).await?;
        let attach =
            cri::AttachRequest { container_id: container, stdout: true, ..Default::default() };
        self.runtime.attach(attach).await?;
        let forward = cri::PortForwardRequest { pod_sandbox_id: sandbox, port: vec![80] };
        self.runtime.port_forward(forward).await.map(drop)
    }

    async fn image(&mut self) -> Result<(), tonic::Status> {
        let names = [IMAGE, "example.test/absent:1", "not an image", ""];
        let name = names[self.rng.below(4) as usize].to_owned();
        let image = Some(cri::ImageSpec { image: name, ..Default::default() });
        let request = cri::ImageStatusRequest { image, verbose: true };
        self.images.image_status(request).await?;
        self.images.list_images(cri::ListImagesRequest::default()).await?;
        self.images.image_fs_info(cri::ImageFsInfoRequest {}).await.map(drop)
    }

    fn sandbox_id(&self) -> String {
        let known = self.known.lock();
        self.id(&known.sandboxes, &known.removed)
    }

    fn container_id(&self) -> String {
        let mut known = self.known.lock();
        // Old ones went with their sandboxes.
        let surplus = known.containers.len().saturating_sub(40);
        known.containers.drain(..surplus);
        self.id(&known.containers, &known.removed)
    }

    /// Mostly one of these; else a beginning of one, nothing, or what was never an id.
    fn id(&self, ids: &[String], removed: &str) -> String {
        let any = ids.get(self.rng.below(ids.len() as u64) as usize).cloned();
        match self.rng.below(20) {
            0 => any.unwrap_or_default().chars().take(6).collect(),
            1 => String::new(),
            2 => "../../etc".into(),
            3 => removed.to_owned(),
            _ => any.unwrap_or_else(|| "nobody".into()),
        }
    }
}

/// The runtime has died, and this call with it.
fn gone(status: &tonic::Status) -> bool {
    use std::error::Error;
    status.code() == Code::Unavailable || status.source().is_some()
}
