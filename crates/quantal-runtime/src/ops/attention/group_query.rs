//! GroupQueryAttention of ONNX Runtime: causal attention of a decoder with its cache, whose query heads share key heads.

use super::super::number::{self, Number};
use super::super::walk::gather;
use super::super::{Context, Inputs, OpError, optional, required};
use super::extended_range;
use quantal_ir::{Node, Op};
use quantal_kernels::float;
use quantal_tensor::{DType, Tensor};

const OP: Op = Op::GroupQueryAttention;

/// The attributes of GroupQueryAttention.
#[derive(Debug, Clone)]
pub struct GroupQuery {
    heads: usize,
    kv_heads: usize,
    scale: f32,
    softcap: f32,
    /// Keys that a query sees, itself included; `None` for all before it.
    window: Option<usize>,
    /// Whether each row of scores has one more, 0, whose weight goes nowhere.
    smooth: bool,
    /// Whether queries and keys are turned by position, and whether the pairs lie side by side.
    rotary: Option<bool>,
}

/// Queries, keys and values of one call: `[batch, heads, length, size]` each.
struct Now {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl GroupQuery {
    pub(super) fn of(node: &Node) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let heads = |name: &str| -> Result<usize, OpError> {
            let n = attrs.int_or(name, 0)?;
            let heads = usize::try_from(n).ok().filter(|&n| n > 0);
            heads.ok_or_else(|| OpError::invalid(format!("`{name}` is {n}, must be at least 1")))
        };
        let (heads, kv_heads) = (heads("num_heads")?, heads("kv_num_heads")?);
        if !heads.is_multiple_of(kv_heads) {
            return Err(OpError::invalid(format!("{heads} query heads do not share {kv_heads} key heads evenly")));
        }
        let inputs = [
            (12, "a quantized cache"),
            (13, "a quantized cache"),
            (14, "normalized queries"),
            (15, "normalized keys"),
            (16, "lengths of queries"),
        ];
        let mut refused = inputs.iter().find(|(i, _)| node.input(*i).is_some()).map(|(_, what)| *what);
        for (name, fine, what) in [
            ("causal", 1, "queries that see later keys"),
            ("qk_output", 0, "its scores as an output"),
            ("kv_cache_bit_width", 0, "a quantized cache"),
            ("sliding_window_cache", 0, "a cache that slides"),
        ] {
            if !matches!(attrs.int_or(name, fine)?, n if n == fine || (n == -1 && fine == 0)) {
                refused = Some(what);
            }
        }
        if let Some(what) = refused.or(node.output(3).map(|_| "its scores as an output")) {
            return Err(OpError::Unsupported(format!("GroupQueryAttention with {what}")));
        }
        Ok(Self {
            heads,
            kv_heads,
            scale: attrs.float_or("scale", 0.0)?,
            softcap: attrs.float_or("softcap", 0.0)?,
            window: usize::try_from(attrs.int_or("local_window_size", -1)?).ok().filter(|&w| w > 0),
            smooth: attrs.int_or("smooth_softmax", 0)? > 0,
            rotary: if attrs.flag("do_rotary", false)? { Some(attrs.flag("rotary_interleaved", false)?) } else { None },
        })
    }

    /// The heads of `rows`, `[batch, length, total]`, from feature `first` on.
    fn heads_of(rows: &Tensor, first: usize, heads: usize, size: usize) -> Result<Tensor, OpError> {
        let &[b, s, total] = rows.shape() else {
            return Err(OpError::invalid(format!("an input of shape {:?}, must have 3 dimensions", rows.shape())));
        };
        if first + heads * size > total {
            return Err(OpError::invalid(format!("{heads} heads of {size} features do not fit {total}")));
        }
        let rows = number::floats(OP, rows)?;
        if rows.is_empty() {
            return Ok(Tensor::zeros(DType::F32, &[b, heads, s, size])?);
        }
        gather::<f32>(&rows[first..], &[b, heads, s, size], &[s * total, size, total, 1])
    }

    fn now(&self, inputs: &Inputs<'_>) -> Result<Now, OpError> {
        let query = required(inputs, 0)?;
        let hidden = query.shape().last().copied().unwrap_or(0);
        let (n, k) = (self.heads, self.kv_heads);
        let Some(key) = optional(inputs, 1) else {
            let size = hidden / (n + 2 * k);
            return Ok(Now {
                q: Self::heads_of(query, 0, n, size)?,
                k: Self::heads_of(query, n * size, k, size)?,
                v: Self::heads_of(query, (n + k) * size, k, size)?,
            });
        };
        let (size, value) = (hidden / n, required(inputs, 2)?);
        Ok(Now {
            q: Self::heads_of(query, 0, n, size)?,
            k: Self::heads_of(key, 0, k, size)?,
            v: Self::heads_of(value, 0, k, value.shape().last().map_or(0, |h| h / k))?,
        })
    }

