//! Weights of few bits with scales of their own: made float, so that the operator is a standard one.

use super::product::turn;
use super::{Parts, Refusal};
use crate::attrs::Attrs;
use crate::graph::ValueId;
use crate::op::Op;
use quantal_tensor::{DType, Tensor};

/// A product by weights that are stored as `[N, blocks, bytes]` with 2, 4 or 8 bits each, the lowest bits first.
pub(super) fn matmul_nbits(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let (x, y) = (p.input(0, "A")?, p.output(0));
    let size = |name: &'static str| -> Result<usize, Refusal> {
        let n = p.node.attrs.int(name)?.ok_or_else(|| format!("attribute `{name}` is missing"))?;
        Ok(usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| format!("attribute `{name}` is {n}"))?)
    };
    let (columns, inner, block) = (size("N")?, size("K")?, size("block_size")?);
    let bits = p.node.attrs.int_or("bits", 4)?;
    if !matches!(bits, 2 | 4 | 8) {
        return Err(format!("weights of {bits} bits; 2, 4 and 8 are supported").into());
    }
    if p.node.input(4).is_some() {
        return Err("its weights are reordered (g_idx)".into());
    }
    let bits = bits as usize;
    let packed = constant(p, 1, "B")?;
    let scales = constant(p, 2, "scales")?;
    let scale_values = scales.dtype().is_float().then(|| scales.to_f32_vec()).flatten();
    let scale_values = scale_values.ok_or("its scales are no floats")?;
    let blocks = inner.div_ceil(block);
    let row_bytes = blocks
        .checked_mul(block)
        .and_then(|n| n.checked_mul(bits))
        .map(|n| n.div_ceil(8))
        .ok_or("its weights are too large")?;
    let codes = packed.get::<u8>().filter(|c| Some(c.len()) == row_bytes.checked_mul(columns));
    let codes = codes
        .ok_or_else(|| format!("B has shape {:?}, must hold {columns} rows of {row_bytes} bytes", packed.shape()))?;
    let count = columns.checked_mul(blocks).ok_or("its weights are too large")?;
    if scale_values.len() != count {
        return Err(format!("it has {} scales, must have {count}", scale_values.len()).into());
    }
    let zero_points = zero_points(p, [columns, blocks, bits])?;
    let mut weights = Tensor::zeros(DType::F32, &[inner, columns])?;
    let out = weights.as_mut_slice::<f32>()?;
    let at = |bytes: &[u8], i: usize| {
        let per_byte = 8 / bits;
        let mask = if bits == 8 { 255 } else { (1_u8 << bits) - 1 };
        f32::from((bytes[i / per_byte] >> (i % per_byte * bits)) & mask)
    };
    for (n, row) in codes.chunks_exact(row_bytes).enumerate() {
        for k in 0..inner {
            let b = n * blocks + k / block;
            out[k * columns + n] = (at(row, k) - zero_points[b]) * scale_values[b];
        }
    }
    let dtype = p.dtype(x).unwrap_or(DType::F32);
    let weights = in_type(weights, dtype)?;
    let w = p.constant("weight", weights);
    match p.node.input(5) {
        None => p.main(Op::MatMul, &[Some(x), Some(w)], &[y], Attrs::new()),
        Some(bias) => {
            let name = format!("{}_product", p.node.name);
            let product = p.graph.add_value(&name, None, None);
            p.main(Op::MatMul, &[Some(x), Some(w)], &[product], Attrs::new());
            p.into(Op::Add, &[product, bias], y, Attrs::new());
        }
    }
    Ok(())
}

