//! Functions of each element: fused into the step before, or a step in the layout of their input. Functions that are
//! spelled out in several nodes (x·sigmoid(x), gelu by erf, hard-swish) are recognised as one.

use super::{open_tail, scalar};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::steps::Step;
use crate::steps::activate::Function;
use quantal_ir::{Node, NodeId, Op, ValueId};
use quantal_kernels::float::Unary;
use std::f32::consts::SQRT_2;

/// One function of `x`, however many nodes it takes.
struct Found {
    function: Function,
    x: ValueId,
    y: ValueId,
    /// All nodes of it, the first one first.
    nodes: Vec<NodeId>,
}

/// Lowers a node that is, or begins, a function of each element of a float32 tensor.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let Some(found) = find(l, id)? else { return Ok(false) };
    let Found { function, x, y, nodes } = found;
    if let Some((tail, slot, layout)) = open_tail(l, x, &nodes) {
        let fused = match function {
            Function::Unary(f) => tail.then(f),
            Function::Clamp(low, high) => tail.then_clamp(low, high),
        };
        if fused {
            if let Some(into) = l.step_mut(slot).map(|row| row.node) {
                for &n in &nodes {
                    l.set(n, Status::Fused { into });
                }
            }
            l.take_over(y, layout, slot);
            return Ok(true);
        }
    }
    let layout = l.layout(x);
    let (input, rank) = (l.slot(x, layout)?, l.rank(x));
    let output = l.define(y, layout, rank);
    l.emit(id, Step::Activate(function), vec![Some(input)], vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    for &n in &nodes[1..] {
        l.set(n, Status::Fused { into: id });
    }
    Ok(true)
}

fn find(l: &mut Lowering<'_>, id: NodeId) -> Result<Option<Found>> {
    let node = l.graph.node(id);
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(None) };
    if node.outputs.len() > 1 || !node.inputs.iter().flatten().any(|&v| l.is_f32(v)) {
        return Ok(None);
    }
    if let Some(found) = spelled_out(l, id)? {
        return Ok(Some(found));
    }
    let Some(function) = function_of(l, node)? else { return Ok(None) };
    // x·f(x) for the functions that have such a product.
    let product = match function {
        Function::Unary(Unary::Sigmoid) => Some(Unary::Silu),
        Function::Unary(Unary::HardSigmoid { alpha, beta }) if alpha == 1.0 / 6.0 && beta == 0.5 => {
            Some(Unary::HardSwish)
        }
        Function::Unary(_) | Function::Clamp(..) => None,
    };
    if let Some(gated) = product
        && let Some((mul, out)) = times(l, y, x)
    {
        return Ok(Some(Found { function: Function::Unary(gated), x, y: out, nodes: vec![id, mul] }));
    }
    Ok(Some(Found { function, x, y, nodes: vec![id] }))
}

/// The function that one node is.
fn function_of(l: &mut Lowering<'_>, node: &Node) -> Result<Option<Function>> {
    let float = |name: &str, default: f32| node.attrs.float_or(name, default);
    let unary = match node.op {
        Op::Abs => Unary::Abs,
        Op::Exp => Unary::Exp,
        Op::Erf => Unary::Erf,
        Op::Elu => Unary::Elu { alpha: float("alpha", 1.0).map_err(|e| l.error(e.into()))? },
        Op::Gelu => match node.attrs.str_or("approximate", "none").map_err(|e| l.error(e.into()))? {
            "none" => Unary::Gelu,
            "tanh" => Unary::GeluTanh,
            _ => return Ok(None),
        },
        Op::MsGelu => Unary::Gelu,
        Op::FastGelu if node.input(1).is_none() => Unary::GeluTanh,
        Op::HardSigmoid => Unary::HardSigmoid {
            alpha: float("alpha", 0.2).map_err(|e| l.error(e.into()))?,
            beta: float("beta", 0.5).map_err(|e| l.error(e.into()))?,
        },
        Op::HardSwish => Unary::HardSwish,
        Op::LeakyRelu => Unary::LeakyRelu { slope: float("alpha", 0.01).map_err(|e| l.error(e.into()))? },
        Op::Log => Unary::Ln,
        Op::Neg => Unary::Neg,
        Op::Reciprocal => Unary::Reciprocal,
        Op::Relu => Unary::Relu,
        Op::Sigmoid => Unary::Sigmoid,
        Op::Softplus => Unary::Softplus,
        Op::Sqrt => Unary::Sqrt,
        Op::Swish if float("alpha", 1.0).map_err(|e| l.error(e.into()))? == 1.0 => Unary::Silu,
        Op::Tanh => Unary::Tanh,
        Op::Clip => {
            let mut end = |i: usize, default: f32| match node.input(i) {
                None => Ok(Some(default)),
                v => scalar(l, v),
            };
            let (low, high) = (end(1, f32::NEG_INFINITY)?, end(2, f32::INFINITY)?);
            return Ok(low.zip(high).filter(|(a, b)| a <= b).map(|(a, b)| Function::Clamp(a, b)));
        }
        _ => return Ok(None),
    };
    Ok(Some(Function::Unary(unary)))
}

/// The one reader of `v`, if it is this operator and its other input is `other`; with its output.
fn times(l: &Lowering<'_>, v: ValueId, other: ValueId) -> Option<(NodeId, ValueId)> {
    let id = l.sole_reader(v)?;
    let node = l.graph.node(id);
    let pair = (node.input(0)?, node.input(1)?);
    (node.op == Op::Mul && (pair == (v, other) || pair == (other, v))).then(|| node.output(0).map(|y| (id, y)))?
}

