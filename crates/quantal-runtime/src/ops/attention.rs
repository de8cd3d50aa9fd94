//! Attention and RotaryEmbedding (versions 23 to 25). Computed in f32 whatever float type comes in.

mod group_query;
mod rotary;

use super::number::{self, Number};
use super::walk::{broadcast_strides, gather};
use super::{Context, Inputs, OpError, optional, required};
use group_query::GroupQuery;
use quantal_ir::{Node, Op};
use quantal_kernels::float;
use quantal_tensor::{DType, Tensor};
use rotary::Rotary;

/// Attention, or the rotation of its inputs by position.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Attending {
    Attention(Attention),
    Rotary(Rotary),
    GroupQuery(GroupQuery),
}

/// Which matrix the fourth output of Attention shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Product,
    AfterSoftcap,
    AfterMask,
    AfterSoftmax,
}

/// The attributes of Attention.
#[derive(Debug, Clone)]
pub struct Attention {
    causal: bool,
    scale: Option<f32>,
    softcap: f32,
    q_heads: Option<usize>,
    kv_heads: Option<usize>,
    /// Keys that a query may look back and ahead; `None` for all.
    window: [Option<usize>; 2],
    shown: Option<Shown>,
}

impl Attending {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        match node.op {
            Op::RotaryEmbedding | Op::MsRotaryEmbedding => return Ok(Self::Rotary(Rotary::of(node)?)),
            Op::GroupQueryAttention => return Ok(Self::GroupQuery(GroupQuery::of(node)?)),
            _ => {}
        }
        let attrs = &node.attrs;
        let heads = |name: &str| -> Result<Option<usize>, OpError> {
            let Some(n) = attrs.int(name)? else { return Ok(None) };
            let heads = usize::try_from(n).ok().filter(|&n| n > 0);
            heads.map(Some).ok_or_else(|| OpError::invalid(format!("`{name}` is {n}, must be at least 1")))
        };
        let side = |name: &str| -> Result<Option<usize>, OpError> {
            match attrs.int_or(name, -1)? {
                -1 => Ok(None),
                n => usize::try_from(n).map(Some).map_err(|_| OpError::invalid(format!("`{name}` is {n}"))),
            }
        };
        let shown = match attrs.int_or("qk_matmul_output_mode", 0)? {
            0 => Shown::Product,
            1 => Shown::AfterSoftcap,
            2 => Shown::AfterMask,
            3 => Shown::AfterSoftmax,
            n => return Err(OpError::invalid(format!("`qk_matmul_output_mode` is {n}, must be 0 to 3"))),
        };
        Ok(Self::Attention(Attention {
            causal: attrs.flag("is_causal", false)?,
            scale: attrs.float("scale")?,
            softcap: attrs.float_or("softcap", 0.0)?,
            q_heads: heads("q_num_heads")?,
            kv_heads: heads("kv_num_heads")?,
            window: [side("left_window_size")?, side("right_window_size")?],
            shown: node.output(3).map(|_| shown),
        }))
    }

    /// Applies it. Attention gives Y, the present keys and values, and the fourth output if it is wanted.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        match self {
            Self::Attention(a) => a.run(inputs, context),
            Self::Rotary(r) => Ok(vec![r.run(inputs)?]),
            Self::GroupQuery(g) => g.run(inputs, context),
        }
    }
}

/// `[batch, sequence, hidden]` as `[batch, heads, sequence, size]`; four dimensions stay as they are.
fn by_heads(what: &str, t: &Tensor, heads: Option<usize>) -> Result<Tensor, OpError> {
    let t = number::load_f32(Op::Attention, t)?;
    match *t.shape() {
        [_, h, _, _] if heads.is_none_or(|n| n == h) => Ok(t),
        [b, s, hidden] => {
            let n = heads
                .ok_or_else(|| OpError::invalid("inputs of 3 dimensions need `q_num_heads` and `kv_num_heads`"))?;
            if !hidden.is_multiple_of(n) {
                return Err(OpError::invalid(format!(
                    "{what} has a hidden size of {hidden}, not a multiple of {n} heads"
                )));
            }
            let size = hidden / n;
            gather::<f32>(t.as_slice(), &[b, n, s, size], &[s * hidden, size, hidden, 1])
        }
        ref other => {
            let n = heads.map_or(String::new(), |n| format!(" ({n} heads)"));
            Err(OpError::invalid(format!("{what}{n} cannot have shape {other:?}")))
        }
    }
}

