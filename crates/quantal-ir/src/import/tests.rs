use super::*;
use quantal_onnx::{Message, ModelProto, encode};
use quantal_tensor::Bytes;

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
    NodeProto { op_type: op.into(), input: list(inputs), output: list(outputs), ..NodeProto::default() }
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), ..ValueInfoProto::default() }
}

fn model(version: i64, nodes: Vec<NodeProto>, inputs: &[&str], outputs: &[&str]) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        input: inputs.iter().map(|n| value(n)).collect(),
        output: outputs.iter().map(|n| value(n)).collect(),
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version, ..OperatorSetIdProto::default() };
    ModelProto { graph: Some(Box::new(graph)), opset_import: vec![opset], ..ModelProto::default() }
}

fn imported(proto: &ModelProto) -> Result<Graph, ImportError> {
    import(&Arc::new(Model::parse(Bytes::copy_from(&encode(proto)).unwrap())?))
}

#[test]
fn unsorted_nodes_are_sorted_and_wrong_wiring_is_named() {
    let g = imported(&model(17, vec![node("Relu", &["a"], &["y"]), node("Neg", &["x"], &["a"])], &["x"], &["y"]));
    assert_eq!(g.unwrap().nodes().map(|(_, n)| n.op).collect::<Vec<_>>(), [Op::Neg, Op::Relu]);
    let error = |nodes, outputs: &[&str]| imported(&model(17, nodes, &["x"], outputs)).unwrap_err().to_string();
    assert!(error(vec![node("Add", &["x", "ghost"], &["y"])], &["y"]).contains("ghost"));
    assert!(error(vec![node("Relu", &["x"], &["y"])], &["z"]).contains("`z`"));
    assert!(error(vec![node("Relu", &["x"], &["y"]), node("Neg", &["x"], &["y"])], &["y"]).contains("there already"));
    assert!(error(vec![node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"])], &["b"]).contains("circle"));
    assert!(error(vec![node("Conv", &["x"], &["y"])], &["y"]).contains("at least 2 inputs"));
}

#[test]
fn old_attributes_become_inputs() {
    let mut squeeze = node("Squeeze", &["x"], &["y"]);
    squeeze.attribute.push(AttributeProto {
        name: "axes".into(),
        ints: vec![0, -1],
        kind: AttributeProto::INTS,
        ..AttributeProto::default()
    });
    let g = imported(&model(11, vec![squeeze], &["x"], &["y"])).unwrap();
    let (_, n) = g.nodes().next().unwrap();
    assert_eq!(g.constant(n.input(1)).unwrap().as_slice::<i64>(), [0, -1]);
    assert!(n.attrs.get("axes").is_none());
    assert_eq!(g.opset(), 13);
}

#[test]
fn a_function_is_inlined_with_its_attributes_bound_and_a_bomb_is_stopped() {
    let mut body = node("LeakyRelu", &["a"], &["b"]);
    body.attribute.push(AttributeProto {
        name: "alpha".into(),
        ref_attr_name: "slope".into(),
        ..AttributeProto::default()
    });
    let opset = OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() };
    let function = FunctionProto {
        name: "F".into(),
        domain: "my".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![body],
        opset_import: vec![opset.clone()],
        ..FunctionProto::default()
    };
    let mut call = node("F", &["x"], &["y"]);
    call.domain = "my".into();
    call.attribute.push(AttributeProto { name: "slope".into(), f: Some(0.5), kind: 1, ..AttributeProto::default() });
    let mut m = model(17, vec![call.clone()], &["x"], &["y"]);
    m.functions.push(function.clone());
    let g = imported(&m).unwrap();
    let (_, n) = g.nodes().next().unwrap();
    assert_eq!((n.op, n.attrs.float("alpha").unwrap()), (Op::LeakyRelu, Some(0.5)));
    assert_eq!(g.value(g.outputs[0]).name.as_ref(), "y");

    let mut again = node("F", &["a"], &["b"]);
    again.domain = "my".into();
    m.functions[0].node = vec![again];
    assert!(imported(&m).unwrap_err().to_string().contains("deep"));
}

#[test]
fn subgraphs_capture_what_they_read_from_around() {
    let branch = |op: &str, out: &str| GraphProto {
        node: vec![node(op, &["a"], &[out])],
        output: vec![value(out)],
        ..GraphProto::default()
    };
    let mut branching = node("If", &["c"], &["y"]);
    for (name, g) in [("then_branch", branch("Neg", "t")), ("else_branch", branch("Relu", "e"))] {
        let g = Some(Box::new(g));
        branching.attribute.push(AttributeProto { name: name.into(), g, kind: 5, ..AttributeProto::default() });
    }
    // The If comes first in the file: what its branches read orders it after the node that makes it.
    let g = imported(&model(17, vec![branching, node("Abs", &["x"], &["a"])], &["x", "c"], &["y"])).unwrap();
    let ops: Vec<Op> = g.nodes().map(|(_, n)| n.op).collect();
    assert_eq!(ops, [Op::Abs, Op::If]);
    let (_, n) = g.nodes().nth(1).unwrap();
    let a = g.find("a").unwrap();
    assert_eq!(n.captures, [a, a], "one for each branch");
    let bound: Vec<_> = n.subgraphs().map(|(name, inner, around)| (name, inner.captures.len(), around)).collect();
    assert_eq!(bound, [("then_branch", 1, &[a][..]), ("else_branch", 1, &[a][..])]);
}

#[test]
fn an_untouched_graph_leaves_as_the_messages_that_came() {
    let mut relu = node("Relu", &["x"], &["y"]);
    relu.unknown = vec![0xfa, 0x07, 1, 42]; // field 127, one byte
    let m = model(17, vec![relu], &["x"], &["y"]);
    let out = crate::export(&imported(&m).unwrap()).unwrap();
    let (before, after) = (&m.graph.as_ref().unwrap().node[0], &out.graph.as_ref().unwrap().node[0]);
    let bytes = |n: &NodeProto| {
        let mut b = Vec::new();
        n.write(&mut b).unwrap();
        b
    };
    assert_eq!(bytes(before), bytes(after));
}

#[test]
fn unsupported_versions_say_which_are() {
    assert!(
        imported(&model(99, vec![node("Relu", &["x"], &["y"])], &["x"], &["y"]))
            .unwrap_err()
            .to_string()
            .contains("99")
    );
}
