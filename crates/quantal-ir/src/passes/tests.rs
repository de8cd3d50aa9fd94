use super::*;
use crate::attrs::{Attr, Attrs};
use crate::graph::Dim;
use quantal_tensor::{DType, Tensor};

#[expect(clippy::unnecessary_wraps, reason = "given where a shape may be unknown")]
fn dims(d: &[usize]) -> Option<Vec<Dim>> {
    Some(d.iter().map(|&n| Dim::Known(n)).collect())
}

fn constant(g: &mut Graph, name: &str, shape: &[usize], values: &[f32]) -> ValueId {
    g.add_constant(name, Tensor::from_slice(shape, values).unwrap())
}

/// x [1, 1, 4, 4] → Conv with 2 channels of 1×1 weights 3 and 5, no bias → c; the node is the first.
fn conv(g: &mut Graph) -> (ValueId, ValueId) {
    let x = g.add_value("x", Some(DType::F32), dims(&[1, 1, 4, 4]));
    let w = constant(g, "w", &[2, 1, 1, 1], &[3.0, 5.0]);
    let c = g.add_value("c", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.inputs = vec![x];
    g.add_node(Node::new(Op::Conv, "conv", vec![Some(x), Some(w)], vec![c], Attrs::new()));
    (x, c)
}

fn f32s(g: &Graph, v: Option<ValueId>) -> Vec<f32> {
    g.constant(v).unwrap().as_slice::<f32>().to_vec()
}

#[test]
fn batch_norm_scale_and_shift_end_up_in_the_convolution() {
    let mut g = Graph::default();
    let (_, c) = conv(&mut g);
    let p: Vec<_> = [[2.0, 1.0], [1.0, 1.0], [0.5, 0.0], [4.0, 1.0]]
        .iter()
        .enumerate()
        .map(|(i, v)| Some(constant(&mut g, &format!("p{i}"), &[2], v)))
        .collect();
    let n = g.add_value("n", Some(DType::F32), dims(&[1, 2, 4, 4]));
    let inputs = std::iter::once(Some(c)).chain(p).collect();
    let attrs = Attrs::new().with("epsilon", Attr::Float(0.0));
    g.add_node(Node::new(Op::BatchNormalization, "bn", inputs, vec![n], attrs));
    let k = constant(&mut g, "k", &[2, 1, 1], &[10.0, 20.0]);
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.add_node(Node::new(Op::Mul, "mul", vec![Some(k), Some(n)], vec![y], Attrs::new()));
    g.outputs = vec![y];
    let passes: Vec<_> = canonicalize(&mut g).unwrap().iter().map(|c| c.pass).collect();
    assert_eq!(passes, ["fold_batchnorm", "fold_scale"]);
    let (_, node) = g.nodes().next().unwrap();
    // γ/√σ² is 1 and 1, the shift β − μ·factor is 0.5 and 1; then ·10 and ·20.
    assert_eq!(f32s(&g, node.input(1)), [30.0, 100.0]);
    assert_eq!(f32s(&g, node.input(2)), [5.0, 20.0]);
    assert_eq!((g.node_count(), node.output(0)), (1, Some(y)));
}

#[test]
fn nothing_is_folded_into_a_convolution_that_others_read() {
    let mut g = Graph::default();
    let (_, c) = conv(&mut g);
    let k = constant(&mut g, "k", &[2, 1, 1], &[10.0, 20.0]);
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.add_node(Node::new(Op::Mul, "mul", vec![Some(c), Some(k)], vec![y], Attrs::new()));
    g.outputs = vec![y, c];
    assert_eq!(canonicalize(&mut g).unwrap(), []);
    g.outputs = vec![y];
    let row = constant(&mut g, "row", &[4], &[1.0, 2.0, 3.0, 4.0]);
    let mul = g.nodes().find(|(_, n)| n.op == Op::Mul).unwrap().0;
    g.node_mut(mul).inputs[1] = Some(row);
    assert_eq!(canonicalize(&mut g).unwrap(), [], "a factor along the width is none of a channel");
}

#[test]
fn identities_go_and_output_names_stay() {
    let mut g = Graph::default();
    let (_, c) = conv(&mut g);
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.add_node(Node::new(Op::Identity, "id", vec![Some(c)], vec![y], Attrs::new()));
    g.outputs = vec![y];
    assert_eq!(canonicalize(&mut g).unwrap().len(), 1);
    assert_eq!(g.nodes().next().unwrap().1.output(0), Some(y));
}

#[test]
fn zero_padding_moves_into_the_convolution() {
    let mut g = Graph::default();
    let (x, c) = conv(&mut g);
    let pads = g.add_constant("pads", Tensor::from_slice(&[8], &[0_i64, 0, 1, 2, 0, 0, 3, 4]).unwrap());
    let p = g.add_value("p", Some(DType::F32), dims(&[1, 1, 8, 10]));
    g.add_node(Node::new(Op::Pad, "pad", vec![Some(x), Some(pads)], vec![p], Attrs::new()));
    let id = g.nodes().next().unwrap().0;
    g.node_mut(id).inputs[0] = Some(p);
    g.outputs = vec![c];
    canonicalize(&mut g).unwrap();
    let (_, node) = g.nodes().next().unwrap();
    assert_eq!((node.input(0), node.attrs.ints("pads").unwrap()), (Some(x), Some(&[1, 2, 3, 4][..])));
    assert_eq!(g.node_count(), 1);
}

fn halves(g: &mut Graph, name: &str, shape: &[usize], values: &[f32]) -> ValueId {
    let values: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
    g.add_constant(name, Tensor::from_slice(shape, &values).unwrap())
}

/// What each node reads and makes, as `op(inputs) -> outputs` with the types of values.
fn told(g: &Graph) -> Vec<String> {
    let value = |v: &Option<ValueId>| {
        v.map_or_else(String::new, |v| format!("{}:{}", g.value(v).name, g.value(v).dtype.map_or("?", |d| d.name())))
    };
    let list = |l: &[Option<ValueId>]| l.iter().map(value).collect::<Vec<_>>().join(" ");
    let node = |n: &Node| format!("{}({}) -> {}", n.op.name(), list(&n.inputs), list(&n.outputs));
    g.nodes().map(|(_, n)| node(n)).collect()
}

#[test]
fn halves_become_floats_between_inputs_and_outputs_that_keep_their_type() {
    let mut g = Graph::default();
    let half = Some(DType::F16);
    let x = g.add_value("x", half, dims(&[2]));
    let w = halves(&mut g, "w", &[2], &[0.5, -3.0]);
    let [a, b, y] = ["a", "b", "y"].map(|n| g.add_value(n, half, dims(&[2])));
    let f = g.add_value("f", Some(DType::F32), dims(&[2]));
    (g.inputs, g.outputs) = (vec![x], vec![y, x]);
    let to = |dtype: DType| Attrs::new().with("to", Attr::Int(dtype.to_onnx().into()));
    g.add_node(Node::new(Op::Add, "add", vec![Some(x), Some(w)], vec![a], Attrs::new()));
    // An island of float32 between two Casts, which are no longer there for their readers.
    g.add_node(Node::new(Op::Cast, "up", vec![Some(a)], vec![f], to(DType::F32)));
    g.add_node(Node::new(Op::Cast, "down", vec![Some(f)], vec![b], to(DType::F16)));
    g.add_node(Node::new(Op::Mul, "mul", vec![Some(b), Some(x)], vec![y], Attrs::new()));
    let changed: Vec<String> = widen_half(&mut g).unwrap().into_iter().map(|c| c.node).collect();
    assert_eq!(changed, ["add", "down", "mul"]);
    assert_eq!(f32s(&g, Some(w)), [0.5, -3.0]);
    g.remove_unread_nodes();
    assert_eq!(
        told(&g),
        [
            "Cast(x:float16) -> x_float32:float32",
            "Add(x_float32:float32 w:float32) -> a:float32",
            "Mul(a:float32 x_float32:float32) -> y_float32:float32",
            "Cast(y_float32:float32) -> y:float16",
        ]
    );
    assert!(widen_half(&mut g).unwrap().is_empty(), "once more changes nothing");
    assert_eq!(g.node_count(), 4);
}

#[test]
fn types_in_attributes_are_widened_and_a_cast_that_is_handed_out_is_not() {
    let mut g = Graph::default();
    let shape = g.add_value("shape", Some(DType::I64), dims(&[1]));
    let filled = g.add_value("filled", Some(DType::BF16), None);
    let x = g.add_value("x", Some(DType::F32), dims(&[2]));
    let (q, y, z) = (
        g.add_value("q", Some(DType::U8), None),
        g.add_value("y", Some(DType::BF16), None),
        g.add_value("z", Some(DType::F16), None),
    );
    let scale = g.add_constant("scale", Tensor::scalar(0.5_f32).unwrap());
    (g.inputs, g.outputs) = (vec![shape, x, q], vec![filled, z]);
    let value = Tensor::from_slice(&[1], &[half::bf16::from_f32(1.5)]).unwrap();
    let attrs = Attrs::new().with("value", Attr::Tensor(std::sync::Arc::new(value)));
    let fill = g.add_node(Node::new(Op::ConstantOfShape, "fill", vec![Some(shape)], vec![filled], attrs));
    let attrs = Attrs::new().with("output_dtype", Attr::Int(16));
    let dq = g.add_node(Node::new(Op::DequantizeLinear, "dq", vec![Some(q), Some(scale)], vec![y], attrs));
    g.add_node(Node::new(Op::Relu, "relu", vec![Some(y)], vec![q], Attrs::new()));
    let attrs = Attrs::new().with("to", Attr::Int(10));
    g.add_node(Node::new(Op::Cast, "out", vec![Some(x)], vec![z], attrs));
    g.inputs.pop();
    let q2 = g.add_value("q2", Some(DType::U8), None);
    g.inputs.push(q2);
    g.node_mut(dq).inputs[0] = Some(q2);

    widen_half(&mut g).unwrap();
    let tensor = g.node(fill).attrs.tensor("value").unwrap().unwrap();
    assert_eq!((tensor.dtype(), tensor.as_slice::<f32>()), (DType::F32, &[1.5][..]));
    assert_eq!(g.node(dq).attrs.int("output_dtype").unwrap(), Some(1));
    assert_eq!(g.value(y).dtype, Some(DType::F32));
    assert!(told(&g).contains(&"Cast(x:float32) -> z:float16".to_owned()), "{:?}", told(&g));
    assert!(told(&g).contains(&"Cast(filled_float32:float32) -> filled:bfloat16".to_owned()), "{:?}", told(&g));
}

#[test]
fn large_constants_that_were_halves_are_halves_in_the_file() {
    let values: Vec<f32> = (0..512).map(|i| i as f32 / 8.0).collect();
    let mut inexact = values.clone();
    inexact[7] = 0.1;
    let mut g = Graph::default();
    let ids = g.add_value("ids", Some(DType::I64), dims(&[3]));
    let [table, matrix, odd] = [("table", &values), ("matrix", &values), ("odd", &inexact)]
        .map(|(name, values)| constant(&mut g, name, &[64, 8], values));
    let small = constant(&mut g, "small", &[8], &[1.0; 8]);
    let mut made = ["picked", "a", "b", "y"].map(|n| g.add_value(n, Some(DType::F32), None)).into_iter();
    let mut node = |g: &mut Graph, op, inputs: [ValueId; 2]| {
        let y = made.next().unwrap();
        let name = std::sync::Arc::clone(&g.value(y).name);
        g.add_node(Node::new(op, &name, inputs.map(Some).to_vec(), vec![y], Attrs::new()));
        y
    };
    let picked = node(&mut g, Op::Gather, [table, ids]);
    let a = node(&mut g, Op::Add, [picked, small]);
    let b = node(&mut g, Op::MatMul, [matrix, a]);
    let y = node(&mut g, Op::MatMul, [odd, b]);
    (g.inputs, g.outputs) = (vec![ids], vec![y]);
    assert!(half_types(&g).is_empty());
    narrow_constants(&mut g, &[DType::F16]).unwrap();
    let mut found = told(&g);
    found.sort();
    assert_eq!(
        found,
        [
            "Add(picked:float32 small:float32) -> a:float32",
            "Cast(matrix_float16:float16) -> matrix:float32",
            "Cast(picked_float16:float16) -> picked:float32",
            "Gather(table_float16:float16 ids:int64) -> picked_float16:float16",
            "MatMul(matrix:float32 a:float32) -> b:float32",
            "MatMul(odd:float32 b:float32) -> y:float32",
        ]
    );
    assert_eq!(half_types(&g), [DType::F16]);
    let held = g.constant(g.find("matrix_float16")).unwrap();
    assert_eq!(held.to_f32_vec().unwrap(), values);
}

/// x [2, 2] and weights 1, 2, 3, 4 in a Gemm, in this order or the other, with a C.
fn gemm(first: bool, c_shape: &[usize], c_values: &[f32], attrs: Attrs) -> Graph {
    let mut g = Graph::default();
    let x = g.add_value("x", Some(DType::F32), dims(&[2, 2]));
    let w = constant(&mut g, "w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let c = constant(&mut g, "c", c_shape, c_values);
    let y = g.add_value("y", Some(DType::F32), dims(&[2, 2]));
    (g.inputs, g.outputs) = (vec![x], vec![y]);
    let [a, b] = if first { [w, x] } else { [x, w] };
    g.add_node(Node::new(Op::Gemm, "gemm", vec![Some(a), Some(b), Some(c)], vec![y], attrs));
    g
}

#[test]
fn factors_of_a_gemm_go_into_its_weights_and_bias() {
    let attrs = Attrs::new().with("alpha", Attr::Float(0.5)).with("beta", Attr::Float(2.0));
    let mut g = gemm(false, &[1], &[5.0], attrs);
    canonicalize(&mut g).unwrap();
    let (_, node) = g.nodes().next().unwrap();
    assert_eq!((g.node_count(), node.attrs.iter().count()), (1, 0));
    assert_eq!(f32s(&g, node.input(1)), [0.5, 1.0, 1.5, 2.0]);
    assert_eq!(f32s(&g, node.input(2)), [10.0, 10.0]);
    // The constants of the file are as they were for whoever else reads them.
    assert_eq!(f32s(&g, g.find("w")), [1.0, 2.0, 3.0, 4.0]);

    // What is in its form already is left alone.
    let mut plain = gemm(false, &[2], &[5.0, 6.0], Attrs::new().with("transB", Attr::Int(1)));
    assert!(canonicalize(&mut plain).unwrap().is_empty());
}

#[test]
fn a_constant_left_side_becomes_the_weights_of_the_transpose() {
    let mut g = gemm(true, &[2, 1], &[5.0, 6.0], Attrs::new());
    canonicalize(&mut g).unwrap();
    let ops: Vec<Op> = g.nodes().map(|(_, n)| n.op).collect();
    assert_eq!(ops, [Op::Transpose, Op::Gemm, Op::Transpose]);
    let product = g.nodes().nth(1).unwrap().1;
    // xᵀ · Wᵀ: row i of W makes column i, to which C adds its row i.
    assert_eq!(product.attrs.flag("transB", false), Ok(true));
    assert_eq!((f32s(&g, product.input(1)), f32s(&g, product.input(2))), (vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0]));
    let last = g.nodes().nth(2).unwrap().1;
    assert_eq!(last.output(0), Some(g.outputs[0]));

    // A C that differs from row to row is added by a node of its own.
    let mut g = gemm(false, &[2, 2], &[1.0, 2.0, 3.0, 4.0], Attrs::new().with("beta", Attr::Float(2.0)));
    canonicalize(&mut g).unwrap();
    let ops: Vec<Op> = g.nodes().map(|(_, n)| n.op).collect();
    assert_eq!(ops, [Op::Gemm, Op::Add]);
    assert_eq!(f32s(&g, g.nodes().nth(1).unwrap().1.input(1)), [2.0, 4.0, 6.0, 8.0]);
}
