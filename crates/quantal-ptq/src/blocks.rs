//! Blocks: the products that read one value, and what makes it. Between them a factor can move for each channel:
//!
//! ```text
//! (x / s) · (s · W) = x · W        s: one factor above 0 for each channel of x
//! ```
//!
//! The weights of the readers take s; the maker of x takes 1 / s into the weights and the bias of a product or the scale
//! and the bias of a normalization. Between a maker and x there may be functions with `f(x / s) = f(x) / s`. A Clip is
//! none: its bound is one number for all channels.

use crate::error::Result;
use crate::place::Product;
use crate::weight_rows::WeightRows;
use quantal_ir::graph::Uses;
use quantal_ir::{Attrs, Graph, Node, NodeId, Op, ValueId};
use quantal_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// The products that read one value, and what its channels' factors can move into.
#[derive(Clone, Debug)]
pub struct Block {
    /// The value.
    pub value: ValueId,
    /// Number of its channels: along axis 1 of what convolutions read, along the last axis otherwise.
    pub channels: usize,
    /// The products that read it.
    pub readers: Vec<Product>,
    /// Whatever else reads it, and must get it as it was.
    pub others: Vec<NodeId>,
    /// The product that makes it; `None` if a normalization or a constant factor does.
    pub maker: Option<Product>,
    /// Constant vectors that multiply it elsewhere: they take the factors as the readers' weights do.
    pub multiplied: Vec<ValueId>,
    /// Whether all between its maker and it leaves what is above 0 as it is, and brings nothing above 0.
    pub rectified: bool,
    /// What is divided with the channels besides the maker's weights: biases, the scale of a normalization.
    vectors: Vec<ValueId>,
}

/// All blocks of a graph, by value. Weights that other nodes read too have none.
pub fn blocks(graph: &Graph, products: &[Product]) -> Vec<Block> {
    let uses = graph.uses();
    let makers: BTreeMap<NodeId, &Product> = products.iter().map(|p| (p.node, p)).collect();
    let mut readers: BTreeMap<ValueId, Vec<Product>> = BTreeMap::new();
    for product in products {
        readers.entry(product.weighted.data).or_default().push(product.clone());
    }
    readers.into_iter().filter_map(|(value, readers)| Block::of(graph, &uses, &makers, value, readers)).collect()
}

impl Block {
    fn of(
        graph: &Graph,
        uses: &Uses,
        makers: &BTreeMap<NodeId, &Product>,
        value: ValueId,
        readers: Vec<Product>,
    ) -> Option<Self> {
        let is_conv = |id: NodeId| graph.node(id).op == Op::Conv;
        let conv = is_conv(readers[0].node);
        let channels = WeightRows::of(graph, &readers[0])?.form.inputs();
        let fits = |p: &Product| {
            let rows = WeightRows::of(graph, p);
            is_conv(p.node) == conv
                && is_own(graph, uses, p.weighted.weight)
                && rows.is_some_and(|r| r.form.inputs() == channels)
        };
        let all = uses.readers(value);
        let captured = all.iter().any(|&r| graph.node(r).captures.contains(&value));
        if graph.is_output(value) || captured || !readers.iter().all(fits) {
            return None;
        }
        // A shape is the same whatever the factors.
        let needs = |id: &NodeId| readers.iter().all(|p| p.node != *id) && graph.node(*id).op != Op::Shape;
        let mut others: Vec<NodeId> = all.iter().copied().filter(needs).collect();
        if conv && !others.is_empty() {
            return None;
        }
        let fits = |v: &ValueId| is_own(graph, uses, *v) && is_vector(graph, *v, channels);
        let factor = |id: &NodeId| {
            let node = graph.node(*id);
            node.reads().find(|&v| v != value).filter(|v| node.op == Op::Mul && fits(v))
        };
        let multiplied = others.iter().filter_map(factor).collect();
        others.retain(|id| factor(id).is_none());
        let mut block =
            Self { value, channels, readers, others, maker: None, multiplied, rectified: true, vectors: Vec::new() };
        block.find_maker(graph, uses, makers, conv)?;
        block.vectors.iter().all(fits).then_some(block)
    }

