//! Compiles /proto with protox, so that no protoc is needed, and keeps the descriptor set for reflection.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script where things are by its environment"
)]

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let served = protox::compile([root.join("inference/open_inference.proto")], [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), served.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(served)?;
    let internal = ["tidegate/signals.proto", "tidegate/external_scaler.proto"].map(|f| root.join(f));
    tonic_prost_build::configure().compile_fds(protox::compile(internal, [&root])?)?;
    Ok(())
}
