//! What a written plan leaves as it was: names, outputs, and nodes beside those that it changes.

use super::*;
use std::collections::BTreeSet;

fn square_shape() -> Vec<Dim> {
    vec![Dim::Known(2), Dim::Known(2)]
}

fn add(g: &mut Graph, op: Op, name: &str, inputs: &[ValueId]) -> ValueId {
    let y = g.add_value(&format!("{name}_out"), Some(DType::F32), Some(square_shape()));
    g.add_node(Node::new(op, name, inputs.iter().copied().map(Some).collect(), vec![y], Attrs::new()));
    y
}

fn square(g: &mut Graph, name: &str) -> ValueId {
    g.add_constant(name, Tensor::from_slice(&[2, 2], &[1.0_f32, -2.0, 3.0, 4.0]).unwrap())
}

fn begin() -> (Graph, ValueId) {
    let mut g = Graph::default();
    g.opsets.insert(String::new(), 17);
    let x = g.add_value("x", Some(DType::F32), Some(square_shape()));
    g.inputs = vec![x];
    (g, x)
}

fn encoding(scheme: Scheme) -> Encoding {
    Encoding { scheme, params: Params::Static(QParams::per_tensor(0.5, 0)), why: "test".into() }
}

fn output_names(g: &Graph) -> Vec<&str> {
    g.outputs.iter().map(|&v| &*g.value(v).name).collect()
}

#[test]
fn products_that_feed_each_other_are_quantized_by_rows() {
    let (mut g, x) = begin();
    let (w, v) = (square(&mut g, "w"), square(&mut g, "v"));
    let b = g.add_constant("b", Tensor::from_slice(&[2], &[1.0_f32, 2.0]).unwrap());
    // A product of two run-time tensors, three by weights of which two share theirs, a bias between them; one is handed
    // out.
    let gram = add(&mut g, Op::MatMul, "gram", &[x, x]);
    let first = add(&mut g, Op::MatMul, "first", &[gram, w]);
    let second = add(&mut g, Op::MatMul, "second", &[first, w]);
    let biased = add(&mut g, Op::Add, "biased", &[second, b]);
    let third = add(&mut g, Op::MatMul, "third", &[biased, v]);
    g.outputs = vec![third, first];
    let mut plan = QuantPlan::default();
    for weight in [w, v] {
        plan.encodings.insert(weight, encoding(Scheme::weight_per_tensor()));
    }
    plan.dynamic = g.nodes().filter(|(_, n)| n.op == Op::MatMul && &*n.name != "gram").map(|(id, _)| id).collect();
    let q = insert_qdq(&g, &plan).unwrap();
    let count = |op| q.nodes().filter(|(_, n)| n.op == op).count();
    assert_eq!([Op::MatMul, Op::MatMulInteger, Op::Add].map(count), [1, 3, 1]);
    // The weights are u8 around 128: what other runtimes add up exactly on every CPU.
    let node = q.nodes().find(|(_, n)| n.op == Op::MatMulInteger).unwrap().1;
    let [codes, zero] = [1, 3].map(|i| q.constant(node.input(i)).unwrap().get::<u8>().unwrap().to_vec());
    assert!(codes.iter().any(|&c| c > 128) && zero == [128], "{codes:?} around {zero:?}");
    assert_eq!(output_names(&q), output_names(&g));
}

#[test]
fn layers_that_share_a_bias_have_nodes_of_their_own_names() {
    let (mut g, x) = begin();
    let (w, v) = (square(&mut g, "w"), square(&mut g, "v"));
    let b = g.add_constant("b", Tensor::from_slice(&[2], &[1.0_f32, 2.0]).unwrap());
    let first = add(&mut g, Op::MatMul, "first", &[x, w]);
    let a = add(&mut g, Op::Add, "b_DequantizeLinear", &[first, b]);
    let second = add(&mut g, Op::MatMul, "second", &[a, v]);
    let y = add(&mut g, Op::Add, "sum", &[second, b]);
    g.outputs = vec![y];
    let mut plan = QuantPlan::default();
    for value in [x, a] {
        plan.encodings.insert(value, encoding(Scheme::activation()));
    }
    for weight in [w, v] {
        plan.encodings.insert(weight, encoding(Scheme::weight_per_tensor()));
    }
    let q = insert_qdq(&g, &plan).unwrap();
    let names: BTreeSet<&str> = q.nodes().map(|(_, n)| &*n.name).collect();
    assert_eq!(names.len(), q.node_count());
    // Both biases are codes, and the node that had the name before has it still.
    assert!(["b_DequantizeLinear_1", "b_DequantizeLinear_2"].iter().all(|n| names.contains(n)));
    assert_eq!(q.nodes().find(|(_, n)| &*n.name == "b_DequantizeLinear").unwrap().1.op, Op::Add);
}

#[test]
fn what_is_fed_or_constant_or_made_in_float_is_handed_out_as_it_is() {
    let (mut g, x) = begin();
    let w = square(&mut g, "w");
    let root = add(&mut g, Op::Sqrt, "root", &[x]);
    let y = add(&mut g, Op::MatMul, "product", &[x, w]);
    let z = add(&mut g, Op::MatMul, "other", &[root, w]);
    g.outputs = vec![x, w, y, root, z, y];
    let mut plan = QuantPlan::default();
    for value in [x, root] {
        plan.encodings.insert(value, encoding(Scheme::activation()));
    }
    plan.encodings.insert(w, encoding(Scheme::weight_per_tensor()));
    plan.float_outputs = BTreeSet::from([root, x]);
    let q = insert_qdq(&g, &plan).unwrap();
    assert_eq!(q.outputs, g.outputs);
    assert_eq!(output_names(&q), ["x", "w", "product_out", "root_out", "other_out", "product_out"]);
    assert_eq!(q.node(q.producer(root).unwrap()).op, Op::Sqrt);
    assert_eq!(q.constant(Some(w)).unwrap().as_slice::<f32>(), [1.0, -2.0, 3.0, 4.0]);
    for product in [y, z] {
        let node = q.node(q.producer(product).unwrap());
        let made = |i| q.node(q.producer(node.input(i).unwrap()).unwrap()).op;
        assert_eq!([made(0), made(1)], [Op::DequantizeLinear; 2]);
    }
}

#[test]
fn a_pair_between_an_input_and_an_output_keeps_the_names_of_both() {
    let (mut g, x) = begin();
    let scale = g.add_constant("scale", Tensor::scalar(0.5_f32).unwrap());
    let codes = add(&mut g, Op::QuantizeLinear, "q", &[x, scale]);
    g.value_mut(codes).dtype = Some(DType::U8);
    let y = add(&mut g, Op::DequantizeLinear, "dq", &[codes, scale]);
    let fixed = g.add_constant("fixed", Tensor::from_slice(&[2], &[4_u8, 6]).unwrap());
    let c = add(&mut g, Op::DequantizeLinear, "constant", &[fixed, scale]);
    g.outputs = vec![y, c];
    let float = extract_qdq(&g).unwrap().graph;
    assert_eq!(output_names(&float), output_names(&g));
    // What the range of the pair can cut.
    assert_eq!(float.nodes().map(|(_, n)| n.op).collect::<Vec<_>>(), [Op::Clip]);
    assert_eq!(float.constant(Some(c)).unwrap().as_slice::<f32>(), [2.0, 3.0]);
}
