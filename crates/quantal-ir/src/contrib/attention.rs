//! Attention to products, sums and a softmax.
//!
//! ```text
//! Y = softmax(scale · Q Kᵀ + bias + mask) V        for each head
//! ```
//!
//! A mask is 0 where a key may be seen and `mask_filter_value` elsewhere; keys after the query, where they may not be
//! seen, get the lowest number of the type. Masks are given as numbers of keys (`[batch]`, or `[2 · batch]` with the
//! first key of each behind), or as 0 and 1 for each key (`[batch, keys]`) or pair (`[batch, queries, keys]`).

use super::product::{Codes, of_codes};
use super::{Parts, Refusal};
use crate::attrs::{Attr, Attrs};
use crate::graph::ValueId;
use crate::op::Op;
use quantal_tensor::{DType, Tensor};

/// What attention is between, `[batch, length, features]` each.
struct Core {
    q: ValueId,
    k: Side,
    v: Side,
    heads: usize,
    /// Keys and values of earlier calls, `[batch, heads, length, size]`.
    past: Option<(ValueId, ValueId)>,
    /// Where those of all calls go.
    present: Option<(ValueId, ValueId)>,
    mask: Option<ValueId>,
    bias: Option<ValueId>,
}

/// Keys or values: `[batch, length, features]`, or with the heads apart already.
#[derive(Clone, Copy)]
enum Side {
    Rows(ValueId),
    Heads(ValueId),
}

fn perm(order: [i64; 4]) -> Attrs {
    Attrs::new().with("perm", Attr::Ints(order.to_vec()))
}

fn number_of_heads(p: &Parts<'_>) -> Result<usize, Refusal> {
    let n = p.node.attrs.int("num_heads")?.ok_or("attribute `num_heads` is missing")?;
    Ok(usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| format!("attribute `num_heads` is {n}"))?)
}

/// `Attention`: with weights that make queries, keys and values of one input.
pub(super) fn attention(p: &mut Parts<'_>) -> Result<(), Refusal> {
    refuse_flags(p, &["do_rotary", "past_present_share_buffer"])?;
    let (x, w) = (p.input(0, "the input")?, p.input(1, "the weights")?);
    let sizes = p.node.attrs.ints("qkv_hidden_sizes")?.filter(|s| !s.is_empty()).map(<[i64]>::to_vec);
    let all = p.dim(w, 1);
    let sizes = match (sizes, all) {
        (Some(s), _) if s.len() == 3 && s.iter().all(|&n| n > 0) => s,
        (None, Some(all)) if all.is_multiple_of(3) => vec![all as i64 / 3; 3],
        _ => return Err("the sizes of queries, keys and values are not known".into()),
    };
    let fixed =
        |v: Option<ValueId>| v.is_none_or(|v| p.graph.constant(Some(v)).is_some_and(|t| t.dtype() == DType::F32));
    let bias = p.node.input(2);
    let [q, k, v] = if fixed(Some(w)) && fixed(bias) {
        // Three products, so that queries, keys and values each get a scale of their own.
        three_products(p, x, w, bias, &sizes)?
    } else {
        let product = p.op(Op::MatMul, &[x, w], Attrs::new());
        split(p, product, bias, &sizes)?
    };
    stacked(p, [q, k, v], p.node.input(3), p.node.input(4), p.node.input(5))
}

/// `QAttention`: an `Attention` whose input and weights are quantized.
pub(super) fn quantized(p: &mut Parts<'_>) -> Result<(), Refusal> {
    refuse_flags(p, &["do_rotary", "past_present_share_buffer"])?;
    let x = Codes { data: p.input(0, "the input")?, scale: p.input(3, "input_scale")?, zero_point: p.node.input(6) };
    let w = Codes { data: p.input(1, "the weight")?, scale: p.input(4, "weight_scale")?, zero_point: p.node.input(7) };
    let all = p.dim(w.data, 1).filter(|n| n.is_multiple_of(3));
    let all = all.ok_or("the sizes of queries, keys and values are not known")?;
    let product = of_codes(p, x, w)?;
    let parts = split(p, product, p.node.input(2), &[all as i64 / 3; 3])?;
    stacked(p, parts, p.node.input(5), p.node.input(8), None)
}

