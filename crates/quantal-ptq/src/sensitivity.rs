//! Sensitivity: what quantizing one node alone does to the outputs, and what leaving it alone in float would.
//!
//! Both questions walk the nodes in graph order with all samples at once: what lies before a node has run when its turn
//! comes, and only what follows it runs again for each trial. The samples are walked in blocks, so that the values that
//! wait at the node fit in a bound.

mod walk;

use crate::error::{Error, Result};
use crate::place::Verdict;
use crate::quantize::{Prepared, Quantized};
use crate::watch::Runs;
use quantal_data::metric;
use quantal_ir::{Graph, NodeId, QuantPlan, ValueId};
use quantal_tensor::Tensor;
use quantal_tensor::stats::SqnrSums;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use walk::{Block, Walk};

/// What a trial did to the outputs, over all samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effect {
    /// The outputs against those of the float model.
    pub sums: SqnrSums,
    /// Samples whose label has the highest score.
    pub hits: usize,
}

/// One node that runs in integers.
#[derive(Clone, Debug)]
pub struct NodeEffect {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// Its operator.
    pub op: String,
    /// This node quantized, all others in float.
    pub alone: Effect,
    /// This node in float, all others as they are quantized. What is before it stays as it was.
    pub without: Effect,
}

/// The effects of all nodes.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// Number of samples.
    pub samples: usize,
    /// How many of them have a label.
    pub labelled: usize,
    /// Hits of the float model.
    pub float_hits: usize,
    /// Everything quantized.
    pub all: Effect,
    /// A row for each node that runs in integers by itself, in graph order.
    pub rows: Vec<NodeEffect>,
}

/// Bytes of the values that wait at a node, of all samples of a block together.
const BLOCK_BYTES: usize = 512 << 20;

/// Measures every node of `quantized`, which `prepared` gave, on the samples of `runs`.
pub fn sensitivity(prepared: &Prepared, quantized: &Quantized, runs: &mut Runs<'_>) -> Result<Sensitivity> {
    let nodes: Vec<&crate::Decision> =
        quantized.decisions.iter().filter(|d| matches!(d.verdict, Verdict::Integer)).collect();
    let mut found = Sensitivity {
        samples: 0,
        labelled: 0,
        float_hits: 0,
        all: Effect::default(),
        rows: nodes
            .iter()
            .map(|d| NodeEffect {
                node: d.node,
                name: Arc::clone(&d.name),
                op: d.op.clone(),
                alone: Effect::default(),
                without: Effect::default(),
            })
            .collect(),
    };
    let trials = nodes.iter().map(|d| Trial::of(prepared, quantized, d.node)).collect::<Result<Vec<_>>>()?;
    let samples = (runs.samples)();
    let total = samples.size_hint().1.map(|n| n * nodes.len());
    runs.progress.begin("sensitivity", total);
    let mut samples = samples.peekable();
    while let Some(block) = Block::take(&prepared.graph, &mut samples, BLOCK_BYTES, runs.isa, runs.threads)? {
        found.add_block(prepared, quantized, &trials, &block, runs)?;
    }
    runs.progress.done();
    if found.samples == 0 { Err(Error::NoSamples) } else { Ok(found) }
}

/// The two graphs of one node's trials, each with the plan that is written into it.
struct Trial {
    node: NodeId,
    alone: (Graph, QuantPlan),
    without: (Graph, QuantPlan),
}

impl Trial {
    fn of(prepared: &Prepared, quantized: &Quantized, node: NodeId) -> Result<Self> {
        let reasons = BTreeMap::from([(node, "left in float to see what it does".to_owned())]);
        let without = prepared.attempt(&reasons)?;
        let alone = (only(prepared, quantized, node), own_plan(quantized, node));
        Ok(Self { node, alone, without: (without.float, without.plan) })
    }
}

/// A node and those that were fused into it.
fn own_nodes(quantized: &Quantized, node: NodeId) -> BTreeSet<NodeId> {
    let fused = quantized.decisions.iter().filter(|d| matches!(d.verdict, Verdict::Fused(into) if into == node));
    std::iter::once(node).chain(fused.map(|d| d.node)).collect()
}

/// The encodings of what a node reads and makes.
fn own_plan(quantized: &Quantized, node: NodeId) -> QuantPlan {
    let mut plan = QuantPlan::default();
    for id in own_nodes(quantized, node) {
        let n = quantized.float.node(id);
        for v in n.reads().chain(n.outputs.iter().copied().flatten()) {
            plan.encodings.extend(quantized.plan.encodings.get(&v).map(|e| (v, e.clone())));
        }
    }
    plan.dynamic.extend(quantized.plan.dynamic.get(&node));
    plan
}

/// The float graph, with what was baked into the weights and the bias of one node alone.
fn only(prepared: &Prepared, quantized: &Quantized, node: NodeId) -> Graph {
    let own = own_nodes(quantized, node);
    let mut graph = quantized.float.clone();
    let constants = |g: &Graph, id: NodeId| -> Vec<ValueId> {
        g.node(id).reads().filter(|&v| g.value(v).constant.is_some()).collect()
    };
    let baked: BTreeSet<ValueId> = own.iter().flat_map(|&id| constants(&graph, id)).collect();
    for (id, original) in prepared.graph.nodes().filter(|(id, _)| !own.contains(id)) {
        graph.node_mut(id).inputs.clone_from(&original.inputs);
        for v in constants(&prepared.graph, id).into_iter().filter(|v| !baked.contains(v)) {
            let value = prepared.graph.value(v).clone();
            *graph.value_mut(v) = value;
        }
    }
    graph
}

impl Sensitivity {
    fn add_block(
        &mut self,
        prepared: &Prepared,
        quantized: &Quantized,
        trials: &[Trial],
        block: &Block,
        runs: &mut Runs<'_>,
    ) -> Result<()> {
        let nothing = QuantPlan::default();
        let mut float = Walk::new(&prepared.graph, &nothing, block, runs.isa, runs.threads);
        let mut integer = Walk::new(&quantized.float, &quantized.plan, block, runs.isa, runs.threads);
        let reference = float.outputs(&prepared.graph, &nothing)?;
        let judge = |outputs: &[Vec<Tensor>], effect: &mut Effect| {
            for ((a, b), label) in reference.iter().zip(outputs).zip(&block.labels) {
                for (a, b) in a.iter().zip(b) {
                    if let (Some(a), Some(b)) = (a.floats(), b.floats()) {
                        effect.sums.add(&a, &b);
                    }
                }
                effect.hits += usize::from(is_hit(b, *label));
            }
        };
        self.samples += block.len();
        self.labelled += block.labels.iter().flatten().count();
        self.float_hits += reference.iter().zip(&block.labels).filter(|(o, l)| is_hit(o, **l)).count();
        judge(&integer.outputs(&quantized.float, &quantized.plan)?, &mut self.all);
        for (row, trial) in self.rows.iter_mut().zip(trials) {
            float.advance_to(trial.node)?;
            judge(&float.outputs(&trial.alone.0, &trial.alone.1)?, &mut row.alone);
            integer.advance_to(trial.node)?;
            judge(&integer.outputs(&trial.without.0, &trial.without.1)?, &mut row.without);
            for _ in 0..block.len() {
                runs.progress.step();
            }
        }
        Ok(())
    }
}

/// Whether the label of a sample has the highest score in the first output.
fn is_hit(outputs: &[Tensor], label: Option<u32>) -> bool {
    let scores = outputs.first().and_then(Tensor::to_f32_vec);
    label.zip(scores).is_some_and(|(label, scores)| metric::rank(&scores, label) == 0)
}

#[cfg(test)]
mod tests;
