//! A command that is built for release carries the microVM's kernel, so that it runs wherever it is copied or
//! installed: the kernel of `ANONMEM_KERNEL`, or one that is built here.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the kernel is built of.
const SOURCES: [&str; 4] = ["crates", "machines", "Cargo.lock", "Cargo.toml"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(carries_kernel)");
    println!("cargo::rerun-if-env-changed=ANONMEM_KERNEL");
    println!("cargo::rerun-if-changed=build.rs");
    // Tests and checks find the kernel where the checkout builds it.
    if env::var_os("PROFILE").is_none_or(|profile| profile != "release") {
        return;
    }
    let kernel = match env::var_os("ANONMEM_KERNEL").map(PathBuf::from) {
        Some(named) => {
            println!("cargo::rerun-if-changed={}", named.display());
            named
        }
        None => build(),
    };
    println!("cargo::rustc-env=ANONMEM_EMBEDDED={}", kernel.display());
    println!("cargo::rustc-cfg=carries_kernel");
}

/// Builds the kernel in a folder of its own: cargo holds the lock of the usual one.
fn build() -> PathBuf {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where this is")).join("..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where results go"));
    run_cargo(&root, &out.join("kernel"))
}

fn run_cargo(root: &Path, target: &Path) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--package", "anonmem-microvm", "--profile", "microvm"]);
    cargo.current_dir(root);
    // What is meant for this build is not meant for that one.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_") && name != "CARGO_HOME" || name == "RUSTFLAGS" {
            cargo.env_remove(&*name);
        }
    }
    cargo.env("CARGO_TARGET_DIR", target);
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "the microVM's kernel does not build");
    target.join("microvm/anonmem-microvm")
}
