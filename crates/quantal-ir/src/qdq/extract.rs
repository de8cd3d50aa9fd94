//! QDQ back to floats.
//!
//! A pair Q → DQ rounds, and cuts off what lies outside of its range. The rounding is noise and goes with the pair. The
//! range is part of the function: converters take a Relu or Clip out where the range of the quantized values does its work.
//! So a pair that can cut leaves a clamp behind. With few levels the rounding is part of the function as well, and weights
//! were trained for it: such a pair stays.

use super::bounds::{Bounds, clip_bounds};
use super::{QdqError, code_type, lift};
use crate::attrs::Attrs;
use crate::graph::{Dim, Graph, Node, NodeId, Uses, ValueId};
use crate::op::Op;
use crate::op::quant::granularity;
use crate::quant_plan::{Encoding, Params, QuantPlan};
use half::{bf16, f16};
use quantal_tensor::{DType, Granularity, QParams, Scheme, Storage, Tensor, TensorError, arith};
use std::collections::BTreeMap;

/// A pair with fewer levels than this stays: 7 bits are as near to 8 as INT8 is to float.
const FEW_LEVELS: u32 = 128;
/// How many moving nodes lie at the most between a QuantizeLinear and the DequantizeLinear that belongs to it.
const MOVES: usize = 64;

/// A graph whose quantization was taken out.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The graph, in floats but for what could not be taken out.
    pub graph: Graph,
    /// The encodings of 8 bits that were taken out, by the value that they were of.
    pub plan: QuantPlan,
    /// The names of all values that were quantized and no longer are.
    pub taken: Vec<String>,
    /// What pairs left behind.
    pub clamps: Vec<Clamp>,
}

/// A Relu or Clip that does what the range of a pair did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// The node.
    pub node: NodeId,
    /// Its bounds.
    pub bounds: [f32; 2],
    /// The bounds that the node had before the pair was taken out; infinite for a node that is new.
    pub own: [f32; 2],
    /// The scale of the pair: what reaches no further beyond a bound was rounded rather than cut.
    pub step: f32,
}

/// How quantized values mean real ones.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grid {
    dtype: DType,
    pub(super) scale: Vec<f32>,
    /// As many as scales.
    pub(super) zero_point: Vec<i32>,
    granularity: Granularity,
}

impl Grid {
    /// That of a Q or DQ node on data of `rank` dimensions; `None` if it is computed while running or is no grid.
    fn of(graph: &Graph, node: &Node, rank: usize) -> Option<Self> {
        let (scales, dtype) = (graph.constant(node.input(1))?, code_type(graph, node)?);
        dtype.int_range()?;
        let scale = scales.to_f32_vec().filter(|s| scales.dtype().is_float() && !s.is_empty())?;
        let zero_point = match node.input(2) {
            None => vec![0; scale.len()],
            Some(z) => {
                let tensor = graph.constant(Some(z)).filter(|t| t.dtype() == dtype && t.len() == scale.len())?;
                tensor.to_i64_vec()?.into_iter().map(|z| z as i32).collect()
            }
        };
        let granularity = granularity(&node.attrs, rank, scales.shape()).ok()?;
        Some(Self { dtype, scale, zero_point, granularity })
    }

    /// Whether values can be quantized with it.
    fn is_regular(&self) -> bool {
        self.dtype != DType::I32 && self.scale.iter().all(|s| s.is_normal() && *s > 0.0)
    }

    fn range(&self) -> (i32, i32) {
        self.dtype.int_range().unwrap_or_default()
    }

    /// The encoding of a plan; `None` for types that a plan does not know.
    fn encoding(&self, qmin: i32, qmax: i32) -> Option<Encoding> {
        let storage = match self.dtype {
            DType::U8 => Storage::U8,
            DType::I8 => Storage::S8,
            _ => return None,
        };
        let middle = if storage == Storage::S8 { 0 } else { 128 };
        let symmetric = self.zero_point.iter().all(|&z| z == middle);
        let params = Params::Static(QParams { scale: self.scale.clone(), zero_point: self.zero_point.clone() });
        let scheme = Scheme { storage, qmin, qmax, symmetric, granularity: self.granularity };
        Some(Encoding { scheme, params, why: "read from the model".into() })
    }

