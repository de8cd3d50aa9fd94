//! A product by weights as a plain matrix product: rows of data times a matrix for each group.
//!
//! ```text
//! y[row, o] = Σ_k x[row, k] · w[o, k]        o: outputs of the group, k: its inputs (for a convolution times its taps)
//! ```

use quantal_ir::op::conv::{AutoPad, ConvAttrs};
use quantal_ir::op::gemm::GemmAttrs;
use quantal_ir::{Graph, Node, Op, ValueId};
use quantal_tensor::Tensor;

/// How the weights of a node lie, and which of its data a row is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ProductRows {
    form: Form,
    /// Groups, each with weights and inputs of its own.
    pub groups: usize,
    /// Outputs of a group.
    pub outputs: usize,
    /// Length of a row.
    pub k: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Conv(ConvAttrs),
    /// Weights `[outputs, k]`.
    OutputsFirst,
    /// Weights `[k, outputs]`.
    OutputsLast,
}

impl ProductRows {
    /// The form of a node whose constant `weight` it multiplies by; `None` for what is not a matrix product
    /// (transposed convolutions, weights of more than 2 dimensions in a MatMul).
    pub fn of(graph: &Graph, node: &Node, weight: ValueId) -> Option<Self> {
        let shape = graph.constant(Some(weight))?.shape();
        Some(match (node.op, shape) {
            (Op::Conv, [out, per_group, taps @ ..]) => {
                let attrs = ConvAttrs::of(&node.attrs, shape).ok()?;
                let (groups, k) = (attrs.group, per_group * taps.iter().product::<usize>());
                Self { form: Form::Conv(attrs), groups, outputs: out / groups, k }
            }
            (Op::Gemm, &[rows, columns]) if GemmAttrs::of(&node.attrs).ok()?.trans_b => {
                Self { form: Form::OutputsFirst, groups: 1, outputs: rows, k: columns }
            }
            (Op::Gemm | Op::MatMul, &[rows, columns]) => {
                Self { form: Form::OutputsLast, groups: 1, outputs: columns, k: rows }
            }
            _ => return None,
        })
    }

    /// Weights that join one input to one output: positions of a convolution's window.
    pub fn taps(&self) -> usize {
        match &self.form {
            Form::Conv(attrs) => attrs.window.kernel.iter().product(),
            Form::OutputsFirst | Form::OutputsLast => 1,
        }
    }

    /// Number of input channels, of all groups.
    pub fn inputs(&self) -> usize {
        self.groups * self.k / self.taps().max(1)
    }

    /// Whether some outputs see zeros beside the data.
    pub fn is_padded(&self) -> bool {
        let Form::Conv(attrs) = &self.form else { return false };
        let w = &attrs.window;
        match w.auto_pad {
            AutoPad::Explicit => w.pads_begin.iter().chain(&w.pads_end).any(|&p| p > 0),
            AutoPad::Valid => false,
            AutoPad::SameUpper | AutoPad::SameLower => true,
        }
    }

    /// Elements of the weights as rows `[groups · outputs, k]`.
    pub fn weight_rows(&self, weight: &[f32]) -> Vec<f32> {
        match self.form {
            Form::Conv(_) | Form::OutputsFirst => weight.to_vec(),
            Form::OutputsLast => turned(weight, self.k, self.outputs),
        }
    }

    /// The way back: rows `[groups · outputs, k]` as elements of the weights.
    pub fn weight_of_rows(&self, rows: &[f32]) -> Vec<f32> {
        match self.form {
            Form::Conv(_) | Form::OutputsFirst => rows.to_vec(),
            Form::OutputsLast => turned(rows, self.outputs, self.k),
        }
    }

    /// At most `most` rows of the data of one sample, evenly spaced, for each group: `[groups][rows · k]`. Nothing if the
    /// data do not fit the weights.
    pub fn data_rows(&self, data: &Tensor, most: usize) -> Vec<Vec<f32>> {
        let x = data.as_slice::<f32>();
        match &self.form {
            Form::Conv(attrs) => self.patches(attrs, data.shape(), x, most).unwrap_or_default(),
            Form::OutputsFirst | Form::OutputsLast => {
                if data.shape().last() != Some(&self.k) || self.k == 0 {
                    return Vec::new();
                }
                let rows = x.len() / self.k;
                let step = rows.div_ceil(most).max(1);
                vec![x.chunks_exact(self.k).step_by(step).flatten().copied().collect()]
            }
        }
    }

