//! Deterministic simulation of a coordinator and its workers, with faults.
