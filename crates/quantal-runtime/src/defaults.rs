//! Inputs with a default value: initializers that the model lists among its inputs too.
//!
//! They are constants, so that weights can be packed (old models list every weight), until somebody feeds another value:
//! then the graph is compiled anew with those values as inputs.

use crate::compile::{Mode, compile_observed};
use crate::error::{Error, Result};
use crate::program::Program;
use quantal_ir::{Dim, Graph, ValueId, infer};
use quantal_kernels::Isa;
use quantal_tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What it takes to compile a graph again with some of its constants as inputs.
#[derive(Debug)]
pub(crate) struct Defaults {
    graph: Graph,
    mode: Mode,
    taps: Vec<ValueId>,
    values: BTreeMap<Arc<str>, ValueId>,
}

impl Defaults {
    /// The defaults of a graph; `None` if no input has one. A constant that was changed since the file was read is not
    /// an input any more.
    pub(crate) fn of(graph: &Graph, mode: Mode, taps: &[ValueId]) -> Option<Box<Self>> {
        let inputs = graph.source.as_ref()?.graph().input.iter();
        let values: BTreeMap<Arc<str>, ValueId> = inputs
            .filter_map(|i| graph.find(&i.name))
            .filter(|&v| graph.value(v).constant.is_some() && graph.value(v).origin.is_some())
            .map(|v| (Arc::clone(&graph.value(v).name), v))
            .collect();
        (!values.is_empty()).then(|| Box::new(Self { graph: graph.clone(), mode, taps: taps.to_vec(), values }))
    }

    /// The input of that name, with its default.
    pub(crate) fn find(&self, name: &str) -> Option<(ValueId, &Tensor)> {
        let v = *self.values.get(name)?;
        Some((v, self.graph.value(v).constant.as_deref()?))
    }

    /// The program that takes these values from outside.
    pub(crate) fn program(&self, given: &[ValueId], isa: Isa) -> Result<Program> {
        let mut graph = self.graph.clone();
        for &v in given {
            let value = graph.value_mut(v);
            value.constant = None;
            let declared = value.shape.as_ref().map(|s| s.iter().map(|_| Dim::Unknown).collect());
            value.shape = declared;
            graph.inputs.push(v);
        }
        // Shapes may have followed from the contents that are gone.
        let made: Vec<ValueId> = graph.nodes().flat_map(|(_, n)| n.outputs.iter().flatten().copied()).collect();
        for v in made {
            graph.value_mut(v).shape = None;
        }
        infer::run(&mut graph).map_err(|e| Error::Override { cause: e.to_string() })?;
        compile_observed(&graph, self.mode, isa, &self.taps)
    }
}

/// Whether two tensors are the same in type, shape and bits.
pub(crate) fn same(a: &Tensor, b: &Tensor) -> bool {
    a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes() == b.bytes()
}
