//! Axes, broadcasting, and walks over several strided operands at once. Shapes here may come from a hostile model:
//! any rank, zero and huge dimensions.

use super::OpError;
use quantal_tensor::Tensor;
use quantal_tensor::tensor::element_count;

/// An axis that counts from the end if negative, as an index below `rank`.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, OpError> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    if (0..rank as i64).contains(&from_start) {
        Ok(from_start as usize)
    } else {
        Err(OpError::invalid(format!("axis {axis} is out of range for {rank} dimensions")))
    }
}

/// Which axes a list names; naming one twice is an error.
pub(crate) fn axis_flags(axes: &[i64], rank: usize) -> Result<Vec<bool>, OpError> {
    let mut named = vec![false; rank];
    for &a in axes {
        if std::mem::replace(&mut named[axis(a, rank)?], true) {
            return Err(OpError::invalid(format!("axis {a} is named twice")));
        }
    }
    Ok(named)
}

/// An index that counts from the end if negative, as one below `size`.
pub(crate) fn index(i: i64, size: usize) -> Result<usize, OpError> {
    let from_start = if i < 0 { i + size as i64 } else { i };
    if (0..size as i64).contains(&from_start) {
        Ok(from_start as usize)
    } else {
        Err(OpError::invalid(format!("index {i} is out of range for size {size}")))
    }
}

/// The elements of an input that must hold 32- or 64-bit integers.
pub(crate) fn integers(tensor: &Tensor, what: &str) -> Result<Vec<i64>, OpError> {
    use quantal_tensor::DType;
    match tensor.dtype() {
        DType::I64 | DType::I32 => Ok(tensor.to_i64_vec().unwrap_or_default()),
        other => Err(OpError::invalid(format!("{what} must be int64 or int32, found {other}"))),
    }
}

/// The only element of an input that must hold one 32- or 64-bit integer.
pub(crate) fn integer(tensor: &Tensor, what: &str) -> Result<i64, OpError> {
    match integers(tensor, what)?[..] {
        [value] => Ok(value),
        _ => Err(OpError::invalid(format!("{what} must be one number, found shape {:?}", tensor.shape()))),
    }
}

/// Dimensions from a list of integers, none negative.
pub(crate) fn dims_from(list: &[i64]) -> Result<Vec<usize>, OpError> {
    let dim = |&d: &i64| usize::try_from(d).map_err(|_| OpError::invalid(format!("dimension {d} is negative")));
    list.iter().map(dim).collect()
}

/// The product of some dimensions of a shape, where it can be counted.
pub(crate) fn count(dims: &[usize]) -> Result<usize, OpError> {
    element_count(dims).ok_or_else(|| OpError::invalid(format!("shape {dims:?} has too many elements")))
}

/// The shape that all of them stretch to: aligned at the end, each dimension equal or 1.
pub(crate) fn broadcast_shape(shapes: &[&[usize]]) -> Result<Vec<usize>, OpError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (o, &d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            if *o == 1 {
                *o = d;
            } else if d != 1 && d != *o {
                let list: Vec<String> = shapes.iter().map(|s| format!("{s:?}")).collect();
                return Err(OpError::invalid(format!("shapes {} do not broadcast", list.join(" and "))));
            }
        }
    }
    Ok(out)
}

/// Row-major strides in elements. Those of a tensor without elements mean nothing.
pub(crate) fn contiguous(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1_isize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].wrapping_mul(shape[i] as isize);
    }
    strides
}

/// Strides that read a row-major tensor of `shape` as if it had been stretched to `out`: 0 along stretched axes.
pub(crate) fn broadcast_strides(shape: &[usize], out: &[usize]) -> Vec<isize> {
    let mut strides = vec![0; out.len()];
    let own = contiguous(shape);
    let lead = out.len() - shape.len();
    for (i, &d) in shape.iter().enumerate() {
        if d != 1 {
            strides[lead + i] = own[i];
        }
    }
    strides
}

/// Nested loops over `N` operands. Axes that all operands pass in one stride are merged, so that the innermost loop is
/// as long as it can be.
#[derive(Debug)]
pub(crate) struct Nest<const N: usize> {
    dims: Vec<usize>,
    strides: Vec<[isize; N]>,
}

impl<const N: usize> Nest<N> {
    /// Loops over `dims`, outermost first; operand `k` moves by `strides[k][i]` elements along axis `i`.
    pub(crate) fn new(dims: &[usize], strides: [&[isize]; N]) -> Self {
        if dims.contains(&0) {
            return Self { dims: vec![0], strides: vec![[0; N]] };
        }
        let mut nest = Self { dims: Vec::new(), strides: Vec::new() };
        for (i, &d) in dims.iter().enumerate().filter(|(_, d)| **d != 1) {
            let step: [isize; N] = std::array::from_fn(|k| strides[k][i]);
            match (nest.dims.last_mut(), nest.strides.last_mut()) {
                (Some(size), Some(above)) if (0..N).all(|k| above[k] == step[k].wrapping_mul(d as isize)) => {
                    *size = size.saturating_mul(d);
                    *above = step;
                }
                _ => {
                    nest.dims.push(d);
                    nest.strides.push(step);
                }
            }
        }
        if nest.dims.is_empty() {
            nest = Self { dims: vec![1], strides: vec![[1; N]] };
        }
        nest
    }

