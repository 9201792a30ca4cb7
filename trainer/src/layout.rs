//! Where each parameter lies in the flat f32 buffer.

/// One parameter of the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Path in the module, such as `hidden.0.weight`.
    pub name: String,
    /// Shape in the module; a Linear's weight is `[in, out]` here and `[out, in]` in files.
    pub shape: Vec<usize>,
    /// First element in the flat buffer.
    pub offset: usize,
    /// Elements.
    pub len: usize,
    /// Whether files hold it transposed (PyTorch's orientation of Linear weights).
    pub transposed: bool,
}

impl Parameter {
    /// Shape in files.
    #[must_use]
    pub fn file_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.transposed {
            shape.reverse();
        }
        shape
    }
}

/// All parameters in the module's order; they fill the buffer without gaps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// In the order of the buffer.
    pub parameters: Vec<Parameter>,
    /// Length of the buffer.
    pub elements: usize,
}

impl Layout {
    /// Appends a parameter.
    pub fn push(&mut self, name: String, shape: Vec<usize>, transposed: bool) {
        let len = shape.iter().product();
        self.parameters.push(Parameter { name, shape, offset: self.elements, len, transposed });
        self.elements += len;
    }
}
