//! A [`Graph`] to a model's messages. What nobody touched leaves as the bytes that came in.

use crate::attrs::{Attr, Attrs};
use crate::graph::{Dim, Graph, Node, Value, ValueId};
use crate::import::declared_type;
use quantal_onnx::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TensorType, TypeProto, ValueInfoProto, tensor_proto,
};

/// The first version of the file format that knows opset 13, and lets constants be constants without being inputs.
const IR_VERSION: i64 = 7;

/// The model of a graph: the source's metadata, and the graph as it is now. Subgraphs leave as they came.
pub fn export(graph: &Graph) -> Result<ModelProto, quantal_onnx::Error> {
    let mut model = graph.source.as_ref().map_or_else(ModelProto::default, |m| m.proto.clone());
    let mut proto = model.graph.take().map_or_else(GraphProto::default, |g| *g);
    let uses = graph.uses();
    proto.node = graph.nodes().map(|(_, n)| node_proto(graph, n)).collect::<Result<_, _>>()?;
    proto.initializer = graph
        .values()
        .filter(|&(v, _)| uses.producer(v).is_none() && (!uses.readers(v).is_empty() || graph.is_output(v)))
        .filter_map(|(_, value)| initializer(value).transpose())
        .collect::<Result<_, _>>()?;
    proto.sparse_initializer.clear();
    proto.input = graph.inputs.iter().map(|&v| value_info(graph, v)).collect();
    proto.output = graph.outputs.iter().map(|&v| value_info(graph, v)).collect();
    let between = |v: ValueId| !graph.inputs.contains(&v) && !graph.is_output(v);
    let alive = |v: ValueId| uses.producer(v).is_some() || !uses.readers(v).is_empty();
    proto
        .value_info
        .retain(|info| graph.find(&info.name).is_some_and(|v| between(v) && alive(v) && holds(graph, v, info)));
    proto.quantization_annotation.retain(|a| graph.find(&a.tensor_name).is_some_and(alive));
    model.opset_import = opset_imports(graph, &model.opset_import);
    model.ir_version = Some(model.ir_version.unwrap_or(0).max(IR_VERSION));
    let called: Vec<(String, String)> = proto.node.iter().map(|n| (n.domain.clone(), n.op_type.clone())).collect();
    model.functions.retain(|f| called.iter().any(|(d, n)| *d == f.domain && *n == f.name));
    model.graph = Some(Box::new(proto));
    Ok(model)
}

/// Whether a value still has the element type that the file declares for it.
fn holds(graph: &Graph, v: ValueId, info: &ValueInfoProto) -> bool {
    let (declared, found) = (declared_type(info).0, graph.value(v).dtype);
    declared.is_none() || found.is_none() || declared == found
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

fn names(graph: &Graph, values: &[Option<ValueId>]) -> Vec<String> {
    values.iter().map(|v| v.map_or_else(String::new, |v| graph.value(v).name.to_string())).collect()
}

fn node_proto(graph: &Graph, node: &Node) -> Result<NodeProto, quantal_onnx::Error> {
    let (input, output) = (names(graph, &node.inputs), names(graph, &node.outputs));
    Ok(match &node.origin {
        Some(p) if p.input == input && p.output == output => (**p).clone(),
        Some(p) => NodeProto { input, output, origin: None, ..(**p).clone() },
        None => NodeProto {
            input,
            output,
            name: node.name.to_string(),
            op_type: node.op.name().to_owned(),
            domain: node.op.domain().to_owned(),
            attribute: attribute_protos(&node.attrs)?,
            ..NodeProto::default()
        },
    })
}

fn attribute_protos(attrs: &Attrs) -> Result<Vec<AttributeProto>, quantal_onnx::Error> {
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
                    a.g = Some(Box::new((**proto).clone()));
                    AttributeProto::GRAPH
                }
                // Nodes made or changed here have no attribute of a kind that no operator reads.
                Attr::Opaque => AttributeProto::TYPE_PROTO,
            };
            Ok(a)
        })
        .collect()
}

fn initializer(value: &Value) -> Result<Option<TensorProto>, quantal_onnx::Error> {
    Ok(match (&value.origin, &value.constant) {
        (Some(origin), _) if *origin.name == *value.name => Some((**origin).clone()),
        (_, Some(tensor)) => Some(tensor_proto(&value.name, tensor)?),
        _ => None,
    })
}

/// The declaration of a value: as read, or made from what is known.
fn value_info(graph: &Graph, v: ValueId) -> ValueInfoProto {
    let value = graph.value(v);
    if let Some(info) = graph.value_info.get(&value.name) {
        return (**info).clone();
    }
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
    let ty = TypeProto { tensor_type: Some(Box::new(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: value.name.to_string(), ty: Some(Box::new(ty)), ..ValueInfoProto::default() }
}
