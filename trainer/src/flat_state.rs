//! Serialises a training state as raw memory, for members that join: the flat parameters, then each of the optimizer's
//! moments, in little-endian f32. Files have names, PyTorch's orientation and a digest of their own (see
//! [`tensors`](crate::tensors)); this format is as fast as the link.

use std::io::{Error, ErrorKind, Write};

use crate::HostOptimizer;

#[cfg(target_endian = "big")]
compile_error!("states go over the wire as they lie in memory, which is little-endian");

/// Bytes hashed and sent at a time: they stay in cache between the two.
const PIECE: usize = 1 << 18;

/// Writes a state and returns the BLAKE3 of its bytes.
///
/// # Errors
/// If the sink fails.
pub fn write(
    parameters: &[f32],
    optimizer: &HostOptimizer,
    sink: &mut dyn Write,
) -> std::io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let moments = optimizer.moments().iter().map(|moment| moment.values.as_slice());
    for values in std::iter::once(parameters).chain(moments) {
        for piece in bytemuck::cast_slice::<f32, u8>(values).chunks(PIECE) {
            hasher.update(piece);
            sink.write_all(piece)?;
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Fills a state from the bytes written to it.
pub struct Reader<'a> {
    /// Buffers still to be filled, the next one last.
    parts: Vec<&'a mut [u8]>,
    hasher: blake3::Hasher,
}

impl<'a> Reader<'a> {
    /// A reader that fills these buffers.
    #[must_use]
    pub fn new(parameters: &'a mut [f32], optimizer: &'a mut HostOptimizer) -> Self {
        let moments = optimizer.moments_mut().iter_mut().map(|moment| moment.values.as_mut_slice());
        let mut parts: Vec<&mut [u8]> =
            std::iter::once(parameters).chain(moments).map(bytemuck::cast_slice_mut::<f32, u8>).collect();
        parts.reverse();
        Self { parts, hasher: blake3::Hasher::new() }
    }

    /// The BLAKE3 of all bytes.
    ///
    /// # Errors
    /// If bytes are missing.
    pub fn finish(self) -> std::io::Result<[u8; 32]> {
        let missing: usize = self.parts.iter().map(|part| part.len()).sum();
        if missing > 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("{missing} bytes are missing")));
        }
        Ok(*self.hasher.finalize().as_bytes())
    }
}

impl Write for Reader<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        while self.parts.last().is_some_and(|part| part.is_empty()) {
            self.parts.pop();
        }
        let Some(part) = self.parts.pop() else {
            return Err(Error::new(ErrorKind::InvalidData, "more bytes than the state has"));
        };
        let taken = bytes.len().min(part.len());
        let (here, rest) = part.split_at_mut(taken);
        here.copy_from_slice(&bytes[..taken]);
        self.hasher.update(&bytes[..taken]);
        self.parts.push(rest);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::layout::Layout;
    use crate::optimizer_config::OptimizerConfig;

    use super::*;

    fn optimizer(value: f32) -> HostOptimizer {
        let mut layout = Layout::default();
        layout.push("a".to_owned(), vec![5], false);
        let config = OptimizerConfig::from(&configs::Optimizer::default());
        let mut optimizer = HostOptimizer::new(config, &layout).expect("good betas");
        for (index, moment) in optimizer.moments_mut().iter_mut().enumerate() {
            moment.values.fill(value + index as f32);
        }
        optimizer
    }

    #[test]
    fn what_is_written_is_what_is_read_in_pieces_of_any_size() {
        let (parameters, source) = ([1.5f32, -0.0, f32::MIN_POSITIVE, 3.0, 4.0], optimizer(0.25));
        let mut bytes = Vec::new();
        let digest = write(&parameters, &source, &mut bytes).expect("written");
        for size in [1, 3, 7, bytes.len()] {
            let (mut there, mut target) = ([0.0; 5], optimizer(9.0));
            let mut reader = Reader::new(&mut there, &mut target);
            for piece in bytes.chunks(size) {
                reader.write_all(piece).expect("room");
            }
            assert_eq!(reader.finish().expect("whole"), digest);
            assert_eq!(there.map(f32::to_bits), parameters.map(f32::to_bits));
            for (here, there) in source.moments().iter().zip(target.moments()) {
                assert_eq!(here.values, there.values);
            }
        }
    }

    #[test]
    fn too_few_and_too_many_bytes_are_refused() {
        let (mut parameters, mut target) = ([0.0; 5], optimizer(0.0));
        let mut reader = Reader::new(&mut parameters, &mut target);
        reader.write_all(&[0; 12]).expect("room");
        assert!(reader.finish().expect_err("short").to_string().contains("bytes are missing"));
        let mut reader = Reader::new(&mut parameters, &mut target);
        assert!(reader.write_all(&[0; 1_000]).expect_err("long").to_string().contains("more bytes"));
    }
}
