//! A model's messages to a [`Graph`]: names become ids, functions are inlined, old forms of operators are upgraded, and
//! types and shapes are inferred, node by node.

use crate::attrs::{Attr, Attrs};
use crate::graph::{Cycle, Dim, Graph, Node, NodeId, ValueId};
use crate::infer::{InferError, Inferer};
use crate::op::Op;
use crate::upgrade;
use quantal_onnx::{
    AttributeProto, FunctionProto, GraphProto, Model, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, quote,
};
use quantal_tensor::{DType, Tensor, TensorError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The versions of ONNX operators that are understood.
pub const OPSETS: std::ops::RangeInclusive<i64> = 7..=28;

/// Nodes that inlining functions may add: beyond it a file of a few kilobytes is a bomb.
const MAX_INLINED_NODES: usize = 200_000;
const MAX_CALL_DEPTH: usize = 32;

/// Why a model is not a graph that can run.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A tensor could not be read.
    #[error(transparent)]
    File(#[from] quantal_onnx::Error),
    /// The model is written for operators of a version that is not covered.
    #[error("the model uses ONNX operators of version {0}; versions {first} to {last} are supported", first = OPSETS.start(), last = OPSETS.end())]
    Opset(i64),
    /// A node cannot stand as it is.
    #[error("node {node} ({op}): {problem}")]
    Node {
        /// Its name, quoted.
        node: String,
        /// Its operator, quoted.
        op: String,
        /// What is wrong.
        problem: String,
    },
    /// The graph as a whole is wrong.
    #[error("{0}")]
    Graph(String),
    /// Nodes feed each other.
    #[error(transparent)]
    Cycle(#[from] Cycle),
}

impl ImportError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(e) => e.hint(),
            Self::Opset(v) if *v < *OPSETS.start() => {
                Some("export the model again with opset 13 or later, or convert it with onnx.version_converter".into())
            }
            Self::Opset(_) => Some("export the model with an older opset; 17 to 21 are understood everywhere".into()),
            Self::Node { .. } | Self::Graph(_) | Self::Cycle(_) => None,
        }
    }
}

fn node_error(node: &NodeProto, index: usize, problem: impl Into<String>) -> ImportError {
    let (node, op) = (quote(&node_name(node, index)), quote(&node.op_type));
    ImportError::Node { node, op, problem: problem.into() }
}

fn node_name(node: &NodeProto, index: usize) -> String {
    if node.name.is_empty() { format!("{}_{index}", node.op_type) } else { node.name.clone() }
}

/// Reads a model into a graph.
pub fn import(model: &Arc<Model>) -> Result<Graph, ImportError> {
    let opsets = opset_map(&model.proto.opset_import);
    let version = *opsets.get("").unwrap_or(OPSETS.start());
    if !OPSETS.contains(&version) {
        return Err(ImportError::Opset(version));
    }
    let mut functions = BTreeMap::new();
    for f in &model.proto.functions {
        functions.insert((f.domain.as_str(), f.name.as_str(), f.overload.as_str()), f);
    }
    let mut importer = Importer { model, functions, inlined: 0 };
    let mut graph = importer.graph(model.graph(), &opsets, &mut Vec::new())?;
    graph.source = Some(Arc::clone(model));
    Ok(graph)
}

fn opset_map(list: &[OperatorSetIdProto]) -> BTreeMap<String, i64> {
    let domain = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
    list.iter().map(|o| (domain(&o.domain), o.version)).collect()
}

/// A graph under construction, outermost first on the stack of scopes.
struct Scope {
    graph: Graph,
    inferer: Inferer,
}

struct Importer<'a> {
    model: &'a Model,
    functions: BTreeMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    inlined: usize,
}

/// A node waiting to enter the graph, with the operator versions that it is written in.
struct Pending {
    proto: Arc<NodeProto>,
    opsets: Arc<BTreeMap<String, i64>>,
    index: usize,
    /// Whether names or attributes were rewritten while inlining, so that the original bytes no longer hold.
    rewritten: bool,
}

