//! Compiles the CRI definitions in `cri/` into messages, clients and servers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=cri");
    let files = protox::compile(["cri/api.proto"], ["."])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_fds(files)?;
    Ok(())
}
