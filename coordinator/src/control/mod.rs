//! The control plane: the rpc server and its streams, who may call, certificates, and the ports of pages.

pub(crate) mod access;
pub(crate) mod audit;
pub(crate) mod certificates;
pub(crate) mod connection_limit;
pub(crate) mod identities;
pub(crate) mod pages;
pub(crate) mod rpc;
pub(crate) mod streams;
