//! The `datasets` command.
fn main() {}