fn refuse_flags(p: &Parts<'_>, names: &[&str]) -> Result<(), Refusal> {
    for name in names {
        if p.node.attrs.flag(name, false)? {
            return Err(format!("attribute `{name}` is set, which ONNX Runtime's CPU does not run either").into());
        }
    }
    Ok(())
}

/// The columns of constant weights that make queries, keys and values, as products of their own.
fn three_products(
    p: &mut Parts<'_>,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
    sizes: &[i64],
) -> Result<[ValueId; 3], Refusal> {
    let weights = p.graph.constant(Some(w)).cloned().ok_or("its weights are not constant")?;
    let bias = p.graph.constant(bias).cloned();
    let &[rows, columns] = weights.shape() else { return Err("its weights are no matrix".into()) };
    let total: i64 = sizes.iter().sum();
    if total != columns as i64 || bias.as_ref().is_some_and(|b| b.shape() != [columns]) {
        return Err(format!("{columns} columns of weights, or the bias, do not fit {total} features").into());
    }
    let mut first = 0;
    let mut made = [x; 3];
    for ((made, &n), what) in made.iter_mut().zip(sizes).zip(["query", "key", "value"]) {
        let n = n as usize;
        let mut part = Tensor::zeros(DType::F32, &[rows, n])?;
        let from = weights.as_slice::<f32>().chunks_exact(columns);
        for (to, from) in part.as_mut_slice::<f32>()?.chunks_exact_mut(n).zip(from) {
            to.copy_from_slice(&from[first..first + n]);
        }
        let part = p.constant(&format!("{what}_weight"), part);
        *made = p.op(Op::MatMul, &[x, part], Attrs::new());
        if let Some(bias) = &bias {
            let b = Tensor::from_slice(&[n], &bias.as_slice::<f32>()[first..first + n])?;
            let b = p.constant(&format!("{what}_bias"), b);
            *made = p.op(Op::Add, &[*made, b], Attrs::new());
        }
        first += n;
    }
    Ok(made)
}

/// Queries, keys and values out of one product.
fn split(p: &mut Parts<'_>, product: ValueId, bias: Option<ValueId>, sizes: &[i64]) -> Result<[ValueId; 3], Refusal> {
    let whole = match bias {
        Some(bias) => p.op(Op::Add, &[product, bias], Attrs::new()),
        None => product,
    };
    let sizes = p.ints("sizes", sizes)?;
    let name = format!("{}_part", p.node.name);
    let parts = [(); 3].map(|()| p.graph.add_value(&name, None, None));
    let node = format!("{}_Split", p.node.name);
    p.push(Op::Split, &node, &[Some(whole), Some(sizes)], &parts, Attrs::new().with("axis", Attr::Int(-1)));
    Ok(parts)
}

/// Attention whose past and present hold keys and values in one tensor, `[2, batch, heads, length, size]`.
fn stacked(
    p: &mut Parts<'_>,
    [q, k, v]: [ValueId; 3],
    mask: Option<ValueId>,
    past: Option<ValueId>,
    bias: Option<ValueId>,
) -> Result<(), Refusal> {
    let heads = number_of_heads(p)?;
    let past = match past {
        None => None,
        Some(past) => {
            let mut half = |i: i64| -> Result<ValueId, Refusal> {
                let at = p.scalar("half", i)?;
                Ok(p.op(Op::Gather, &[past, at], Attrs::new().with("axis", Attr::Int(0))))
            };
            Some((half(0)?, half(1)?))
        }
    };
    let present = p.node.output(1);
    let halves = present.map(|_| {
        let mut half = |what: &str| {
            let name = format!("{}_{what}", p.node.name);
            p.graph.add_value(&name, None, None)
        };
        (half("present_key"), half("present_value"))
    });
    core(p, &Core { q, k: Side::Rows(k), v: Side::Rows(v), heads, past, present: halves, mask, bias })?;
    if let (Some(present), Some((keys, values))) = (present, halves) {
        let axis = p.ints("axis", &[0])?;
        let [keys, values] = [keys, values].map(|v| p.op(Op::Unsqueeze, &[v, axis], Attrs::new()));
        p.into(Op::Concat, &[keys, values], present, Attrs::new().with("axis", Attr::Int(0)));
    }
    Ok(())
}

