//! Walking a tensor through strides: broadcasting, transposing and taking diagonals without a copy.

use super::OpError;
use super::strides::{contiguous, copy_view};
use quantal_tensor::{Element, Tensor};

/// The strides, in elements, of a dense tensor of this shape.
pub(super) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    contiguous(shape).into_iter().map(|s| s as usize).collect()
}

/// The strides that read a tensor of shape `from` as one of shape `to`, as numpy broadcasts; an error that names `what`
/// if it cannot be.
pub(super) fn broadcast_strides(what: &str, from: &[usize], to: &[usize]) -> Result<Vec<usize>, OpError> {
    let refuse = || OpError::invalid(format!("{what} of shape {from:?} does not broadcast to {to:?}"));
    let lead = to.len().checked_sub(from.len()).ok_or_else(refuse)?;
    let mut strides = vec![0; to.len()];
    for (i, (&d, s)) in from.iter().zip(dense_strides(from)).enumerate() {
        if d == to[lead + i] {
            strides[lead + i] = s;
        } else if d != 1 {
            return Err(refuse());
        }
    }
    Ok(strides)
}

/// Offsets of the elements of a shape in row-major order, under strides.
pub(super) struct Walk {
    shape: Vec<usize>,
    strides: Vec<usize>,
    index: Vec<usize>,
    offset: usize,
    left: usize,
}

impl Walk {
    /// A walk over `shape`, whose element count must not overflow; as many strides as dimensions.
    pub(super) fn new(shape: &[usize], strides: &[usize]) -> Self {
        let left = if shape.contains(&0) { 0 } else { shape.iter().product() };
        Self { shape: shape.to_vec(), strides: strides.to_vec(), index: vec![0; shape.len()], offset: 0, left }
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let here = self.offset;
        for axis in (0..self.shape.len()).rev() {
            self.index[axis] += 1;
            self.offset += self.strides[axis];
            if self.index[axis] < self.shape[axis] {
                break;
            }
            self.index[axis] = 0;
            self.offset -= self.strides[axis] * self.shape[axis];
        }
        Some(here)
    }
}

/// What `from` shows under this shape and these strides, as a dense tensor.
pub(super) fn gather<T: Element>(from: &[T], shape: &[usize], strides: &[usize]) -> Result<Tensor, OpError> {
    let strides: Vec<isize> = strides.iter().map(|&s| s as isize).collect();
    let mut out = Tensor::zeros(T::DTYPE, shape)?;
    copy_view(from, 0, shape, &strides, out.as_mut_slice::<T>()?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_repeats_ones_and_refuses_the_rest() {
        let strides = broadcast_strides("b", &[3, 1], &[2, 3, 2]).unwrap();
        let offsets: Vec<_> = Walk::new(&[2, 3, 2], &strides).collect();
        assert_eq!(offsets, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        assert!(broadcast_strides("b", &[2, 3], &[3]).unwrap_err().to_string().contains("[2, 3]"));
    }
}
