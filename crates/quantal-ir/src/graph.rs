//! Graphs, nodes and values, by id; edits; order.

use crate::attrs::Attrs;
use crate::op::Op;
use quantal_onnx::{Model, NodeProto, TensorProto, ValueInfoProto};
use quantal_tensor::{DType, Tensor};
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::sync::Arc;

/// A node of a [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// A value of a [`Graph`]: a tensor that flows along an edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueId(pub u32);

/// One dimension of a shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dim {
    /// A fixed size.
    Known(usize),
    /// A named size, the same wherever the name stands.
    Symbol(Arc<str>),
    /// Nothing is known.
    Unknown,
}

impl Dim {
    /// The size, if fixed.
    pub fn known(&self) -> Option<usize> {
        if let Self::Known(n) = self { Some(*n) } else { None }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(n) => write!(f, "{n}"),
            Self::Symbol(s) => write!(f, "{}", s.escape_debug()),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// An operator applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which operator.
    pub op: Op,
    /// Its name in the file, or one made from the operator and its place: never empty, for messages.
    pub name: Arc<str>,
    /// Inputs in order; `None` for an optional one that is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Values of this graph that subgraphs of this node read by name.
    pub captures: Vec<ValueId>,
    /// Outputs in order; `None` for one that nobody wants.
    pub outputs: Vec<Option<ValueId>>,
    /// Attributes.
    pub attrs: Attrs,
    /// The message it was read from; `None` for a node made here or whose attributes were changed.
    pub origin: Option<Arc<NodeProto>>,
}

impl Node {
    /// A node made here, not read from a file.
    pub fn new(op: Op, name: &str, inputs: Vec<Option<ValueId>>, outputs: Vec<ValueId>, attrs: Attrs) -> Self {
        let outputs = outputs.into_iter().map(Some).collect();
        Self { op, name: name.into(), inputs, captures: Vec::new(), outputs, attrs, origin: None }
    }

    /// Input `i`, if given.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// Output `i`, if wanted.
    pub fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }

    /// Every value that must exist before this node can run: inputs and captures.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().copied().flatten().chain(self.captures.iter().copied())
    }

    /// The operator as messages name it; for an opaque one, the name in the file.
    pub fn op_name(&self) -> String {
        match (&self.origin, self.op) {
            (Some(p), Op::Opaque) if p.domain.is_empty() => p.op_type.escape_debug().to_string(),
            (Some(p), Op::Opaque) => format!("{}.{}", p.domain.escape_debug(), p.op_type.escape_debug()),
            (_, op) if op.domain().is_empty() => op.name().to_owned(),
            (_, op) => format!("{}.{}", op.domain(), op.name()),
        }
    }
}

/// A tensor that flows along an edge, or a constant.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name, unique in the graph.
    pub name: Arc<str>,
    /// Element type, where known.
    pub dtype: Option<DType>,
    /// Dimensions, where at least the rank is known.
    pub shape: Option<Vec<Dim>>,
    /// The contents, if they are fixed: an initializer, or folded.
    pub constant: Option<Arc<Tensor>>,
    /// The initializer that it was read from; `None` once the constant is replaced.
    pub origin: Option<Arc<TensorProto>>,
}

impl Value {
    /// All dimensions, if every one is fixed.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::known).collect()
    }

    /// Number of dimensions, where known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }
}

/// A graph: nodes in an order in which they can run, and the values between them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its name in the file.
    pub name: String,
    /// Version of each operator domain that nodes are written in ("" is ONNX), after the upgrade on import.
    pub opsets: BTreeMap<String, i64>,
    /// Values fed from outside, in order, initializers excluded.
    pub inputs: Vec<ValueId>,
    /// Values handed out, in order.
    pub outputs: Vec<ValueId>,
    /// In a subgraph, the values that it reads from the graphs around it, by name.
    pub captures: Vec<ValueId>,
    /// The file that this was read from.
    pub source: Option<Arc<Model>>,
    /// Declared types of inputs, outputs and inner values as read, by name: for export.
    pub value_info: BTreeMap<Arc<str>, Arc<ValueInfoProto>>,
    nodes: Vec<Option<Node>>,
    order: Vec<NodeId>,
    values: Vec<Value>,
    names: BTreeMap<Arc<str>, ValueId>,
}

