//! A pull through CRI, against the same layers fetched to files and unpacked by tar one after the
//! other:
//!
//! ```text
//! cargo build --release -p agent --bin runtime
//! cargo run --release -p agent --example bench_images [MiB]
//! ```
//!
//! Prints rates of the same run and their ratio. Needs root, docker-registry, tar and busybox-static.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use client::Clock;
use proto::cri;

#[allow(dead_code)]
#[path = "../tests/runtime/lab.rs"]
mod lab;
#[allow(dead_code)]
#[path = "../tests/runtime/registry.rs"]
mod registry;

use lab::{Lab, Setup, add};
use registry::{GZIP, Guard, Oci, Registry, digest};

const ROUNDS: usize = 5;
const LAYERS: u64 = 4;

#[tokio::main]
async fn main() {
    let size: u64 = std::env::args().nth(1).and_then(|size| size.parse().ok()).unwrap_or(256);
    let clock = Clock::system();
    let folder = tempfile::tempdir().expect("a directory");
    let Some(registry) = Registry::start(folder.path(), Guard::default()).await else { return };
    let Some(mut lab) = Lab::start_with(Setup::default()).await else { return };
    let layers: Vec<_> = (0..LAYERS).map(|number| (GZIP, layer(number, size / LAYERS))).collect();
    let image = Oci::new(&layers, serde_json::json!({}));
    let packed: usize = image.layers.iter().map(|(_, bytes)| bytes.len()).sum();
    registry.push("bench", "1", &image).await;
    let name = format!("{}/bench:1", registry.address);
    let (mut pulls, mut plain) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        plain.push(
            reference(&clock, &registry, &image, &folder.path().join(round.to_string())).await,
        );
        let spec = Some(cri::ImageSpec { image: name.clone(), ..Default::default() });
        let request = cri::PullImageRequest { image: spec.clone(), ..Default::default() };
        let start = clock.instant();
        lab.images.pull_image(request).await.expect("the image comes");
        pulls.push(start.elapsed());
        lab.images
            .remove_image(cri::RemoveImageRequest { image: spec })
            .await
            .expect("the image goes");
    }
    let (pull, plain) = (median(pulls), median(plain));
    let rate = |time: Duration| size as f64 / time.as_secs_f64();
    println!("{size} MiB in {LAYERS} layers, {} MiB packed, medians of {ROUNDS}", packed >> 20);
    println!("download and tar, on the disk        {:7.1} MiB/s", rate(plain));
    println!(
        "pull through CRI                     {:7.1} MiB/s   {:.2} of it; bar 0.7",
        rate(pull),
        rate(pull) / rate(plain)
    );
    lab.finish().await;
}

/// Files of 64 KiB, half of which compresses.
fn layer(number: u64, mebibytes: u64) -> Vec<u8> {
    let rng = client::Rng::seeded(number);
    let mut tar = tar::Builder::new(Vec::new());
    let mut bytes = vec![0; 64 << 10];
    for file in 0..mebibytes * 16 {
        rng.fill(&mut bytes[..32 << 10]);
        add(&mut tar, &format!("data/{number}/{}/{file}", file / 100), 0o644, &bytes);
    }
    tar.into_inner().expect("a tar")
}

/// Each layer into a file, and from there into a directory; then to the disk, as a pull is.
async fn reference(
    clock: &Clock,
    registry: &Registry,
    image: &Oci,
    folder: &std::path::Path,
) -> Duration {
    std::fs::create_dir(folder).expect("a directory");
    let start = clock.instant();
    for (number, (_, bytes)) in image.layers.iter().enumerate() {
        let file = folder.join(format!("{number}.tar.gz"));
        let blob = registry.blob("bench", &digest(bytes)).await;
        std::fs::File::create(&file)
            .and_then(|mut out| out.write_all(&blob))
            .expect("the layer is written");
        let status = Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(folder).status();
        assert!(status.expect("tar is installed").success(), "tar fails");
    }
    let handle = std::fs::File::open(folder).expect("a directory");
    rustix::fs::syncfs(&handle).expect("a disk");
    let time = start.elapsed();
    std::fs::remove_dir_all(folder).expect("the directory goes");
    time
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
