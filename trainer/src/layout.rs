//! Positions of the parameters in the flat f32 buffer.

/// A parameter of the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Path in the module, such as `hidden.0.weight`.
    pub name: String,
    /// Shape in the module; a Linear's weight is `[in, out]` here and `[out, in]` in files.
    pub shape: Vec<usize>,
    /// Index of the first element in the flat buffer.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
    /// Whether files store it transposed (PyTorch's orientation of Linear weights).
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

/// All parameters in module order; they fill the buffer without gaps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Parameters in buffer order.
    pub parameters: Vec<Parameter>,
    /// Length of the buffer in elements.
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
