//! Readers of the data formats; each reads files of one format.

pub(crate) mod csv;
pub(crate) mod idx;
pub(crate) mod images;
pub(crate) mod parquet;
pub(crate) mod text;