impl Importer<'_> {
    fn graph(
        &mut self,
        proto: &GraphProto,
        opsets: &BTreeMap<String, i64>,
        outer: &mut Vec<Scope>,
    ) -> Result<Graph, ImportError> {
        let mut graph = Graph::default();
        graph.name = proto.name.clone().unwrap_or_default();
        graph.opsets.clone_from(opsets);
        let version = opsets.get("").copied().unwrap_or(upgrade::TARGET).max(upgrade::TARGET);
        graph.opsets.insert(String::new(), version);
        for info in proto.input.iter().chain(&proto.output).chain(&proto.value_info) {
            graph.value_info.insert(info.name.as_str().into(), Arc::new(info.clone()));
        }
        self.constants(proto, &mut graph)?;
        for info in &proto.input {
            match graph.find(&info.name) {
                Some(v) if graph.value(v).origin.is_some() || graph.value(v).constant.is_some() => {}
                Some(_) => return Err(ImportError::Graph(format!("input {} is declared twice", quote(&info.name)))),
                None => {
                    let v = declare(&mut graph, &info.name);
                    graph.inputs.push(v);
                }
            }
        }
        let opsets = Arc::new(opsets.clone());
        let mut pending = Vec::with_capacity(proto.node.len());
        for (index, node) in proto.node.iter().enumerate() {
            let p = Pending { proto: Arc::new(node.clone()), opsets: Arc::clone(&opsets), index, rewritten: false };
            self.inline(p, 0, &mut pending)?;
        }
        let made = Self::declare_outputs(&mut graph, &pending)?;
        let mut scope = Scope { graph, inferer: Inferer::new() };
        for i in run_order(&pending, &made)? {
            self.node(&pending[i], &mut scope, outer)?;
        }
        for info in &proto.output {
            let Some(v) = resolve(&info.name, &mut scope, outer) else {
                return Err(ImportError::Graph(format!("nothing makes the output {}", quote(&info.name))));
            };
            scope.graph.outputs.push(v);
        }
        let mut graph = scope.graph;
        // What a captured constant holds is said by the graph around, which may change it.
        for v in graph.captures.clone() {
            graph.value_mut(v).constant = None;
        }
        graph.sort()?;
        Ok(graph)
    }

    fn constants(&self, proto: &GraphProto, graph: &mut Graph) -> Result<(), ImportError> {
        for t in &proto.initializer {
            let v = Self::fresh(graph, &t.name)?;
            let value = graph.value_mut(v);
            value.dtype = DType::from_onnx(t.data_type);
            match self.model.tensor(t) {
                Ok(tensor) => {
                    value.shape = Some(known_dims(&tensor));
                    value.constant = Some(Arc::new(tensor));
                }
                // Texts pass through a graph that never computes with them.
                Err(e) if is_unsupported_type(&e) => {}
                Err(e) => return Err(e.into()),
            }
            value.origin = Some(Arc::new(t.clone()));
        }
        for t in &proto.sparse_initializer {
            let name = t.values.as_ref().map_or("", |v| v.name.as_str());
            let v = Self::fresh(graph, name)?;
            let tensor = self.model.sparse_tensor(t)?;
            graph.set_constant(v, tensor);
        }
        Ok(())
    }

    fn fresh(graph: &mut Graph, name: &str) -> Result<ValueId, ImportError> {
        if name.is_empty() {
            return Err(ImportError::Graph("an initializer has no name".into()));
        }
        if graph.find(name).is_some() {
            return Err(ImportError::Graph(format!("{} is an initializer twice", quote(name))));
        }
        Ok(graph.add_value(name, None, None))
    }

    /// Puts a node, or the nodes of the function that it calls, at the end of `out`.
    fn inline(&mut self, node: Pending, depth: usize, out: &mut Vec<Pending>) -> Result<(), ImportError> {
        let p = &node.proto;
        let Some(&function) = self.functions.get(&(p.domain.as_str(), p.op_type.as_str(), p.overload.as_str())) else {
            out.push(node);
            return Ok(());
        };
        if depth == MAX_CALL_DEPTH {
            return Err(node_error(
                p,
                node.index,
                format!("functions call each other more than {MAX_CALL_DEPTH} deep"),
            ));
        }
        if p.input.len() > function.input.len() || p.output.len() > function.output.len() {
            return Err(node_error(p, node.index, "has more inputs or outputs than the function that it calls"));
        }
        let opsets = Arc::new(opset_map(&function.opset_import));
        if let Some(&v) = opsets.get("").filter(|v| !OPSETS.contains(v)) {
            return Err(ImportError::Opset(v));
        }
        let prefix = format!("{}/{}/", node_name(p, node.index), self.inlined);
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            names.insert(formal, p.input.get(i).cloned().unwrap_or_default());
        }
        for (i, formal) in function.output.iter().enumerate() {
            names.insert(formal, p.output.get(i).cloned().unwrap_or_default());
        }
        for (k, inner) in function.node.iter().enumerate() {
            self.inlined += 1;
            if self.inlined > MAX_INLINED_NODES {
                let problem = format!("its functions expand to more than {MAX_INLINED_NODES} nodes");
                return Err(node_error(p, node.index, problem));
            }
            let mut inner = inner.clone();
            rename_node(&mut inner, &names, &prefix);
            inner.attribute = inner.attribute.iter().filter_map(|a| bind_attribute(a, p, function)).collect();
            inner.name = format!("{prefix}{}", node_name(&inner, k));
            let p = Pending { proto: Arc::new(inner), opsets: Arc::clone(&opsets), index: k, rewritten: true };
            self.inline(p, depth + 1, out)?;
        }
        Ok(())
    }

    /// Adds the values that nodes make, and says which of `pending` makes each name.
    fn declare_outputs<'p>(graph: &mut Graph, pending: &'p [Pending]) -> Result<BTreeMap<&'p str, usize>, ImportError> {
        let mut made = BTreeMap::new();
        for (i, p) in pending.iter().enumerate() {
            let node = &p.proto;
            if node.output.iter().all(String::is_empty) {
                return Err(node_error(node, p.index, "has no outputs"));
            }
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                if graph.find(name).is_some() {
                    let problem = format!("makes {}, which is there already", quote(name));
                    return Err(node_error(node, p.index, problem));
                }
                declare(graph, name);
                made.insert(name.as_str(), i);
            }
        }
        Ok(made)
    }

    fn node(&mut self, p: &Pending, scope: &mut Scope, outer: &mut Vec<Scope>) -> Result<(), ImportError> {
        let proto = &p.proto;
        let fail = |problem: String| node_error(proto, p.index, problem);
        let op = upgrade::op_of(&proto.domain, &proto.op_type);
        let (least, most, most_out) = op.arity();
        if proto.input.len() > most || proto.output.len() > most_out {
            return Err(fail(format!("has {} inputs and {} outputs, too many", proto.input.len(), proto.output.len())));
        }
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(match name.as_str() {
                "" => None,
                name => match resolve(name, scope, outer) {
                    Some(v) => Some(v),
                    None => return Err(fail(format!("reads {}, which nothing makes", quote(name)))),
                },
            });
        }
        let outputs = proto.output.iter().map(|n| if n.is_empty() { None } else { scope.graph.find(n) }).collect();
        let attrs = self.attributes(p, scope, outer)?;
        let mut captures = Vec::new();
        for (_, inner) in attrs.graphs() {
            for &v in &inner.captures {
                let name = &inner.value(v).name;
                let around = resolve(name, scope, outer);
                captures.push(around.ok_or_else(|| fail(format!("reads {}, which nothing makes", quote(name))))?);
            }
        }
        let origin = (!p.rewritten).then(|| Arc::clone(proto));
        let origin = if op == Op::Opaque { Some(Arc::clone(proto)) } else { origin };
        let node = Node { op, name: node_name(proto, p.index).into(), inputs, captures, outputs, attrs, origin };
        let version = *p.opsets.get("").unwrap_or(&upgrade::TARGET);
        let id = scope.graph.add_node(node);
        let ids = upgrade::upgrade(&mut scope.graph, id, version).map_err(|e| fail(e.to_string()))?;
        for id in ids {
            let node = scope.graph.node(id);
            if node.inputs.len() < least && node.op == op {
                return Err(fail(format!("needs at least {least} inputs, found {}", node.inputs.len())));
            }
            match Self::infer(scope, id) {
                Ok(()) => {}
                // A branch that is written for other shapes than these is one that is not taken: no error until it runs.
                Err(_) if !outer.is_empty() => {}
                Err(e) => return Err(fail(e.to_string())),
            }
        }
        Ok(())
    }

    fn infer(scope: &mut Scope, id: NodeId) -> Result<(), InferError> {
        scope.inferer.node(&mut scope.graph, id)?;
        let node = scope.graph.node(id);
        if node.op == Op::Constant
            && let Some(v) = node.output(0)
            && let Some(tensor) = constant_of(&node.attrs)
        {
            scope.graph.value_mut(v).constant = Some(tensor);
        }
        Ok(())
    }

    /// The attributes of a node. The values that its subgraphs capture are declared in `scope` afterwards.
    fn attributes(&mut self, p: &Pending, scope: &mut Scope, outer: &mut Vec<Scope>) -> Result<Attrs, ImportError> {
        let mut attrs = Attrs::new();
        for a in &p.proto.attribute {
            let value = match kind_of(a) {
                AttributeProto::FLOAT => a.f.map(Attr::Float),
                AttributeProto::INT => a.i.map(Attr::Int),
                AttributeProto::STRING => a.s.as_deref().map(|s| Attr::Str(s.into())),
                AttributeProto::FLOATS => Some(Attr::Floats(a.floats.clone())),
                AttributeProto::INTS => Some(Attr::Ints(a.ints.clone())),
                AttributeProto::STRINGS => Some(Attr::Strs(a.strings.iter().map(|s| s.as_slice().into()).collect())),
                AttributeProto::TENSOR => match a.t.as_deref().map(|t| self.model.tensor(t)) {
                    Some(Ok(t)) => Some(Attr::Tensor(Arc::new(t))),
                    Some(Err(e)) if is_unsupported_type(&e) => Some(Attr::Opaque),
                    Some(Err(e)) => return Err(e.into()),
                    None => None,
                },
                AttributeProto::SPARSE_TENSOR => match &a.sparse_tensor {
                    Some(t) => Some(Attr::Tensor(Arc::new(self.model.sparse_tensor(t)?))),
                    None => None,
                },
                AttributeProto::GRAPH => match &a.g {
                    Some(g) => {
                        outer
                            .push(std::mem::replace(scope, Scope { graph: Graph::default(), inferer: Inferer::new() }));
                        let inner = self.graph(g, &p.opsets, outer);
                        *scope = outer.pop().expect("just pushed");
                        Some(Attr::Graph(Arc::new(inner?), Arc::new((**g).clone())))
                    }
                    None => None,
                },
                _ => Some(Attr::Opaque),
            };
            let missing = || node_error(&p.proto, p.index, format!("attribute {} has no value", quote(&a.name)));
            attrs.set(&a.name, value.ok_or_else(missing)?);
        }
        Ok(attrs)
    }
}

