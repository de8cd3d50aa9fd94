//! From a graph to a program: the walk over the nodes and the state that the rules share.

use crate::control;
use crate::coverage::{Coverage, Reason, Row, Status};
use crate::defaults::Defaults;
use crate::error::{Error, Result};
use crate::expand::{Expansion, unknown_operators};
use crate::float;
use crate::fold::{self, Spent};
use crate::fuse::{self, Joined, Readers};
use crate::layout::{Layout, moved};
use crate::lower::{self, Lowered, Rooted, Transposed};
use crate::ops::OpError;
use crate::packings::Packings;
use crate::pool::Pool;
use crate::program::{Input, Output, Program, Slot, SlotId, StepRow};
use crate::steps::Step;
use crate::symbols::Symbols;
use quantal_ir::cost;
use quantal_ir::graph::Uses;
use quantal_ir::{Dim, Graph, Node, NodeId, Op, ValueId};
use quantal_kernels::{Isa, Threads};
use quantal_tensor::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How a graph is compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Quantized nodes run on integers.
    Integer,
    /// Everything runs in float, each QuantizeLinear and DequantizeLinear as it is written.
    Simulate,
}

/// Compiles a graph for an instruction set.
pub fn compile(graph: &Graph, mode: Mode, isa: Isa) -> Result<Program> {
    compile_observed(graph, mode, isa, &[])
}

/// The same; the values in `taps` are kept apart from fusion, so that [`crate::Session::run_taps`] can show them.
pub fn compile_observed(graph: &Graph, mode: Mode, isa: Isa, taps: &[ValueId]) -> Result<Program> {
    control::check_depth(graph)?;
    let expansion = Expansion::of(graph)?;
    let lowering = Lowering::new(&expansion, mode, isa, taps, 0);
    let wanted = |node: &Node| node.outputs.iter().flatten().any(|v| lowering.wanted[v.0 as usize]);
    let unknown = unknown_operators(&expansion.graph, wanted);
    if !unknown.is_empty() {
        return Err(Error::UnknownOperators { operators: unknown });
    }
    let (mut program, _) = lowering.program(taps)?;
    program.coverage = expansion.coverage(graph, program.coverage);
    for row in &mut program.steps {
        row.node = expansion.source(row.node);
    }
    program.defaults = Defaults::of(graph, mode, taps);
    program.symbols = Symbols::of(graph, mode, taps);
    Ok(program)
}

/// What each node would become in [`Mode::Integer`]; those that cannot run, of which [`compile()`] only says the first,
/// are [`Status::Refused`] with the reason, and the rest is told as if they ran.
///
/// # Errors
/// If subgraphs are nested too deep, or memory runs out.
pub fn survey(graph: &Graph, isa: Isa) -> Result<Coverage> {
    control::check_depth(graph)?;
    let expansion = Expansion::of(graph)?;
    let mut lowering = Lowering::new(&expansion, Mode::Integer, isa, &[], 0);
    lowering.surveying = true;
    let (program, _) = lowering.program(&[])?;
    Ok(expansion.coverage(graph, program.coverage))
}

/// Compiles a subgraph whose captures stand for the values `around` of the graph around it. Gives those of them that it
/// reads at run time, in the order of its capture slots; what is constant around is constant inside as well.
pub(crate) fn compile_inner(
    graph: &Graph,
    around: &[ValueId],
    outer: &mut Lowering<'_>,
) -> Result<(Program, Vec<ValueId>)> {
    let mut graph = graph.clone();
    let captures: Vec<(ValueId, ValueId)> = graph.captures.iter().copied().zip(around.iter().copied()).collect();
    for &(v, outside) in &captures {
        graph.value_mut(v).constant = outer.constant(outside)?;
    }
    let expansion = Expansion::of(&graph)?;
    let mut inner = Lowering::new(&expansion, Mode::Simulate, outer.isa, &[], outer.depth + 1);
    (inner.packings, inner.folding) = (outer.packings.clone(), std::mem::take(&mut outer.folding));
    let mut captured = Vec::new();
    for &(v, outside) in captures.iter().filter(|(v, _)| graph.value(*v).constant.is_none()) {
        let slot = inner.define(v, Layout::Standard, outer.rank(outside));
        inner.captures.push(slot);
        captured.push(outside);
    }
    let (program, folding) = inner.program(&[])?;
    outer.folding = folding;
    Ok((program, captured))
}

