//! A [`Graph`] to a model's messages. What nobody touched leaves as the bytes that came in.

use crate::attrs::{Attr, Attrs};
use crate::graph::{Dim, Graph, Node, Value, ValueId};
use crate::import::declared_type;
use quantal_onnx::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TensorType, TypeProto, ValueInfoProto, tensor_proto,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The first version of the file format that knows opset 13, and lets constants be constants without being inputs.
const IR_VERSION: i64 = 7;

/// The model of a graph: the source's metadata, and the graph as it is now.
///
/// Subgraphs read the values around them by the names that those have now. A name inside that is also one outside, which
/// ONNX forbids, gets a number. A subgraph whose nodes, names and captures are those of the file leaves as it came.
pub fn export(graph: &Graph) -> Result<ModelProto, quantal_onnx::Error> {
    let mut model = graph.source.as_ref().map_or_else(ModelProto::default, |m| m.proto.clone());
    let proto = model.graph.take().map_or_else(GraphProto::default, |g| *g);
    let writer = Writer::new(graph, None, &[]);
    let nodes = writer.nodes()?.into_iter().map(Written::into_proto).collect();
    let proto = writer.graph(proto, nodes)?;

    model.opset_import = opset_imports(graph, &model.opset_import);
    model.ir_version = Some(model.ir_version.unwrap_or(0).max(IR_VERSION));
    let called: BTreeSet<(&str, &str)> = proto.node.iter().map(|n| (&*n.domain, &*n.op_type)).collect();
    model.functions.retain(|f| called.contains(&(&*f.domain, &*f.name)));
    model.graph = Some(Box::new(proto));
    Ok(model)
}

/// Whether a value still has the element type that the file declares for it.
fn holds(graph: &Graph, v: ValueId, info: &ValueInfoProto) -> bool {
    let (declared, found) = (declared_type(info).0, graph.value(v).dtype);
    declared.is_none() || found.is_none() || declared == found
}

/// Writes one graph: the outermost or a subgraph.
struct Writer<'a> {
    graph: &'a Graph,
    /// The writer of the graph around.
    around: Option<&'a Writer<'a>>,
    /// Names of values that are others in the file than in the graph.
    renamed: BTreeMap<ValueId, Arc<str>>,
    /// The names in the file of what this graph feeds, makes or holds itself.
    own: BTreeSet<Arc<str>>,
    /// Values of this graph that stand for values around it.
    captured: Vec<bool>,
}

/// A node on its way out.
enum Written<'a> {
    /// The message that it was read from still says what it is.
    AsRead(&'a Arc<NodeProto>),
    Anew(Box<NodeProto>),
}

impl Written<'_> {
    fn into_proto(self) -> NodeProto {
        match self {
            Self::AsRead(p) => (**p).clone(),
            Self::Anew(p) => *p,
        }
    }
}

impl<'a> Writer<'a> {
    /// `captured` are the names in the file of what the graph captures.
    fn new(graph: &'a Graph, around: Option<&'a Writer<'a>>, captured: &[Arc<str>]) -> Self {
        let count = graph.value_count();
        let mut writer =
            Self { graph, around, renamed: BTreeMap::new(), own: BTreeSet::new(), captured: vec![false; count] };
        for (&v, name) in graph.captures.iter().zip(captured) {
            writer.captured[v.0 as usize] = true;
            if *graph.value(v).name != **name {
                writer.renamed.insert(v, Arc::clone(name));
            }
        }

        let mut written = vec![false; count];
        let of_nodes = graph.nodes().flat_map(|(_, n)| n.reads().chain(n.outputs.iter().copied().flatten()));
        for v in graph.inputs.iter().chain(&graph.outputs).copied().chain(of_nodes) {
            written[v.0 as usize] = !writer.captured[v.0 as usize];
        }
        for (v, value) in graph.values().filter(|(v, _)| written[v.0 as usize]) {
            let mut name = Arc::clone(&value.name);
            let mut number = 0;
            while writer.is_taken_around(&name) || (number > 0 && graph.find(&name).is_some()) {
                number += 1;
                name = format!("{}_{number}", value.name).into();
            }
            if number > 0 {
                writer.renamed.insert(v, Arc::clone(&name));
            }
            writer.own.insert(name);
        }
        writer
    }

    fn is_taken_around(&self, name: &str) -> bool {
        let mut around = self.around;
        while let Some(writer) = around {
            if writer.own.contains(name) {
                return true;
            }
            around = writer.around;
        }
        false
    }

    fn name(&self, v: ValueId) -> &Arc<str> {
        self.renamed.get(&v).unwrap_or(&self.graph.value(v).name)
    }