/// `past` followed by `now` along the sequence.
fn extended(what: &str, past: Option<&Tensor>, now: Tensor) -> Result<Tensor, OpError> {
    let Some(past) = past else { return Ok(now) };
    let (&[b, h, s0, d], &[b1, h1, s1, d1]) = (past.shape(), now.shape()) else {
        return Err(OpError::invalid(format!("{what} must have 4 dimensions, found shape {:?}", past.shape())));
    };
    if (b, h, d) != (b1, h1, d1) {
        return Err(OpError::invalid(format!("{what} of shape {:?} does not fit {:?}", past.shape(), now.shape())));
    }
    let total = s0.checked_add(s1).ok_or_else(|| OpError::invalid(format!("{what} has {s0} entries")))?;
    let mut out = Tensor::zeros(DType::F32, &[b, h, total, d])?;
    let (past, now) = (number::floats(Op::Attention, past)?, now.as_slice::<f32>());
    for (i, y) in out.as_mut_slice::<f32>()?.chunks_exact_mut((total * d).max(1)).enumerate() {
        y[..s0 * d].copy_from_slice(&past[i * s0 * d..][..s0 * d]);
        y[s0 * d..].copy_from_slice(&now[i * s1 * d..][..s1 * d]);
    }
    Ok(out)
}

/// For each batch entry `b`, the first `before[b]` positions of the past, then `now`, then zeros: at least `total`
/// positions, and as many as the past has, which may be a buffer longer than what it holds.
fn extended_range(
    what: &str,
    past: Option<&Tensor>,
    now: &Tensor,
    total: usize,
    before: &[usize],
) -> Result<Tensor, OpError> {
    let [b, h, n, d] = four(now)?;
    let held = match past {
        Some(past) if past.rank() == 4 && past.shape()[..2] == [b, h] && past.shape()[3] == d => past.shape()[2],
        Some(past) => {
            return Err(OpError::invalid(format!("{what} of shape {:?} does not fit {:?}", past.shape(), now.shape())));
        }
        None => 0,
    };
    let length = held.max(total);
    if before.iter().any(|&p| p > held || p + n > length) {
        return Err(OpError::invalid(format!("{what} holds {held} entries, fewer than are said to be there")));
    }
    let mut out = Tensor::zeros(DType::F32, &[b, h, length, d])?;
    let past = past.map(|t| number::floats(Op::GroupQueryAttention, t)).transpose()?;
    let now = now.as_slice::<f32>();
    for (i, y) in out.as_mut_slice::<f32>()?.chunks_exact_mut((length * d).max(1)).enumerate() {
        if let Some(past) = &past {
            let kept = before[i / h] * d;
            y[..kept].copy_from_slice(&past[i * held * d..][..kept]);
        }
        let first = before[i / h] * d;
        y[first..first + n * d].copy_from_slice(&now[i * n * d..][..n * d]);
    }
    Ok(out)
}

/// What is added to the scores of one call: 0 or −∞ for a boolean mask, and −∞ past its end.
struct Mask {
    values: Vec<f32>,
    /// Strides to `[batch, heads, queries, columns]`.
    strides: Vec<usize>,
    columns: usize,
}

impl Mask {
    fn of(t: &Tensor, [b, h, q, k]: [usize; 4]) -> Result<Self, OpError> {
        let columns = *t.shape().last().ok_or_else(|| OpError::invalid("attn_mask is a scalar"))?;
        if columns > k {
            return Err(OpError::invalid(format!("attn_mask has {columns} columns for {k} keys")));
        }
        let values = match t.dtype() {
            DType::Bool => t.as_slice::<u8>().iter().map(|&v| if v == 0 { f32::NEG_INFINITY } else { 0.0 }).collect(),
            _ => number::floats(Op::Attention, t)?.into_owned(),
        };
        Ok(Self { values, strides: broadcast_strides("attn_mask", t.shape(), &[b, h, q, columns])?, columns })
    }

    fn add_to(&self, row: &mut [f32], at: [usize; 3]) {
        let from: usize = at.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
        for (j, v) in row.iter_mut().enumerate() {
            *v += if j < self.columns { self.values[from + j * self.strides[3]] } else { f32::NEG_INFINITY };
        }
    }
}

