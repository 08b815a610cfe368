//! Generates the wire types with protox, so that no system `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 7] = [
    "agent", "log", "cache", "rollout", "router", "admin", "identity",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=slipway");
    println!("cargo::rerun-if-changed=externalscaler");
    let mut files: Vec<PathBuf> = FILES
        .iter()
        .map(|name| PathBuf::from(format!("slipway/v1/{name}.proto")))
        .collect();
    files.push(PathBuf::from("externalscaler/externalscaler.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("slipway.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