/// Where a value lies at run time.
#[derive(Clone, Copy, Default)]
struct Places {
    standard: Option<SlotId>,
    channels_last: Option<SlotId>,
    /// The one that was there first.
    first: Option<Layout>,
}

impl Places {
    fn get(self, layout: Layout) -> Option<SlotId> {
        match layout {
            Layout::Standard => self.standard,
            Layout::ChannelsLast => self.channels_last,
        }
    }

    fn set(&mut self, layout: Layout, slot: SlotId) {
        self.first.get_or_insert(layout);
        match layout {
            Layout::Standard => self.standard = Some(slot),
            Layout::ChannelsLast => self.channels_last = Some(slot),
        }
    }
}

/// The state of one compilation: what the rules read and write.
pub(crate) struct Lowering<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) mode: Mode,
    pub(crate) isa: Isa,
    pub(crate) uses: Uses,
    /// Nodes that have no form that runs, with the reason.
    refused: &'g BTreeMap<NodeId, String>,
    /// Whether a node that cannot run is noted, rather than the end of the compilation.
    surveying: bool,
    /// How many graphs lie around this one.
    pub(crate) depth: usize,
    /// In a subgraph: where the values lie that come from around it at run time.
    captures: Vec<SlotId>,
    slots: Vec<Slot>,
    /// `None` where a step was taken back.
    steps: Vec<Option<StepRow>>,
    /// The step that writes a slot.
    writer: Vec<Option<usize>>,
    /// Whether several values lie in a slot.
    shared: Vec<bool>,
    places: Vec<Places>,
    /// Graph outputs and taps: values that must exist by themselves.
    kept: Vec<bool>,
    /// Values that an output depends on.
    wanted: Vec<bool>,
    /// Contents computed while compiling.
    constants: BTreeMap<ValueId, Arc<Tensor>>,
    /// Nodes that are lowered when somebody asks for their output.
    deferred: BTreeSet<NodeId>,
    status: BTreeMap<NodeId, Status>,
    /// Codes that are a function of other codes.
    pub(crate) tables: BTreeMap<ValueId, Rooted>,
    /// Codes that are others transposed.
    pub(crate) transposed: BTreeMap<ValueId, Transposed>,
    /// Codes of rows that are quantized while running: where they and their scales lie.
    pub(crate) rows: BTreeMap<ValueId, (SlotId, SlotId)>,
    /// Concats whose parts may be written in place.
    pub(crate) joined: Vec<Joined>,
    /// The node being lowered.
    current: Option<NodeId>,
    /// For moves of constants.
    pool: Pool,
    /// Weights packed so far, in this graph and those around it.
    pub(crate) packings: Packings,
    /// What folding has spent so far.
    folding: Spent,
}

impl<'g> Lowering<'g> {
    fn new(expansion: &'g Expansion<'_>, mode: Mode, isa: Isa, taps: &[ValueId], depth: usize) -> Self {
        let graph: &Graph = &expansion.graph;
        let mut kept = vec![false; graph.value_count()];
        for v in graph.outputs.iter().chain(taps) {
            kept[v.0 as usize] = true;
        }
        let mut wanted = kept.clone();
        for (_, node) in graph.nodes().rev() {
            if node.outputs.iter().flatten().any(|v| wanted[v.0 as usize]) {
                for v in node.reads() {
                    wanted[v.0 as usize] = true;
                }
            }
        }
        Self {
            graph,
            mode,
            isa,
            uses: graph.uses(),
            refused: expansion.refused(),
            surveying: false,
            depth,
            captures: Vec::new(),
            slots: Vec::new(),
            steps: Vec::new(),
            writer: Vec::new(),
            shared: Vec::new(),
            places: vec![Places::default(); graph.value_count()],
            kept,
            wanted,
            constants: BTreeMap::new(),
            deferred: BTreeSet::new(),
            status: BTreeMap::new(),
            tables: BTreeMap::new(),
            transposed: BTreeMap::new(),
            rows: BTreeMap::new(),
            joined: Vec::new(),
            current: None,
            pool: Pool::default(),
            packings: Packings::default(),
            folding: Spent::default(),
        }
    }