fn is_unsupported_type(e: &quantal_onnx::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(e) = source {
        if matches!(e.downcast_ref::<TensorError>(), Some(TensorError::Unsupported(_))) {
            return true;
        }
        source = e.source();
    }
    false
}

/// Which value field of an attribute counts. Old files do not say: then the one that is set.
fn kind_of(a: &AttributeProto) -> i32 {
    match a.kind {
        0 if a.f.is_some() => AttributeProto::FLOAT,
        0 if a.i.is_some() => AttributeProto::INT,
        0 if a.s.is_some() => AttributeProto::STRING,
        0 if a.t.is_some() => AttributeProto::TENSOR,
        0 if a.g.is_some() => AttributeProto::GRAPH,
        0 if !a.floats.is_empty() => AttributeProto::FLOATS,
        0 if !a.strings.is_empty() => AttributeProto::STRINGS,
        0 => AttributeProto::INTS,
        // `0` and empty texts are often left out on the wire although the kind says that they are there.
        kind => kind,
    }
}

/// The tensor of a Constant node, whichever attribute holds it.
fn constant_of(attrs: &Attrs) -> Option<Arc<Tensor>> {
    let (name, attr) = attrs.iter().find(|(n, _)| n.starts_with("value") || *n == "sparse_value")?;
    let tensor = match (name, attr) {
        (_, Attr::Tensor(t)) => return Some(Arc::clone(t)),
        (_, Attr::Int(v)) => Tensor::scalar(*v),
        (_, Attr::Float(v)) => Tensor::scalar(*v),
        (_, Attr::Ints(v)) => Tensor::from_slice(&[v.len()], v),
        (_, Attr::Floats(v)) => Tensor::from_slice(&[v.len()], v),
        _ => return None,
    };
    tensor.ok().map(Arc::new)
}

