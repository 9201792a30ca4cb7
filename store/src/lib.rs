//! Bytes that must last.
//!
//! This crate owns run directories ([`RunDir`]), versions ([`versions`]: immutable, hashed, their manifest written
//! last), signatures ([`signing`]) and whole-file writes ([`write_file`]), and sees that enough files can be open for
//! them ([`raise_open_files`]). It never knows what the bytes mean: no burn, no protocol, no network.

mod atomic;
mod held_folder;
mod open_files;
mod run_dir;
pub mod signing;
pub mod versions;

pub use atomic::{StoreError, StoreErrorKind, write_file};
pub use held_folder::{FolderLocation, HeldFolder};
pub use open_files::raise_open_files;
pub use run_dir::{RunDir, RunDirError};
