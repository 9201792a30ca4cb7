//! Durable storage.
//!
//! This crate owns run directories ([`RunDir`]), versions ([`versions`]: immutable, hashed, with the manifest written
//! last), signatures ([`signing`]) and atomic file writes ([`write_file`]), and raises the limit on open files
//! ([`raise_open_files`]). It never interprets the contents: no burn, no protocol, no network. Start with [`RunDir`].

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
