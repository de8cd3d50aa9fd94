//! LSTM and GRU, in both directions and layouts.

mod activation;

use super::number;
use super::walk::gather;
use super::{Context, Inputs, OpError, optional, required};
use crate::ops::strides::count;
use crate::steps::codes::refused;
use activation::Activation;
use quantal_ir::{Node, Op};
use quantal_kernels::float::{self, AView, BView, Epilogue, PackedB};
use quantal_tensor::{DType, Tensor};

/// A recurrent layer.
#[derive(Debug, Clone)]
pub struct Recurrent {
    op: Op,
    /// For each direction: whether it runs backwards, and its activations.
    directions: Vec<(bool, Vec<Activation>)>,
    hidden: Option<usize>,
    clip: f32,
    batch_first: bool,
    input_forget: bool,
    linear_before_reset: bool,
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
}

/// The weights of one direction, the matrices packed as `[in, gates · hidden]`.
struct Weights {
    w: PackedB,
    r: PackedB,
    /// The part of `r` that a GRU applies to the state after its reset.
    r_after_reset: Option<PackedB>,
    /// Input and recurrent bias, gate by gate.
    bias: Option<Vec<f32>>,
    peepholes: Option<Vec<f32>>,
}

impl Recurrent {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let backwards: &[bool] = match attrs.str_or("direction", "forward")? {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            other => return Err(OpError::invalid(format!("`direction` is unknown: {}", other.escape_debug()))),
        };
        let defaults: &[&str] = if node.op == Op::Lstm { &["Sigmoid", "Tanh", "Tanh"] } else { &["Sigmoid", "Tanh"] };
        let wanted = defaults.len() * backwards.len();
        let names = attrs.strs("activations")?.unwrap_or_else(|| defaults.repeat(backwards.len()));
        if names.len() != wanted {
            return Err(OpError::invalid(format!("`activations` has {} entries, must have {wanted}", names.len())));
        }
        let alpha = attrs.floats("activation_alpha")?.unwrap_or_default();
        let beta = attrs.floats("activation_beta")?.unwrap_or_default();
        let all = activation::parse(&names, alpha, beta)?;
        let directions = backwards.iter().zip(all.chunks(defaults.len())).map(|(&b, a)| (b, a.to_vec())).collect();
        let hidden = attrs.int("hidden_size")?;
        let hidden = hidden.map(|n| usize::try_from(n).map_err(|_| OpError::invalid(format!("`hidden_size` is {n}"))));
        let clip = attrs.float_or("clip", f32::INFINITY)?;
        if clip.is_nan() || clip < 0.0 {
            return Err(OpError::invalid(format!("`clip` is {clip}, must not be negative")));
        }
        Ok(Self {
            op: node.op,
            directions,
            hidden: hidden.transpose()?,
            clip,
            batch_first: attrs.flag("layout", false)?,
            input_forget: attrs.flag("input_forget", false)?,
            linear_before_reset: attrs.flag("linear_before_reset", false)?,
        })
    }

    fn gates(&self) -> usize {
        if self.op == Op::Lstm { 4 } else { 3 }
    }

    /// Runs over the sequence: Y, Y_h and for an LSTM Y_c.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let given = required(inputs, 0)?;
        let mut x = number::load_f32(self.op, given)?;
        let &[d0, d1, input] = x.shape() else {
            return Err(OpError::invalid(format!(
                "{} needs 3 dimensions, found shape {:?}",
                self.op.name(),
                x.shape()
            )));
        };
        if self.batch_first {
            x = gather::<f32>(x.as_slice(), &[d1, d0, input], &[input, d1 * input, 1])?;
        }
        let (steps, batch) = if self.batch_first { (d1, d0) } else { (d0, d1) };
        let (dirs, r) = (self.directions.len(), required(inputs, 2)?);
        let hidden = r.shape().last().copied().unwrap_or(0);
        if self.hidden.is_some_and(|h| h != hidden) {
            let h = self.hidden.unwrap_or(0);
            return Err(OpError::invalid(format!("`hidden_size` is {h}, the weights R have shape {:?}", r.shape())));
        }
        let sizes = Sizes { steps, batch, input, hidden };
        let lstm = self.op == Op::Lstm;
        let states = if lstm { 2 } else { 1 };
        let mut y = Tensor::zeros(DType::F32, &[steps, dirs, batch, hidden])?;
        let mut last = (0..states).map(|i| self.initial(inputs, 5 + i, sizes)).collect::<Result<Vec<_>, _>>()?;
        let lengths = self.lengths(inputs, sizes)?;
        for (d, (backwards, activations)) in self.directions.iter().enumerate() {
            let weights = self.weights(inputs, d, sizes)?;
            // What the inputs alone give to every gate of every step, in one product.
            let width = count(&[self.gates(), hidden])?;
            let mut from_x = Tensor::zeros(DType::F32, &[steps, batch, width])?;
            let rows = count(&[steps, batch])?;
            multiply(x.as_slice(), rows, &weights.w, from_x.as_mut_slice()?, width, context);
            let mut state: Vec<Tensor> = Vec::new();
            for t in &last {
                let run = batch * hidden;
                state.push(Tensor::from_slice(&[batch, hidden], &t.as_slice::<f32>()[d * run..][..run])?);
            }
            let mut from_h = Tensor::zeros(DType::F32, &[batch, width])?;
            let mut reset = Tensor::zeros(DType::F32, &[batch, hidden])?;
            if batch * hidden > 0 {
                for step in 0..steps {
                    self.step(
                        &Step {
                            sizes,
                            weights: &weights,
                            activations,
                            at: step,
                            dir: d,
                            backwards: *backwards,
                            lengths: &lengths,
                        },
                        from_x.as_slice(),
                        (from_h.as_mut_slice()?, reset.as_mut_slice()?),
                        &mut state,
                        y.as_mut_slice()?,
                        context,
                    )?;
                }
            }
            for (t, s) in last.iter_mut().zip(&state) {
                let run = batch * hidden;
                t.as_mut_slice::<f32>()?[d * run..][..run].copy_from_slice(s.as_slice());
            }
        }
        let mut all = vec![y];
        all.append(&mut last);
        if self.batch_first {
            let h = hidden;
            let y = gather::<f32>(all[0].as_slice(), &[batch, steps, dirs, h], &[h, dirs * batch * h, batch * h, 1])?;
            all[0] = y;
            for t in &mut all[1..] {
                *t = gather::<f32>(t.as_slice(), &[batch, dirs, h], &[h, batch * h, 1])?;
            }
        }
        all.into_iter().map(|t| number::store_as(t, given.dtype())).collect()
    }

    /// An initial state as `[directions, batch, hidden]`, zero if left out.
    fn initial(&self, inputs: &Inputs<'_>, i: usize, s: Sizes) -> Result<Tensor, OpError> {
        let dirs = self.directions.len();
        let Some(t) = optional(inputs, i) else { return Ok(Tensor::zeros(DType::F32, &[dirs, s.batch, s.hidden])?) };
        let wanted = if self.batch_first { [s.batch, dirs, s.hidden] } else { [dirs, s.batch, s.hidden] };
        self.shaped(i, t, &wanted)?;
        let t = number::load_f32(self.op, t)?;
        if !self.batch_first {
            return Ok(t);
        }
        gather::<f32>(t.as_slice(), &[dirs, s.batch, s.hidden], &[s.hidden, dirs * s.hidden, 1])
    }

    fn shaped(&self, i: usize, t: &Tensor, wanted: &[usize]) -> Result<(), OpError> {
        if t.shape() == wanted {
            return Ok(());
        }
        let (name, found) = (self.op.name(), t.shape());
        Err(OpError::invalid(format!("input {i} of {name} must have shape {wanted:?}, found {found:?}")))
    }

    fn lengths(&self, inputs: &Inputs<'_>, s: Sizes) -> Result<Option<Vec<usize>>, OpError> {
        let Some(t) = optional(inputs, 4) else { return Ok(None) };
        self.shaped(4, t, &[s.batch])?;
        let values = t.get::<i32>().ok_or_else(|| OpError::dtype(self.op, t.dtype()))?;
        let valid = |&n: &i32| usize::try_from(n).ok().filter(|&n| n <= s.steps);
        let lengths = values.iter().map(|n| {
            valid(n).ok_or_else(|| OpError::invalid(format!("a sequence length is {n}, there are {} steps", s.steps)))
        });
        lengths.collect::<Result<_, _>>().map(Some)
    }

    fn weights(&self, inputs: &Inputs<'_>, d: usize, s: Sizes) -> Result<Weights, OpError> {
        let (dirs, gates) = (self.directions.len(), self.gates());
        let width = count(&[gates, s.hidden])?;
        // Rows from `first` on, transposed.
        let matrix = |i: usize, inner: usize, first: usize| -> Result<PackedB, OpError> {
            let t = required(inputs, i)?;
            self.shaped(i, t, &[dirs, width, inner])?;
            let values = number::floats(self.op, t)?;
            let data = &values[(d * width + first) * inner..][..(width - first) * inner];
            PackedB::pack(BView { data, k: inner, n: width - first, stride_k: 1, stride_n: inner }).map_err(refused)
        };
        let split = self.op == Op::Gru && !self.linear_before_reset;
        let r_after_reset = if split { Some(matrix(2, s.hidden, 2 * s.hidden)?) } else { None };
        let vector = |i: usize, n: usize| -> Result<Option<Vec<f32>>, OpError> {
            let Some(t) = optional(inputs, i) else { return Ok(None) };
            self.shaped(i, t, &[dirs, n])?;
            Ok(Some(number::floats(self.op, t)?[d * n..][..n].to_vec()))
        };
        let peepholes = if self.op == Op::Lstm { vector(7, count(&[3, s.hidden])?)? } else { None };
        let bias = vector(3, count(&[2, width])?)?;
        Ok(Weights { w: matrix(1, s.input, 0)?, r: matrix(2, s.hidden, 0)?, r_after_reset, bias, peepholes })
    }

    /// One step of one direction: updates `state` and writes `y`, `[steps, directions, batch, hidden]`.
    fn step(
        &self,
        at: &Step<'_>,
        from_x: &[f32],
        (from_h, reset): (&mut [f32], &mut [f32]),
        state: &mut [Tensor],
        y: &mut [f32],
        context: &Context<'_>,
    ) -> Result<(), OpError> {
        let Sizes { batch, hidden, .. } = at.sizes;
        let width = self.gates() * hidden;
        multiply(state[0].as_slice(), batch, &at.weights.r, from_h, width, context);
        let w = |i: usize| at.weights.bias.as_ref().map_or(0.0, |b| b[i]);
        let clip = |v: f32| v.clamp(-self.clip, self.clip);
        let gru = self.op == Op::Gru;
        if let Some(r) = &at.weights.r_after_reset {
            // (r ∘ H) · R_h needs the reset gate first: its share of `from_h` is made anew below.
            let h = state[0].as_slice::<f32>();
            for b in 0..batch {
                let Some(time) = at.time(b) else { continue };
                let x = &from_x[(time * batch + b) * width..][..width];
                for j in 0..hidden {
                    let i = hidden + j;
                    let v = x[i] + from_h[b * width + i] + w(i) + w(width + i);
                    reset[b * hidden + j] = at.activations[0].apply(clip(v)) * h[b * hidden + j];
                }
            }
            multiply(reset, batch, r, &mut from_h[2 * hidden..], width, context);
        }
        let (first, rest) = state.split_at_mut(1);
        let h = first[0].as_mut_slice::<f32>()?;
        let mut none = [];
        let c = match rest.first_mut() {
            Some(c) => c.as_mut_slice::<f32>()?,
            None => &mut none,
        };
        for b in 0..batch {
            let Some(time) = at.time(b) else { continue };
            let x = &from_x[(time * batch + b) * width..][..width];
            let rec = &from_h[b * width..][..width];
            let out = &mut y[((time * self.directions.len() + at.dir) * batch + b) * hidden..][..hidden];
            for j in 0..hidden {
                let gate =
                    |g: usize| x[g * hidden + j] + rec[g * hidden + j] + w(g * hidden + j) + w(width + g * hidden + j);
                let old = b * hidden + j;
                if gru {
                    let z = at.activations[0].apply(clip(gate(0)));
                    let i = 2 * hidden + j;
                    let candidate = if self.linear_before_reset {
                        let reset = at.activations[0].apply(clip(gate(1)));
                        x[i] + w(i) + reset * (rec[i] + w(width + i))
                    } else {
                        gate(2)
                    };
                    let candidate = at.activations[1].apply(clip(candidate));
                    h[old] = (1.0 - z) * candidate + z * h[old];
                } else {
                    let peep = |g: usize| at.weights.peepholes.as_ref().map_or(0.0, |p| p[g * hidden + j]);
                    let [f, g, k] = [at.activations[0], at.activations[1], at.activations[2]];
                    let input = f.apply(clip(gate(0) + peep(0) * c[old]));
                    let forget =
                        if self.input_forget { 1.0 - input } else { f.apply(clip(gate(2) + peep(2) * c[old])) };
                    c[old] = forget * c[old] + input * g.apply(clip(gate(3)));
                    let output = f.apply(clip(gate(1) + peep(1) * c[old]));
                    h[old] = output * k.apply(c[old]);
                }
                out[j] = h[old];
            }
        }
        Ok(())
    }
}

/// `out = a · b` for `a` of `rows` dense rows, the rows of `out` `ldc` apart. `out` is zero where `b` has no rows.
fn multiply(a: &[f32], rows: usize, b: &PackedB, out: &mut [f32], ldc: usize, context: &Context<'_>) {
    if rows > 0 && b.k() > 0 && b.n() > 0 {
        let a = AView { data: a, m: rows, row_stride: b.k(), col_stride: 1 };
        float::gemm(context.isa, a, b, &Epilogue::NONE, out, ldc, context.threads);
    }
}

/// Where a step stands.
struct Step<'a> {
    sizes: Sizes,
    weights: &'a Weights,
    activations: &'a [Activation],
    at: usize,
    dir: usize,
    backwards: bool,
    lengths: &'a Option<Vec<usize>>,
}

impl Step<'_> {
    /// The position in the sequence of batch entry `b`; `None` once it has ended.
    fn time(&self, b: usize) -> Option<usize> {
        let length = self.lengths.as_ref().map_or(self.sizes.steps, |l| l[b]);
        if self.at >= length {
            return None;
        }
        Some(if self.backwards { length - 1 - self.at } else { self.at })
    }
}

#[cfg(test)]
mod tests;