/// `MultiHeadAttention`: between given queries, keys and values.
pub(super) fn multi_head(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let heads = number_of_heads(p)?;
    let q = p.input(0, "the query")?;
    let (Some(k), Some(v)) = (p.node.input(1), p.node.input(2)) else {
        return Err("queries, keys and values in one tensor, which ONNX Runtime's CPU does not run either".into());
    };
    if p.node.input(8).or(p.node.input(9)).is_some() {
        return Err("its past is kept in a buffer of another length (past_sequence_length, cache_indirection)".into());
    }
    if p.node.output(3).is_some() {
        return Err("its scores are handed out".into());
    }
    let side = |v: ValueId| match p.rank(v) {
        Some(3) => Ok(Side::Rows(v)),
        Some(4) => Ok(Side::Heads(v)),
        Some(n) => Err(Refusal(format!("keys or values of {n} dimensions; 3 and 4 are supported"))),
        None => Err("the rank of its keys or values is not known".into()),
    };
    let (mut k, mut v) = (side(k)?, side(v)?);
    let mut query = q;
    if let Some(bias) = p.node.input(3) {
        let all = p.dim(bias, 0).ok_or("the length of its bias is not known")?;
        let width = p.dim(q, 2).ok_or("the width of its queries is not known")?;
        let rest = all.checked_sub(2 * width).ok_or("its bias is shorter than queries and keys")?;
        let sizes = [width as i64, width as i64, rest as i64];
        let parts = bias_parts(p, bias, &sizes)?;
        query = p.op(Op::Add, &[q, parts[0]], Attrs::new());
        for (side, bias) in [&mut k, &mut v].into_iter().zip(&parts[1..]) {
            // Keys that come with their heads apart are those of an encoder, ready as they are.
            if let Side::Rows(rows) = *side {
                *side = Side::Rows(p.op(Op::Add, &[rows, *bias], Attrs::new()));
            }
        }
    }
    let past = p.node.input(6).zip(p.node.input(7));
    let present = match (p.node.output(1), p.node.output(2)) {
        (None, None) => None,
        _ => Some((p.output(1), p.output(2))),
    };
    let (mask, bias) = (p.node.input(4), p.node.input(5));
    core(p, &Core { q: query, k, v, heads, past, present, mask, bias })
}

fn bias_parts(p: &mut Parts<'_>, bias: ValueId, sizes: &[i64; 3]) -> Result<[ValueId; 3], Refusal> {
    if let Some(t) = p.graph.constant(Some(bias)).filter(|t| t.dtype() == DType::F32).cloned() {
        let mut values = t.as_slice::<f32>();
        let mut made = [bias; 3];
        for (made, &n) in made.iter_mut().zip(sizes) {
            let (part, rest) = values.split_at(n as usize);
            let part = Tensor::from_slice(&[part.len()], part)?;
            *made = p.constant("bias_part", part);
            values = rest;
        }
        return Ok(made);
    }
    let sizes = p.ints("sizes", sizes)?;
    let name = format!("{}_bias_part", p.node.name);
    let parts = [(); 3].map(|()| p.graph.add_value(&name, None, None));
    let node = format!("{}_bias_Split", p.node.name);
    p.push(Op::Split, &node, &[Some(bias), Some(sizes)], &parts, Attrs::new().with("axis", Attr::Int(0)));
    Ok(parts)
}

/// The heads of `[batch, length, features]` apart, the axes in the order `order`.
fn apart(p: &mut Parts<'_>, x: ValueId, heads: usize, order: [i64; 4]) -> Result<ValueId, Refusal> {
    let size = match p.dim(x, 2) {
        Some(n) if n.is_multiple_of(heads) => (n / heads) as i64,
        Some(n) => return Err(format!("{n} features do not divide into {heads} heads").into()),
        None => -1,
    };
    let shape = p.ints("heads", &[0, 0, heads as i64, size])?;
    let split = p.op(Op::Reshape, &[x, shape], Attrs::new());
    Ok(p.op(Op::Transpose, &[split], perm(order)))
}

/// All keys or values, `[batch, heads, length, size]`.
fn extended(
    p: &mut Parts<'_>,
    side: Side,
    heads: usize,
    past: Option<ValueId>,
    present: Option<ValueId>,
) -> Result<ValueId, Refusal> {
    let now = match side {
        Side::Rows(x) => apart(p, x, heads, [0, 2, 1, 3])?,
        Side::Heads(x) => x,
    };
    let along = || Attrs::new().with("axis", Attr::Int(2));
    Ok(match (past, present) {
        (None, None) => now,
        (None, Some(present)) => {
            p.into(Op::Identity, &[now], present, Attrs::new());
            now
        }
        (Some(past), None) => p.op(Op::Concat, &[past, now], along()),
        (Some(past), Some(present)) => {
            p.into(Op::Concat, &[past, now], present, along());
            present
        }
    })
}