    /// For each element of a tensor of this shape, the index of its scale; `None` if the scales do not fit.
    fn places(&self, shape: &[usize]) -> Option<Box<dyn Fn(usize) -> usize>> {
        let inner = |axis: usize| shape[axis + 1..].iter().product::<usize>().max(1);
        match self.granularity {
            Granularity::PerTensor | Granularity::PerToken => Some(Box::new(|_| 0)),
            Granularity::PerChannel { axis } => {
                let (inner, channels) = (inner(axis), self.scale.len());
                (shape[axis] == channels)
                    .then(|| Box::new(move |i| i / inner % channels) as Box<dyn Fn(usize) -> usize>)
            }
            Granularity::PerBlock { axis, size } => {
                let (inner, length) = (inner(axis), shape[axis].max(1));
                let blocks = shape[axis].div_ceil(size);
                let outer: usize = shape[..axis].iter().product();
                (self.scale.len() == outer * blocks * inner).then(|| {
                    Box::new(move |i| {
                        let (outer, along) = (i / inner / length, i / inner % length);
                        (outer * blocks + along / size) * inner + i % inner
                    }) as Box<dyn Fn(usize) -> usize>
                })
            }
        }
    }
}

/// Takes quantization out of a graph: every pair Q → DQ, moving nodes between them included, and every dequantized
/// constant.
///
/// Where the range of a pair can cut something off, a Relu or Clip does so in its place; constants keep the values that
/// they had been rounded to. What stays: pairs of few levels, those that differ between Q and DQ, are computed while
/// running or work on other floats than float32, and the quantization of inputs and outputs of the graph.
pub fn extract_qdq(graph: &Graph) -> Result<Extracted, QdqError> {
    let mut out = graph.clone();
    let mut taken = super::running::take(&mut out)?;
    let mut extraction = Extraction {
        uses: out.uses(),
        fresh: out.value_count(),
        bounds: Bounds::new(&out),
        graph: out,
        plan: QuantPlan::default(),
        taken: Vec::new(),
        clamps: Vec::new(),
        handed_out: Vec::new(),
        floats: BTreeMap::new(),
        copies: BTreeMap::new(),
    };
    let ids: Vec<NodeId> = extraction.graph.nodes().filter(|(_, n)| is_dequantize(n.op)).map(|(id, _)| id).collect();
    for id in ids {
        extraction.take(id)?;
    }
    extraction.name_outputs();

    let Extraction { mut graph, plan, taken: values, clamps, .. } = extraction;
    taken.extend(values);
    // Sorted first: only then are all nodes found that nobody reads.
    graph.sort()?;
    graph.remove_unread_nodes();
    let clamps = clamps.into_iter().filter(|c| graph.contains(c.node)).collect();
    Ok(Extracted { graph, plan, taken, clamps })
}

fn is_quantize(op: Op) -> bool {
    matches!(op, Op::QuantizeLinear | Op::MsQuantizeLinear)
}

fn is_dequantize(op: Op) -> bool {
    matches!(op, Op::DequantizeLinear | Op::MsDequantizeLinear)
}

/// What becomes of a QuantizeLinear and a DequantizeLinear behind it.
enum Pair {
    /// There is no QuantizeLinear.
    None,
    /// They stay.
    Stays,
    /// They are taken out, and this is read instead.
    Taken(ValueId),
}

/// What tells one dequantization of a value from another: the value, scale and zero point, axis and block.
type Key = (ValueId, Option<ValueId>, Option<ValueId>, i64, i64);

struct Extraction {
    graph: Graph,
    plan: QuantPlan,
    taken: Vec<String>,
    clamps: Vec<Clamp>,
    /// The Identity nodes that give floats the name of a graph output, for now.
    handed_out: Vec<NodeId>,
    /// Who made and read each value when this began.
    uses: Uses,
    /// Values from this one on are newer than that.
    fresh: usize,
    bounds: Bounds,
    /// The floats of quantized values.
    floats: BTreeMap<Key, ValueId>,
    /// Moving nodes that were written again on floats.
    copies: BTreeMap<(NodeId, Key), NodeId>,
}

