//! Datasets: what a file means, which rows are held out, and how a row becomes a sample.
//!
//! This crate owns formats, inference, splits and normalisation. A [`Plan`] says all of it and is made once, by the
//! coordinator, from the training split alone; a [`Dataset`] applies a plan to the file that it was made for. It never
//! trains, and never imports burn, tonic or protocol: samples are named by ordinals, plain numbers.

pub mod compare;
mod dataset;
mod digest;
mod distribution;
mod encode;
mod error;
pub mod fetch;
mod infer;
mod plan;
mod prepare;
pub mod registry;
mod split;
mod statistics;
mod table;

pub use dataset::{Batch, Dataset};
pub use digest::md5_of_file;
pub use distribution::{Distribution, Distributions, Numbers};
pub use error::DataError;
pub use plan::{Column, Feature, Output, Plan, Role};
pub use prepare::Profile;
pub use table::resolve;