fn known_dims(tensor: &Tensor) -> Vec<Dim> {
    tensor.shape().iter().map(|&d| Dim::Known(d)).collect()
}

/// Adds a value with the type that the file declares for it, if any.
fn declare(graph: &mut Graph, name: &str) -> ValueId {
    let info = graph.value_info.get(name).cloned();
    let (dtype, shape) = info.as_deref().map_or((None, None), declared_type);
    graph.add_value(name, dtype, shape)
}

/// Element type and shape of a declared tensor; nothing for sequences and the like, or for sizes that cannot be.
pub(crate) fn declared_type(info: &ValueInfoProto) -> (Option<DType>, Option<Vec<Dim>>) {
    let Some(tensor) = info.ty.as_ref().and_then(|t| t.tensor_type.as_ref()) else { return (None, None) };
    let dim = |d: &quantal_onnx::Dimension| match (d.dim_value, &d.dim_param) {
        (Some(n), _) if n >= 0 => Dim::Known(n as usize),
        // Some exporters call every size that they do not know `?`: one name, many sizes.
        (None, Some(name)) if !matches!(name.as_str(), "" | "?") => Dim::Symbol(name.as_str().into()),
        _ => Dim::Unknown,
    };
    let shape = tensor.shape.as_ref().map(|s| s.dim.iter().map(dim).collect());
    (DType::from_onnx(tensor.elem_type), shape)
}

