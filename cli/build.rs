//! With the feature `embed`, the command carries the microVM's kernel: the one of `ANONMEM_KERNEL`, that of
//! this checkout if it is built, or one that is built here.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=ANONMEM_KERNEL");
    if env::var_os("CARGO_FEATURE_EMBED").is_none() {
        return;
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where this is")).join("..");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where results go"));
    let known = env::var_os("ANONMEM_KERNEL").map(PathBuf::from);
    let built = root.join("target/microvm/anonmem-microvm");
    println!("cargo::rerun-if-changed={}", built.display());
    let kernel = known.or_else(|| built.is_file().then_some(built)).unwrap_or_else(|| build(&root, &out));
    println!("cargo::rerun-if-changed={}", kernel.display());
    println!("cargo::rustc-env=ANONMEM_EMBEDDED={}", kernel.display());
}

/// Builds the kernel in a folder of its own: cargo holds the lock of the usual one.
fn build(root: &Path, out: &Path) -> PathBuf {
    let target = out.join("kernel");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--package", "anonmem-microvm", "--profile", "microvm"]);
    cargo.current_dir(root).env("CARGO_TARGET_DIR", &target);
    // What is meant for this build is not meant for that one.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_") && name != "CARGO_TARGET_DIR" && name != "CARGO_HOME"
            || name == "RUSTFLAGS"
        {
            cargo.env_remove(&*name);
        }
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the microVM's kernel does not build");
    target.join("microvm/anonmem-microvm")
}
