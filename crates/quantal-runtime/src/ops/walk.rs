//! Walking a tensor through strides: broadcasting, transposing and taking diagonals without a copy.

use super::OpError;
use quantal_tensor::{Element, Tensor};

/// The strides, in elements, of a dense tensor of this shape.
pub(super) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
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

/// The shape that both shapes broadcast to.
pub(super) fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(OpError::invalid(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
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

/// The elements of `from` that the walk meets, as a dense tensor of its shape.
pub(super) fn gather<T: Element>(from: &[T], shape: &[usize], strides: &[usize]) -> Result<Tensor, OpError> {
    let mut out = Tensor::zeros(T::DTYPE, shape)?;
    for (y, at) in out.as_mut_slice::<T>()?.iter_mut().zip(Walk::new(shape, strides)) {
        *y = from[at];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_repeats_ones_and_refuses_the_rest() {
        assert_eq!(broadcast_shape(&[3, 1], &[2, 1, 4]).unwrap(), [2, 3, 4]);
        assert!(broadcast_shape(&[3], &[4]).is_err());
        let strides = broadcast_strides("b", &[3, 1], &[2, 3, 2]).unwrap();
        let offsets: Vec<_> = Walk::new(&[2, 3, 2], &strides).collect();
        assert_eq!(offsets, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        assert!(broadcast_strides("b", &[2, 3], &[3]).unwrap_err().to_string().contains("[2, 3]"));
    }
}
