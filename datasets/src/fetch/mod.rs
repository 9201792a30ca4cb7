//! Downloads of public datasets over HTTP: a table of addresses and hashes, and a resumable download.
//!
//! This is the only part of the crate that uses the network, and only on request.

mod catalog;
mod download;
mod unpack;

pub use catalog::{Catalog, PublicDataset, PublicFile};
pub use download::{Fetched, RetryPolicy, fetch};
pub use unpack::{Unpack, unpack};