    /// Goes back from the value to what its channels' factors can move into.
    fn find_maker(
        &mut self,
        graph: &Graph,
        uses: &Uses,
        makers: &BTreeMap<NodeId, &Product>,
        conv: bool,
    ) -> Option<()> {
        let mut at = self.value;
        loop {
            if at != self.value && (uses.readers(at).len() != 1 || graph.is_output(at)) {
                return None;
            }
            let id = uses.producer(at)?;
            let node = graph.node(id);
            at = match node.op {
                Op::Relu => node.input(0)?,
                // A slope below 0 does bring it.
                Op::LeakyRelu | Op::PRelu => {
                    self.rectified = false;
                    node.input(0)?
                }
                Op::MaxPool if conv => node.input(0)?,
                Op::Add | Op::Mul if !conv => {
                    let is_vector = |&v: &ValueId| graph.constant(Some(v)).is_some();
                    let vector = node.reads().find(is_vector)?;
                    self.vectors.push(vector);
                    if node.op == Op::Mul {
                        return Some(());
                    }
                    node.reads().find(|&v| v != vector)?
                }
                Op::LayerNormalization | Op::RmsNormalization | Op::SimplifiedLayerNormalization if !conv => {
                    self.vectors.extend(node.inputs.iter().skip(1).flatten());
                    return Some(());
                }
                _ => {
                    let maker = *makers.get(&id)?;
                    let form = WeightRows::of(graph, maker)?.form;
                    let fits =
                        form.groups * form.outputs == self.channels && is_own(graph, uses, maker.weighted.weight);
                    self.vectors.extend(node.input(2));
                    self.maker = Some(maker.clone());
                    return (fits && (node.op == Op::Conv) == conv).then_some(());
                }
            };
        }
    }

    /// The weights of the maker or of a reader of a block.
    ///
    /// # Panics
    /// If the product is another one, and no matrix product.
    pub fn rows(graph: &Graph, product: &Product) -> WeightRows {
        WeightRows::of(graph, product).expect("a block is made of matrix products")
    }

    /// The largest magnitude among the weights that read each channel.
    pub fn reach_of_readers(&self, graph: &Graph) -> Vec<f64> {
        let mut reach = vec![0.0_f64; self.channels];
        for reader in &self.readers {
            let more = Self::rows(graph, reader).reach_of_inputs();
            reach.iter_mut().zip(more).for_each(|(a, b)| *a = a.max(b));
        }
        reach
    }

    /// Divides the channels of the value by `factors`, each above 0, and multiplies what reads them.
    pub fn scale(&self, graph: &mut Graph, factors: &[f64]) -> Result<()> {
        for &v in &self.vectors {
            replace(graph, v, |c, x| x / factors[c])?;
        }
        for &v in &self.multiplied {
            replace(graph, v, |c, x| x * factors[c])?;
        }
        if let Some(maker) = &self.maker {
            Self::rows(graph, maker).replace(graph, maker, |o, _, w| w / factors[o])?;
        }
        for reader in &self.readers {
            Self::rows(graph, reader).replace(graph, reader, |_, c, w| w * factors[c])?;
        }
        self.give_back(graph, factors)
    }

    /// Multiplies the value for those of its readers that have no weights.
    fn give_back(&self, graph: &mut Graph, factors: &[f64]) -> Result<()> {
        if self.others.is_empty() {
            return Ok(());
        }
        let value = graph.value(self.value).clone();
        let factors: Vec<f32> = factors.iter().map(|&s| s as f32).collect();
        let factors =
            graph.add_constant(&format!("{}_factors", value.name), Tensor::from_slice(&[self.channels], &factors)?);
        let name = format!("{}_rescaled", value.name);
        let back = graph.add_value(&name, value.dtype, value.shape);
        let inputs = vec![Some(self.value), Some(factors)];
        graph.add_node(Node::new(Op::Mul, &name, inputs, vec![back], Attrs::new()));
        for &id in &self.others {
            graph.node_mut(id).inputs.iter_mut().filter(|v| **v == Some(self.value)).for_each(|v| *v = Some(back));
        }
        graph.sort().expect("the new node reads what its readers read before");
        Ok(())
    }
}

/// Whether a value is a constant with one float for each channel of the last axis.
fn is_vector(graph: &Graph, v: ValueId, channels: usize) -> bool {
    let tensor = graph.constant(Some(v)).filter(|t| t.dtype() == DType::F32);
    tensor.is_some_and(|t| t.len() == channels && t.shape().last() == Some(&channels))
}

/// Puts `of(channel, element)` in the place of each element of a vector.
fn replace(graph: &mut Graph, v: ValueId, of: impl Fn(usize, f64) -> f64) -> Result<()> {
    let tensor = graph.constant(Some(v)).expect("a block's vectors are constants");
    let replaced = tensor.as_slice::<f32>().iter().enumerate().map(|(c, &x)| of(c, f64::from(x)) as f32);
    let replaced = Tensor::from_slice(tensor.shape(), &replaced.collect::<Vec<_>>())?;
    graph.set_constant(v, replaced);
    Ok(())
}

/// Whether a constant is there for one node alone.
fn is_own(graph: &Graph, uses: &Uses, v: ValueId) -> bool {
    uses.readers(v).len() == 1 && !graph.is_output(v)
}
