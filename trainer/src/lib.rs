//! burn: devices, models, gradients of a microbatch, host optimizers, evaluation, export.
