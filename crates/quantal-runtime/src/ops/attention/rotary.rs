//! RotaryEmbedding, of ONNX and of ONNX Runtime: pairs of features turned by an angle that grows with the position.

use super::super::number;
use super::super::{Inputs, OpError, optional, required};
use quantal_ir::{Node, Op};
use quantal_tensor::Tensor;

/// The inputs besides the data.
struct Ordered {
    cos: Tensor,
    sin: Tensor,
    positions: Option<Tensor>,
    heads: Option<usize>,
}

/// The attributes of RotaryEmbedding.
#[derive(Debug, Clone)]
pub struct Rotary {
    interleaved: bool,
    /// Features that are turned; `None` for all.
    turned: Option<usize>,
    heads: Option<usize>,
    /// As ONNX Runtime has it: the positions are the second input, and may be one offset.
    positions_first: bool,
}

impl Rotary {
    pub(super) fn of(node: &Node) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let positions_first = node.op == Op::MsRotaryEmbedding;
        if positions_first && attrs.flag("is_packed_batching", false)? {
            return Err(OpError::Unsupported("RotaryEmbedding of packed batches".to_owned()));
        }
        let size = |name: &str| -> Result<Option<usize>, OpError> {
            let n = attrs.int_or(name, 0)?;
            let size = usize::try_from(n).map_err(|_| OpError::invalid(format!("`{name}` is {n}")))?;
            Ok(Some(size).filter(|&s| s > 0))
        };
        Ok(Self {
            interleaved: attrs.flag("interleaved", false)?,
            turned: size("rotary_embedding_dim")?,
            heads: size("num_heads")?,
            positions_first,
        })
    }

    /// The inputs in the order of ONNX, and the number of heads.
    fn ordered(&self, inputs: &Inputs<'_>) -> Result<Ordered, OpError> {
        let x = required(inputs, 0)?;
        if !self.positions_first {
            let (cos, sin) = (required(inputs, 1)?.clone(), required(inputs, 2)?.clone());
            return Ok(Ordered { cos, sin, positions: optional(inputs, 3).cloned(), heads: self.heads });
        }
        let (at, cos, sin) = (required(inputs, 1)?, required(inputs, 2)?.clone(), required(inputs, 3)?.clone());
        let (batch, length, hidden) = match *x.shape() {
            [b, s, hidden] => (b, s, Some(hidden)),
            [b, _, s, _] => (b, s, None),
            ref other => return Err(OpError::invalid(format!("rotary embedding on shape {other:?}"))),
        };
        // Without a number of heads, a head is as wide as the angles turn.
        let turned = cos.shape().last().map_or(0, |n| 2 * n);
        let heads = self.heads.or_else(|| hidden.and_then(|h| h.checked_div(turned)).filter(|&h| h > 0));
        let positions = match at.to_i64_vec().as_deref() {
            Some(&[first]) if at.shape() == [1] => {
                let rows = (0..batch).flat_map(|_| (0..length as i64).map(|s| first.saturating_add(s)));
                Tensor::from_slice(&[batch, length], &rows.collect::<Vec<_>>())?
            }
            _ => at.clone(),
        };
        Ok(Ordered { cos, sin, positions: Some(positions), heads })
    }

    pub(super) fn run(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let x = required(inputs, 0)?;
        let Ordered { cos, sin, positions, heads } = self.ordered(inputs)?;
        // Offsets of (batch, head, position) in the layout at hand.
        let (batch, heads, length, size, strides) = match *x.shape() {
            [b, h, s, d] => (b, h, s, d, [h * s * d, s * d, d]),
            [b, s, hidden] => {
                let h = heads.ok_or_else(|| OpError::invalid("inputs of 3 dimensions need `num_heads`"))?;
                if !hidden.is_multiple_of(h) {
                    return Err(OpError::invalid(format!("a hidden size of {hidden} is not a multiple of {h} heads")));
                }
                (b, h, s, hidden / h, [s * hidden, hidden / h, hidden])
            }
            ref other => return Err(OpError::invalid(format!("rotary embedding on shape {other:?}"))),
        };
        let turned = self.turned.unwrap_or(size);
        if turned > size || !turned.is_multiple_of(2) {
            return Err(OpError::invalid(format!("cannot turn {turned} of {size} features: the number must be even")));
        }
        let half = turned / 2;
        let positions = positions.map(|t| (t.to_i64_vec().unwrap_or_default(), t)).map(|(v, t)| (t, v));
        let wanted = if positions.is_some() {
            cos.rank() == 2
        } else {
            cos.shape().starts_with(&[batch, length]) && cos.rank() == 3
        };
        if !wanted || cos.shape() != sin.shape() || cos.shape().last() != Some(&half) {
            let (c, s) = (cos.shape(), sin.shape());
            return Err(OpError::invalid(format!(
                "caches of shapes {c:?} and {s:?} for {half} angles of an input of shape {:?}",
                x.shape()
            )));
        }
        if let Some((t, _)) =
            positions.as_ref().filter(|(t, v)| t.shape() != [batch, length] || v.len() != batch * length)
        {
            return Err(OpError::invalid(format!(
                "position_ids of shape {:?} for an input of shape {:?}",
                t.shape(),
                x.shape()
            )));
        }
        let rows = cos.len().checked_div(half).unwrap_or(0);
        let (cos, sin) = (number::floats(Op::RotaryEmbedding, &cos)?, number::floats(Op::RotaryEmbedding, &sin)?);
        let values = number::floats(Op::RotaryEmbedding, x)?;
        let mut y = number::load_f32(Op::RotaryEmbedding, x)?;
        let out = y.as_mut_slice::<f32>()?;
        for b in 0..batch {
            for s in 0..length {
                let row = match &positions {
                    Some((_, ids)) => usize::try_from(ids[b * length + s]).unwrap_or(usize::MAX),
                    None => b * length + s,
                };
                if row >= rows && half > 0 {
                    return Err(OpError::invalid(format!("position {row} is outside of a cache of {rows}")));
                }
                for h in 0..heads {
                    let at = b * strides[0] + h * strides[1] + s * strides[2];
                    for i in 0..half {
                        let (p, q) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                        let (c, n) = (cos[row * half + i], sin[row * half + i]);
                        let (u, v) = (values[at + p], values[at + q]);
                        out[at + p] = c * u - n * v;
                        out[at + q] = n * u + c * v;
                    }
                }
            }
        }
        number::store_as(y, x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{f32s, run};
    use super::*;
    use quantal_ir::{Attr, Attrs};

    #[test]
    fn pairs_turn_by_the_angle_of_their_position() {
        // A quarter turn at position 1, none at 0; the last two features stay.
        let x = f32s(&[1, 1, 1, 4], &[1., 2., 3., 4.]);
        let (cos, sin) = (f32s(&[2, 1], &[1., 0.]), f32s(&[2, 1], &[0., 1.]));
        let at = Tensor::from_slice(&[1, 1], &[1_i64]).unwrap();
        let attrs = Attrs::new().with("rotary_embedding_dim", Attr::Int(2));
        let y = run(Op::RotaryEmbedding, attrs.clone(), 23, &[Some(&x), Some(&cos), Some(&sin), Some(&at)]).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [-2., 1., 3., 4.]);
        let far = Tensor::from_slice(&[1, 1], &[2_i64]).unwrap();
        assert!(run(Op::RotaryEmbedding, attrs, 23, &[Some(&x), Some(&cos), Some(&sin), Some(&far)]).is_err());
    }

    #[test]
    fn positions_may_come_first_and_be_one_offset() {
        // Two words of one head: position 1 is a quarter turn, position 2 a half.
        let x = f32s(&[1, 2, 2], &[1., 2., 3., 4.]);
        let (cos, sin) = (f32s(&[3, 1], &[1., 0., -1.]), f32s(&[3, 1], &[0., 1., 0.]));
        let run =
            |at: &Tensor| run(Op::MsRotaryEmbedding, Attrs::new(), 1, &[Some(&x), Some(at), Some(&cos), Some(&sin)]);
        let from = Tensor::from_slice(&[1], &[1_i64]).unwrap();
        assert_eq!(run(&from).unwrap()[0].as_slice::<f32>(), [-2., 1., -3., -4.]);
        let each = Tensor::from_slice(&[1, 2], &[2_i64, 0]).unwrap();
        assert_eq!(run(&each).unwrap()[0].as_slice::<f32>(), [-1., -2., 3., 4.]);
        let far = Tensor::from_slice(&[1], &[2_i64]).unwrap();
        assert!(run(&far).is_err());
    }
}