impl Extraction {
    /// Puts floats in place of what a DequantizeLinear makes.
    fn take(&mut self, id: NodeId) -> Result<(), QdqError> {
        let node = self.graph.node(id).clone();
        let (Some(codes), Some(y)) = (node.input(0), node.output(0)) else { return Ok(()) };
        let Some(float) = self.float_of(codes, &node, 0)? else { return Ok(()) };
        self.graph.remove_node(id);
        if !self.graph.is_output(y) {
            self.graph.replace_value(y, float);
            return Ok(());
        }
        // The names of graph outputs stay.
        if let Some(tensor) = self.graph.constant(Some(float)).map(|t| (**t).clone()) {
            self.graph.set_constant(y, tensor);
            if let Some(encoding) = self.plan.encodings.get(&float).cloned() {
                self.plan.encodings.insert(y, encoding);
            }
            return Ok(());
        }
        let identity = Node::new(Op::Identity, &node.name, vec![Some(float)], vec![y], Attrs::new());
        let identity = self.graph.add_node(identity);
        self.handed_out.push(identity);
        Ok(())
    }

    /// Replaces those Identity nodes where the node before can make the graph output itself.
    fn name_outputs(&mut self) {
        for id in std::mem::take(&mut self.handed_out) {
            let node = self.graph.node(id);
            let (Some(v), Some(y)) = (node.input(0), node.output(0)) else { continue };
            if self.graph.is_output(v) || self.graph.producer(v).is_none() {
                continue;
            }
            self.graph.remove_node(id);
            self.graph.rename_output(v, y);
            if let Some(encoding) = self.plan.encodings.remove(&v) {
                self.plan.encodings.insert(y, encoding);
            }
        }
    }

    /// The floats of quantized values as the DequantizeLinear `dq` reads them, found `depth` moves before it; `None` if
    /// `dq` must stay.
    fn float_of(&mut self, codes: ValueId, dq: &Node, depth: usize) -> Result<Option<ValueId>, QdqError> {
        let attr = |name: &str, default| dq.attrs.int_or(name, default);
        let key: Key = (codes, dq.input(1), dq.input(2), attr("axis", 1)?, attr("block_size", 0)?);
        if let Some(&v) = self.floats.get(&key) {
            return Ok(Some(v));
        }
        let rank = self.graph.value(codes).rank().unwrap_or(0);
        let Some(grid) = Grid::of(&self.graph, dq, rank) else { return Ok(None) };
        let found = match self.graph.constant(Some(codes)).cloned() {
            Some(tensor) => self.constant(codes, &tensor, dq, &grid)?,
            None => match self.pair(codes, dq, &grid)? {
                Pair::Taken(v) => Some(v),
                Pair::Stays => None,
                Pair::None => self.moved(codes, dq, &grid, depth, key)?,
            },
        };
        let found = match found {
            None if depth > 0 => Some(self.dequantized(codes, dq)),
            found => found,
        };
        self.floats.extend(found.map(|v| (key, v)));
        Ok(found)
    }

    /// The same dequantization at another place.
    fn dequantized(&mut self, codes: ValueId, dq: &Node) -> ValueId {
        let name = self.graph.value(codes).name.to_string();
        let shape = self.graph.value(codes).shape.clone();
        let y = self.graph.add_value(&format!("{name}_float"), Some(DType::F32), shape);
        let mut copy = dq.clone();
        copy.inputs[0] = Some(codes);
        copy.outputs = vec![Some(y)];
        copy.name = format!("{}_DequantizeLinear", self.graph.value(y).name).into();
        self.graph.add_node(copy);
        y
    }

    /// What constant codes mean.
    fn constant(
        &mut self,
        codes: ValueId,
        tensor: &Tensor,
        dq: &Node,
        grid: &Grid,
    ) -> Result<Option<ValueId>, QdqError> {
        let (Some(q), Some(place)) = (tensor.to_i64_vec(), grid.places(tensor.shape())) else { return Ok(None) };
        let real =
            |(i, &q): (usize, &i64)| arith::dequantize(q as i32, grid.scale[place(i)], grid.zero_point[place(i)]);
        let values: Vec<f32> = q.iter().enumerate().map(real).collect();
        let dtype = dq.output(0).and_then(|y| self.graph.value(y).dtype).unwrap_or(DType::F32);
        let Some(float) = floats(tensor.shape(), &values, dtype)? else { return Ok(None) };

        let name = self.graph.value(codes).name.to_string();
        let v = self.graph.add_constant(&format!("{name}_float"), float);
        self.taken.push(name);
        // Codes that leave −128 out were made for the narrow range.
        let (qmin, qmax) = grid.range();
        let qmin = if q.contains(&-128) { qmin } else { qmin.max(-127) };
        let blocks = matches!(grid.granularity, Granularity::PerBlock { .. });
        self.plan.encodings.extend(grid.encoding(qmin, qmax).filter(|_| !blocks).map(|e| (v, e)));
        Ok(Some(v))
    }

