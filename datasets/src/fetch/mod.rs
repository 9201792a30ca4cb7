//! Public datasets, fetched over HTTP: a table of addresses and hashes, and a download that goes on where it was cut.
//!
//! The only part of this crate that talks to a network, and only when it is asked to.

mod catalog;
mod download;
mod unpack;

pub use catalog::{Catalog, PublicDataset, PublicFile};
pub use download::{Fetched, RetryPolicy, fetch};
pub use unpack::{Unpack, unpack};
