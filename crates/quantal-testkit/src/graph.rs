//! Builds small graphs in a few lines.

use quantal_ir::{Attr, Attrs, Dim, Graph, Node, NodeId, Op, ValueId};
use quantal_onnx::GraphProto;
use quantal_tensor::{DType, Tensor};
use std::sync::Arc;

/// A graph under construction. Nodes are named `<operator>_<number>`.
pub struct GraphBuilder {
    /// What was built so far.
    pub graph: Graph,
}

impl GraphBuilder {
    /// An empty graph whose nodes are written in this version of ONNX.
    pub fn new(opset: i64) -> Self {
        let mut graph = Graph::default();
        "test".clone_into(&mut graph.name);
        graph.opsets.insert(String::new(), opset);
        graph.opsets.insert("com.microsoft".to_owned(), 1);
        Self { graph }
    }

    /// An input of fixed dimensions.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        self.input_of(name, dtype, shape.iter().map(|&d| Dim::Known(d)).collect())
    }

    /// An input of any dimensions.
    pub fn input_of(&mut self, name: &str, dtype: DType, shape: Vec<Dim>) -> ValueId {
        let v = self.graph.add_value(name, Some(dtype), Some(shape));
        self.graph.inputs.push(v);
        v
    }

    /// A constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_constant(name, tensor)
    }

    /// In a subgraph: a value of the graph around it, by its name there.
    pub fn capture(&mut self, name: &str) -> ValueId {
        let v = self.graph.add_value(name, None, None);
        self.graph.captures.push(v);
        v
    }

    /// A node with one output, which has nothing but a name.
    pub fn node(&mut self, op: Op, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        self.nodes(op, inputs, 1, attrs).1[0]
    }

    /// A node with `outputs` outputs.
    pub fn nodes(&mut self, op: Op, inputs: &[ValueId], outputs: usize, attrs: Attrs) -> (NodeId, Vec<ValueId>) {
        let name = format!("{}_{}", op.name(), self.graph.node_count());
        let made: Vec<ValueId> =
            (0..outputs).map(|i| self.graph.add_value(&format!("{name}_{i}"), None, None)).collect();
        let inputs = inputs.iter().copied().map(Some).collect();
        let mut node = Node::new(op, &name, inputs, made.clone(), attrs);
        for (_, inner) in node.attrs.graphs() {
            for &v in &inner.captures {
                let name = &inner.value(v).name;
                node.captures.push(self.graph.find(name).expect("a subgraph captures what is around it"));
            }
        }
        (self.graph.add_node(node), made)
    }

    /// Hands a value out.
    pub fn output(&mut self, v: ValueId) {
        self.graph.outputs.push(v);
    }

    /// An If on a scalar condition, with one branch that applies `then` to the value and one that applies `otherwise`; both
    /// read it from within. Gives the result.
    pub fn branches(&mut self, condition: ValueId, v: ValueId, [then, otherwise]: [Op; 2]) -> ValueId {
        let branch = |op: Op| {
            let mut g = Self::new(self.graph.opset());
            let captured = g.capture(&self.graph.value(v).name);
            let y = g.node(op, &[captured], Attrs::new());
            g.output(y);
            g.into_attr()
        };
        let attrs = Attrs::new().with("then_branch", branch(then)).with("else_branch", branch(otherwise));
        self.node(Op::If, &[condition], attrs)
    }

    /// The graph as the attribute of an If or a Loop.
    pub fn into_attr(self) -> Attr {
        Attr::Graph(Arc::new(self.graph), Arc::new(GraphProto::default()))
    }
}
