//! Normalizations of sums: of a residual stream, and of the embeddings of a text.

use super::{Parts, Refusal};
use crate::attrs::{Attr, Attrs};
use crate::graph::ValueId;
use crate::op::Op;
use quantal_tensor::{DType, Tensor};

/// What ONNX Runtime takes where a node does not say it.
const EPSILON: f32 = 1e-12;

/// A normalization of `sum` over its last axis, with mean and inverse deviation where they are wanted.
fn normalize(p: &mut Parts<'_>, op: Op, sum: ValueId, parameters: &[Option<ValueId>]) -> Result<(), Refusal> {
    let epsilon = p.node.attrs.float_or("epsilon", EPSILON)?;
    let attrs = Attrs::new().with("axis", Attr::Int(-1)).with("epsilon", Attr::Float(epsilon));
    let mut outputs = vec![p.output(0)];
    let statistics = matches!(p.node.op, Op::SkipLayerNormalization | Op::SkipSimplifiedLayerNormalization);
    let (mean, inverse) = (p.node.output(1).filter(|_| statistics), p.node.output(2).filter(|_| statistics));
    match op {
        Op::LayerNormalization => {
            if mean.or(inverse).is_some() {
                outputs.extend([p.output(1), p.output(2)]);
            }
        }
        _ if mean.is_some() => return Err("a normalization without a mean has none to give".into()),
        _ => outputs.extend(inverse),
    }
    let mut inputs = vec![Some(sum)];
    inputs.extend(parameters);
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    p.main(op, &inputs, &outputs, attrs);
    Ok(())
}

/// The sum of input, skip and bias, normalized; the sum is the fourth output.
pub(super) fn skip_norm(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let (x, skip, scale) = (p.input(0, "the input")?, p.input(1, "the skip")?, p.input(2, "the scale")?);
    let (op, shift, bias) = if p.node.op == Op::SkipLayerNormalization {
        (Op::LayerNormalization, p.node.input(3), p.node.input(4))
    } else {
        (Op::SimplifiedLayerNormalization, None, p.node.input(3))
    };
    let last = p.output(3);
    let sum = match bias {
        None => {
            p.into(Op::Add, &[x, skip], last, Attrs::new());
            last
        }
        Some(bias) => {
            // The bias first: it then lies next to the product that it belongs to.
            let biased = p.op(Op::Add, &[x, bias], Attrs::new());
            p.into(Op::Add, &[biased, skip], last, Attrs::new());
            last
        }
    };
    normalize(p, op, sum, &[Some(scale), shift])
}

/// The embeddings of words, positions and segments, summed and normalized; then the number of words that the mask
/// leaves of each text, and the sum.
pub(super) fn embed_norm(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let (ids, words) = (p.input(0, "input_ids")?, p.input(2, "word_embedding")?);
    let (positions, scale, shift) = (p.input(3, "position_embedding")?, p.input(5, "gamma")?, p.input(6, "beta")?);
    let at_0 = || Attrs::new().with("axis", Attr::Int(0));
    let word = p.op(Op::Gather, &[words, ids], at_0());
    let position = if let Some(at) = p.node.input(8) {
        p.op(Op::Gather, &[positions, at], at_0())
    } else {
        let (start, end) = (p.ints("start", &[0])?, p.size(ids, 1)?);
        let axis = p.ints("axis", &[0])?;
        p.op(Op::Slice, &[positions, start, end, axis], Attrs::new())
    };
    let segment = match (p.node.input(1), p.node.input(4)) {
        (Some(segments), Some(table)) => Some(p.op(Op::Gather, &[table, segments], at_0())),
        _ => None,
    };
    let last = p.output(2);
    match segment {
        None => p.into(Op::Add, &[word, position], last, Attrs::new()),
        Some(segment) => {
            let sum = p.op(Op::Add, &[word, position], Attrs::new());
            p.into(Op::Add, &[sum, segment], last, Attrs::new());
        }
    }
    normalize(p, Op::LayerNormalization, last, &[Some(scale), Some(shift)])?;
    if let Some(lengths) = p.node.output(1) {
        mask_lengths(p, ids, lengths)?;
    }
    Ok(())
}

/// How many elements of each row of the mask are 1; 0 where there is no mask.
fn mask_lengths(p: &mut Parts<'_>, ids: ValueId, lengths: ValueId) -> Result<(), Refusal> {
    let Some(mask) = p.node.input(7) else {
        let batch = p.size(ids, 0)?;
        let zero = Attrs::new().with("value", Attr::Tensor(Tensor::from_slice(&[1], &[0_i32])?.into()));
        p.into(Op::ConstantOfShape, &[batch], lengths, zero);
        return Ok(());
    };
    let one = match p.dtype(mask) {
        Some(DType::I64) => p.scalar("one", 1_i64)?,
        _ => p.scalar("one", 1_i32)?,
    };
    let kept = p.op(Op::Equal, &[mask, one], Attrs::new());
    let to_i32 = Attrs::new().with("to", Attr::Int(i64::from(DType::I32.to_onnx())));
    let kept = p.op(Op::Cast, &[kept], to_i32);
    let axis = p.ints("axis", &[1])?;
    p.into(Op::ReduceSum, &[kept, axis], lengths, Attrs::new().with("keepdims", Attr::Int(0)));
    Ok(())
}
