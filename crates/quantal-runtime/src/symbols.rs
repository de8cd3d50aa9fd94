//! Names of dimensions that do not hold: some exporters call every free size `N`, so a name is only a hint.
//!
//! Programs are compiled in the belief that one name is one size. Where the feeds give the inputs two sizes for one
//! name, the graph is compiled again without that name.

use crate::compile::{Mode, compile_observed};
use crate::error::Result;
use crate::program::{Input, Program};
use quantal_ir::{Dim, Graph, ValueId, infer};
use quantal_kernels::Isa;
use quantal_tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What it takes to compile a graph again without some of its names.
#[derive(Debug)]
pub(crate) struct Symbols {
    graph: Graph,
    mode: Mode,
    taps: Vec<ValueId>,
}

impl Symbols {
    /// `None` if no name stands for more than one dimension of the inputs: then each holds.
    pub(crate) fn of(graph: &Graph, mode: Mode, taps: &[ValueId]) -> Option<Box<Self>> {
        let mut seen = BTreeSet::new();
        let dims = graph.inputs.iter().flat_map(|&v| graph.value(v).shape.iter().flatten());
        let symbols = dims.filter_map(|d| if let Dim::Symbol(s) = d { Some(s) } else { None });
        let twice = symbols.into_iter().any(|s| !seen.insert(s));
        twice.then(|| Box::new(Self { graph: graph.clone(), mode, taps: taps.to_vec() }))
    }

    /// The program that believes none of these names.
    pub(crate) fn program(&self, failing: &[Arc<str>], isa: Isa) -> Result<Program> {
        let mut graph = self.graph.clone();
        for v in graph.inputs.clone() {
            for d in graph.value_mut(v).shape.iter_mut().flatten() {
                if matches!(d, Dim::Symbol(s) if failing.contains(s)) {
                    *d = Dim::Unknown;
                }
            }
        }
        let made: Vec<ValueId> = graph.nodes().flat_map(|(_, n)| n.outputs.iter().flatten().copied()).collect();
        for v in made {
            graph.value_mut(v).shape = None;
        }
        // What cannot be told now is found out while running.
        let _ = infer::run(&mut graph);
        compile_observed(&graph, self.mode, isa, &self.taps)
    }
}

/// The names that stand for more than one size in these feeds, in order.
pub(crate) fn failing(inputs: &[Input], feeds: &[(String, Tensor)]) -> Vec<Arc<str>> {
    let mut sizes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    let mut failing = BTreeSet::new();
    for (name, tensor) in feeds {
        let shape = inputs.iter().find(|i| *i.name == **name).and_then(|i| i.shape.as_ref());
        for (dim, &size) in shape.into_iter().flatten().zip(tensor.shape()) {
            if let Dim::Symbol(symbol) = dim
                && *sizes.entry(symbol).or_insert(size) != size
            {
                failing.insert(Arc::clone(symbol));
            }
        }
    }
    failing.into_iter().collect()
}
