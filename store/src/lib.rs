//! Bytes that must last: atomic, content-addressed versions.