fn core(p: &mut Parts<'_>, c: &Core) -> Result<(), Refusal> {
    let y = p.output(0);
    let dtype = p.dtype(c.q);
    let size = match p.dim(c.q, 2) {
        Some(n) if n.is_multiple_of(c.heads) => n / c.heads,
        Some(n) => return Err(format!("{n} features do not divide into {} heads", c.heads).into()),
        None => return Err("the width of its queries is not known".into()),
    };
    let scale = match p.node.attrs.float_or("scale", 0.0)? {
        0.0 => 1.0 / (size as f32).sqrt(),
        given => given,
    };
    let q = apart(p, c.q, c.heads, [0, 2, 1, 3])?;
    // Keys that are no output are brought to [batch, heads, size, keys] by one Transpose.
    let keys = match c.k {
        Side::Rows(k) if c.past.is_none() && c.present.is_none() => apart(p, k, c.heads, [0, 2, 3, 1])?,
        side => {
            let k = extended(p, side, c.heads, c.past.map(|past| past.0), c.present.map(|present| present.0))?;
            p.op(Op::Transpose, &[k], perm([0, 1, 3, 2]))
        }
    };
    let values = extended(p, c.v, c.heads, c.past.map(|past| past.1), c.present.map(|present| present.1))?;
    let product = p.op(Op::MatMul, &[q, keys], Attrs::new());
    let factor = p.float("scale", scale, dtype)?;
    let mut scores = p.op(Op::Mul, &[product, factor], Attrs::new());
    if let Some(bias) = c.bias {
        scores = p.op(Op::Add, &[scores, bias], Attrs::new());
    }
    if let Some(mask) = mask(p, c, q, keys, dtype)? {
        scores = p.op(Op::Add, &[scores, mask], Attrs::new());
    }
    let weights = p.op(Op::Softmax, &[scores], Attrs::new().with("axis", Attr::Int(-1)));
    let seen = p.op(Op::MatMul, &[weights, values], Attrs::new());
    let together = p.op(Op::Transpose, &[seen], perm([0, 2, 1, 3]));
    let width = p.dim(values, 3).map_or(-1, |n| (n * c.heads) as i64);
    let shape = p.ints("shape", &[0, 0, width])?;
    p.main(Op::Reshape, &[Some(together), Some(shape)], &[y], Attrs::new());
    Ok(())
}

/// What is added to the scores of keys that are masked: `q` is `[batch, heads, queries, size]`, `keys` is
/// `[batch, heads, size, keys]`. `None` without a mask.
fn mask(
    p: &mut Parts<'_>,
    c: &Core,
    q: ValueId,
    keys: ValueId,
    dtype: Option<DType>,
) -> Result<Option<ValueId>, Refusal> {
    let causal = p.node.attrs.flag("unidirectional", false)?;
    let none = p.float("seen", 0.0, dtype)?;
    let mut added = None;
    if let Some(mask) = c.mask {
        let filter = p.node.attrs.float_or("mask_filter_value", -10_000.0)?;
        let filter = p.float("hidden", filter, dtype)?;
        let seen = visible(p, mask, q, keys)?;
        added = Some(p.op(Op::Where, &[seen, none, filter], Attrs::new()));
    }
    if causal && p.dim(q, 2) != Some(1) {
        let lowest = match dtype {
            Some(DType::F16) => half::f16::MIN.to_f32(),
            Some(DType::BF16) => half::bf16::MIN.to_f32(),
            _ => f32::MIN,
        };
        let (queries, all) = (p.size(q, 2)?, p.size(keys, 3)?);
        let first = p.op(Op::Sub, &[all, queries], Attrs::new());
        let (from, to) = (range(p, queries)?, range(p, all)?);
        let from = p.op(Op::Add, &[from, first], Attrs::new());
        let axis = p.ints("axis", &[1])?;
        let from = p.op(Op::Unsqueeze, &[from, axis], Attrs::new());
        let seen = p.op(Op::LessOrEqual, &[to, from], Attrs::new());
        let lowest = p.float("later", lowest, dtype)?;
        added = Some(p.op(Op::Where, &[seen, added.unwrap_or(none), lowest], Attrs::new()));
    }
    Ok(added)
}

