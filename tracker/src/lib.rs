//! The embedded tracker: an index over runs and their metrics ([`index`]), searches ([`filter`]), and MLflow's REST
//! interface with web pages ([`server`]).
//!
//! A run's folder is the source of truth: the index follows it and can be rebuilt. This crate never trains, never
//! writes a run's own files and never imports burn, `protocol` or `wire`. Begin with [`server::router`].

mod clients;
pub mod filter;
pub mod index;
pub mod server;