/// The zero point of each block: packed like the weights, or floats; half of the range where there are none.
fn zero_points(p: &Parts<'_>, [columns, blocks, bits]: [usize; 3]) -> Result<Vec<f32>, Refusal> {
    let count = columns * blocks;
    if p.node.input(3).is_none() {
        return Ok(vec![(1_u32 << (bits - 1)) as f32; count]);
    }
    let given = constant(p, 3, "zero_points")?;
    let wrong = || Refusal(format!("its zero points have shape {:?} for {columns} × {blocks} blocks", given.shape()));
    if given.dtype().is_float() {
        return given.to_f32_vec().filter(|z| z.len() == count).ok_or_else(wrong);
    }
    let row_bytes = (blocks * bits).div_ceil(8);
    let bytes = given.get::<u8>().filter(|b| b.len() == row_bytes * columns).ok_or_else(wrong)?;
    let (per_byte, mask) = (8 / bits, if bits == 8 { 255 } else { (1_u8 << bits) - 1 });
    let of = |(row, b): (&[u8], usize)| f32::from((row[b / per_byte] >> (b % per_byte * bits)) & mask);
    Ok(bytes.chunks_exact(row_bytes).flat_map(|row| (0..blocks).map(move |b| (row, b))).map(of).collect())
}

fn in_type(t: Tensor, dtype: DType) -> Result<Tensor, Refusal> {
    let values = || t.as_slice::<f32>().iter();
    Ok(match dtype {
        DType::F16 => Tensor::from_slice(t.shape(), &values().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>())?,
        DType::BF16 => Tensor::from_slice(t.shape(), &values().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>())?,
        _ => t,
    })
}

fn constant(p: &Parts<'_>, i: usize, what: &str) -> Result<std::sync::Arc<Tensor>, Refusal> {
    let found = p.graph.constant(p.node.input(i)).cloned();
    found.ok_or_else(|| Refusal(format!("{what} is not constant")))
}

/// An LSTM whose weights are `[directions, inputs, 4 · hidden]` in 8 bits. The inputs are not quantized here, as ONNX
/// Runtime does in each step: the result is nearer to that of the float LSTM than ONNX Runtime's.
pub(super) fn lstm(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let w = lstm_weights(p, 1, [8, 9], "W")?;
    let r = lstm_weights(p, 2, [10, 11], "R")?;
    let mut inputs: Vec<Option<ValueId>> = (0..8).map(|i| p.node.input(i)).collect();
    inputs[1] = Some(w);
    inputs[2] = Some(r);
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    let outputs: Vec<ValueId> = (0..p.node.outputs.len()).map(|i| p.output(i)).collect();
    let attrs = p.node.attrs.clone();
    p.main(Op::Lstm, &inputs, &outputs, attrs);
    Ok(())
}

/// One of its two weights in float, as an LSTM wants it: `[directions, 4 · hidden, inputs]`.
fn lstm_weights(p: &mut Parts<'_>, at: usize, [scale, zero]: [usize; 2], what: &str) -> Result<ValueId, Refusal> {
    let codes = constant(p, at, what)?;
    let scales = constant(p, scale, "a scale of the weights")?;
    let scales = scales.get::<f32>().ok_or("the scales of its weights are not float32")?.to_vec();
    let zeros = constant(p, zero, "a zero point of the weights")?.to_i64_vec();
    let zeros = zeros.ok_or("the zero points of its weights are no integers")?;
    let &[directions, inputs, columns] = codes.shape() else {
        return Err(format!("{what} has shape {:?}, must have 3 dimensions", codes.shape()).into());
    };
    let values = codes.to_i64_vec().filter(|_| matches!(codes.dtype(), DType::I8 | DType::U8));
    let values = values.ok_or_else(|| Refusal(format!("{what} is neither int8 nor uint8")))?;
    let one_each = |n: usize| n == directions || n == directions.saturating_mul(columns);
    if !one_each(scales.len()) || zeros.len() != scales.len() {
        let (s, z) = (scales.len(), zeros.len());
        return Err(format!("{what} has {s} scales and {z} zero points for {directions} × {columns} columns").into());
    }
    let mut weights = Tensor::zeros(DType::F32, &[directions, columns, inputs])?;
    let out = weights.as_mut_slice::<f32>()?;
    let (plane, per_direction) = (inputs * columns, scales.len() / directions.max(1));
    for d in 0..directions {
        let floats: Vec<f32> = (0..plane)
            .map(|i| {
                let s = d * per_direction + if per_direction > 1 { i % columns } else { 0 };
                (values[d * plane + i] - zeros[s]) as f32 * scales[s]
            })
            .collect();
        turn(&floats, &mut out[d * plane..][..plane], inputs, columns);
    }
    Ok(p.constant(what, weights))
}
