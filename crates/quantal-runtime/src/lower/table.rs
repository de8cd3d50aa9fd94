//! Functions of one tensor of codes as tables of 256 entries: unary operators, operators with a constant, and whole
//! diamonds such as `x · sigmoid(x)`, whose table is composed of those of its parts.

use super::codes::{self, Operand, Target};
use super::{Rule, function};
use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::steps::Step;
use crate::steps::codes::{Codes, End};
use crate::steps::qeltwise::Lut;
use quantal_ir::{NodeId, ValueId};
use quantal_tensor::arith;

/// Codes that are a function of other codes.
#[derive(Clone)]
pub(crate) struct Rooted {
    /// The value that the function is of.
    pub(super) root: ValueId,
    /// How the root's codes are read.
    pub(super) codes: Codes,
    /// The code for each byte of the root.
    pub(super) table: Box<[u8; 256]>,
}

/// A code as the byte that holds it, and back.
pub(super) fn code_of(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

/// A unary operator.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let f = function::of_node(l, &node)?;
    function_of(l, id, x, f)
}

/// `f` of the codes `x`, as a table.
pub(super) fn function_of(l: &mut Lowering<'_>, id: NodeId, x: Operand, f: function::Function) -> Rule<()> {
    let y = l.graph.node(id).output(0).ok_or(Reason::OutputNotQuantized)?;
    let target = codes::target(l, y)?;
    let own = arith::table(f, x.codes.affine, target.codes.affine);
    let rooted = rooted(l, x);
    let table = Box::new(std::array::from_fn(|byte| own[usize::from(rooted.table[byte])]));
    emit(l, id, Rooted { table, ..rooted }, &target, &[id])
}

/// An operation of two tensors of codes that are functions of the same root. False if they are not.
pub(super) fn diamond(
    l: &mut Lowering<'_>,
    id: NodeId,
    operands: [Operand; 2],
    target: &Target,
    of_codes: impl Fn(i32, i32) -> i32,
) -> Rule<bool> {
    let [a, b] = operands.map(|o| rooted(l, o));
    if a.root != b.root {
        return Ok(false);
    }
    let signs = operands.map(|o| o.codes.signed);
    let entry = |i: usize| of_codes(code_of(a.table[i], signs[0]), code_of(b.table[i], signs[1])) as u8;
    let table = Box::new(std::array::from_fn(entry));
    let root = Rooted { root: a.root, codes: a.codes, table };
    // Tables of the parts that this operation alone reads go with it.
    let mut nodes = vec![id];
    for v in operands.iter().map(|o| o.value).filter(|v| *v != root.root) {
        let alone = codes::readers_of_codes(l, v).is_some_and(|r| r == [id]);
        if let Some(made) = l.uses.producer(v).filter(|_| alone) {
            let inside = l.graph.node(made).input(0).and_then(|f| l.uses.producer(f));
            nodes.extend(inside);
        }
    }
    emit(l, id, root, target, &nodes)?;
    Ok(true)
}

/// The codes of an operand as a function of their root: of themselves, if they come from no table.
pub(super) fn rooted(l: &Lowering<'_>, x: Operand) -> Rooted {
    match l.tables.get(&x.value) {
        Some(r) => r.clone(),
        None => Rooted { root: x.value, codes: x.codes, table: Box::new(std::array::from_fn(|b| b as u8)) },
    }
}

/// Emits the table, or puts it into the convolution that makes its root, if `nodes` are all that reads the root.
pub(super) fn emit(l: &mut Lowering<'_>, id: NodeId, r: Rooted, target: &Target, nodes: &[NodeId]) -> Rule<()> {
    let layout = l.layout(r.root);
    let (from, rank) = (l.slot(r.root, layout)?, l.rank(r.root));
    let alone = codes::readers_of_codes(l, r.root).is_some_and(|readers| readers.iter().all(|n| nodes.contains(n)));
    if alone && let Some(end) = l.own_slot(r.root, layout).and_then(|s| open_end(l, s)) {
        end.table = Some((r.table, target.codes));
        target.take_over(l, layout, from);
        target.done(l, id, "table in the epilogue");
        return Ok(());
    }
    let to = target.define(l, layout, rank);
    let lut = Lut { x: r.codes, y: target.codes, table: r.table.clone() };
    l.emit(id, Step::Lut(Box::new(lut)), vec![Some(from)], vec![Some(to)]);
    for v in target.values() {
        l.tables.insert(v, r.clone());
    }
    target.done(l, id, "lut");
    Ok(())
}

/// The end of the convolution or product that writes a slot, if a table can still go into it.
pub(super) fn open_end<'a>(
    l: &'a mut Lowering<'_>,
    slot: crate::program::SlotId,
) -> Option<&'a mut crate::steps::codes::CodesEnd> {
    let end = match &mut l.step_mut(slot)?.step {
        Step::QConv(c) => &mut c.end,
        Step::QProduct(p) => &mut p.end,
        _ => return None,
    };
    match end {
        End::Codes(end) if end.table.is_none() => Some(end),
        End::Codes(_) | End::F32 { .. } => None,
    }
}

/// A table that brings codes to other scales: arith (1) of (2).
pub(super) fn requantize(from: Codes, to: Codes) -> Lut {
    Lut { x: from, y: to, table: Box::new(arith::table(|x| x, from.affine, to.affine)) }
}
