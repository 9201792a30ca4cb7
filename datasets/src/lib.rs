//! Datasets: file formats, the validation split, and the encoding of rows as samples.
//!
//! This crate owns the formats (csv, parquet, idx, folders of images, text), type inference, splits, normalisation and
//! augmentation, the registry of dataset versions ([`registry`]), their comparison ([`compare`]) and downloads
//! ([`fetch`]). It never trains, and never imports burn, tonic or protocol: samples are identified by ordinals, plain
//! numbers.
//!
//! Start with [`DataPlan`], which the coordinator makes once, from the training split alone, and [`Dataset`], which
//! applies a data plan to the files it was made for.

mod augment;
mod batch;
mod column;
pub mod compare;
mod dataset;
mod digest;
mod distribution;
mod encode;
mod error;
pub mod fetch;
mod files;
mod format;
mod formats;
mod infer;
mod labels;
mod listing;
mod memory_budget;
mod number;
mod overview;
mod parallel;
mod pixels;
mod plan;
mod prepare;
mod prepare_text;
mod quote;
pub mod registry;
mod rounding;
mod rows;
mod sampler;
mod sandboxed_folder;
mod split;
mod statistics;
mod survey;
mod table;
mod tokenizer;

pub use augment::AugmentKey;
pub use batch::Batch;
pub use column::{Column, Feature, Role};
pub use configs::{Augment, Sampling};
pub use dataset::Dataset;
pub use digest::md5_of_file;
pub use distribution::{Distribution, Distributions, NumberSummary};
pub use error::DataError;
pub use files::{place, resolve};
pub use format::{Csv, Format, Idx, Images, Parquet, Scaling, Skipped, Text, TokenizerFile};
pub use listing::{FileEntry, directory_digest, listing};
pub use memory_budget::read_within;
pub use overview::{Overview, PixelsSeen, TextSummary, format_of};
pub use plan::{DataPlan, Output};
pub use quote::clipped;
pub use survey::Profile;
pub use tokenizer::{Decoding, TextTokenizer};
