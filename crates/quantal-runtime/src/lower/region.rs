//! Element-wise nodes with no codes between them that depend on one tensor of codes alone, as one table: `x · sigmoid(x)`,
//! Gelu or hard-swish written out.
//!
//! Each of the 256 codes is taken through the nodes as they would compute it, with every result a float32.

use super::codes::{self, Operand};
use super::table::{self, Rooted};
use super::{Rule, elementwise, function};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use quantal_ir::{NodeId, Op, ValueId};
use quantal_tensor::arith;
use std::collections::{BTreeMap, BTreeSet};

/// Most nodes of a region; Gelu by tanh has nine.
const MAX_NODES: usize = 24;

/// What a value is for each byte of the root.
type Image = Box<[f32; 256]>;

/// A region while it grows.
struct Region {
    root: Operand,
    /// The values that are functions of the root.
    images: BTreeMap<ValueId, Image>,
    nodes: BTreeSet<NodeId>,
}

/// Whether a node that was refused for this reason is worth a try.
pub(super) fn may_begin(reason: &Reason) -> bool {
    matches!(reason, Reason::OutputNotQuantized | Reason::OutputReadersDiffer)
}

/// Lowers the region that begins with a node which alone has no form on integers. Refused if there is none.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let open = || Reason::OutputNotQuantized;
    let x = l.graph.node(id).inputs.iter().flatten().find(|v| l.graph.value(**v).constant.is_none()).copied();
    let mut region = Region { root: codes::operand(l, x)?, images: BTreeMap::new(), nodes: BTreeSet::new() };
    let mut last = id;
    let (end, target) = loop {
        let y = l.graph.node(last).output(0).ok_or_else(open)?;
        region.add(l, y)?;
        if let Ok(target) = codes::target(l, y) {
            break (y, target);
        }
        last = *l.uses.readers(y).first().ok_or_else(open)?;
    };
    let inside = |v: &ValueId| {
        *v == end || !l.is_kept(*v) && l.uses.readers(*v).iter().all(|reader| region.nodes.contains(reader))
    };
    let made = region.nodes.iter().filter_map(|n| l.graph.node(*n).output(0));
    if !region.nodes.contains(&id) || !made.collect::<Vec<_>>().iter().all(inside) {
        return Err(open().into());
    }
    let arith::Affine { scale, zero_point, qmin, qmax } = target.codes.affine;
    let image = &region.images[&end];
    let own: [u8; 256] = std::array::from_fn(|b| arith::quantize(image[b], scale, zero_point, qmin, qmax) as u8);
    let rooted = table::rooted(l, region.root);
    let table = Box::new(std::array::from_fn(|byte| own[usize::from(rooted.table[byte])]));
    let nodes: Vec<NodeId> = region.nodes.into_iter().collect();
    table::emit(l, id, Rooted { table, ..rooted }, &target, &nodes)?;
    for n in nodes.into_iter().filter(|n| *n != id) {
        l.set(n, Status::Fused { into: id });
    }
    Ok(())
}

impl Region {
    /// Takes in a value with all that it is made of, down to the root.
    fn add(&mut self, l: &mut Lowering<'_>, v: ValueId) -> Rule<()> {
        // Inputs first, without recursion: a value is computed once all that it needs is there.
        let mut open = vec![v];
        while let Some(&v) = open.last() {
            if self.images.contains_key(&v) {
                open.pop();
                continue;
            }
            let inner = || Reason::OutputNotQuantized;
            let id = l.uses.producer(v).ok_or_else(inner)?;
            let node = l.graph.node(id).clone();
            if codes::is_dequantize(node.op) {
                let root = codes::operand(l, Some(v))?;
                if root.value != self.root.value || root.codes != self.root.codes {
                    return Err(inner().into());
                }
                let (signed, a) = (root.codes.signed, root.codes.affine);
                let real = |b: usize| arith::dequantize(table::code_of(b as u8, signed), a.scale, a.zero_point);
                self.images.insert(v, Box::new(std::array::from_fn(real)));
                continue;
            }
            if l.status_of(id).is_some() || self.nodes.len() == MAX_NODES || open.len() > MAX_NODES {
                return Err(inner().into());
            }
            let mut data = Vec::new();
            let binary = matches!(node.op, Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Pow);
            let count = if binary { 2 } else { 1 };
            // A table keeps the shape of its codes; [1] beside a scalar makes [1].
            let keeps = l.rank(self.root.value) != Some(0);
            for &input in node.inputs.iter().take(count).flatten() {
                let constant = if binary && keeps { elementwise::scalar(l, input)? } else { None };
                data.push((input, constant));
            }
            let missing: Vec<ValueId> =
                data.iter().filter(|(v, c)| c.is_none() && !self.images.contains_key(v)).map(|(v, _)| *v).collect();
            if !missing.is_empty() {
                open.extend(missing);
                continue;
            }
            let f = |f: function::Function, x: &Image| -> Image {
                Box::new(std::array::from_fn(|b| f(f64::from(x[b])) as f32))
            };
            let none = || Reason::NoIntegerForm { op: node.op_name() };
            let image = match data[..] {
                [(x, None)] if !binary => f(function::of_node(l, &node)?, &self.images[&x]),
                [(x, None), (_, Some(c))] => {
                    f(function::with_constant(node.op, c, false).ok_or_else(none)?, &self.images[&x])
                }
                [(_, Some(c)), (x, None)] => {
                    f(function::with_constant(node.op, c, true).ok_or_else(none)?, &self.images[&x])
                }
                [(a, None), (b, None)] => {
                    let (a, b) = (&self.images[&a], &self.images[&b]);
                    let of = |i: usize| match node.op {
                        Op::Add => Some(a[i] + b[i]),
                        Op::Sub => Some(a[i] - b[i]),
                        Op::Mul => Some(a[i] * b[i]),
                        Op::Div => Some(a[i] / b[i]),
                        _ => None,
                    };
                    of(0).ok_or_else(none)?;
                    Box::new(std::array::from_fn(|i| of(i).unwrap_or_default()))
                }
                _ => return Err(none().into()),
            };
            self.nodes.insert(id);
            self.images.insert(v, image);
        }
        Ok(())
    }
}
