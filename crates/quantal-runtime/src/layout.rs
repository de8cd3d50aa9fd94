//! The two layouts that a run-time tensor can have, and the moves between them.

use crate::ops::OpError;
use crate::pool::Pool;
use quantal_kernels::Threads;
use quantal_kernels::transpose::transpose;
use quantal_tensor::{Tensor, TensorError};

/// How a logical tensor `[N, C, spatial…]` lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Layout {
    /// As ONNX says: `[N, C, spatial…]`.
    Standard,
    /// `[N, spatial…, C]`: the run-time tensor's shape is this one.
    ChannelsLast,
}

impl Layout {
    /// The physical shape of a tensor with this logical shape.
    pub fn physical(self, logical: &[usize]) -> Vec<usize> {
        match self {
            Self::Standard => logical.to_vec(),
            Self::ChannelsLast => self.axes(logical.len()).into_iter().map(|a| logical[a]).collect(),
        }
    }

    /// The logical axis that each physical axis holds.
    pub fn axes(self, rank: usize) -> Vec<usize> {
        match self {
            Self::Standard => (0..rank).collect(),
            Self::ChannelsLast if rank < 3 => (0..rank).collect(),
            Self::ChannelsLast => std::iter::once(0).chain(2..rank).chain([1]).collect(),
        }
    }

    /// The physical axis that holds the logical `axis`.
    pub fn physical_axis(self, axis: usize, rank: usize) -> usize {
        self.axes(rank).iter().position(|&a| a == axis).unwrap_or(axis)
    }
}

/// A tensor of rank 3 or more in the other layout: `to` is the layout of the result. No copy where C or the product of
/// the spatial dimensions is 1.
pub fn moved(x: &Tensor, to: Layout, pool: &mut Pool, threads: &Threads) -> Result<Tensor, OpError> {
    let rank = x.rank();
    if rank < 3 {
        return Ok(x.clone());
    }
    let s = x.shape();
    // The move is a batch of matrix transposes: [N, rows, columns] → [N, columns, rows].
    let (batch, rows, columns, shape) = match to {
        Layout::ChannelsLast => (s[0], s[1], product(&s[2..]), to.physical(s)),
        Layout::Standard => {
            let shape: Vec<usize> = [s[0], s[rank - 1]].into_iter().chain(s[1..rank - 1].iter().copied()).collect();
            (s[0], product(&s[1..rank - 1]), s[rank - 1], shape)
        }
    };
    if rows == 1 || columns == 1 || x.is_empty() {
        return Ok(x.clone().reshaped(&shape)?);
    }
    let mut bytes = pool.bytes(x.bytes().len())?;
    let (from, to) = (x.bytes(), bytes.make_mut().map_err(TensorError::from)?);
    let size = [batch, rows, columns];
    match x.dtype().size() {
        1 => turned::<1>(from, to, size, threads)?,
        2 => turned::<2>(from, to, size, threads)?,
        4 => turned::<4>(from, to, size, threads)?,
        8 => turned::<8>(from, to, size, threads)?,
        _ => turned::<16>(from, to, size, threads)?,
    }
    Ok(Tensor::from_bytes(x.dtype(), &shape, bytes)?)
}

/// `[batch, rows, columns]` → `[batch, columns, rows]`, elements of `E` bytes.
fn turned<const E: usize>(from: &[u8], to: &mut [u8], size: [usize; 3], threads: &Threads) -> Result<(), OpError> {
    let (from, to) = (from.as_chunks::<E>().0, to.as_chunks_mut::<E>().0);
    transpose(from, size, to, threads).map_err(|e| OpError::invalid(e.to_string()))
}

fn product(sizes: &[usize]) -> usize {
    sizes.iter().product()
}
