//! Compiles the definitions of CRI in `cri/` and of CSI in `csi/` into messages, clients and servers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=cri");
    println!("cargo::rerun-if-changed=csi");
    let all = ["cri/api.proto", "csi/csi.proto", "csi/registration.proto"];
    let files = protox::compile(all, ["."])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
