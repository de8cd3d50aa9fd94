//! If, Loop and Scan: subprograms with what they capture. What loops may spend stands in [`budget`].

mod budget;
mod scan;

use crate::compile::{Lowering, compile_inner};
use crate::coverage::{Reason, Status};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ops::{Inputs, OpError, optional, required};
use crate::program::{Output, Program, SlotId, StepRow};
use crate::session::{Run, Watch};
use crate::steps::Step;
pub(crate) use budget::Loops;
use quantal_ir::{Dim, Graph, NodeId, Op};
use quantal_tensor::bytes::Claim;
use quantal_tensor::{Bytes, DType, OutOfMemory, Tensor, TensorError};
pub(crate) use scan::{Scan, run_scan};

/// Subgraphs within subgraphs: each level takes some of the stack.
const MAX_DEPTH: usize = 32;

/// The two sides of an If. The step reads the condition, then what each side captures.
#[derive(Debug)]
pub struct Branches {
    then: Program,
    otherwise: Program,
}

/// The body of a Loop. The step reads the number of turns, the condition and the carried values, then what the body
/// captures.
#[derive(Debug)]
pub struct Turns {
    body: Program,
    /// Values carried from turn to turn.
    carried: usize,
}

/// Checks that subgraphs are not nested too deep, before anything else walks them.
///
/// # Errors
/// Names the first node that lies too deep.
pub(crate) fn check_depth(graph: &Graph) -> Result<()> {
    check_below(graph, 0)
}

fn check_below(graph: &Graph, depth: usize) -> Result<()> {
    for (_, node) in graph.nodes() {
        for (_, inner) in node.attrs.graphs() {
            if depth == MAX_DEPTH {
                return Err(Error::TooDeep { node: node.name.escape_debug().to_string(), limit: MAX_DEPTH });
            }
            check_below(inner, depth + 1)?;
        }
    }
    Ok(())
}

/// Lowers an If, a Loop or a Scan.
pub(crate) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Result<()> {
    let graph = l.graph;
    let node = graph.node(id);
    let mut inputs = Vec::new();
    for v in &node.inputs {
        inputs.push(v.map(|v| l.slot(v, Layout::Standard)).transpose()?);
    }
    let outputs = node.outputs.len();
    let step = if node.op == Op::If {
        let then = part(l, id, "then_branch", &mut inputs)?;
        let otherwise = part(l, id, "else_branch", &mut inputs)?;
        for side in [&then, &otherwise] {
            if side.outputs.len() < outputs || !side.inputs.is_empty() {
                return Err(l.error(OpError::invalid("a branch must have no inputs and all outputs of the node")));
            }
        }
        Step::If(Box::new(Branches { then, otherwise }))
    } else if node.op == Op::Scan {
        scan::lower(l, id, &mut inputs)?
    } else {
        let carried = inputs.len().saturating_sub(2);
        let body = part(l, id, "body", &mut inputs)?;
        if body.inputs.len() != carried + 2 || body.outputs.len() < (carried + 1).max(outputs + 1) {
            let text =
                "the body must take turn, condition and carried values, and give condition, carried values and scans";
            return Err(l.error(OpError::invalid(text)));
        }
        Step::Loop(Box::new(Turns { body, carried }))
    };
    let mut results = Vec::new();
    for v in &node.outputs {
        results.push(v.map(|v| l.define(v, Layout::Standard, None)));
    }
    l.emit(id, step, inputs, results);
    l.set(id, Status::Float { reason: Reason::ControlFlow });
    Ok(())
}

/// Compiles a subgraph and appends the slots that it captures to the inputs of the step.
fn part(l: &mut Lowering<'_>, id: NodeId, name: &'static str, inputs: &mut Vec<Option<SlotId>>) -> Result<Program> {
    let graph = l.graph;
    let node = graph.node(id);
    node.attrs.graph(name).map_err(|e| l.error(e.into()))?;
    let found = node.subgraphs().find(|(attribute, _, _)| *attribute == name);
    let (_, inner, around) = found.ok_or_else(|| l.error(quantal_ir::attrs::AttrError::Missing(name).into()))?;
    let (program, captured) = compile_inner(inner, around, l)?;
    for v in captured {
        inputs.push(Some(l.slot(v, Layout::Standard)?));
    }
    Ok(program)
}

/// Runs an If.
pub(crate) fn run_if(b: &Branches, inputs: &Inputs<'_>, run: &mut Run<'_>, row: &StepRow) -> Result<Vec<Tensor>> {
    let fail = |cause| Error::in_step(row, cause);
    let condition = truth(required(inputs, 0).map_err(fail)?).map_err(fail)?;
    let first = 1 + if condition { 0 } else { b.then.captures.len() };
    let side = if condition { &b.then } else { &b.otherwise };
    let given = captured(side, &inputs[first..]);
    run.program(side, given, Watch::default())
}

