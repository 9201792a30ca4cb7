//! Takes note of what this build is made of: the lock file and the compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(lock) = lock_file() {
        println!("cargo::rerun-if-changed={}", lock.display());
        if let Ok(bytes) = std::fs::read(&lock) {
            println!("cargo::rustc-env=BONFIRE_CARGO_LOCK={}", blake3::hash(&bytes).to_hex());
        }
    }
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Ok(output) = Command::new(rustc).arg("--version").output() {
        println!("cargo::rustc-env=BONFIRE_RUSTC={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

/// The workspace's lock file; none where this crate is built as another workspace's dependency from elsewhere.
fn lock_file() -> Option<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")?;
    let lock = Path::new(&manifest).parent()?.join("Cargo.lock");
    lock.is_file().then_some(lock)
}
