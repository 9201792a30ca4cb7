//! The built-in models.

mod cnn;
mod gpt;
mod head;
mod mlp;
mod resnet;

pub use cnn::{Cnn, CnnModel};
pub use gpt::{Gpt, GptModel};
pub use head::Activation;
pub use mlp::{Mlp, MlpModel};
pub use resnet::{Resnet, ResnetModel};