    /// What becomes of the pair that ends in `dq`.
    fn pair(&mut self, codes: ValueId, dq: &Node, grid: &Grid) -> Result<Pair, QdqError> {
        let Some((q_id, range)) = self.quantizer(codes, grid) else { return Ok(Pair::None) };
        let q = self.graph.node(q_id).clone();
        let Some(x) = q.input(0) else { return Ok(Pair::Stays) };
        let is_f32 = |v: ValueId| self.graph.value(v).dtype.is_none_or(|t| t == DType::F32);
        if !is_f32(x) || !dq.output(0).is_some_and(is_f32) || !grid.is_regular() {
            return Ok(Pair::Stays);
        }
        let rank = self.graph.value(x).rank().unwrap_or(0);
        if Grid::of(&self.graph, &q, rank).is_none_or(|own| own != *grid) {
            return Ok(Pair::Stays);
        }

        let (qmin, qmax) = range;
        let taken = match self.graph.constant(Some(x)).cloned() {
            Some(tensor) => self.rounded_constant(x, &tensor, grid, range)?,
            None if qmin.abs_diff(qmax) + 1 < FEW_LEVELS => None,
            None => self.clamped(x, q_id, grid, range)?,
        };
        let Some(v) = taken else { return Ok(Pair::Stays) };
        self.taken.push(self.graph.value(x).name.to_string());
        let blocks = matches!(grid.granularity, Granularity::PerBlock { .. });
        self.plan.encodings.extend(grid.encoding(qmin, qmax).filter(|_| !blocks).map(|e| (v, e)));
        Ok(Pair::Taken(v))
    }

    /// The QuantizeLinear that makes quantized values, and the range that they have left behind Clips.
    fn quantizer(&self, codes: ValueId, grid: &Grid) -> Option<(NodeId, (i32, i32))> {
        let (mut at, mut range) = (codes, grid.range());
        for _ in 0..MOVES {
            let id = self.uses.producer(at).filter(|id| self.graph.contains(*id))?;
            let node = self.graph.node(id);
            if is_quantize(node.op) {
                return Some((id, range));
            }
            let (lo, hi) = lift::quantized_clip(&self.graph, node)?;
            // A Clip that comes later has the last word.
            range = (lo.clamp(range.0, range.1), hi.clamp(range.0, range.1));
            at = node.input(0)?;
        }
        None
    }

    /// A constant that is quantized while running, with the values that it is rounded to.
    fn rounded_constant(
        &mut self,
        x: ValueId,
        tensor: &Tensor,
        grid: &Grid,
        (qmin, qmax): (i32, i32),
    ) -> Result<Option<ValueId>, QdqError> {
        let (Some(values), Some(place)) = (tensor.get::<f32>(), grid.places(tensor.shape())) else { return Ok(None) };
        let rounded = |(i, &x): (usize, &f32)| {
            let (scale, zero_point) = (grid.scale[place(i)], grid.zero_point[place(i)]);
            arith::dequantize(arith::quantize(x, scale, zero_point, qmin, qmax), scale, zero_point)
        };
        let values: Vec<f32> = values.iter().enumerate().map(rounded).collect();
        let name = format!("{}_rounded", self.graph.value(x).name);
        Ok(Some(self.graph.add_constant(&name, Tensor::from_slice(tensor.shape(), &values)?)))
    }

    /// `x` within the range of the pair that begins with `q`, or `x` itself if it lies there anyway; `None` if that cannot
    /// be said in nodes.
    fn clamped(
        &mut self,
        x: ValueId,
        q: NodeId,
        grid: &Grid,
        (qmin, qmax): (i32, i32),
    ) -> Result<Option<ValueId>, QdqError> {
        let ends = |c: usize| [qmin, qmax].map(|code| arith::dequantize(code, grid.scale[c], grid.zero_point[c]));
        let [least, most] = self.bounds.of(&self.graph, &self.uses, x);
        // What reaches less than a step beyond the range is rounded into it rather than cut.
        let cuts = |c: usize| [least < ends(c)[0] - grid.scale[c] * 1.01, most > ends(c)[1] + grid.scale[c] * 1.01];
        let any = (0..grid.scale.len()).map(cuts).fold([false; 2], |a, b| [a[0] | b[0], a[1] | b[1]]);
        if any == [false; 2] {
            return Ok(Some(x));
        }
        if let [step] = grid.scale[..] {
            let is_whole = (qmin, qmax) == grid.range();
            return self.clamped_by_one(x, q, ends(0), any, step, is_whole).map(Some);
        }

        // One range for each channel: Clip knows one only.
        let (Granularity::PerChannel { axis }, Some(rank)) = (grid.granularity, self.graph.value(x).rank()) else {
            return Ok(None);
        };
        let mut shape = vec![1; rank - axis];
        shape[0] = grid.scale.len();
        let mut v = x;
        for (op, end) in [(Op::Max, 0), (Op::Min, 1)] {
            let values: Vec<f32> = (0..grid.scale.len()).map(|c| ends(c)[end]).collect();
            let name = format!("{}_{}", self.graph.value(x).name, op.name());
            let bound = self.graph.add_constant(&format!("{name}_bound"), Tensor::from_slice(&shape, &values)?);
            v = self.made_like(x, op, &name, vec![Some(v), Some(bound)]).1;
        }
        Ok(Some(v))
    }