/// The one reader of `v`, if it is this operator with a scalar constant on the other side; with its output. For Div,
/// the constant must divide.
fn by_scalar(l: &mut Lowering<'_>, v: ValueId, op: Op) -> Result<Option<(NodeId, f32, ValueId)>> {
    let Some(id) = l.sole_reader(v) else { return Ok(None) };
    let node = l.graph.node(id);
    let other = match (node.input(0), node.input(1)) {
        (Some(a), Some(b)) if a == v => b,
        (Some(a), Some(b)) if b == v && op != Op::Div => a,
        _ => return Ok(None),
    };
    if node.op != op {
        return Ok(None);
    }
    Ok(scalar(l, Some(other))?.zip(node.output(0)).map(|(c, y)| (id, c, y)))
}

/// v·c or v/(1/c) by the one reader of `v`.
fn scaled(l: &mut Lowering<'_>, v: ValueId) -> Result<Option<(NodeId, f32, ValueId)>> {
    if let Some(found) = by_scalar(l, v, Op::Mul)? {
        return Ok(Some(found));
    }
    Ok(by_scalar(l, v, Op::Div)?.map(|(id, c, y)| (id, 1.0 / c, y)))
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-5 * b.abs()
}

/// Gelu by erf and hard-swish, spelled out: every inner value has one reader.
fn spelled_out(l: &mut Lowering<'_>, id: NodeId) -> Result<Option<Found>> {
    let node = l.graph.node(id);
    let (Some(a), Some(b), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(None) };
    let (x, c) = match (scalar(l, Some(a))?, scalar(l, Some(b))?) {
        (None, Some(c)) => (a, c),
        (Some(c), None) if node.op != Op::Div => (b, c),
        _ => return Ok(None),
    };
    let found = match node.op {
        Op::Div if near(c, SQRT_2) => gelu(l, x, y)?,
        Op::Mul if near(c, 1.0 / SQRT_2) => gelu(l, x, y)?,
        Op::Add if c == 3.0 => hard_swish(l, x, y)?,
        _ => None,
    };
    Ok(found.map(|(function, mut nodes, y)| {
        nodes.insert(0, id);
        Found { function: Function::Unary(function), x, y, nodes }
    }))
}

type Tree = Option<(Unary, Vec<NodeId>, ValueId)>;

/// `v` = x/√2; what follows is erf, + 1, and the factors x and ½ in any order.
fn gelu(l: &mut Lowering<'_>, x: ValueId, v: ValueId) -> Result<Tree> {
    let Some(erf) = l.sole_reader(v).filter(|&n| l.graph.node(n).op == Op::Erf) else { return Ok(None) };
    let Some(v) = l.graph.node(erf).output(0) else { return Ok(None) };
    let Some((add, _, v)) = by_scalar(l, v, Op::Add)?.filter(|f| f.1 == 1.0) else { return Ok(None) };
    if let Some((mul, v)) = times(l, v, x) {
        // (1 + erf)·x·½
        return Ok(scaled(l, v)?
            .filter(|f| near(f.1, 0.5))
            .map(|(half, _, y)| (Unary::Gelu, vec![erf, add, mul, half], y)));
    }
    if let Some((half, _, v)) = scaled(l, v)?.filter(|f| near(f.1, 0.5)) {
        // (1 + erf)·½·x
        return Ok(times(l, v, x).map(|(mul, y)| (Unary::Gelu, vec![erf, add, half, mul], y)));
    }
    // (½·x)·(1 + erf): the other factor is made elsewhere, from x alone, for this product alone.
    let Some(mul) = l.sole_reader(v).filter(|&n| l.graph.node(n).op == Op::Mul) else { return Ok(None) };
    let node = l.graph.node(mul);
    let (Some(p), Some(q), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(None) };
    let halved = if p == v { q } else { p };
    let Some(half) = l.uses.producer(halved).filter(|_| l.sole_reader(halved) == Some(mul)) else { return Ok(None) };
    let node = l.graph.node(half);
    let other = match (node.op, node.input(0), node.input(1)) {
        (Op::Mul | Op::Div, Some(a), Some(b)) if a == x => b,
        (Op::Mul, Some(a), Some(b)) if b == x => a,
        _ => return Ok(None),
    };
    let wanted = if node.op == Op::Div { 2.0 } else { 0.5 };
    // A node that was lowered on its own already cannot be taken back.
    let fits = scalar(l, Some(other))? == Some(wanted) && !l.is_done(half);
    Ok(fits.then(|| (Unary::Gelu, vec![erf, add, half, mul], y)))
}

/// `v` = x + 3; what follows is a clip to 0 … 6, and the factors x and 1/6 in either order.
fn hard_swish(l: &mut Lowering<'_>, x: ValueId, v: ValueId) -> Result<Tree> {
    let Some(clip) = l.sole_reader(v) else { return Ok(None) };
    let node = l.graph.node(clip);
    let (Some(v), Op::Clip) = (node.output(0), node.op) else { return Ok(None) };
    if function_of(l, node)? != Some(Function::Clamp(0.0, 6.0)) {
        return Ok(None);
    }
    if let Some((mul, v)) = times(l, v, x) {
        let sixth = scaled(l, v)?.filter(|f| near(f.1, 1.0 / 6.0));
        return Ok(sixth.map(|(sixth, _, y)| (Unary::HardSwish, vec![clip, mul, sixth], y)));
    }
    let Some((sixth, _, v)) = scaled(l, v)?.filter(|f| near(f.1, 1.0 / 6.0)) else { return Ok(None) };
    Ok(times(l, v, x).map(|(mul, y)| (Unary::HardSwish, vec![clip, sixth, mul], y)))
}
