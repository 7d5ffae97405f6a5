//! Remembers the compiler's version: it is part of what is measured.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    println!("cargo::rustc-env=ANONMEM_RUSTC={}", version.as_deref().unwrap_or("rustc").trim());
    // Another compiler builds all of this anew anyhow.
    println!("cargo::rerun-if-env-changed=RUSTC");
}