/// Runs a Loop.
pub(crate) fn run_loop(t: &Turns, inputs: &Inputs<'_>, run: &mut Run<'_>, row: &StepRow) -> Result<Vec<Tensor>> {
    let fail = |cause| Error::in_step(row, cause);
    let most = match optional(inputs, 0) {
        Some(m) => m.to_i64_vec().and_then(|v| v.first().copied()).unwrap_or(0),
        None => i64::MAX,
    };
    let mut condition = optional(inputs, 1).map_or(Ok(true), truth).map_err(fail)?;
    let mut carried = Vec::with_capacity(t.carried);
    for i in 0..t.carried {
        carried.push(required(inputs, 2 + i).map_err(fail)?.clone());
    }
    let outside = captured(&t.body, &inputs[2 + t.carried..]);
    let mut scans: Vec<ScanOutput> = t.body.outputs[1 + t.carried..].iter().map(|_| ScanOutput::default()).collect();
    run.loops.enter(&row.name);
    let mut turn = 0_i64;
    while condition && turn < most {
        run.loops.turn(turn as u64, t.body.slots.len() + outside.len())?;
        let before = bytes_of(&carried);
        let mut given = outside.clone();
        let body_inputs = t.body.inputs.iter().map(|i| i.slot);
        let turn_tensor = Tensor::scalar(turn)?;
        let condition_tensor = Tensor::from_bools(&[], &[condition])?;
        let values = [turn_tensor, condition_tensor].into_iter().chain(carried.drain(..));
        given.extend(body_inputs.zip(values));
        let mut results = run.program(&t.body, given, Watch::default())?.into_iter();
        condition = match results.next() {
            Some(c) => truth(&c).map_err(fail)?,
            None => false,
        };
        carried.extend(results.by_ref().take(t.carried));
        run.loops.grow(bytes_of(&carried).saturating_sub(before))?;
        for (scan, tensor) in scans.iter_mut().zip(results) {
            run.loops.grow(tensor.bytes().len())?;
            scan.push(&tensor).map_err(fail)?;
            run.env.pool.count(&tensor);
            run.env.pool.give_back(tensor);
        }
        turn += 1;
    }
    run.loops.leave();
    for (scan, output) in scans.into_iter().zip(&t.body.outputs[1 + t.carried..]) {
        carried.push(scan.finish(output, turn as usize)?);
    }
    Ok(carried)
}

fn bytes_of(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|t| t.bytes().len()).sum()
}

/// The tensors of a subprogram's capture slots.
fn captured(program: &Program, inputs: &Inputs<'_>) -> Vec<(SlotId, Tensor)> {
    program.captures.iter().zip(inputs).filter_map(|(slot, t)| t.map(|t| (*slot, t.clone()))).collect()
}

fn truth(condition: &Tensor) -> std::result::Result<bool, OpError> {
    match condition.to_i64_vec().as_deref() {
        Some([v]) => Ok(*v != 0),
        _ => Err(OpError::invalid(format!("the condition must be one bool, found shape {:?}", condition.shape()))),
    }
}

/// An output of a Loop or a Scan that grows by one element each turn.
#[derive(Default)]
struct ScanOutput {
    dtype: Option<DType>,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    claim: Claim,
}

impl ScanOutput {
    fn push(&mut self, tensor: &Tensor) -> std::result::Result<(), OpError> {
        match self.dtype {
            None => (self.dtype, self.shape) = (Some(tensor.dtype()), tensor.shape().to_vec()),
            Some(dtype) if dtype == tensor.dtype() && self.shape == tensor.shape() => {}
            Some(_) => {
                let text = format!("a scan output changes shape from {:?} to {:?}", self.shape, tensor.shape());
                return Err(OpError::Invalid(text));
            }
        }
        let more = tensor.bytes();
        let needed = self.bytes.len().saturating_add(more.len());
        if needed > self.bytes.capacity() {
            let room = needed.max(self.bytes.capacity().saturating_mul(2));
            self.claim.grow_to(room).map_err(TensorError::from)?;
            let short = |_| TensorError::from(OutOfMemory::now(room));
            self.bytes.try_reserve_exact(room - self.bytes.len()).map_err(short)?;
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    fn finish(self, declared: &Output, turns: usize) -> Result<Tensor> {
        let known = |shape: &Vec<Dim>| shape.iter().map(|d| d.known().unwrap_or(0)).collect();
        // Without a turn, only the declaration tells type and shape.
        let (dtype, inner): (DType, Vec<usize>) = match self.dtype {
            Some(dtype) => (dtype, self.shape),
            None => (declared.dtype.unwrap_or(DType::F32), declared.shape.as_ref().map(known).unwrap_or_default()),
        };
        let shape: Vec<usize> = std::iter::once(turns).chain(inner).collect();
        Ok(Tensor::from_bytes(dtype, &shape, Bytes::copy_from(&self.bytes).map_err(TensorError::from)?)?)
    }
}