    /// Walks the nodes and puts the program together. Gives what folding has spent as well.
    fn program(mut self, taps: &[ValueId]) -> Result<(Program, Spent)> {
        let graph = self.graph;
        let inputs = graph.inputs.iter().map(|&v| self.input(v)).collect();
        for (id, node) in graph.nodes() {
            if !node.outputs.iter().flatten().any(|v| self.wanted[v.0 as usize]) {
                self.set(id, Status::Folded);
            }
            if !self.status.contains_key(&id) && !self.deferred.contains(&id) {
                match self.lower(id) {
                    Err(error @ Error::Node { .. }) if self.surveying => self.refuse(id, &error),
                    other => other?,
                }
            }
        }
        self.current = None;
        let mut outputs = Vec::with_capacity(graph.outputs.len());
        for &v in &graph.outputs {
            let (slot, value) = (self.slot(v, Layout::Standard)?, graph.value(v));
            let (name, dtype, shape) = (Arc::clone(&value.name), value.dtype, value.shape.clone());
            outputs.push(Output { name, slot, dtype, shape });
        }
        let mut observed = Vec::new();
        for &v in taps {
            let layout = self.layout(v);
            observed.push((v, self.slot(v, layout)?, layout));
        }
        // A DequantizeLinear that nobody asked for floats is part of the step that reads its codes.
        for id in std::mem::take(&mut self.deferred) {
            let reader = graph.node(id).output(0).and_then(|y| self.uses.readers(y).first().copied());
            self.set(id, reader.map_or(Status::Folded, |into| Status::Fused { into }));
        }
        let handed_out: Vec<SlotId> = outputs.iter().map(|o| o.slot).collect();
        let looked_at: Vec<SlotId> = observed.iter().map(|o| o.1).collect();
        let readers = Readers::of(&self.steps, self.slots.len(), &[&handed_out[..], &looked_at].concat());
        fuse::quantize_moved(&mut self.steps, &readers);
        fuse::join(&mut self.steps, &readers, &self.joined);
        let steps = with_frees(self.steps, self.slots.len(), &handed_out, &looked_at);
        let rows = graph.nodes().map(|(id, node)| Row {
            node: id,
            name: Arc::clone(&node.name),
            op: node.op_name(),
            status: self.status.remove(&id).unwrap_or(Status::Folded),
            macs: cost::macs(graph, id),
        });
        let program = Program {
            coverage: Coverage { rows: rows.collect() },
            steps,
            slots: self.slots,
            inputs,
            outputs,
            isa: self.isa,
            taps: observed,
            defaults: None,
            symbols: None,
            captures: self.captures,
        };
        Ok((program, self.folding))
    }

    /// Notes that a node cannot run, and lets its outputs be there as if it had.
    fn refuse(&mut self, id: NodeId, error: &Error) {
        let node = self.graph.node(id);
        let why = match error {
            Error::Node { node: name, cause, .. } if *name == node.name.escape_debug().to_string() => cause.to_string(),
            // Of a node inside of it.
            other => other.to_string(),
        };
        let why = if node.op == Op::Opaque { "this operator is not known here".to_owned() } else { why };
        self.set(id, Status::Refused { why });
        for &v in node.outputs.iter().flatten() {
            if self.found(v, Layout::Standard).or(self.found(v, Layout::ChannelsLast)).is_none() {
                self.define(v, Layout::Standard, None);
            }
        }
    }

    fn input(&mut self, v: ValueId) -> Input {
        let value = self.graph.value(v);
        let slot = self.define(v, Layout::Standard, value.rank());
        Input { name: Arc::clone(&value.name), slot, dtype: value.dtype, shape: value.shape.clone() }
    }

    /// Lowers one node: by folding, by an integer rule, or in float.
    pub(crate) fn lower(&mut self, id: NodeId) -> Result<()> {
        let node = self.graph.node(id);
        self.current = Some(id);
        if let Some(why) = self.refused.get(&id) {
            return Err(self.error(OpError::Unsupported(why.clone())));
        }
        match node.op {
            Op::If | Op::Loop | Op::Scan => return control::lower(self, id),
            // Behind a DequantizeLinear lie codes: an integer rule takes them as they are, a float one has them turned
            // into floats where it reads them.
            Op::DequantizeLinear | Op::MsDequantizeLinear
                if self.mode == Mode::Integer || self.constant_inputs(node)?.is_some() =>
            {
                self.deferred.insert(id);
                return Ok(());
            }
            _ if self.fold(id)? => return Ok(()),
            _ => {}
        }
        let reason = match self.mode {
            Mode::Simulate if self.depth > 0 => Reason::ControlFlow,
            Mode::Simulate => Reason::Simulated,
            Mode::Integer => match lower::integer(self, id)? {
                Lowered::Done => return Ok(()),
                Lowered::Refused(reason) => reason,
            },
        };
        float::lower(self, id, reason)
    }

