//! The weights of a product, each with the channels that it joins.

use crate::error::Result;
use crate::place::Product;
use crate::product_rows::ProductRows;
use quantal_ir::Graph;
use quantal_tensor::Tensor;

/// The weights of a product as rows, one for each output channel.
#[derive(Clone, Debug)]
pub struct WeightRows {
    /// How they lie.
    pub form: ProductRows,
    values: Vec<f32>,
}

impl WeightRows {
    /// Those of a product; `None` if it is no matrix product of float32.
    pub fn of(graph: &Graph, product: &Product) -> Option<Self> {
        let weight = product.weighted.weight;
        let form = ProductRows::of(graph, graph.node(product.node), weight)?;
        let values = form.weight_rows(graph.constant(Some(weight))?.get::<f32>()?);
        (form.k > 0).then_some(Self { form, values })
    }

    /// Calls `look` with the output channel, the input channel and the value of each weight, row by row.
    pub fn each(&self, mut look: impl FnMut(usize, usize, f32)) {
        let (taps, inputs) = (self.form.taps(), self.form.k / self.form.taps());
        for (o, row) in self.values.chunks(self.form.k).enumerate() {
            let first = o / self.form.outputs * inputs;
            for (i, taps) in row.chunks(taps).enumerate() {
                for &w in taps {
                    look(o, first + i, w);
                }
            }
        }
    }

    /// Puts `of(output channel, input channel, weight)` in the place of each weight.
    pub fn replace(&self, graph: &mut Graph, product: &Product, of: impl Fn(usize, usize, f64) -> f64) -> Result<()> {
        let mut rows = Vec::with_capacity(self.values.len());
        self.each(|o, c, w| rows.push(of(o, c, f64::from(w)) as f32));
        let weight = product.weighted.weight;
        let shape = graph.value(weight).known_shape().unwrap_or_default();
        graph.set_constant(weight, Tensor::from_slice(&shape, &self.form.weight_of_rows(&rows))?);
        Ok(())
    }

    /// The largest magnitude among the weights of each input channel.
    pub fn reach_of_inputs(&self) -> Vec<f64> {
        let mut reach = vec![0.0_f64; self.form.inputs()];
        self.each(|_, c, w| reach[c] = reach[c].max(f64::from(w.abs())));
        reach
    }

    /// The largest magnitude among the weights of each output channel.
    pub fn reach_of_outputs(&self) -> Vec<f64> {
        let mut reach = vec![0.0_f64; self.form.groups * self.form.outputs];
        self.each(|o, _, w| reach[o] = reach[o].max(f64::from(w.abs())));
        reach
    }
}