    fn names(&self, values: &[Option<ValueId>]) -> Vec<String> {
        values.iter().map(|v| v.map_or_else(String::new, |v| self.name(v).to_string())).collect()
    }

    fn nodes(&self) -> Result<Vec<Written<'a>>, quantal_onnx::Error> {
        self.graph.nodes().map(|(_, n)| self.node(n)).collect()
    }

    /// The graph with these nodes; the rest is what `proto` says of values that are still there.
    fn graph(&self, mut proto: GraphProto, nodes: Vec<NodeProto>) -> Result<GraphProto, quantal_onnx::Error> {
        let graph = self.graph;
        let mut handed_out = vec![false; graph.value_count()];
        for v in &graph.outputs {
            handed_out[v.0 as usize] = true;
        }
        let mut at_the_edge = handed_out.clone();
        for v in &graph.inputs {
            at_the_edge[v.0 as usize] = true;
        }
        let is_read = |v: ValueId| graph.read_count(v) > 0 && !self.captured[v.0 as usize];
        let alive = |v: ValueId| graph.producer(v).is_some() || is_read(v);

        proto.node = nodes;
        proto.initializer = graph
            .values()
            .filter(|&(v, _)| graph.producer(v).is_none() && (is_read(v) || handed_out[v.0 as usize]))
            .filter(|&(v, _)| !self.captured[v.0 as usize])
            .filter_map(|(v, value)| initializer(value, self.name(v)).transpose())
            .collect::<Result<_, _>>()?;
        proto.sparse_initializer.clear();
        proto.input = graph.inputs.iter().map(|&v| self.value_info(v)).collect();
        proto.output = graph.outputs.iter().map(|&v| self.value_info(v)).collect();

        let between = |v: ValueId| !at_the_edge[v.0 as usize] && alive(v) && !self.renamed.contains_key(&v);
        proto.value_info.retain(|info| graph.find(&info.name).is_some_and(|v| between(v) && holds(graph, v, info)));
        let annotated = |v: ValueId| alive(v) && !self.renamed.contains_key(&v);
        proto.quantization_annotation.retain(|a| graph.find(&a.tensor_name).is_some_and(annotated));
        Ok(proto)
    }

    fn node(&self, node: &'a Node) -> Result<Written<'a>, quantal_onnx::Error> {
        let (input, output) = (self.names(&node.inputs), self.names(&node.outputs));
        let mut bodies = self.bodies(node)?;
        let Some(p) = &node.origin else {
            return Ok(Written::Anew(Box::new(NodeProto {
                input,
                output,
                name: node.name.to_string(),
                op_type: node.op.name().to_owned(),
                domain: node.op.domain().to_owned(),
                attribute: attribute_protos(&node.attrs, &mut bodies)?,
                ..NodeProto::default()
            })));
        };
        // A node without a name in the file has one here, for messages.
        let name = if p.name.is_empty() { String::new() } else { node.name.to_string() };
        if p.input == input && p.output == output && p.name == name && bodies.is_empty() {
            return Ok(Written::AsRead(p));
        }
        let mut written = NodeProto { input, output, name, origin: None, ..(**p).clone() };
        for a in &mut written.attribute {
            if let Some(body) = bodies.remove(a.name.as_str()) {
                (a.g, a.origin) = (Some(Box::new(body)), None);
            }
        }
        Ok(Written::Anew(Box::new(written)))
    }

    /// The subgraphs of a node that cannot leave as they came, by the names of their attributes.
    fn bodies(&self, node: &'a Node) -> Result<BTreeMap<&'a str, GraphProto>, quantal_onnx::Error> {
        let mut bodies = BTreeMap::new();
        for (attribute, graph, around) in node.subgraphs() {
            let Some(Attr::Graph(_, proto)) = node.attrs.get(attribute) else { continue };
            let captured: Vec<Arc<str>> = around.iter().map(|&v| Arc::clone(self.name(v))).collect();
            let writer = Writer::new(graph, Some(self), &captured);
            let nodes = writer.nodes()?;
            let as_read = |(written, read): (&Written<'_>, &NodeProto)| match written {
                Written::AsRead(p) => same_call(p, read),
                Written::Anew(_) => false,
            };
            let same = nodes.len() == proto.node.len() && nodes.iter().zip(&proto.node).all(as_read);
            let same_outputs = graph.outputs.len() == proto.output.len();
            if same && same_outputs && writer.renamed.is_empty() {
                continue;
            }
            let nodes = nodes.into_iter().map(Written::into_proto).collect();
            bodies.insert(attribute, writer.graph((**proto).clone(), nodes)?);
        }
        Ok(bodies)
    }

    /// The declaration of a value: as read, or made from what is known.
    fn value_info(&self, v: ValueId) -> ValueInfoProto {
        let value = self.graph.value(v);
        let name = self.name(v);
        match self.graph.value_info.get(&value.name) {
            Some(info) if *info.name == **name => (**info).clone(),
            Some(info) => ValueInfoProto { name: name.to_string(), origin: None, ..(**info).clone() },
            None => ValueInfoProto {
                name: name.to_string(),
                ty: Some(Box::new(type_of(value))),
                ..ValueInfoProto::default()
            },
        }
    }
}

/// Whether two messages call the same operator on values of the same names: one was read from the other then.
fn same_call(a: &NodeProto, b: &NodeProto) -> bool {
    let names = |n: &NodeProto| [n.name.clone(), n.op_type.clone(), n.domain.clone()];
    names(a) == names(b) && a.input == b.input && a.output == b.output
}

fn opset_imports(graph: &Graph, source: &[OperatorSetIdProto]) -> Vec<OperatorSetIdProto> {
    let same =
        |domain: &str, o: &OperatorSetIdProto| o.domain == domain || (domain.is_empty() && o.domain == "ai.onnx");
    graph
        .opsets
        .iter()
        .map(|(domain, &version)| match source.iter().find(|o| same(domain, o)) {
            Some(o) if o.version == version => o.clone(),
            Some(o) => OperatorSetIdProto { version, origin: None, ..o.clone() },
            None => OperatorSetIdProto { domain: domain.clone(), version, ..OperatorSetIdProto::default() },
        })
        .collect()
}

/// Attributes as messages; of subgraphs those in `bodies`, the others as they were read.
fn attribute_protos(
    attrs: &Attrs,
    bodies: &mut BTreeMap<&str, GraphProto>,
) -> Result<Vec<AttributeProto>, quantal_onnx::Error> {
    attrs
        .iter()
        .map(|(name, value)| {
            let mut a = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
            a.kind = match value {
                Attr::Int(v) => {
                    a.i = Some(*v);
                    AttributeProto::INT
                }
                Attr::Float(v) => {
                    a.f = Some(*v);
                    AttributeProto::FLOAT
                }
                Attr::Str(v) => {
                    a.s = Some(v.to_vec());
                    AttributeProto::STRING
                }
                Attr::Ints(v) => {
                    a.ints.clone_from(v);
                    AttributeProto::INTS
                }
                Attr::Floats(v) => {
                    a.floats.clone_from(v);
                    AttributeProto::FLOATS
                }
                Attr::Strs(v) => {
                    a.strings = v.iter().map(|s| s.to_vec()).collect();
                    AttributeProto::STRINGS
                }
                Attr::Tensor(t) => {
                    a.t = Some(Box::new(tensor_proto("", t)?));
                    AttributeProto::TENSOR
                }
                Attr::Graph(_, proto) => {
                    a.g = Some(Box::new(bodies.remove(name).unwrap_or_else(|| (**proto).clone())));
                    AttributeProto::GRAPH
                }
                // Nodes made or changed here have no attribute of a kind that no operator reads.
                Attr::Opaque => AttributeProto::TYPE_PROTO,
            };
            Ok(a)
        })
        .collect()
}

fn initializer(value: &Value, name: &str) -> Result<Option<TensorProto>, quantal_onnx::Error> {
    Ok(match (&value.origin, &value.constant) {
        (Some(origin), _) if *origin.name == *name => Some((**origin).clone()),
        (_, Some(tensor)) => Some(tensor_proto(name, tensor)?),
        // Texts: kept for export alone.
        (Some(origin), None) => Some(TensorProto { name: name.to_owned(), origin: None, ..(**origin).clone() }),
        (None, None) => None,
    })
}

fn type_of(value: &Value) -> TypeProto {
    let dim = |d: &Dim| match d {
        Dim::Known(n) => Dimension { dim_value: Some(*n as i64), ..Dimension::default() },
        Dim::Symbol(s) => Dimension { dim_param: Some(s.to_string()), ..Dimension::default() },
        Dim::Unknown => Dimension::default(),
    };
    let shape = value
        .shape
        .as_ref()
        .map(|s| Box::new(TensorShapeProto { dim: s.iter().map(dim).collect(), ..TensorShapeProto::default() }));
    let tensor =
        TensorType { elem_type: value.dtype.map_or(0, quantal_tensor::DType::to_onnx), shape, ..TensorType::default() };
    TypeProto { tensor_type: Some(Box::new(tensor)), ..TypeProto::default() }
}
