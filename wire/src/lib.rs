//! Messages, frames and tokens on the network.