/// Who makes and who reads each value, taken at one moment.
pub struct Uses {
    producer: Vec<Option<NodeId>>,
    readers: Vec<Vec<NodeId>>,
}

impl Uses {
    /// The node that makes a value; `None` for inputs and constants.
    pub fn producer(&self, v: ValueId) -> Option<NodeId> {
        self.producer[v.0 as usize]
    }

    /// The nodes that read a value, in graph order, once for each reading input.
    pub fn readers(&self, v: ValueId) -> &[NodeId] {
        &self.readers[v.0 as usize]
    }
}

/// Nodes feed each other in a circle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nodes feed each other in a circle, one of them is {}", quantal_onnx::quote(.0))]
pub struct Cycle(pub String);

impl Graph {
    /// The nodes, in an order in which they can run.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.order.iter().filter_map(|&id| self.nodes[id.0 as usize].as_ref().map(|n| (id, n)))
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// Whether the node is still there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes[id.0 as usize].is_some()
    }

    /// A node that is in the graph.
    ///
    /// # Panics
    /// If it was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0 as usize].as_ref().expect("the node was removed")
    }

    /// The same, to change.
    ///
    /// # Panics
    /// If it was removed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0 as usize].as_mut().expect("the node was removed")
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The same, to change; not its name.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// Every value, used or not.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Number of values; ids run from 0 to it.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// The value of that name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// The contents of a value, if it is a constant.
    pub fn constant(&self, id: Option<ValueId>) -> Option<&Arc<Tensor>> {
        self.value(id?).constant.as_ref()
    }

    /// Version of the ONNX operators in this graph.
    pub fn opset(&self) -> i64 {
        self.opsets.get("").copied().unwrap_or(1)
    }

    /// Adds a value. A name that is taken gets a number appended.
    pub fn add_value(&mut self, name: &str, dtype: Option<DType>, shape: Option<Vec<Dim>>) -> ValueId {
        let mut unique: Arc<str> = name.into();
        let mut n = 1;
        while self.names.contains_key(&unique) {
            unique = format!("{name}_{n}").into();
            n += 1;
        }
        let id = ValueId(self.values.len() as u32);
        self.names.insert(Arc::clone(&unique), id);
        self.values.push(Value { name: unique, dtype, shape, constant: None, origin: None });
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let shape = tensor.shape().iter().map(|&d| Dim::Known(d)).collect();
        let id = self.add_value(name, Some(tensor.dtype()), Some(shape));
        self.value_mut(id).constant = Some(Arc::new(tensor));
        id
    }

    /// Replaces the contents of a constant, or makes a value one.
    pub fn set_constant(&mut self, id: ValueId, tensor: Tensor) {
        let value = self.value_mut(id);
        value.dtype = Some(tensor.dtype());
        value.shape = Some(tensor.shape().iter().map(|&d| Dim::Known(d)).collect());
        value.constant = Some(Arc::new(tensor));
        value.origin = None;
    }

    /// Adds a node at the end of the order; call [`Graph::sort`] when the edit is complete.
    pub fn add_node(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Some(node));
        self.order.push(id);
        id
    }

    /// Takes a node out. Its values stay.
    pub fn remove_node(&mut self, id: NodeId) {
        self.nodes[id.0 as usize] = None;
    }

    /// Makes every reader of `old`, the graph outputs included, read `new` instead.
    pub fn replace_value(&mut self, old: ValueId, new: ValueId) {
        for node in self.nodes.iter_mut().flatten() {
            for v in node.inputs.iter_mut().flatten().chain(&mut node.captures) {
                if *v == old {
                    *v = new;
                }
            }
        }
        for v in &mut self.outputs {
            if *v == old {
                *v = new;
            }
        }
    }

    /// Who makes and reads each value now. A graph output is not a reader; ask [`Graph::is_output`].
    pub fn uses(&self) -> Uses {
        let mut uses = Uses { producer: vec![None; self.values.len()], readers: vec![Vec::new(); self.values.len()] };
        for (id, node) in self.nodes() {
            for v in node.outputs.iter().flatten() {
                uses.producer[v.0 as usize] = Some(id);
            }
            for v in node.reads() {
                uses.readers[v.0 as usize].push(id);
            }
        }
        uses
    }

    /// Whether a value is handed out.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// Brings the nodes into an order in which they can run, keeping the present order where it can.
    pub fn sort(&mut self) -> Result<(), Cycle> {
        let uses = self.uses();
        let position: BTreeMap<NodeId, usize> = self.nodes().enumerate().map(|(i, (id, _))| (id, i)).collect();
        let mut waits: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut ready = BinaryHeap::new();
        for (id, node) in self.nodes() {
            let n = node.reads().filter(|&v| uses.producer(v).is_some()).count();
            if n == 0 {
                ready.push(std::cmp::Reverse((position[&id], id)));
            }
            waits.insert(id, n);
        }
        let mut order = Vec::with_capacity(waits.len());
        while let Some(std::cmp::Reverse((_, id))) = ready.pop() {
            order.push(id);
            for v in self.node(id).outputs.iter().flatten() {
                for reader in uses.readers(*v) {
                    let n = waits.get_mut(reader).expect("every node was counted");
                    *n -= 1;
                    if *n == 0 {
                        ready.push(std::cmp::Reverse((position[reader], *reader)));
                    }
                }
            }
        }
        if order.len() < waits.len() {
            let stuck = waits.iter().find(|(_, n)| **n > 0).map(|(id, _)| self.node(*id).name.to_string());
            return Err(Cycle(stuck.unwrap_or_default()));
        }
        self.order = order;
        Ok(())
    }

    /// Removes nodes none of whose outputs are read or handed out, until there are none.
    pub fn remove_unread_nodes(&mut self) -> usize {
        let mut read = vec![0_usize; self.values.len()];
        for v in self.outputs.iter().copied().chain(self.nodes().flat_map(|(_, n)| n.reads().collect::<Vec<_>>())) {
            read[v.0 as usize] += 1;
        }
        let mut removed = 0;
        for id in self.order.clone().into_iter().rev() {
            let Some(node) =
                self.nodes[id.0 as usize].take_if(|n| n.outputs.iter().flatten().all(|v| read[v.0 as usize] == 0))
            else {
                continue;
            };
            removed += 1;
            for v in node.reads() {
                read[v.0 as usize] -= 1;
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unary(g: &mut Graph, x: ValueId, name: &str) -> (NodeId, ValueId) {
        let y = g.add_value(name, Some(DType::F32), None);
        (g.add_node(Node::new(Op::Relu, name, vec![Some(x)], vec![y], Attrs::new())), y)
    }

    #[test]
    fn sorting_restores_an_order_that_can_run_and_finds_cycles() {
        let mut g = Graph::default();
        let x = g.add_value("x", Some(DType::F32), None);
        let late = g.add_value("late", Some(DType::F32), None);
        let (first, _) = unary(&mut g, late, "reads_late");
        let second = g.add_node(Node::new(Op::Relu, "makes_late", vec![Some(x)], vec![late], Attrs::new()));
        g.sort().unwrap();
        assert_eq!(g.nodes().map(|(id, _)| id).collect::<Vec<_>>(), [second, first]);
        g.node_mut(second).inputs[0] = g.node(first).output(0);
        assert!(g.sort().is_err());
    }

    #[test]
    fn unread_nodes_go_with_all_that_only_they_read() {
        let mut g = Graph::default();
        let x = g.add_value("x", Some(DType::F32), None);
        let (_, kept) = unary(&mut g, x, "kept");
        let (_, dead) = unary(&mut g, x, "dead");
        unary(&mut g, dead, "deader");
        g.outputs = vec![kept];
        assert_eq!(g.remove_unread_nodes(), 2);
        assert_eq!(g.node_count(), 1);
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let mut g = Graph::default();
        let a = g.add_value("x", None, None);
        let b = g.add_value("x", None, None);
        assert_ne!(g.value(a).name, g.value(b).name);
        assert_eq!(g.find("x"), Some(a));
    }
}