    /// Applies it: the output, and the keys and values with those of the past.
    pub(super) fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let dtype = required(inputs, 0)?.dtype();
        let Now { mut q, mut k, v } = self.now(inputs)?;
        let (&[batch, heads, n, size], &[kb, _, kn, v_size]) = (q.shape(), v.shape()) else {
            return Err(OpError::invalid("queries and values do not fit each other"));
        };
        if (kb, kn, size) != (batch, n, v_size) || k.shape() != v.shape() {
            let (q, k, v) = (q.shape(), k.shape(), v.shape());
            return Err(OpError::invalid(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit each other")));
        }
        let total = number::one_int("total_sequence_length", required(inputs, 6)?)?;
        let total = usize::try_from(total).map_err(|_| OpError::invalid("total_sequence_length is below 0"))?;
        let lengths = Self::lengths(inputs, batch, n, total)?;
        // Keys that were there before the first query; a prompt has none, however short its row of the batch is.
        let before: Vec<usize> = lengths.iter().map(|&l| if n == total { 0 } else { l - n }).collect();
        if let Some(interleaved) = self.rotary {
            let positions = Self::positions(inputs, &before, n, n == total)?;
            for t in [&mut q, &mut k] {
                turn(t, inputs, &positions, interleaved)?;
            }
        }
        let past = [optional(inputs, 3), optional(inputs, 4)];
        let key = extended_range("past_key", past[0], &k, total, &before)?;
        let value = extended_range("past_value", past[1], &v, total, &before)?;
        let length = key.shape()[2];
        let bias = optional(inputs, 10);
        let sinks = optional(inputs, 11).map(|t| number::floats(OP, t)).transpose()?;
        if sinks.as_ref().is_some_and(|s| s.len() != heads) {
            return Err(OpError::invalid(format!("head_sink must hold {heads} numbers")));
        }
        let added = bias.map(|t| number::floats(OP, t)).transpose()?;
        let scale = if self.scale == 0.0 { 1.0 / (size as f32).sqrt() } else { self.scale };
        let group = heads / self.kv_heads;
        let mut y = Tensor::zeros(DType::F32, &[batch, heads, n, size])?;
        let out = y.as_mut_slice::<f32>()?;
        for (i, out) in out.chunks_exact_mut((group * n * size).max(1)).enumerate() {
            let (b, rows) = (i / self.kv_heads, group * n);
            // A prompt that is shorter than its row has nothing behind its end to see.
            let seen = (before[b] + n).min(length).min(lengths[b]);
            let keys = &key.as_slice::<f32>()[i * length * size..][..seen * size];
            let keys = gather::<f32>(keys, &[size, seen], &[1, size])?;
            let mut scores = Tensor::zeros(DType::F32, &[rows, seen])?;
            let scores = scores.as_mut_slice::<f32>()?;
            let queries = &q.as_slice::<f32>()[i * rows * size..][..rows * size];
            f32::product(scores, queries, keys.as_slice(), [rows, size, seen], context)?;
            for (r, row) in scores.chunks_exact_mut(seen.max(1)).enumerate() {
                let (h, s) = (i % self.kv_heads * group + r / n, r % n);
                let end = (before[b] + s + 1).min(seen);
                let start = self.window.map_or(0, |w| end.saturating_sub(w));
                let extra = match (bias, &added) {
                    (Some(t), Some(values)) => Some(bias_row(t, values, [b, h, s])?),
                    _ => None,
                };
                for (j, v) in row.iter_mut().enumerate() {
                    *v *= scale;
                    if self.softcap > 0.0 {
                        *v = self.softcap * libm::tanhf(*v / self.softcap);
                    }
                    *v += extra.and_then(|e| e.get(j)).copied().unwrap_or(0.0);
                    if j < start || j >= end {
                        *v = f32::NEG_INFINITY;
                    }
                }
            }
            let mut weights = Tensor::zeros(DType::F32, &[rows, seen])?;
            let weights = weights.as_mut_slice::<f32>()?;
            if seen > 0 {
                float::softmax(context.isa, scores, seen, false, weights, context.threads);
            }
            for (r, (weights, scores)) in
                weights.chunks_exact_mut(seen.max(1)).zip(scores.chunks_exact(seen.max(1))).enumerate()
            {
                let sink = match &sinks {
                    Some(sinks) => sinks[i % self.kv_heads * group + r / n],
                    None if self.smooth => 0.0,
                    None => continue,
                };
                drain(weights, scores, sink);
            }
            let values = &value.as_slice::<f32>()[i * length * size..][..seen * size];
            f32::product(out, weights, values, [rows, seen, size], context)?;
        }
        let inner = n * size;
        let y = gather::<f32>(y.as_slice(), &[batch, n, heads, size], &[heads * inner, size, inner, 1])?;
        let y = y.reshaped(&[batch, n, heads * size])?;
        [y, key, value].into_iter().map(|t| number::store_as(t, dtype)).collect()
    }

    /// The number of keys of each batch entry, those of this call included.
    fn lengths(inputs: &Inputs<'_>, batch: usize, n: usize, total: usize) -> Result<Vec<usize>, OpError> {
        let given = required(inputs, 5)?.to_i64_vec().unwrap_or_default();
        if given.len() != batch {
            return Err(OpError::invalid(format!("seqlens_k holds {} numbers for a batch of {batch}", given.len())));
        }
        let least = if n == total { 1 } else { n };
        let length = |&last: &i64| {
            let length = last.checked_add(1).and_then(|l| usize::try_from(l).ok());
            length
                .filter(|l| (least..=total).contains(l))
                .ok_or_else(|| OpError::invalid(format!("seqlens_k holds {last}, with {n} new keys of {total} in all")))
        };
        given.iter().map(length).collect()
    }

    /// The position of each query and key of this call, `[batch, length]`.
    fn positions(inputs: &Inputs<'_>, before: &[usize], n: usize, prompt: bool) -> Result<Vec<usize>, OpError> {
        let Some(t) = optional(inputs, 9) else {
            return Ok(before.iter().flat_map(|&first| first..first + n).collect());
        };
        let given = t.to_i64_vec().filter(|v| v.len() == before.len() * n);
        let given = given.ok_or_else(|| OpError::invalid(format!("position_ids of shape {:?}", t.shape())))?;
        // ONNX Runtime takes the first one of a prompt for its start, and counts on from it.
        let given: Vec<i64> = match given.first() {
            Some(&first) if prompt => before.iter().flat_map(|_| (first..).take(n)).collect(),
            _ => given,
        };
        given.iter().map(|&p| usize::try_from(p).map_err(|_| OpError::invalid(format!("position {p}")))).collect()
    }
}

/// Takes from the weights of a row what a further score, the sink, would have got.
fn drain(weights: &mut [f32], scores: &[f32], sink: f32) {
    let most = scores.iter().copied().fold(sink, f32::max);
    let of = |score: f32| libm::exp(f64::from(score - most));
    let sum: f64 = scores.iter().map(|&s| of(s)).sum();
    let left = (sum / (sum + of(sink))) as f32;
    for w in weights {
        *w *= left;
    }
}

/// Turns `t`, `[batch, heads, length, size]`, by the angles of its positions.
fn turn(t: &mut Tensor, inputs: &Inputs<'_>, positions: &[usize], interleaved: bool) -> Result<(), OpError> {
    let (cos, sin) = (required(inputs, 7)?, required(inputs, 8)?);
    let &[_, heads, n, size] = t.shape() else { return Err(OpError::invalid("heads must have 4 dimensions")) };
    let half = match (cos.shape(), sin.shape()) {
        (a @ &[_, half], b) if a == b && 2 * half <= size => half,
        (a, b) => return Err(OpError::invalid(format!("caches of shapes {a:?} and {b:?} for heads of {size}"))),
    };
    let (cos, sin) = (number::floats(OP, cos)?, number::floats(OP, sin)?);
    for (i, row) in t.as_mut_slice::<f32>()?.chunks_exact_mut(size.max(1)).enumerate() {
        let at = positions[i / (heads * n) * n + i % n];
        let angles = |c: &[f32]| at.checked_mul(half).and_then(|from| Some(c.get(from..from + half)?.to_vec()));
        let (Some(cos), Some(sin)) = (angles(&cos), angles(&sin)) else {
            return Err(OpError::invalid(format!("position {at} is outside of the cache of angles")));
        };
        for (j, (c, s)) in cos.into_iter().zip(sin).enumerate() {
            let (p, q) = if interleaved { (2 * j, 2 * j + 1) } else { (j, half + j) };
            let (u, v) = (row[p], row[q]);
            row[p] = c * u - s * v;
            row[q] = s * u + c * v;
        }
    }
    Ok(())
}

/// What is added to the scores of one query: a row of `[batch or 1, heads or 1, queries, keys]`.
fn bias_row<'a>(t: &Tensor, values: &'a [f32], [b, h, s]: [usize; 3]) -> Result<&'a [f32], OpError> {
    let &[batches, heads, queries, keys] = t.shape() else {
        return Err(OpError::invalid(format!("attention_bias of shape {:?}, must have 4 dimensions", t.shape())));
    };
    let at = |i: usize, n: usize| if n == 1 { Some(0) } else { Some(i).filter(|&i| i < n) };
    let row = at(b, batches)
        .zip(at(h, heads))
        .zip(Some(s).filter(|&s| s < queries))
        .and_then(|((b, h), s)| values.get(((b * heads + h) * queries + s) * keys..)?.get(..keys));
    row.ok_or_else(|| OpError::invalid(format!("attention_bias of shape {:?} is too small", t.shape())))
}

#[cfg(test)]
mod tests;
