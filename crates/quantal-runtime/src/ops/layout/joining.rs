//! Tensors put end to end, and cut apart.

use crate::ops::OpError;
use crate::ops::strides::{axis, count, dims_from, integers};
use quantal_tensor::Tensor;

/// The inputs one after the other along an axis.
pub(super) fn concat(inputs: &[&Tensor], at: i64) -> Result<Tensor, OpError> {
    let [first, ..] = inputs else { return Err(OpError::invalid("nothing to join")) };
    let at = axis(at, first.rank())?;
    let mut shape = first.shape().to_vec();
    for t in &inputs[1..] {
        let fits = t.dtype() == first.dtype()
            && t.rank() == first.rank()
            && t.shape().iter().zip(first.shape()).enumerate().all(|(i, (a, b))| i == at || a == b);
        if !fits {
            let (a, b) = (format!("{} {:?}", first.dtype(), first.shape()), format!("{} {:?}", t.dtype(), t.shape()));
            return Err(OpError::invalid(format!("{a} and {b} do not join along axis {at}")));
        }
        shape[at] = shape[at].checked_add(t.shape()[at]).ok_or_else(|| OpError::invalid("the sum is too large"))?;
    }
    if let [only] = inputs {
        return Ok(Tensor::clone(only));
    }
    let mut out = Tensor::zeros(first.dtype(), &shape)?;
    if out.is_empty() {
        return Ok(out);
    }
    let block = count(&shape[at + 1..])? * first.dtype().size();
    let mut rest = out.bytes_mut()?;
    for outer in 0..count(&shape[..at])? {
        for t in inputs {
            let run = t.shape()[at] * block;
            let (head, tail) = rest.split_at_mut(run);
            head.copy_from_slice(&t.bytes()[outer * run..(outer + 1) * run]);
            rest = tail;
        }
    }
    Ok(out)
}

/// The input cut along an axis into `outputs` parts: of the given sizes, or of equal size (the last one smaller where
/// `uneven` allows it).
pub(super) fn split(
    x: &Tensor,
    sizes: Option<&Tensor>,
    at: i64,
    outputs: usize,
    uneven: bool,
) -> Result<Vec<Tensor>, OpError> {
    let at = axis(at, x.rank())?;
    let size = x.shape()[at];
    let sizes = match sizes {
        Some(_) if uneven => return Err(OpError::invalid("both `num_outputs` and the sizes are given")),
        Some(sizes) => dims_from(&integers(sizes, "split")?)?,
        None if outputs == 0 => Vec::new(),
        None if !uneven && !size.is_multiple_of(outputs) => {
            return Err(OpError::invalid(format!(
                "axis {at} of size {size} does not split into {outputs} equal parts"
            )));
        }
        None => {
            let part = size.div_ceil(outputs);
            (0..outputs).map(|i| size.saturating_sub(i.saturating_mul(part)).min(part)).collect()
        }
    };
    let sum = sizes.iter().try_fold(0_usize, |sum, &s| sum.checked_add(s));
    if sum != Some(size) || sizes.len() != outputs {
        let text = format!("sizes {sizes:?} do not make {outputs} outputs of an axis of {size}");
        return Err(OpError::invalid(text));
    }
    let mut parts = Vec::with_capacity(outputs);
    let mut start = 0;
    for part in sizes {
        let mut shape = x.shape().to_vec();
        shape[at] = part;
        let mut out = Tensor::zeros(x.dtype(), &shape)?;
        if !out.is_empty() {
            let block = count(&shape[at + 1..])? * x.dtype().size();
            let rows = x.bytes().chunks_exact(size * block);
            for (to, from) in out.bytes_mut()?.chunks_exact_mut(part * block).zip(rows) {
                to.copy_from_slice(&from[start * block..][..part * block]);
            }
        }
        start += part;
        parts.push(out);
    }
    Ok(parts)
}