    /// Computes a node whose inputs are all constants. False if they are not, or the result would be too large.
    fn fold(&mut self, id: NodeId) -> Result<bool> {
        let node = self.graph.node(id);
        let Some(inputs) = self.constant_inputs(node)? else { return Ok(false) };
        let Some(results) = fold::evaluate(self.graph, id, &inputs, self.isa, &mut self.folding) else {
            return Ok(false);
        };
        for (v, tensor) in node.outputs.iter().zip(results) {
            if let Some(v) = v {
                self.constants.insert(*v, Arc::new(tensor));
            }
        }
        self.set(id, Status::Folded);
        Ok(true)
    }

    /// The inputs of a node, if every one that is given is a constant.
    fn constant_inputs(&mut self, node: &Node) -> Result<Option<Vec<Option<Arc<Tensor>>>>> {
        let mut list = Vec::with_capacity(node.inputs.len());
        for v in &node.inputs {
            match v {
                None => list.push(None),
                Some(v) => match self.constant(*v)? {
                    Some(tensor) => list.push(Some(tensor)),
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(list))
    }

    /// The contents of a value, if they are known while compiling. Computes a deferred node.
    pub(crate) fn constant(&mut self, v: ValueId) -> Result<Option<Arc<Tensor>>> {
        if let Some(tensor) = self.constants.get(&v).or(self.graph.value(v).constant.as_ref()) {
            return Ok(Some(Arc::clone(tensor)));
        }
        match self.uses.producer(v) {
            Some(id) if self.deferred.contains(&id) && self.fold(id)? => {
                self.deferred.remove(&id);
                Ok(self.constants.get(&v).cloned())
            }
            _ => Ok(None),
        }
    }

    /// The slot of a value in a layout; moves it there if it exists in the other one only.
    pub(crate) fn slot(&mut self, v: ValueId, layout: Layout) -> Result<SlotId> {
        if let Some(slot) = self.places[v.0 as usize].get(layout) {
            return Ok(slot);
        }
        if let Some(tensor) = self.constant(v)? {
            let slot = self.constant_slot(&tensor, layout)?;
            self.places[v.0 as usize].set(layout, slot);
            return Ok(slot);
        }
        if let Some(id) = self.uses.producer(v).filter(|id| self.deferred.contains(id)) {
            self.deferred.remove(&id);
            let current = self.current;
            self.lower_in_float(id)?;
            self.current = current;
            return self.slot(v, layout);
        }
        let place = self.places[v.0 as usize];
        let Some(from) = place.standard.or(place.channels_last) else { return Err(self.no_producer(v)) };
        let slot = self.define(v, layout, self.slots[from.0 as usize].rank);
        let owner = self.uses.producer(v).or(self.current);
        self.push(owner, Step::Move(layout), vec![Some(from)], vec![Some(slot)]);
        Ok(slot)
    }

    fn lower_in_float(&mut self, id: NodeId) -> Result<()> {
        self.current = Some(id);
        let reason = if self.mode == Mode::Simulate { Reason::Simulated } else { Reason::OutputNotQuantized };
        float::lower(self, id, reason)
    }

    /// A slot that holds a constant.
    pub(crate) fn constant_slot(&mut self, tensor: &Arc<Tensor>, layout: Layout) -> Result<SlotId> {
        let held = match layout {
            Layout::Standard => Arc::clone(tensor),
            Layout::ChannelsLast => {
                Arc::new(moved(tensor, layout, &mut self.pool, &Threads::new(1)).map_err(|e| self.error(e))?)
            }
        };
        let slot = self.new_slot(layout, Some(tensor.rank()));
        self.slots[slot.0 as usize].constant = Some(held);
        Ok(slot)
    }

    /// The layout in which a value was made, or will be: a node that is put off makes that of what it reads.
    pub(crate) fn layout(&self, v: ValueId) -> Layout {
        let made = self.places[v.0 as usize].first;
        let source = || {
            let id = self.uses.producer(v).filter(|id| self.deferred.contains(id))?;
            self.places[self.graph.node(id).input(0)?.0 as usize].first
        };
        made.or_else(source).unwrap_or(Layout::Standard)
    }

    /// The sizes of an image along its spatial axes, where they are known.
    pub(crate) fn spatial_sizes(&self, v: ValueId) -> Vec<Option<usize>> {
        let shape = self.graph.value(v).shape.as_deref().unwrap_or_default();
        shape.iter().skip(2).map(Dim::known).collect()
    }

    /// Number of dimensions of a value, where known.
    pub(crate) fn rank(&self, v: ValueId) -> Option<usize> {
        let place = self.places[v.0 as usize];
        let slot = place.standard.or(place.channels_last);
        let constant = || self.constants.get(&v).map(|t| t.rank());
        slot.and_then(|s| self.slots[s.0 as usize].rank).or_else(constant).or_else(|| self.graph.value(v).rank())
    }

    /// A new slot for a value in a layout.
    pub(crate) fn define(&mut self, v: ValueId, layout: Layout, rank: Option<usize>) -> SlotId {
        let slot = self.new_slot(layout, rank.or_else(|| self.graph.value(v).rank()));
        self.places[v.0 as usize].set(layout, slot);
        slot
    }

    /// Says that `v` lies in a slot that another value has as well. The step that writes it is then left as it is.
    pub(crate) fn share(&mut self, v: ValueId, layout: Layout, slot: SlotId) {
        self.shared[slot.0 as usize] = true;
        self.places[v.0 as usize].set(layout, slot);
    }

    /// Says that `v` lies in a slot in place of the value that it was made for, which nobody reads any more.
    pub(crate) fn take_over(&mut self, v: ValueId, layout: Layout, slot: SlotId) {
        self.places[v.0 as usize].set(layout, slot);
    }

    /// The slot of a value in this layout, if it is there.
    pub(crate) fn found(&self, v: ValueId, layout: Layout) -> Option<SlotId> {
        self.places[v.0 as usize].get(layout)
    }

    /// The same, if no other value lies there.
    pub(crate) fn own_slot(&self, v: ValueId, layout: Layout) -> Option<SlotId> {
        self.found(v, layout).filter(|s| !self.shared[s.0 as usize])
    }

    /// Where in the order of steps a slot is written.
    pub(crate) fn writer_index(&self, slot: SlotId) -> Option<usize> {
        self.writer[slot.0 as usize]
    }

    /// Whether a value is known to hold float32.
    pub(crate) fn is_f32(&self, v: ValueId) -> bool {
        let place = self.places[v.0 as usize];
        let writer = place.standard.or(place.channels_last).and_then(|s| self.writer[s.0 as usize]);
        let made = writer.and_then(|w| self.steps[w].as_ref()).is_some_and(|row| row.step.makes_f32());
        made || self.graph.value(v).dtype == Some(DType::F32)
    }

    /// Whether two values have the same dimensions, all of them known or named.
    pub(crate) fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        let shape = |v| self.graph.value(v).shape.as_ref();
        shape(a).is_some_and(|s| !s.contains(&Dim::Unknown)) && shape(a) == shape(b)
    }

    /// A slot that belongs to no value of the graph.
    pub(crate) fn new_slot(&mut self, layout: Layout, rank: Option<usize>) -> SlotId {
        self.slots.push(Slot { layout, rank, constant: None });
        self.writer.push(None);
        self.shared.push(false);
        SlotId((self.slots.len() - 1) as u32)
    }

    /// Adds a step that stands for a node.
    pub(crate) fn emit(&mut self, id: NodeId, step: Step, inputs: Vec<Option<SlotId>>, outputs: Vec<Option<SlotId>>) {
        self.push(Some(id), step, inputs, outputs);
    }

    fn push(&mut self, id: Option<NodeId>, step: Step, inputs: Vec<Option<SlotId>>, outputs: Vec<Option<SlotId>>) {
        let (name, op) = match id.map(|id| self.graph.node(id)) {
            Some(node) => (Arc::clone(&node.name), node.op_name().into()),
            None => (self.graph.name.as_str().into(), "outputs".into()),
        };
        for slot in outputs.iter().flatten() {
            self.writer[slot.0 as usize] = Some(self.steps.len());
        }
        let node = id.unwrap_or(NodeId(u32::MAX));
        self.steps.push(Some(StepRow { step, node, name, op, inputs, outputs, frees: Vec::new(), overwrites: None }));
    }

    /// The step that writes a slot, while it may still be changed.
    pub(crate) fn step_mut(&mut self, slot: SlotId) -> Option<&mut StepRow> {
        let index = self.writer[slot.0 as usize]?;
        self.steps[index].as_mut()
    }

    /// Takes back the step that writes a slot, to emit it again in another form, at the end.
    pub(crate) fn take_step(&mut self, slot: SlotId) -> Option<StepRow> {
        let index = self.writer[slot.0 as usize].take()?;
        self.steps[index].take()
    }

    /// Emits a step that was taken back.
    pub(crate) fn put_step(&mut self, row: StepRow) {
        for slot in row.outputs.iter().flatten() {
            self.writer[slot.0 as usize] = Some(self.steps.len());
        }
        self.steps.push(Some(row));
    }

    /// Says what became of a node.
    pub(crate) fn set(&mut self, id: NodeId, status: Status) {
        self.status.insert(id, status);
    }

    /// What was said of a node.
    pub(crate) fn status_of(&self, id: NodeId) -> Option<&Status> {
        self.status.get(&id)
    }

    /// Whether it has been said already.
    pub(crate) fn is_done(&self, id: NodeId) -> bool {
        self.status.contains_key(&id)
    }

    /// Whether a value must exist by itself: it is handed out or observed.
    pub(crate) fn is_kept(&self, v: ValueId) -> bool {
        self.kept[v.0 as usize]
    }

    /// The one input of the one node that reads a value, if there is just one and the value need not exist by itself.
    pub(crate) fn sole_reader(&self, v: ValueId) -> Option<NodeId> {
        match self.uses.readers(v) {
            [one] if !self.is_kept(v) => Some(*one),
            _ => None,
        }
    }

    /// An error of the node being lowered.
    pub(crate) fn error(&self, cause: OpError) -> Error {
        match self.current {
            Some(id) => Error::at(self.graph.node(id), cause),
            None => Error::Node { node: self.graph.name.clone(), op: "graph".to_owned(), cause },
        }
    }

    fn no_producer(&self, v: ValueId) -> Error {
        let reader = match self.current {
            Some(id) => self.graph.node(id).name.escape_debug().to_string(),
            None => "the graph's outputs".to_owned(),
        };
        Error::NoProducer { reader, value: self.graph.value(v).name.escape_debug().to_string() }
    }
}

/// The steps that are left, each with the slots that nobody reads after it. An observed value is shown when it is made
/// and need not be kept alive.
fn with_frees(steps: Vec<Option<StepRow>>, slots: usize, handed_out: &[SlotId], looked_at: &[SlotId]) -> Vec<StepRow> {
    let mut read_later = vec![false; slots];
    for slot in handed_out {
        read_later[slot.0 as usize] = true;
    }
    let mut observed = vec![false; slots];
    for slot in looked_at {
        observed[slot.0 as usize] = true;
    }
    let mut kept = Vec::with_capacity(steps.len());
    for mut row in steps.into_iter().flatten().rev() {
        // What went whole into another step leaves one whose result nobody reads.
        let control = matches!(row.step, Step::If(_) | Step::Loop(_) | Step::Scan(_));
        let unread = |s: &SlotId| !read_later[s.0 as usize] && !observed[s.0 as usize];
        if !control && row.outputs.iter().flatten().all(unread) {
            continue;
        }
        for slot in row.outputs.iter().chain(&row.inputs).flatten() {
            if !std::mem::replace(&mut read_later[slot.0 as usize], true) {
                row.frees.push(*slot);
            }
        }
        if let Some(under) = row.step.in_place()
            && let Some(&Some(x)) = row.inputs.get(under)
        {
            let once = row.inputs.iter().flatten().filter(|s| **s == x).count() == 1;
            if once && let Some(i) = row.frees.iter().position(|s| *s == x) {
                row.frees.remove(i);
                row.overwrites = Some(under);
            }
        }
        kept.push(row);
    }
    kept.reverse();
    kept
}