/// `0, 1 … n − 1`, where `n` is a list of one integer.
fn range(p: &mut Parts<'_>, n: ValueId) -> Result<ValueId, Refusal> {
    let (zero, one) = (p.scalar("zero", 0_i64)?, p.scalar("one", 1_i64)?);
    let axis = p.ints("axis", &[0])?;
    let n = p.op(Op::Squeeze, &[n, axis], Attrs::new());
    Ok(p.op(Op::Range, &[zero, n, one], Attrs::new()))
}

/// Which keys may be seen, with a shape that broadcasts to `[batch, heads, queries, keys]`.
fn visible(p: &mut Parts<'_>, mask: ValueId, q: ValueId, keys: ValueId) -> Result<ValueId, Refusal> {
    let rank = p.rank(mask).ok_or("the rank of its mask is not known")?;
    let axes: &[i64] = match rank {
        1 | 2 => &[1, 2],
        3 => &[1],
        n => return Err(format!("a mask of {n} dimensions, which ONNX Runtime's CPU does not run either").into()),
    };
    let seen = if rank == 1 {
        by_length(p, mask, q, keys)?
    } else {
        let zero = match p.dtype(mask) {
            Some(DType::I64) => p.scalar("zero", 0_i64)?,
            _ => p.scalar("zero", 0_i32)?,
        };
        p.op(Op::Greater, &[mask, zero], Attrs::new())
    };
    let axes = p.ints("axes", axes)?;
    Ok(p.op(Op::Unsqueeze, &[seen, axes], Attrs::new()))
}

/// Keys before the number in the mask, and from the one in its second half on if it has one: `[batch, keys]`.
fn by_length(p: &mut Parts<'_>, mask: ValueId, q: ValueId, keys: ValueId) -> Result<ValueId, Refusal> {
    let to_i64 = Attrs::new().with("to", Attr::Int(i64::from(DType::I64.to_onnx())));
    let mask = p.op(Op::Cast, &[mask], to_i64);
    let all = p.size(keys, 3)?;
    let positions = range(p, all)?;
    let axis = p.ints("axis", &[1])?;
    let same_dim = {
        let first = |v: ValueId| p.graph.value(v).shape.as_ref().and_then(|s| s.first()).cloned();
        match (first(mask), first(q)) {
            (Some(crate::Dim::Unknown) | None, _) => false,
            (m, b) => m == b,
        }
    };
    if same_dim {
        let ends = p.op(Op::Unsqueeze, &[mask, axis], Attrs::new());
        return Ok(p.op(Op::Less, &[positions, ends], Attrs::new()));
    }
    // One row of ends, and perhaps one of starts: with a row of zeros behind them, the second one is a start.
    let batch = p.size(q, 0)?;
    let minus = p.ints("rows", &[-1])?;
    let along_0 = || Attrs::new().with("axis", Attr::Int(0));
    let shape = p.op(Op::Concat, &[minus, batch], along_0());
    let rows = p.op(Op::Reshape, &[mask, shape], Attrs::new());
    let one = p.ints("one_row", &[1])?;
    let one_row = p.op(Op::Concat, &[one, batch], along_0());
    let zeros = Attrs::new().with("value", Attr::Tensor(Tensor::from_slice(&[1], &[0_i64])?.into()));
    let zeros = p.op(Op::ConstantOfShape, &[one_row], zeros);
    let rows = p.op(Op::Concat, &[rows, zeros], along_0());
    let mut row = |i: i64| -> Result<ValueId, Refusal> {
        let at = p.scalar("row", i)?;
        let row = p.op(Op::Gather, &[rows, at], along_0());
        Ok(p.op(Op::Unsqueeze, &[row, axis], Attrs::new()))
    };
    let (ends, starts) = (row(0)?, row(1)?);
    let before = p.op(Op::Less, &[positions, ends], Attrs::new());
    let after = p.op(Op::GreaterOrEqual, &[positions, starts], Attrs::new());
    Ok(p.op(Op::And, &[before, after], Attrs::new()))
}
