//! Versioned datasets: formats, splits and transforms.
