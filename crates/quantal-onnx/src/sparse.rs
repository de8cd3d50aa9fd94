//! Sparse tensors, made dense.

use crate::decode::{shape, tensor};
use crate::error::Error;
use crate::external::External;
use crate::schema::SparseTensorProto;
use quantal_tensor::{DType, Tensor};

/// `t` as a dense tensor of its `dims`, zero where it has no value.
pub(crate) fn densify(t: &SparseTensorProto, external: &External) -> Result<Tensor, Error> {
    let name = t.values.as_ref().map_or("", |v| v.name.as_str());
    let wrong = |problem: &str| Error::tensor(name, problem);
    let values = tensor(t.values.as_ref().ok_or_else(|| wrong("a sparse tensor has no values"))?, external)?;
    let (shape, count) = shape(name, &t.dims)?;
    let indices = match &t.indices {
        Some(indices) => tensor(indices, external)?,
        None if values.is_empty() => Tensor::zeros(DType::I64, &[0]).map_err(|e| Error::from_tensor(name, e))?,
        None => return Err(wrong("a sparse tensor has no indices")),
    };
    let (&[found], Some(flat)) = (values.shape(), indices.get::<i64>()) else {
        return Err(wrong("a sparse tensor needs values [n] and int64 indices"));
    };
    let coordinates = match *indices.shape() {
        [n] if n == found => 1,
        [n, rank] if n == found && rank == shape.len() && rank > 0 => rank,
        _ => return Err(wrong("the indices of a sparse tensor do not fit its values and dims")),
    };
    let by_coordinates = indices.rank() == 2;

    let size = values.dtype().size();
    let mut dense = Tensor::zeros(values.dtype(), &shape).map_err(|e| Error::from_tensor(name, e))?.into_bytes();
    let bytes = dense.make_mut()?;
    let mut next_free = 0;
    for (index, value) in flat.chunks_exact(coordinates).zip(values.bytes().chunks_exact(size)) {
        let at = if by_coordinates { row_major(index, &shape) } else { usize::try_from(index[0]).ok() };
        let at =
            at.filter(|&at| at < count).ok_or_else(|| wrong("an index of a sparse tensor lies outside its dims"))?;
        if at < next_free {
            return Err(wrong("the indices of a sparse tensor are not ascending"));
        }
        next_free = at + 1;
        bytes[at * size..][..size].copy_from_slice(value);
    }
    Tensor::from_bytes(values.dtype(), &shape, dense).map_err(|e| Error::from_tensor(name, e))
}

/// Offset of a coordinate; `None` if it is out of bounds.
fn row_major(index: &[i64], shape: &[usize]) -> Option<usize> {
    index.iter().zip(shape).try_fold(0_usize, |at, (&i, &dim)| {
        let i = usize::try_from(i).ok().filter(|&i| i < dim)?;
        at.checked_mul(dim)?.checked_add(i)
    })
}