impl Attention {
    fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let given = required(inputs, 0)?;
        let dtype = given.dtype();
        let query = by_heads("Q", given, self.q_heads)?;
        let key = by_heads("K", required(inputs, 1)?, self.kv_heads)?;
        let value = by_heads("V", required(inputs, 2)?, self.kv_heads)?;
        let (past_key, past_value) = (optional(inputs, 4), optional(inputs, 5));
        if past_key.is_some() != past_value.is_some() {
            return Err(OpError::invalid("past_key and past_value must be given together"));
        }
        let past = past_key.and_then(|t| t.shape().get(2).copied()).unwrap_or(0);
        let key = extended("past_key", past_key, key)?;
        let value = extended("past_value", past_value, value)?;
        let (qs, ks, vs) = (four(&query)?, four(&key)?, four(&value)?);
        let fits = qs[0] == ks[0] && ks[..3] == vs[..3] && qs[3] == ks[3] && ks[1] > 0 && qs[1].is_multiple_of(ks[1]);
        if !fits && qs[1] > 0 {
            return Err(OpError::invalid(format!(
                "queries {qs:?}, keys {ks:?} and values {vs:?} do not fit each other"
            )));
        }
        let [batch, heads, n_q, size] = qs;
        let (n_k, size_v) = (ks[2], vs[3]);
        let mask = optional(inputs, 3).map(|m| Mask::of(m, [batch, heads, n_q, n_k])).transpose()?;
        let lengths = optional(inputs, 6).map(|t| lengths(t, batch, past_key.is_some())).transpose()?;
        // The square root goes into both factors, as the standard's own function body has it.
        let scale = self.scale.unwrap_or(1.0 / (size as f32).sqrt()).sqrt();
        let scaled = |t: &Tensor| -> Result<Tensor, OpError> {
            let mut t = t.clone();
            t.as_mut_slice::<f32>()?.iter_mut().for_each(|v| *v *= scale);
            Ok(t)
        };
        let (q, k) = (scaled(&query)?, scaled(&key)?);
        let (q, k, v) = (q.as_slice::<f32>(), k.as_slice::<f32>(), value.as_slice::<f32>());
        let mut y = Tensor::zeros(DType::F32, &[batch, heads, n_q, size_v])?;
        let mut shown =
            Tensor::zeros(DType::F32, &if self.shown.is_some() { [batch, heads, n_q, n_k] } else { [0; 4] })?;
        let mut scores = Tensor::zeros(DType::F32, &[n_q, n_k])?;
        let mut weights = Tensor::zeros(DType::F32, &[n_q, n_k])?;
        let weights = weights.as_mut_slice::<f32>()?;
        let mut bias = Tensor::zeros(DType::F32, &[n_k])?;
        let (scores, bias) = (scores.as_mut_slice::<f32>()?, bias.as_mut_slice::<f32>()?);
        let (out, see) = (y.as_mut_slice::<f32>()?, shown.as_mut_slice::<f32>()?);
        for (i, out) in out.chunks_exact_mut((n_q * size_v).max(1)).enumerate() {
            let (b, h) = (i / heads, i % heads);
            // Consecutive query heads share one key head.
            let kv = b * ks[1] + h / (heads / ks[1]);
            let keys = gather::<f32>(&k[kv * n_k * size..][..n_k * size], &[size, n_k], &[1, size])?;
            f32::product(scores, &q[i * n_q * size..][..n_q * size], keys.as_slice(), [n_q, size, n_k], context)?;
            let mut show = |stage: Shown, scores: &[f32]| {
                if self.shown == Some(stage) {
                    see[i * n_q * n_k..][..n_q * n_k].copy_from_slice(scores);
                }
            };
            show(Shown::Product, scores);
            if self.softcap > 0.0 {
                for s in scores.iter_mut() {
                    *s = self.softcap * libm::tanhf(*s / self.softcap);
                }
            }
            show(Shown::AfterSoftcap, scores);
            let length = lengths.as_ref().map(|l| l[b]);
            // Keys before the first query of this call.
            let offset = length.map_or(past as i64, |l| l - n_q as i64);
            let mut blind = vec![false; n_q];
            for (at, row) in scores.chunks_exact_mut(n_k.max(1)).enumerate() {
                self.hide(bias, offset.saturating_add(at as i64), length);
                if let Some(mask) = &mask {
                    mask.add_to(bias, [b, h, at]);
                }
                blind[at] = bias.iter().all(|&v| v == f32::NEG_INFINITY);
                row.iter_mut().zip(&*bias).for_each(|(s, v)| *s += v);
            }
            show(Shown::AfterMask, scores);
            if n_k > 0 {
                float::softmax(context.isa, scores, n_k, false, weights, context.threads);
            }
            for (row, _) in weights.chunks_exact_mut(n_k.max(1)).zip(&blind).filter(|(_, b)| **b) {
                row.fill(0.0);
            }
            show(Shown::AfterSoftmax, weights);
            f32::product(out, weights, &v[kv * n_k * size_v..][..n_k * size_v], [n_q, n_k, size_v], context)?;
        }
        if given.rank() == 3 {
            let (inner, row) = (n_q * size_v, heads * size_v);
            let strides = [heads * inner, size_v, inner, 1];
            y = gather::<f32>(y.as_slice(), &[batch, n_q, heads, size_v], &strides)?.reshaped(&[batch, n_q, row])?;
        }
        let mut all = vec![y, key, value];
        all.extend(self.shown.map(|_| shown));
        all.into_iter().map(|t| number::store_as(t, dtype)).collect()
    }

    /// Sets the bias of the keys that the query at `position` may see to 0 and of the others to −∞.
    fn hide(&self, bias: &mut [f32], position: i64, length: Option<i64>) {
        let [left, right] = self.window.map(|w| w.map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        for (j, v) in bias.iter_mut().enumerate() {
            let j = j as i64;
            let seen = (!self.causal || j <= position)
                && left.is_none_or(|l| j >= position.saturating_sub(l))
                && right.is_none_or(|r| j <= position.saturating_add(r))
                && length.is_none_or(|l| j < l);
            *v = if seen { 0.0 } else { f32::NEG_INFINITY };
        }
    }
}

