//! The commands other than `coordinator --config`: each parses its arguments, does one thing and prints it.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod keys;
pub(crate) mod reproduce;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod tracking;
