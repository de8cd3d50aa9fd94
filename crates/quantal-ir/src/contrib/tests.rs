use super::*;
use crate::attrs::Attr;
use crate::infer;

fn graph(opset: i64) -> Graph {
    let mut g = Graph::default();
    g.opsets.insert(String::new(), opset);
    g.opsets.insert("com.microsoft".to_owned(), 1);
    g
}

fn fixed(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|&n| Dim::Known(n)).collect()
}

fn ops(g: &Graph) -> Vec<&'static str> {
    g.nodes().map(|(_, n)| n.op.name()).collect()
}

/// An operator on float inputs of these shapes.
fn one(opset: i64, op: Op, shapes: &[&[usize]], attrs: Attrs) -> (Graph, NodeId) {
    let mut g = graph(opset);
    let inputs: Vec<Option<ValueId>> =
        shapes.iter().map(|s| Some(g.add_value("x", Some(DType::F32), Some(fixed(s))))).collect();
    g.inputs = inputs.iter().copied().flatten().collect();
    let y = g.add_value("y", None, None);
    g.outputs = vec![y];
    let id = g.add_node(Node::new(op, "node", inputs, vec![y], attrs));
    infer::run(&mut g).unwrap();
    (g, id)
}

#[test]
fn parts_make_the_same_value_and_say_whose_they_are() {
    let (mut g, id) = one(17, Op::BiasGelu, &[&[2, 4], &[4]], Attrs::new());
    assert!(has_any(&g, Purpose::Running));
    let expanded = expand(&mut g, Purpose::Running).unwrap();
    assert_eq!((ops(&g), expanded.names), (vec!["Add", "Gelu"], vec!["node".to_owned()]));
    let (last, node) = g.nodes().last().unwrap();
    assert_eq!((&*node.name, node.op, node.output(0)), ("node", Op::MsGelu, Some(g.outputs[0])));
    assert_eq!(expanded.sources[&last], id);
    assert_eq!(g.value(g.outputs[0]).shape, Some(fixed(&[2, 4])));
    assert!(!has_any(&g, Purpose::Running));
}

#[test]
fn a_written_normalization_asks_for_the_version_that_has_it() {
    let shapes: [&[usize]; 3] = [&[2, 4], &[2, 4], &[4]];
    let (mut g, _) = one(13, Op::SkipLayerNormalization, &shapes, Attrs::new());
    expand(&mut g, Purpose::Quantizing).unwrap();
    assert_eq!((ops(&g), g.opset()), (vec!["Add", "LayerNormalization"], 17));
    // RoiAlign got another default in version 16.
    let (mut g, _) = one(13, Op::SkipLayerNormalization, &shapes, Attrs::new());
    let (x, y) = (g.inputs[0], g.add_value("roi", None, None));
    g.add_node(Node::new(Op::RoiAlign, "roi", vec![Some(x); 3], vec![y], Attrs::new()));
    expand(&mut g, Purpose::Quantizing).unwrap();
    assert_eq!(g.opset(), 13);
}

#[test]
fn what_gains_nothing_is_not_written_out_to_be_quantized() {
    let mut g = graph(17);
    let y = g.add_value("y", None, None);
    g.outputs = vec![y];
    g.add_node(Node::new(Op::DynamicQuantizeLstm, "lstm", vec![None; 12], vec![y], Attrs::new()));
    assert!(!has_any(&g, Purpose::Quantizing));
    let expanded = expand(&mut g, Purpose::Running).unwrap();
    assert!(expanded.refused.values().any(|why| why.contains("not constant")));
    // A node that is refused stays as it is, and nothing of it is left behind.
    assert_eq!(ops(&g), ["DynamicQuantizeLSTM"]);
}

#[test]
fn attention_has_scores_and_a_softmax_of_known_shapes() {
    let shapes: [&[usize]; 3] = [&[1, 3, 8], &[1, 5, 8], &[1, 5, 8]];
    let (mut g, _) = one(17, Op::MultiHeadAttention, &shapes, Attrs::new().with("num_heads", Attr::Int(2)));
    expand(&mut g, Purpose::Quantizing).unwrap();
    let softmax = g.nodes().find(|(_, n)| n.op == Op::Softmax).unwrap().1;
    assert_eq!(g.value(softmax.input(0).unwrap()).shape, Some(fixed(&[1, 2, 3, 5])));
    assert_eq!(g.value(g.outputs[0]).shape, Some(fixed(&[1, 3, 8])));
    assert_eq!(ops(&g).iter().filter(|&&o| o == "MatMul").count(), 2);
}