    /// The patches that a convolution sees, zero where they reach into the padding.
    fn patches(&self, attrs: &ConvAttrs, shape: &[usize], x: &[f32], most: usize) -> Option<Vec<Vec<f32>>> {
        let w = &attrs.window;
        let (batch, channels, space) = (*shape.first()?, *shape.get(1)?, shape.get(2..)?);
        let taps: usize = w.kernel.iter().product();
        let per_group = channels / self.groups;
        if space.len() != w.kernel.len() || per_group * taps != self.k {
            return None;
        }
        let sizes: Vec<usize> =
            space.iter().enumerate().map(|(i, &n)| w.output_size(i, n, false)).collect::<Option<_>>()?;
        let before: Vec<usize> =
            space.iter().enumerate().map(|(i, &n)| Some(w.padding(i, n)?.0)).collect::<Option<_>>()?;
        let (area, positions): (usize, usize) = (space.iter().product(), sizes.iter().product());
        let step = (batch * positions).div_ceil(most).max(1);
        let mut rows = vec![Vec::new(); self.groups];
        for at in (0..batch * positions).step_by(step) {
            let (image, corner) = (at / positions, unravel(at % positions, &sizes));
            // Where each tap lies in the image, if it does: the same for all channels.
            let places: Vec<Option<usize>> = (0..taps)
                .map(|tap| {
                    let tap = unravel(tap, &w.kernel);
                    (0..space.len()).try_fold(0, |place, i| {
                        let p = (corner[i] * w.strides[i] + tap[i] * w.dilations[i]).checked_sub(before[i])?;
                        (p < space[i]).then_some(place * space[i] + p)
                    })
                })
                .collect();
            for c in 0..channels {
                let plane = &x[(image * channels + c) * area..][..area];
                rows[c / per_group].extend(places.iter().map(|p| p.map_or(0.0, |p| plane[p])));
            }
        }
        Some(rows)
    }
}

/// The index along each axis.
fn unravel(mut at: usize, sizes: &[usize]) -> Vec<usize> {
    let mut index = vec![0; sizes.len()];
    for (i, &n) in sizes.iter().enumerate().rev() {
        (index[i], at) = (at % n, at / n);
    }
    index
}

fn turned(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::Build;
    use quantal_ir::{Attr, Attrs};
    use quantal_runtime::{Mode, Session, compile};

    /// Rows times weights against the operator itself.
    fn agrees(op: Op, x_shape: &[usize], w_shape: &[usize], attrs: Attrs) {
        let mut b = Build::new();
        let x = b.input("x", x_shape);
        let w = b.constant("w", w_shape);
        let y = b.node(op, &[x, w], attrs);
        b.graph.outputs = vec![y];
        let n: usize = x_shape.iter().product();
        let data: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
        let data = Tensor::from_slice(x_shape, &data).unwrap();
        let node = b.graph.nodes().last().unwrap().1;
        let form = ProductRows::of(&b.graph, node, w).unwrap();
        let weight = b.graph.constant(Some(w)).unwrap().as_slice::<f32>().to_vec();
        let weights = form.weight_rows(&weight);
        assert_eq!(form.weight_of_rows(&weights), weight);
        let program = compile(&b.graph, Mode::Simulate, quantal_kernels::Isa::PORTABLE).unwrap();
        let expected = Session::new(program, 1).run(&[("x".into(), data.clone())]).unwrap().remove(0).1;
        // Expected: [batch, outputs, positions] for a convolution, [rows, outputs] for a matrix.
        let rows = form.data_rows(&data, usize::MAX);
        let positions = rows[0].len() / form.k;
        for (g, rows) in rows.iter().enumerate() {
            for (r, row) in rows.chunks(form.k).enumerate() {
                for o in 0..form.outputs {
                    let channel = g * form.outputs + o;
                    let sum: f32 = row.iter().zip(&weights[channel * form.k..]).map(|(a, b)| a * b).sum();
                    let outputs = form.groups * form.outputs;
                    let at = if op == Op::Conv {
                        let area = positions / x_shape[0];
                        (r / area * outputs + channel) * area + r % area
                    } else {
                        r * outputs + channel
                    };
                    assert!((sum - expected.as_slice::<f32>()[at]).abs() < 1e-4, "{op:?} {r} {channel}");
                }
            }
        }
    }

    #[test]
    fn rows_times_weights_are_the_product() {
        agrees(Op::MatMul, &[2, 3, 4], &[4, 5], Attrs::new());
        agrees(Op::Gemm, &[3, 4], &[5, 4], Attrs::new().with("transB", Attr::Int(1)));
        let padded = || Attrs::new().with("pads", Attr::Ints(vec![1, 0, 1, 2])).with("strides", Attr::Ints(vec![2, 1]));
        agrees(Op::Conv, &[2, 4, 5, 6], &[3, 4, 3, 2], padded());
        agrees(Op::Conv, &[1, 4, 5, 6], &[8, 1, 3, 3], padded().with("group", Attr::Int(4)));
    }

    #[test]
    fn a_bound_takes_rows_evenly() {
        let form = ProductRows { form: Form::OutputsLast, groups: 1, outputs: 1, k: 2 };
        let data = Tensor::from_slice(&[5, 2], &(0..10).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        assert_eq!(form.data_rows(&data, 2), [[0.0, 1.0, 6.0, 7.0]]);
        assert!(form.data_rows(&Tensor::from_slice(&[3], &[0.0_f32; 3]).unwrap(), 2).is_empty());
    }
}
