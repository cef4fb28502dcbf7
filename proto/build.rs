//! Compiles the definitions of CRI in `cri/`, of CSI in `csi/` and of what else a node's agent speaks in
//! `kubelet/` into messages, clients and servers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for folder in ["cri", "csi", "kubelet"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let all = [
        "cri/api.proto",
        "csi/csi.proto",
        "csi/registration.proto",
        "kubelet/device_plugin.proto",
        "kubelet/dra.proto",
        "kubelet/dra_health.proto",
        "kubelet/pod_resources.proto",
    ];
    let files = protox::compile(all, ["."])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
