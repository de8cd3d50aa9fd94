//! A graph in the form that is lowered, floats of 16 bits widened and fused operators written out, and the way back to
//! the nodes of the file: its coverage has one row for each of those, and its steps stand for them.

use crate::coverage::{Coverage, Row, Status};
use crate::error::{Error, Result};
use crate::ops::OpError;
use quantal_ir::contrib::{self, Expanded, Purpose};
use quantal_ir::passes::{self, PassError};
use quantal_ir::{Graph, Node, NodeId, Op};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A graph as it is lowered.
pub(crate) struct Expansion<'g> {
    pub(crate) graph: Cow<'g, Graph>,
    expanded: Expanded,
}

impl<'g> Expansion<'g> {
    /// The graph itself where there is nothing to widen or to write out.
    pub(crate) fn of(graph: &'g Graph) -> Result<Self> {
        let refused = |text: String| Error::Node {
            node: graph.name.escape_debug().to_string(),
            op: "graph".to_owned(),
            cause: OpError::invalid(text),
        };

        let mut lowered = Cow::Borrowed(graph);
        if passes::has_half(graph) {
            passes::widen_half(lowered.to_mut()).map_err(|e| match e {
                PassError::Tensor(e) => Error::from(e),
                PassError::Cycle(e) => refused(e.to_string()),
            })?;
        }

        let mut expanded = Expanded::default();
        if contrib::has_any(&lowered, Purpose::Running) {
            expanded = contrib::expand(lowered.to_mut(), Purpose::Running).map_err(|e| refused(e.to_string()))?;
        }
        Ok(Self { graph: lowered, expanded })
    }

    /// Nodes that cannot be written out, with the reason.
    pub(crate) fn refused(&self) -> &BTreeMap<NodeId, String> {
        &self.expanded.refused
    }

    /// The node of the file that a node is a part of.
    pub(crate) fn source(&self, id: NodeId) -> NodeId {
        self.expanded.sources.get(&id).copied().unwrap_or(id)
    }

    /// The coverage of the nodes of `original`, given that of the graph that was lowered.
    pub(crate) fn coverage(&self, original: &Graph, lowered: Coverage) -> Coverage {
        // Nodes that were added, such as Casts, stand for none of the file.
        if matches!(self.graph, Cow::Borrowed(_)) {
            return lowered;
        }
        let mut parts: BTreeMap<NodeId, Vec<Row>> = BTreeMap::new();
        for mut row in lowered.rows {
            if let Status::Fused { into } = &mut row.status {
                *into = self.source(*into);
            }
            parts.entry(self.source(row.node)).or_default().push(row);
        }
        let row = |(id, node): (NodeId, &Node)| {
            let parts = parts.remove(&id).unwrap_or_default();
            let macs = parts.iter().try_fold(0_u64, |sum, part| Some(sum.saturating_add(part.macs?)));
            Row { node: id, name: node.name.clone(), op: node.op_name(), status: status_of(id, parts), macs }
        };
        Coverage { rows: original.nodes().map(row).collect() }
    }
}

/// What became of a node, given what became of its parts: the first of them that runs in float speaks for it, then one
/// that runs in integers, then one that another node's step does the work of.
fn status_of(id: NodeId, parts: Vec<Row>) -> Status {
    let rank = |s: &Status| match s {
        Status::Refused { .. } => 0,
        Status::Float { .. } => 1,
        Status::Integer { .. } => 2,
        Status::Fused { into } if *into != id => 3,
        Status::Moves => 4,
        Status::Folded => 5,
        // Into another part of the same node, which speaks for itself.
        Status::Fused { .. } => 6,
    };
    parts.into_iter().map(|part| part.status).min_by_key(rank).unwrap_or(Status::Folded)
}

/// The operators of a graph and its subgraphs that are not known here, among the nodes that `counts` lets through: each
/// with the number of its nodes and the name of the first one.
pub(crate) fn unknown_operators(graph: &Graph, counts: impl Fn(&Node) -> bool) -> Vec<(String, usize, String)> {
    let mut found: Vec<(String, usize, String)> = Vec::new();
    gather(graph, &counts, &mut found);
    found
}

fn gather(graph: &Graph, counts: &dyn Fn(&Node) -> bool, found: &mut Vec<(String, usize, String)>) {
    for (_, node) in graph.nodes().filter(|(_, n)| counts(n)) {
        if node.op == Op::Opaque {
            let op = node.op_name();
            match found.iter_mut().find(|(known, ..)| *known == op) {
                Some((_, count, _)) => *count += 1,
                None => found.push((op, 1, node.name.escape_debug().to_string())),
            }
        }
        for (_, inner) in node.attrs.graphs() {
            gather(inner, &|_| true, found);
        }
    }
}