    /// The nodes that read a value at the beginning; none for one that is new.
    fn readers(&self, v: ValueId) -> &[NodeId] {
        if (v.0 as usize) < self.fresh { self.uses.readers(v) } else { &[] }
    }

    /// `x` clamped to one range, `ends`. `cuts` says which of the two ends `x` can exceed, `is_whole` whether the range
    /// is that of the quantized type, so that every reader of the pair's QuantizeLinear has it.
    fn clamped_by_one(
        &mut self,
        x: ValueId,
        q: NodeId,
        ends: [f32; 2],
        cuts: [bool; 2],
        step: f32,
        is_whole: bool,
    ) -> Result<ValueId, QdqError> {
        let [least, most] = self.bounds.of(&self.graph, &self.uses, x);
        let kept = [least.max(ends[0]), most.min(ends[1])];
        let name = format!("{}_clamped", self.graph.value(x).name);

        // A clamp that nobody else reads becomes the narrower one; not for a range that holds for one reader of several.
        let codes = self.graph.node(q).output(0).map_or(0, |v| self.readers(v).len());
        let alone = self.readers(x) == [q] && !self.graph.is_output(x) && (codes == 1 || is_whole);
        let maker = if alone { self.uses.producer(x).filter(|id| self.graph.contains(*id)) } else { None };
        let own = maker.and_then(|id| {
            let node = self.graph.node(id);
            let own = match node.op {
                Op::Relu => [0.0, f32::INFINITY],
                Op::Clip => clip_bounds(&self.graph, node)?,
                _ => return None,
            };
            (own[0].max(ends[0]) <= own[1].min(ends[1])).then_some((id, own))
        });
        if let Some((node, own)) = own {
            let bounds = [own[0].max(ends[0]), own[1].min(ends[1])];
            set_clamp(&mut self.graph, node, bounds)?;
            self.bounds.set(x, kept);
            self.clamps.push(Clamp { node, bounds, own, step });
            return Ok(x);
        }

        let all = [f32::NEG_INFINITY, f32::INFINITY];
        let bounds = [0, 1].map(|i| if cuts[i] { ends[i] } else { all[i] });
        let (node, v) = self.made_like(x, Op::Clip, &name, vec![Some(x)]);
        set_clamp(&mut self.graph, node, bounds)?;
        self.bounds.set(v, kept);
        self.clamps.push(Clamp { node, bounds, own: all, step });
        Ok(v)
    }

    /// A node whose output is shaped like `x`; it is called like that.
    fn made_like(&mut self, x: ValueId, op: Op, name: &str, inputs: Vec<Option<ValueId>>) -> (NodeId, ValueId) {
        let shape: Option<Vec<Dim>> = self.graph.value(x).shape.clone();
        let y = self.graph.add_value(name, Some(DType::F32), shape);
        let name = self.graph.value(y).name.to_string();
        (self.graph.add_node(Node::new(op, &name, inputs, vec![y], Attrs::new())), y)
    }