    /// Length of the innermost loop, and the step of each operand in it.
    pub(crate) fn inner(&self) -> (usize, [isize; N]) {
        let last = self.dims.len() - 1;
        (self.dims[last], self.strides[last])
    }

    /// Calls `f` with the offsets of the operands at the start of each innermost loop, in row-major order.
    pub(crate) fn rows(&self, f: impl FnMut([usize; N])) {
        self.walk(1, f);
    }

    /// The same for the `inner` innermost loops together.
    fn walk(&self, inner: usize, mut f: impl FnMut([usize; N])) {
        if self.dims.contains(&0) {
            return;
        }
        let outer = self.dims.len() - inner;
        let mut position = vec![0; outer];
        let mut at = [0_isize; N];
        loop {
            f(at.map(|o| o as usize));
            let mut axis = outer;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let step = self.strides[axis];
                position[axis] += 1;
                if position[axis] < self.dims[axis] {
                    (0..N).for_each(|k| at[k] += step[k]);
                    break;
                }
                (0..N).for_each(|k| at[k] -= step[k] * (self.dims[axis] - 1) as isize);
                position[axis] = 0;
            }
        }
    }
}

/// Side of the square that a transposing copy moves at a time: both sides of it stay in cache.
const TILE: usize = 16;

/// Writes to `out`, row-major, what `src` shows from `offset` on under `dims` and `strides`.
pub(crate) fn copy_view<T: Copy>(src: &[T], offset: usize, dims: &[usize], strides: &[isize], out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    let nest = Nest::new(dims, [strides]);
    let (n, [step]) = nest.inner();
    // Rows that are long in the source but not in the output: a transpose.
    if step != 1 && step != 0 && nest.dims.len() > 1 {
        let rows = nest.dims[nest.dims.len() - 2];
        let [row_step] = nest.strides[nest.dims.len() - 2];
        let mut blocks = out.chunks_exact_mut(rows * n);
        nest.walk(2, |[at]| {
            let (Some(out), at) = (blocks.next(), (offset as isize).wrapping_add(at as isize)) else { return };
            for r0 in (0..rows).step_by(TILE) {
                for c0 in (0..n).step_by(TILE) {
                    for r in r0..(r0 + TILE).min(rows) {
                        for c in c0..(c0 + TILE).min(n) {
                            out[r * n + c] = src[(at + r as isize * row_step + c as isize * step) as usize];
                        }
                    }
                }
            }
        });
        return;
    }
    let mut rows = out.chunks_exact_mut(n);
    nest.rows(|[at]| {
        let (Some(out), at) = (rows.next(), offset.wrapping_add(at)) else { return };
        match step {
            1 => out.copy_from_slice(&src[at..at + n]),
            0 => out.fill(src[at]),
            _ => out.iter_mut().enumerate().for_each(|(j, o)| *o = src[(at as isize + j as isize * step) as usize]),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_from_the_end_and_zero_stays() {
        assert_eq!(broadcast_shape(&[&[2, 1, 4], &[3, 1]]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast_shape(&[&[0, 4], &[1, 1]]).unwrap(), [0, 4]);
        assert_eq!(broadcast_shape(&[&[], &[]]).unwrap(), [0; 0]);
        assert!(broadcast_shape(&[&[2, 3], &[2]]).is_err());
        assert!(broadcast_shape(&[&[0], &[3]]).is_err());
    }

    #[test]
    fn axes_and_indices_at_the_ends_of_i64_are_errors() {
        for wild in [i64::MIN, i64::MAX, 3, -4] {
            assert!(axis(wild, 3).is_err() && index(wild, 3).is_err());
        }
        assert_eq!((axis(-1, 3).unwrap(), index(-3, 3).unwrap()), (2, 0));
        assert!(axis(0, 0).is_err());
        assert!(axis_flags(&[1, -2], 3).is_err());
    }

    #[test]
    fn views_copy_in_every_order() {
        let src: Vec<u8> = (0..24).collect();
        let shape = [2, 3, 4];
        let own = contiguous(&shape);
        for perm in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (dims, strides) = (perm.map(|p| shape[p]), perm.map(|p| own[p]));
            let mut out = vec![0; 24];
            copy_view(&src, 0, &dims, &strides, &mut out);
            let mut expected = Vec::new();
            for i in 0..dims[0] {
                for j in 0..dims[1] {
                    for k in 0..dims[2] {
                        expected.push(src[i * strides[0] as usize + j * strides[1] as usize + k * strides[2] as usize]);
                    }
                }
            }
            assert_eq!(out, expected, "{perm:?}");
        }
        let mut reversed = vec![0; 6];
        copy_view(&src, 23, &[2, 3], &[-12, -4], &mut reversed);
        assert_eq!(reversed, [23, 19, 15, 11, 7, 3]);
    }

    #[test]
    fn a_thousand_axes_are_walked_without_recursion() {
        let nest = Nest::new(&[1; 1000], [&[7; 1000]]);
        let mut calls = 0;
        nest.rows(|_| calls += 1);
        assert_eq!((calls, nest.inner().0), (1, 1));
    }
}