/// The value of that name, here or in a graph around; one found around becomes a capture of each graph on the way.
fn resolve(name: &str, scope: &mut Scope, outer: &mut [Scope]) -> Option<ValueId> {
    if let Some(v) = scope.graph.find(name) {
        return Some(v);
    }
    let (parent, rest) = outer.split_last_mut()?;
    let v = resolve(name, parent, rest)?;
    let value = parent.graph.value(v).clone();
    let id = scope.graph.add_value(name, value.dtype, value.shape);
    scope.graph.value_mut(id).constant = value.constant;
    scope.graph.captures.push(id);
    Some(id)
}

/// Places in `pending`, such that each node comes after those that it reads from; the order of the file where it holds.
fn run_order(pending: &[Pending], made: &BTreeMap<&str, usize>) -> Result<Vec<usize>, Cycle> {
    let mut waits = vec![0_usize; pending.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); pending.len()];
    for (i, p) in pending.iter().enumerate() {
        let mut names = BTreeSet::new();
        read_names(&p.proto, &mut names);
        for maker in names.iter().filter_map(|n| made.get(n.as_str())) {
            readers[*maker].push(i);
            waits[i] += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..pending.len()).filter(|&i| waits[i] == 0).collect();
    let mut order = Vec::with_capacity(pending.len());
    while let Some(i) = ready.pop_first() {
        order.push(i);
        for &r in &readers[i] {
            waits[r] -= 1;
            if waits[r] == 0 {
                ready.insert(r);
            }
        }
    }
    match waits.iter().position(|&n| n > 0) {
        Some(i) if order.len() < pending.len() => Err(Cycle(node_name(&pending[i].proto, pending[i].index))),
        _ => Ok(order),
    }
}

/// Every name that a node reads, those inside its subgraphs included (their own values do no harm: nobody here makes
/// them).
fn read_names(node: &NodeProto, names: &mut BTreeSet<String>) {
    names.extend(node.input.iter().filter(|n| !n.is_empty()).cloned());
    for graph in node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs)) {
        names.extend(graph.output.iter().map(|o| o.name.clone()));
        for inner in &graph.node {
            read_names(inner, names);
        }
    }
}

/// Gives the values of an inlined node their names outside the function, those of its subgraphs included.
fn rename_node(node: &mut NodeProto, names: &BTreeMap<&str, String>, prefix: &str) {
    let rename = |n: &mut String| {
        if !n.is_empty() {
            *n = names.get(n.as_str()).cloned().unwrap_or_else(|| format!("{prefix}{n}"));
        }
    };
    node.input.iter_mut().chain(&mut node.output).for_each(rename);
    node.origin = None;
    for a in &mut node.attribute {
        let Some(g) = a.g.as_deref_mut() else { continue };
        a.origin = None;
        for info in g.input.iter_mut().chain(&mut g.output).chain(&mut g.value_info) {
            rename(&mut info.name);
            info.origin = None;
        }
        for t in &mut g.initializer {
            rename_tensor(t, rename);
        }
        for inner in &mut g.node {
            rename_node(inner, names, prefix);
        }
    }
}

fn rename_tensor(t: &mut TensorProto, rename: impl Fn(&mut String)) {
    rename(&mut t.name);
    t.origin = None;
}

/// An attribute inside a function body: a reference takes the value of the call, or the function's default, or goes.
fn bind_attribute(a: &AttributeProto, call: &NodeProto, function: &FunctionProto) -> Option<AttributeProto> {
    if a.ref_attr_name.is_empty() {
        let mut a = a.clone();
        if let Some(g) = a.g.as_deref_mut() {
            for node in &mut g.node {
                node.attribute = node.attribute.iter().filter_map(|a| bind_attribute(a, call, function)).collect();
                node.origin = None;
            }
            a.origin = None;
        }
        return Some(a);
    }
    let mut all = call.attribute.iter().chain(&function.attribute_proto);
    let mut bound = all.find(|b| b.name == a.ref_attr_name)?.clone();
    bound.name.clone_from(&a.name);
    bound.origin = None;
    Some(bound)
}

#[cfg(test)]
mod tests;