/// The number of valid keys of each batch entry.
fn lengths(t: &Tensor, batch: usize, past: bool) -> Result<Vec<i64>, OpError> {
    match t.get::<i64>() {
        Some(v) if v.len() == batch && !past => Ok(v.to_vec()),
        _ => Err(OpError::invalid(format!(
            "nonpad_kv_seqlen must hold {batch} of int64 and excludes past keys, found {} of shape {:?}",
            t.dtype(),
            t.shape()
        ))),
    }
}

fn four(t: &Tensor) -> Result<[usize; 4], OpError> {
    t.shape().try_into().map_err(|_| OpError::invalid(format!("attention on shape {:?}", t.shape())))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, f32s, run};
    use super::*;
    use quantal_ir::{Attr, Attrs};

    fn values() -> [Tensor; 3] {
        // One head of size 1, two queries and two keys: scores are q·k.
        let q = f32s(&[1, 1, 2, 1], &[0.0, 2f32.ln()]);
        let k = f32s(&[1, 1, 2, 1], &[0.0, 1.0]);
        let v = f32s(&[1, 1, 2, 1], &[3.0, 6.0]);
        [q, k, v]
    }

    #[test]
    fn scores_mask_and_causality() {
        let [q, k, v] = values();
        let y = run(Op::Attention, Attrs::new(), 23, &[Some(&q), Some(&k), Some(&v)]).unwrap();
        // Weights (1/2, 1/2) and (1/3, 2/3).
        assert_near(y[0].as_slice::<f32>(), &[4.5, 5.0]);
        assert_near(y[3].as_slice::<f32>(), &[0.0, 0.0, 0.0, 2f32.ln()]);
        let causal = Attrs::new().with("is_causal", Attr::Int(1));
        let y = run(Op::Attention, causal, 23, &[Some(&q), Some(&k), Some(&v)]).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[3.0, 5.0]);
        let mask = Tensor::from_bools(&[2, 2], &[false, false, false, true]).unwrap();
        let y = run(Op::Attention, Attrs::new(), 23, &[Some(&q), Some(&k), Some(&v), Some(&mask)]).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[0.0, 6.0]);
    }

    #[test]
    fn past_keys_come_first_and_query_heads_share_key_heads() {
        let [_, k, v] = values();
        let q = f32s(&[1, 2, 1, 1], &[0.0, 2f32.ln()]);
        let (pk, pv) = (f32s(&[1, 1, 1, 1], &[0.0]), f32s(&[1, 1, 1, 1], &[9.0]));
        let y = run(Op::Attention, Attrs::new(), 23, &[Some(&q), Some(&k), Some(&v), None, Some(&pk), Some(&pv)]);
        let y = y.unwrap();
        assert_eq!(y[2].as_slice::<f32>(), [9., 3., 6.]);
        // Head 0 weighs all alike; head 1 by 1, 1, 2.
        assert_near(y[0].as_slice::<f32>(), &[6.0, 6.0]);
    }

    #[test]
    fn misfits_are_errors() {
        let [q, k, _] = values();
        let v = f32s(&[1, 1, 3, 1], &[0.0; 3]);
        assert!(run(Op::Attention, Attrs::new(), 23, &[Some(&q), Some(&k), Some(&v)]).is_err());
        let flat = f32s(&[1, 2, 1], &[0.0; 2]);
        assert!(run(Op::Attention, Attrs::new(), 23, &[Some(&flat), Some(&flat), Some(&flat)]).is_err());
    }
}