    /// Quantized values that a node moved: the same node on floats.
    fn moved(
        &mut self,
        codes: ValueId,
        dq: &Node,
        grid: &Grid,
        depth: usize,
        key: Key,
    ) -> Result<Option<ValueId>, QdqError> {
        let Some(id) = self.uses.producer(codes).filter(|id| self.graph.contains(*id)) else { return Ok(None) };
        let node = self.graph.node(id).clone();
        if grid.granularity != Granularity::PerTensor || !grid.is_regular() || depth >= MOVES {
            return Ok(None);
        }
        let Some(places) = lift::moved_inputs(&self.graph, &node) else { return Ok(None) };
        let Some(index) = node.outputs.iter().position(|v| *v == Some(codes)) else { return Ok(None) };
        let by_node = (id, (ValueId(0), key.1, key.2, key.3, key.4));
        let copy = if let Some(&copy) = self.copies.get(&by_node) {
            copy
        } else {
            let mut data = Vec::with_capacity(places.len());
            for i in places {
                let Some(input) = node.input(i) else { return Ok(None) };
                let Some(float) = self.float_of(input, dq, depth + 1)? else { return Ok(None) };
                data.push((i, float));
            }
            let copy = lift::float_copy(&mut self.graph, &node, &data, grid)?;
            let copy = self.graph.add_node(copy);
            self.copies.insert(by_node, copy);
            copy
        };
        let v = self.graph.node(copy).outputs[index];
        if let Some(v) = v {
            self.bounds_of_copy(copy, v);
        }
        Ok(v)
    }

    /// A moved value lies where all parts of it lie.
    fn bounds_of_copy(&mut self, copy: NodeId, v: ValueId) {
        let node = self.graph.node(copy).clone();
        let data = lift::moved_inputs(&self.graph, &node).unwrap_or_else(|| vec![0]);
        let mut range = [f32::INFINITY, f32::NEG_INFINITY];
        for input in data.into_iter().filter_map(|i| node.input(i)) {
            let part = self.bounds.of(&self.graph, &self.uses, input);
            range = [range[0].min(part[0]), range[1].max(part[1])];
        }
        if node.op == Op::Pad {
            range = [f32::NEG_INFINITY, f32::INFINITY];
        }
        self.bounds.set(v, range);
    }
}

/// Takes back the bounds of a clamp that cut nothing in data whose values reached from `seen[0]` to `seen[1]` before it.
/// True if it does less than before; the node is gone if it would do nothing.
pub fn loosen(graph: &mut Graph, clamp: &Clamp, seen: [f32; 2]) -> Result<bool, QdqError> {
    let mut bounds = clamp.bounds;
    if seen[0] >= bounds[0] - clamp.step {
        bounds[0] = clamp.own[0];
    }
    if seen[1] <= bounds[1] + clamp.step {
        bounds[1] = clamp.own[1];
    }
    if bounds == clamp.bounds {
        return Ok(false);
    }

    let node = graph.node(clamp.node);
    let idle = bounds == [f32::NEG_INFINITY, f32::INFINITY];
    if let (true, Some(x), Some(y)) = (idle, node.input(0), node.output(0).filter(|y| !graph.is_output(*y))) {
        graph.remove_node(clamp.node);
        graph.replace_value(y, x);
    } else {
        set_clamp(graph, clamp.node, bounds)?;
    }
    Ok(true)
}

/// Makes a node with one input a Relu, a Clip, or an Identity where there are no bounds.
fn set_clamp(graph: &mut Graph, id: NodeId, bounds: [f32; 2]) -> Result<(), TensorError> {
    let node = graph.node(id);
    let (name, mut inputs, outputs) = (node.name.to_string(), vec![node.input(0)], node.outputs.clone());
    let op = match bounds {
        [f32::NEG_INFINITY, f32::INFINITY] => Op::Identity,
        [0.0, f32::INFINITY] => Op::Relu,
        _ => Op::Clip,
    };
    if op == Op::Clip {
        for (bound, what) in bounds.into_iter().zip(["min", "max"]) {
            let tensor = bound.is_finite().then(|| Tensor::scalar(bound)).transpose()?;
            inputs.push(tensor.map(|t| graph.add_constant(&format!("{name}_{what}"), t)));
        }
        if inputs.last() == Some(&None) {
            inputs.pop();
        }
    }
    *graph.node_mut(id) = Node { outputs, ..Node::new(op, &name, inputs, Vec::new(), Attrs::new()) };
    Ok(())
}

/// A tensor of a float type; `None` for other types.
fn floats(shape: &[usize], values: &[f32], dtype: DType) -> Result<Option<Tensor>, TensorError> {
    Ok(Some(match dtype {
        DType::F32 => Tensor::from_slice(shape, values)?,
        DType::F16 => Tensor::from_slice(shape, &values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>())?,
        DType::BF16 => Tensor::from_slice(shape, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>())?,
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
