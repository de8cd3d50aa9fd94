//! GatherBlockQuantized: rows of a table whose blocks have scales of their own, as floats.

use crate::ops::strides::{axis, count};
use crate::ops::{Inputs, OpError, number, optional, required};
use quantal_ir::{Attrs, Op};
use quantal_tensor::{DType, Tensor};

/// The attributes.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    gather_axis: i64,
    quantize_axis: i64,
    block: usize,
    bits: usize,
}

/// Numbers of 4 bits, two in a byte along the last axis with the lower first, or one in a byte.
struct Codes {
    values: Vec<i64>,
    packed: bool,
    /// Numbers along the last axis.
    last: usize,
}

impl Codes {
    fn of(t: &Tensor, packed: bool, last: usize) -> Result<Self, OpError> {
        let op = Op::GatherBlockQuantized;
        let values = (!t.dtype().is_float()).then(|| t.to_i64_vec()).flatten();
        Ok(Self { values: values.ok_or_else(|| OpError::dtype(op, t.dtype()))?, packed, last: last.max(1) })
    }

    fn get(&self, i: usize) -> Option<i64> {
        if !self.packed {
            return self.values.get(i).copied();
        }
        let (row, column) = (i / self.last, i % self.last);
        let byte = self.values.get(row * self.last.div_ceil(2) + column / 2)?;
        Some(if column % 2 == 0 { byte & 15 } else { byte >> 4 })
    }
}

impl Blocks {
    pub(super) fn of(attrs: &Attrs) -> Result<Self, OpError> {
        let block = attrs.int_or("block_size", 128)?;
        let bits = attrs.int_or("bits", 4)?;
        if !matches!(bits, 4 | 8) {
            return Err(OpError::Unsupported(format!("GatherBlockQuantized of {bits} bits")));
        }
        Ok(Self {
            gather_axis: attrs.int_or("gather_axis", 0)?,
            quantize_axis: attrs.int_or("quantize_axis", 1)?,
            block: usize::try_from(block)
                .ok()
                .filter(|&b| b > 0)
                .ok_or_else(|| OpError::invalid(format!("`block_size` is {block}, must be at least 1")))?,
            bits: bits as usize,
        })
    }

    /// `scale · (code − zero_point)` of the rows that the indices name.
    pub(super) fn gather(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let (data, indices, scales) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
        let op = Op::GatherBlockQuantized;
        let packed = data.dtype() == DType::U8 && self.bits == 4;
        let mut shape = data.shape().to_vec();
        if packed && let Some(last) = shape.last_mut() {
            *last *= 2;
        }
        let (at, q) = (axis(self.gather_axis, shape.len())?, axis(self.quantize_axis, shape.len())?);
        let blocks = shape[q].div_ceil(self.block);
        let mut wanted = shape.clone();
        wanted[q] = blocks;
        if scales.shape() != wanted {
            return Err(OpError::invalid(format!("scales of shape {:?}, must be {wanted:?}", scales.shape())));
        }
        let codes = Codes::of(data, packed, shape.last().copied().unwrap_or(1))?;
        let zeros = match optional(inputs, 3) {
            Some(t) => Some(Codes::of(t, packed, wanted.last().copied().unwrap_or(1))?),
            None => None,
        };
        // Bytes hold numbers around half of their range where nothing else is said.
        let half = if data.dtype() == DType::U8 { 1_i64 << (self.bits - 1) } else { 0 };
        let values = number::floats(op, scales)?;
        let list = indices.to_i64_vec().ok_or_else(|| OpError::dtype(op, indices.dtype()))?;
        let (outer, inner) = (count(&shape[..at])?, count(&shape[at + 1..])?);
        let behind = count(&shape[q + 1..])?;
        let out_shape = [&shape[..at], indices.shape(), &shape[at + 1..]].concat();
        let mut out = Tensor::zeros(DType::F32, &out_shape)?;
        let short = || OpError::invalid("the table or its zero points are shorter than their shapes");
        let mut y = out.as_mut_slice::<f32>()?.iter_mut();
        for o in 0..outer {
            for &index in &list {
                let from_start = if index < 0 { index + shape[at] as i64 } else { index };
                let row = usize::try_from(from_start)
                    .ok()
                    .filter(|&r| r < shape[at])
                    .ok_or_else(|| OpError::invalid(format!("index {index} is outside of {} rows", shape[at])))?;
                let first = (o * shape[at] + row) * inner;
                for (e, y) in (first..first + inner).zip(&mut y) {
                    let (before, along) = (e / behind / shape[q], e / behind % shape[q]);
                    let s = (before * blocks + along / self.block) * behind + e % behind;
                    let zero = match &zeros {
                        Some(z) => z.get(s).ok_or_else(short)?,
                        None => half,
                    };
                    *y = (codes.get(e).ok_or_else(short)? - zero) as f32 * values[s];
                }
            }
        }
        number::store_as(out, scales.dtype())
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{f32s, run};
    use quantal_ir::{Attr, Attrs, Op};
    use quantal_tensor::Tensor;

    fn attrs() -> Attrs {
        Attrs::new().with("block_size", Attr::Int(2)).with("bits", Attr::Int(4))
    }

    #[test]
    fn two_numbers_in_a_byte_are_scaled_by_their_block() {
        // Rows 9 7 10 8 and 0 15 8 8, around 8, in blocks of two.
        let data = Tensor::from_slice(&[2, 2], &[0x79_u8, 0x8A, 0xF0, 0x88]).unwrap();
        let scales = f32s(&[2, 2], &[0.5, 2.0, 1.0, 4.0]);
        let rows = Tensor::from_slice(&[2], &[1_i64, 0]).unwrap();
        let y = run(Op::GatherBlockQuantized, attrs(), 1, &[Some(&data), Some(&rows), Some(&scales)]).unwrap();
        assert_eq!(y[0].shape(), [2, 4]);
        assert_eq!(y[0].as_slice::<f32>(), [-8., 7., 0., 0., 0.5, -0.5, 4., 0.]);
        // Zero points 9 and 10 of the first row, 0 and 8 of the second.
        let zeros = Tensor::from_slice(&[2, 1], &[0xA9_u8, 0x80]).unwrap();
        let inputs = [Some(&data), Some(&rows), Some(&scales), Some(&zeros)];
        let y = run(Op::GatherBlockQuantized, attrs(), 1, &inputs).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [0., 15., 0., 0., 0., -1., 0., -4.]);
    }

    #[test]
    fn rows_and_scales_that_are_not_there_are_errors() {
        let data = Tensor::from_slice(&[2, 2], &[0_u8; 4]).unwrap();
        let scales = f32s(&[2, 2], &[1.0; 4]);
        let far = Tensor::from_slice(&[1], &[2_i64]).unwrap();
        assert!(run(Op::GatherBlockQuantized, attrs(), 1, &[Some(&data), Some(&far), Some(&scales)]).is_err());
        let few = f32s(&[2, 1], &[1.0; 2]);
        let at = Tensor::from_slice(&[1], &[0_i64]).unwrap();
        assert!(run(Op::GatherBlockQuantized, attrs(), 1, &[Some(&data), Some(&at), Some(&few)]).is_err());
    }
}
