//! The range in which a value lies whatever is fed, as far as the graph alone says.

use crate::graph::{Graph, Node, NodeId, Uses, ValueId};
use crate::op::Op;
use quantal_tensor::{DType, arith};
use std::collections::BTreeMap;

/// How many nodes back a range is followed.
const DEPTH: usize = 32;
/// A constant with more elements is not looked at.
const LARGEST_CONSTANT: usize = 1 << 16;
/// Nothing is known.
const ALL: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// Ranges that were found, by value.
pub(super) struct Bounds {
    known: BTreeMap<ValueId, [f32; 2]>,
    /// Values from this one on are newer than the uses.
    fresh: usize,
}

impl Bounds {
    /// None yet; of values that are added to the graph later only what is [set](Self::set) will be known.
    pub(super) fn new(graph: &Graph) -> Self {
        Self { known: BTreeMap::new(), fresh: graph.value_count() }
    }

    /// Says in which range a value lies from now on.
    pub(super) fn set(&mut self, v: ValueId, range: [f32; 2]) {
        self.known.insert(v, range);
    }

    /// The least and the greatest number that `v` can be, infinite where no bound is known. `uses` are those of the
    /// graph that this was made for.
    pub(super) fn of(&mut self, graph: &Graph, uses: &Uses, v: ValueId) -> [f32; 2] {
        self.search(graph, uses, v, DEPTH)
    }

    fn search(&mut self, graph: &Graph, uses: &Uses, v: ValueId, depth: usize) -> [f32; 2] {
        if let Some(range) = self.known.get(&v) {
            return *range;
        }
        if depth == 0 || v.0 as usize >= self.fresh {
            return ALL;
        }

        let range = match (graph.constant(Some(v)), uses.producer(v)) {
            (Some(tensor), _) if tensor.len() <= LARGEST_CONSTANT => {
                let values = tensor.get::<f32>().unwrap_or_default();
                values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[lo, hi], &x| [lo.min(x), hi.max(x)])
            }
            (None, Some(id)) if graph.contains(id) => self.made_by(graph, uses, id, depth - 1),
            _ => ALL,
        };
        let range = if range[0] <= range[1] { range } else { ALL };
        self.known.insert(v, range);
        range
    }

    fn made_by(&mut self, graph: &Graph, uses: &Uses, id: NodeId, depth: usize) -> [f32; 2] {
        let node = graph.node(id);
        let mut input = |i: usize| node.input(i).map_or(ALL, |v| self.search(graph, uses, v, depth));
        match node.op {
            Op::Relu => input(0).map(|end| end.max(0.0)),
            Op::Clip => {
                let Some([lo, hi]) = clip_bounds(graph, node) else { return ALL };
                input(0).map(|end| end.max(lo).min(hi))
            }
            Op::Sigmoid | Op::HardSigmoid | Op::Softmax => [0.0, 1.0],
            Op::Tanh | Op::Erf | Op::Sin | Op::Cos => [-1.0, 1.0],
            Op::Abs | Op::Exp | Op::Sqrt | Op::Softplus => [0.0, f32::INFINITY],
            Op::MaxPool
            | Op::GlobalMaxPool
            | Op::GlobalAveragePool
            | Op::ReduceMax
            | Op::ReduceMin
            | Op::ReduceMean
            | Op::Identity
            | Op::Dropout
            | Op::Reshape
            | Op::Flatten
            | Op::Squeeze
            | Op::Unsqueeze
            | Op::Transpose
            | Op::Expand
            | Op::Tile
            | Op::Slice
            | Op::Split
            | Op::Gather
            | Op::GatherElements
            | Op::GatherND
            | Op::DepthToSpace
            | Op::SpaceToDepth => input(0),
            Op::Resize | Op::Upsample if node.attrs.str_or("mode", "nearest") != Ok("cubic") => input(0),
            // Zeros of the padding may count.
            Op::AveragePool => {
                let [lo, hi] = input(0);
                [lo.min(0.0), hi.max(0.0)]
            }
            Op::Concat => {
                let parts = (0..node.inputs.len()).map(input);
                parts.fold([f32::INFINITY, f32::NEG_INFINITY], |[lo, hi], part| [lo.min(part[0]), hi.max(part[1])])
            }
            Op::DequantizeLinear | Op::MsDequantizeLinear => dequantized(graph, node),
            _ => ALL,
        }
    }
}

/// What the codes of a DequantizeLinear with one scale can mean.
fn dequantized(graph: &Graph, node: &Node) -> [f32; 2] {
    let scalar = |i: usize| graph.constant(node.input(i)).filter(|t| t.len() == 1);
    let scale = scalar(1).and_then(|t| t.to_f32_vec()).map(|s| s[0]);
    let zero_point =
        if node.input(2).is_none() { Some(0) } else { scalar(2).and_then(|t| t.to_i64_vec()).map(|z| z[0]) };
    let range = super::code_type(graph, node).filter(|t| *t != DType::I32).and_then(DType::int_range);
    let (Some(scale), Some(zero_point), Some((least, most))) = (scale, zero_point, range) else { return ALL };
    [least, most].map(|code| arith::dequantize(code, scale, zero_point as i32))
}

/// The bounds of a Clip of floats, infinite where one is left out; `None` if one is computed while running.
pub(super) fn clip_bounds(graph: &Graph, node: &Node) -> Option<[f32; 2]> {
    let bound = |i: usize, absent: f32| match node.input(i) {
        None => Some(absent),
        Some(v) => graph.constant(Some(v))?.get::<f32>().filter(|t| t.len() == 1).map(|t| t[0]),
    };
    let ends = [bound(1, f32::NEG_INFINITY)?, bound(2, f32::INFINITY)?];
    (ends[0] <= ends[1]).then_some(ends)
}
