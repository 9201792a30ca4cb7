//! The built-in models.

mod cnn;
mod head;
mod mlp;

pub use cnn::{Cnn, CnnModel};
pub use head::Activation;
pub use mlp::{Mlp, MlpModel};
