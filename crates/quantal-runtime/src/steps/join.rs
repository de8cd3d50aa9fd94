//! Codes side by side along the last axis: images channels-last, along their channels.
//!
//! What only a Concat reads need not be copied: who makes it writes its columns of the whole. The first step makes the
//! tensor, each later one gets it, fills columns of its own and gives it on.

use super::Env;
use super::codes::Codes;
use crate::ops::{Inputs, OpError, required};
use quantal_tensor::Tensor;
use std::ops::Range;

/// Columns of a tensor that several steps fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Columns {
    /// The first of them.
    pub first: usize,
    /// Columns of the whole tensor.
    pub of: usize,
    /// Whether an earlier step has made the tensor, which is then the first input.
    pub begun: bool,
}

impl Columns {
    /// The tensor that a result of `shape` goes into: the one that was begun, or a new one.
    pub(crate) fn whole(
        self,
        codes: Codes,
        shape: &[usize],
        begun: Option<Tensor>,
        env: &mut Env<'_>,
    ) -> Result<Tensor, OpError> {
        match begun {
            Some(whole) => check_fits(shape, &whole).map(|()| whole),
            None if self.begun => Err(OpError::invalid("the tensor to write into is missing")),
            None => {
                let lead = &shape[..shape.len().saturating_sub(1)];
                Ok(env.pool.tensor(codes.dtype(), &[lead, &[self.of]].concat())?)
            }
        }
    }
}

/// `Ok` if a part of `shape` has the rows of the whole.
fn check_fits(shape: &[usize], whole: &Tensor) -> Result<(), OpError> {
    match (shape.split_last(), whole.shape().split_last()) {
        (Some((_, rows)), Some((_, all))) if rows == all => Ok(()),
        _ => Err(OpError::invalid(format!("{shape:?} and {:?} do not join along the last axis", whole.shape()))),
    }
}

/// The rest of a Concat: copies the inputs after the first one into columns of that one.
#[derive(Debug)]
pub struct Join {
    /// The type of all.
    pub codes: Codes,
    /// The columns that each takes.
    pub columns: Vec<Range<usize>>,
}

impl Join {
    pub(crate) fn run_in_place(&self, mut whole: Tensor, parts: &Inputs<'_>) -> Result<Tensor, OpError> {
        let of = whole.shape().last().copied().unwrap_or(0);
        for (i, columns) in self.columns.iter().enumerate() {
            let part = required(parts, i)?;
            check_fits(part.shape(), &whole)?;
            let wide = part.shape().last().copied().unwrap_or(0);
            if wide != columns.len() || columns.end > of {
                let text = format!("expects {} channels, found {:?} (channels last)", columns.len(), part.shape());
                return Err(OpError::Invalid(text));
            }
            let rows = self.codes.read(part)?.chunks_exact(wide.max(1));
            for (to, from) in self.codes.write(&mut whole)?.chunks_exact_mut(of.max(1)).zip(rows) {
                to[columns.clone()].copy_from_slice(from);
            }
        }
        Ok(whole)
    }
}
