//! Graphs, nodes and values, by id; edits; order.

mod links;

use crate::attrs::Attrs;
use crate::op::Op;
use links::Links;
pub use links::NodeMut;
use quantal_onnx::{Model, NodeProto, TensorProto, ValueInfoProto};
use quantal_tensor::{DType, Tensor};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
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
    /// Values of this graph that the subgraphs of this node read: those of the first subgraph, then those of the next,
    /// each in the order of [`Graph::captures`]. The binding is by place; names are given on export.
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

    /// The subgraphs among the attributes: the attribute's name, the graph, and for each of its
    /// [`captures`](Graph::captures) the value around it that it stands for.
    pub fn subgraphs(&self) -> impl Iterator<Item = (&str, &Arc<Graph>, &[ValueId])> {
        let mut rest = &self.captures[..];
        self.attrs.graphs().map(move |(name, graph)| {
            let (own, others) = rest.split_at(graph.captures.len().min(rest.len()));
            rest = others;
            (name, graph, own)
        })
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
    /// The graph's outputs, in order.
    pub outputs: Vec<ValueId>,
    /// In a subgraph, the values that stand for what it reads from the graph around it. Which those are, the node says
    /// that holds the subgraph ([`Node::subgraphs`]); their names here are those of the file that was read.
    pub captures: Vec<ValueId>,
    /// The file that this was read from.
    pub source: Option<Arc<Model>>,
    /// Declared types of inputs, outputs and inner values as read, by name: for export.
    pub value_info: BTreeMap<Arc<str>, Arc<ValueInfoProto>>,
    nodes: Vec<Option<Node>>,
    order: Vec<NodeId>,
    values: Vec<Value>,
    names: BTreeMap<Arc<str>, ValueId>,
    /// The last number that was appended to each name that was taken.
    numbers: BTreeMap<Arc<str>, u32>,
    links: Links,
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
        self.links.nodes
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

    /// A node, to be changed. Producers and read counts are updated when the guard is dropped.
    ///
    /// # Panics
    /// If it was removed.
    pub fn node_mut(&mut self, id: NodeId) -> NodeMut<'_> {
        NodeMut::of(self, id)
    }

    /// The node that makes a value now; `None` for inputs and constants.
    pub fn producer(&self, v: ValueId) -> Option<NodeId> {
        self.links.producer[v.0 as usize]
    }

    /// How often a value is read now: once for each reading input and for each capture. A graph output is no reader.
    pub fn read_count(&self, v: ValueId) -> usize {
        self.links.read_count[v.0 as usize]
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A value, to be changed; its name must stay.
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
        if self.names.contains_key(&unique) {
            let last = self.numbers.entry(Arc::clone(&unique)).or_insert(0);
            while self.names.contains_key(&unique) {
                *last += 1;
                unique = format!("{name}_{last}").into();
            }
        }

        let id = ValueId(self.values.len() as u32);
        self.names.insert(Arc::clone(&unique), id);
        self.values.push(Value { name: unique, dtype, shape, constant: None, origin: None });
        self.links.add_value();
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
        self.link(id);
        id
    }

    /// Takes a node out. Its values stay.
    pub fn remove_node(&mut self, id: NodeId) {
        self.unlink(id);
        self.nodes[id.0 as usize] = None;
    }

    /// Makes every reader of `old`, the graph outputs included, read `new` instead.
    pub fn replace_value(&mut self, old: ValueId, new: ValueId) {
        self.replace_in_readers(old, new);
        for v in &mut self.outputs {
            if *v == old {
                *v = new;
            }
        }
    }

    /// Makes every node that reads `old`, itself or in a subgraph, read `new` instead. Graph outputs stay.
    pub fn replace_in_readers(&mut self, old: ValueId, new: ValueId) {
        for id in self.take_readers(old) {
            let mut node = self.node_mut(id);
            let Node { inputs, captures, .. } = &mut *node;
            for v in inputs.iter_mut().flatten().chain(captures).filter(|v| **v == old) {
                *v = new;
            }
        }
    }

    /// Makes the producer of `old` produce `new`, and every reader of `old`, the graph outputs included, read `new`: so
    /// a value takes over the name of a graph output. False if no node produces `old`.
    pub fn rename_output(&mut self, old: ValueId, new: ValueId) -> bool {
        let Some(maker) = self.producer(old) else { return false };
        for o in self.node_mut(maker).outputs.iter_mut().flatten().filter(|o| **o == old) {
            *o = new;
        }
        self.replace_value(old, new);
        true
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

    /// Whether a value is a graph output. Searches the list of outputs.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.contains(&v)
    }

    /// Ends an edit: brings the nodes into an order in which they can run, keeping the present order where it can, and
    /// gives a number to each node whose name an older one has.
    pub fn sort(&mut self) -> Result<(), Cycle> {
        let order: Vec<NodeId> = self.nodes().map(|(id, _)| id).collect();
        let mut position = vec![0; self.nodes.len()];
        for (i, id) in order.iter().enumerate() {
            position[id.0 as usize] = i;
        }

        let uses = self.uses();
        let mut waits = vec![0_usize; self.nodes.len()];
        let mut ready = BinaryHeap::new();
        for (i, &id) in order.iter().enumerate() {
            let n = self.node(id).reads().filter(|&v| uses.producer(v).is_some()).count();
            waits[id.0 as usize] = n;
            if n == 0 {
                ready.push(Reverse((i, id)));
            }
        }

        let mut sorted = Vec::with_capacity(order.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            sorted.push(id);
            for v in self.node(id).outputs.iter().flatten() {
                for reader in uses.readers(*v) {
                    let n = &mut waits[reader.0 as usize];
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse((position[reader.0 as usize], *reader)));
                    }
                }
            }
        }
        if sorted.len() < order.len() {
            let stuck = order.iter().find(|id| waits[id.0 as usize] > 0).map(|id| self.node(*id).name.to_string());
            return Err(Cycle(stuck.unwrap_or_default()));
        }

        self.order = sorted;
        self.number_names();
        Ok(())
    }

    /// Makes the names of nodes unique. One that was made here keeps clear of those in subgraphs, too.
    fn number_names(&mut self) {
        let mut inner = BTreeSet::new();
        for node in self.nodes.iter().flatten() {
            node.attrs.graphs().for_each(|(_, g)| g.collect_node_names(&mut inner));
        }
        let mut taken: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut repeated = Vec::new();
        for (i, node) in self.nodes.iter().enumerate().filter_map(|(i, n)| Some((i, n.as_ref()?))) {
            let met = node.origin.is_none() && inner.contains(&node.name);
            if met || !taken.insert(Arc::clone(&node.name)) {
                repeated.push(i);
            }
        }

        let mut last: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        for i in repeated {
            let Some(node) = &mut self.nodes[i] else { continue };
            let number = last.entry(Arc::clone(&node.name)).or_insert(0);
            let name = loop {
                *number += 1;
                let name: Arc<str> = format!("{}_{number}", node.name).into();
                if !inner.contains(&name) && taken.insert(Arc::clone(&name)) {
                    break name;
                }
            };
            node.name = name;
        }
    }

    fn collect_node_names(&self, names: &mut BTreeSet<Arc<str>>) {
        for node in self.nodes.iter().flatten() {
            names.insert(Arc::clone(&node.name));
            node.attrs.graphs().for_each(|(_, g)| g.collect_node_names(names));
        }
    }

    /// Removes nodes none of whose outputs are read or graph outputs, and what only those read. The nodes must be in an
    /// order in which they can run ([`Graph::sort`]), or some are left. Gives their number.
    pub fn remove_unread_nodes(&mut self) -> usize {
        let mut handed_out = vec![false; self.values.len()];
        for v in &self.outputs {
            handed_out[v.0 as usize] = true;
        }
        let mut removed = 0;
        let order: Vec<NodeId> = self.nodes().map(|(id, _)| id).collect();
        for id in order.into_iter().rev() {
            let unread = |v: &ValueId| !handed_out[v.0 as usize] && self.read_count(*v) == 0;
            if self.node(id).outputs.iter().flatten().all(unread) {
                self.remove_node(id);
                removed += 1;
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

    #[test]
    fn producers_and_readers_follow_every_edit() {
        let mut g = Graph::default();
        let [x, a, b] = ["x", "a", "b"].map(|n| g.add_value(n, None, None));
        let node = |inputs: &[ValueId], y| {
            Node::new(Op::Add, "n", inputs.iter().copied().map(Some).collect(), vec![y], Attrs::new())
        };
        let first = g.add_node(node(&[x, x], a));
        let second = g.add_node(node(&[x, a], b));
        g.node_mut(second).captures.push(x);
        assert_eq!([x, a, b].map(|v| g.read_count(v)), [4, 1, 0]);

        // Readers that come and go are found by the next replacement, each once.
        g.node_mut(first).inputs.pop();
        g.replace_in_readers(x, b);
        assert_eq!([x, a, b].map(|v| g.read_count(v)), [0, 1, 3]);
        g.replace_in_readers(b, x);
        assert_eq!((g.read_count(x), &g.node(second).captures), (3, &vec![x]));

        g.node_mut(second).outputs[0] = Some(a);
        g.remove_node(first);
        assert_eq!([a, b].map(|v| g.producer(v)), [Some(second), None]);
        assert_eq!(([x, a].map(|v| g.read_count(v)), g.node_count()), ([2, 1], 1));
    }

    #[test]
    fn nodes_of_one_name_get_numbers_the_oldest_keeps_it() {
        let mut g = Graph::default();
        let x = g.add_value("x", None, None);
        for name in ["n", "n_1", "n", "n"] {
            unary(&mut g, x, name);
        }
        g.sort().unwrap();
        assert_eq!(g.nodes().map(|(_, n)| n.name.to_string()).collect::<Vec<_>>(), ["n", "n_1", "n_2", "n_3"]);
    }
}
