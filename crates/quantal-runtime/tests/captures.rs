//! Rewrites of values that a subgraph reads from around it. Each graph is run as it was, then rewritten, then written
//! and read again; expected values are by hand.

use quantal_ir::qdq::{Extracted, expand_qoperators, extract_qdq, insert_qdq};
use quantal_ir::{Attr, Attrs, Dim, Encoding, Graph, Node, Op, Params, QuantPlan, ValueId, passes};
use quantal_kernels::Isa;
use quantal_onnx::Model;
use quantal_runtime::{Mode, Session, compile, fold_constants};
use quantal_tensor::{Bytes, DType, QParams, Scheme, Tensor};
use quantal_testkit::graph::GraphBuilder;
use quantal_testkit::names::assert_names_are_valid;
use std::sync::Arc;

const NEG_OR_ABS: [Op; 2] = [Op::Neg, Op::Abs];

fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

/// The graph as a file holds it.
fn reopened(graph: &Graph) -> Graph {
    let proto = quantal_ir::export(graph).unwrap();
    assert_names_are_valid(proto.graph.as_ref().unwrap());
    let model = Model::parse(Bytes::copy_from(&quantal_onnx::encode(&proto)).unwrap()).unwrap();
    quantal_ir::import(&Arc::new(model)).unwrap()
}

/// All outputs for x, once with the condition true and once with it false.
fn both(graph: &Graph, x: &Tensor) -> [Vec<Vec<f32>>; 2] {
    let run = |graph: &Graph, condition: bool| {
        let mut session = Session::new(compile(graph, Mode::Integer, Isa::PORTABLE).unwrap(), 1);
        let feeds =
            [("x".to_owned(), x.clone()), ("condition".to_owned(), Tensor::from_bools(&[], &[condition]).unwrap())];
        let outputs = session.run(&feeds).unwrap();
        outputs.into_iter().map(|(_, t)| t.as_slice::<f32>().to_vec()).collect::<Vec<_>>()
    };
    let again = reopened(graph);
    [true, false].map(|condition| {
        let outputs = run(graph, condition);
        assert_eq!(run(&again, condition), outputs, "the file says something else than the graph");
        outputs
    })
}

/// A graph with the inputs `x` of this shape and `condition`.
fn begin(shape: &[usize]) -> (GraphBuilder, ValueId, ValueId) {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, shape);
    let condition = g.input("condition", DType::Bool, &[]);
    (g, x, condition)
}

fn names(graph: &Graph) -> Vec<Op> {
    graph.nodes().map(|(_, n)| n.op).collect()
}

#[test]
fn a_node_that_hands_its_input_on_goes_from_before_a_subgraph() {
    let float = Attrs::new().with("to", Attr::Int(1));
    for (op, attrs) in [(Op::Identity, Attrs::new()), (Op::Dropout, Attrs::new()), (Op::Cast, float)] {
        let (mut g, x, condition) = begin(&[2]);
        let relu = g.node(Op::Relu, &[x], Attrs::new());
        g.graph.value_mut(relu).dtype = Some(DType::F32);
        let same = g.node(op, &[relu], attrs);
        let y = g.branches(condition, same, NEG_OR_ABS);
        g.output(y);
        let x = f32s(&[2], &[-1.0, 3.0]);
        let expected = [vec![vec![0.0, -3.0]], vec![vec![0.0, 3.0]]];
        assert_eq!(both(&g.graph, &x), expected);
        assert_eq!(passes::canonicalize(&mut g.graph).unwrap().len(), 1, "{op:?}");
        assert_eq!(names(&g.graph), [Op::Relu, Op::If]);
        assert_eq!(both(&g.graph, &x), expected, "{op:?}");
    }
}

#[test]
fn a_value_that_takes_the_name_of_an_output_takes_its_subgraphs_along() {
    let (mut g, x, condition) = begin(&[2]);
    let relu = g.node(Op::Relu, &[x], Attrs::new());
    let y = g.branches(condition, relu, NEG_OR_ABS);
    let out = g.node(Op::Identity, &[relu], Attrs::new());
    g.output(out);
    g.output(y);
    let x = f32s(&[2], &[-1.0, 3.0]);
    let expected = [vec![vec![0.0, 3.0], vec![0.0, -3.0]], vec![vec![0.0, 3.0], vec![0.0, 3.0]]];
    assert_eq!(both(&g.graph, &x), expected);
    assert_eq!(passes::canonicalize(&mut g.graph).unwrap().len(), 1);
    assert_eq!(both(&g.graph, &x), expected);
    assert_eq!(g.graph.outputs[0], out, "the name of the output stays");
}

/// x [1, 1, 1, 2] → Conv with the weight 3; gives what it makes.
fn conv(g: &mut GraphBuilder, x: ValueId) -> ValueId {
    let w = g.constant("w", f32s(&[1, 1, 1, 1], &[3.0]));
    let c = g.node(Op::Conv, &[x, w], Attrs::new());
    let value = g.graph.value_mut(c);
    (value.dtype, value.shape) = (Some(DType::F32), Some([1, 1, 1, 2].map(Dim::Known).to_vec()));
    c
}

#[test]
fn a_normalization_and_a_factor_are_folded_before_a_subgraph() {
    for captures_the_convolution_too in [false, true] {
        let (mut g, x, condition) = begin(&[1, 1, 1, 2]);
        let c = conv(&mut g, x);
        // γ, β, μ, σ²: 2·(c − 1)/√4 + 5 = c + 4.
        let p: Vec<ValueId> = [2.0, 5.0, 1.0, 4.0]
            .iter()
            .enumerate()
            .map(|(i, v)| g.constant(&format!("p{i}"), f32s(&[1], &[*v])))
            .collect();
        let attrs = Attrs::new().with("epsilon", Attr::Float(0.0));
        let n = g.node(Op::BatchNormalization, &[c, p[0], p[1], p[2], p[3]], attrs);
        let value = g.graph.value_mut(n);
        (value.dtype, value.shape) = (Some(DType::F32), Some([1, 1, 1, 2].map(Dim::Known).to_vec()));
        let ten = g.constant("ten", f32s(&[1], &[10.0]));
        let m = g.node(Op::Mul, &[n, ten], Attrs::new());
        let y = g.branches(condition, m, NEG_OR_ABS);
        g.output(y);
        if captures_the_convolution_too {
            let also = g.branches(condition, c, NEG_OR_ABS);
            g.output(also);
        }

        let x = f32s(&[1, 1, 1, 2], &[1.0, -2.0]);
        // 10·(3·x + 4): 70 and −20.
        let mut expected = [vec![vec![-70.0, 20.0]], vec![vec![70.0, 20.0]]];
        if captures_the_convolution_too {
            expected[0].push(vec![-3.0, 6.0]);
            expected[1].push(vec![3.0, 6.0]);
        }
        assert_eq!(both(&g.graph, &x), expected);
        let folded = passes::canonicalize(&mut g.graph).unwrap().len();
        assert_eq!(folded, if captures_the_convolution_too { 0 } else { 2 }, "others read what is folded into");
        assert_eq!(both(&g.graph, &x), expected);
    }
}

#[test]
fn a_pad_that_a_subgraph_reads_too_stays() {
    let (mut g, x, condition) = begin(&[1, 1, 1, 2]);
    let pads = g.constant("pads", Tensor::from_slice(&[8], &[0_i64, 0, 0, 1, 0, 0, 0, 0]).unwrap());
    let p = g.node(Op::Pad, &[x, pads], Attrs::new());
    g.graph.value_mut(p).shape = Some([1, 1, 1, 3].map(Dim::Known).to_vec());
    let c = conv(&mut g, p);
    let y = g.branches(condition, p, NEG_OR_ABS);
    g.output(c);
    g.output(y);
    let x = f32s(&[1, 1, 1, 2], &[1.0, -2.0]);
    let expected = [vec![vec![0.0, 3.0, -6.0], vec![0.0, -1.0, 2.0]], vec![vec![0.0, 3.0, -6.0], vec![0.0, 1.0, 2.0]]];
    g.graph.value_mut(c).shape = None;
    assert_eq!(both(&g.graph, &x), expected);
    passes::canonicalize(&mut g.graph).unwrap();
    assert_eq!(both(&g.graph, &x), expected);
}

#[test]
fn a_folded_constant_reaches_the_subgraphs_that_read_it() {
    let (mut g, _, condition) = begin(&[2]);
    let c = g.constant("c", f32s(&[2], &[1.0, -2.0]));
    let sum = g.node(Op::Add, &[c, c], Attrs::new());
    let y = g.branches(condition, sum, NEG_OR_ABS);
    g.output(y);
    let x = f32s(&[2], &[0.0, 0.0]);
    let expected = [vec![vec![-2.0, 4.0]], vec![vec![2.0, 4.0]]];
    assert_eq!(both(&g.graph, &x), expected);
    assert_eq!(fold_constants(&mut g.graph, Isa::PORTABLE).unwrap().len(), 1);
    assert_eq!(both(&g.graph, &x), expected);
    // What is put in its place later is what the subgraph reads: it holds no copy.
    g.graph.set_constant(sum, f32s(&[2], &[7.0, 7.0]));
    assert_eq!(both(&g.graph, &x), [vec![vec![-7.0; 2]], vec![vec![7.0; 2]]]);
}

#[test]
fn what_only_a_subgraph_of_a_subgraph_reads_stays_and_is_followed() {
    let (mut g, x, condition) = begin(&[2]);
    let relu = g.node(Op::Relu, &[x], Attrs::new());
    let same = g.node(Op::Identity, &[relu], Attrs::new());
    let dead = g.node(Op::Exp, &[x], Attrs::new());
    g.node(Op::Neg, &[dead], Attrs::new());
    let name = g.graph.value(same).name.to_string();
    let outer = |op: Op| {
        let mut inner = GraphBuilder::new(17);
        let v = inner.capture(&name);
        let y = inner.node(op, &[v], Attrs::new());
        inner.output(y);
        let mut middle = GraphBuilder::new(17);
        middle.capture(&name);
        let c = middle.capture("condition");
        let (inner, relu) = (inner.into_attr(), {
            let mut other = GraphBuilder::new(17);
            let v = other.capture(&name);
            let y = other.node(Op::Exp, &[v], Attrs::new());
            other.output(y);
            other.into_attr()
        });
        let y = middle.node(Op::If, &[c], Attrs::new().with("then_branch", inner).with("else_branch", relu));
        middle.output(y);
        middle.into_attr()
    };
    let attrs = Attrs::new().with("then_branch", outer(Op::Neg)).with("else_branch", outer(Op::Abs));
    let y = g.node(Op::If, &[condition], attrs);
    g.output(y);
    let x = f32s(&[2], &[-1.0, 0.0]);
    let expected = [vec![vec![0.0, 0.0]], vec![vec![1.0, 1.0]]];
    assert_eq!(both(&g.graph, &x), expected);
    passes::canonicalize(&mut g.graph).unwrap();
    assert_eq!(names(&g.graph), [Op::Relu, Op::If]);
    assert_eq!(both(&g.graph, &x), expected);
}

fn encoding(scheme: Scheme, scale: f32, zero_point: i32) -> Encoding {
    let params = Params::Static(QParams { scale: vec![scale], zero_point: vec![zero_point] });
    Encoding { scheme, params, why: "test".into() }
}

#[test]
fn a_subgraph_reads_what_the_graph_around_it_has_in_codes() {
    for subgraph_first in [false, true] {
        let (mut g, x, condition) = begin(&[1, 2]);
        let w = g.constant("w", f32s(&[2, 2], &[0.26, -1.0, 0.5, 0.74]));
        // The name that the codes of w get is taken inside.
        let branch = |op: Op| {
            let mut inner = GraphBuilder::new(17);
            let [x, w] = ["x", "w"].map(|n| inner.capture(n));
            let p = inner.graph.add_value("w_quantized", None, None);
            inner.graph.add_node(Node::new(
                Op::MatMul,
                "x_QuantizeLinear",
                vec![Some(x), Some(w)],
                vec![p],
                Attrs::new(),
            ));
            let y = inner.node(op, &[p], Attrs::new());
            inner.output(y);
            inner.into_attr()
        };
        let attrs = Attrs::new().with("then_branch", branch(Op::Neg)).with("else_branch", branch(Op::Abs));
        let mut made = Vec::new();
        for first in [subgraph_first, !subgraph_first] {
            made.push(if first {
                g.node(Op::If, &[condition], attrs.clone())
            } else {
                g.node(Op::MatMul, &[x, w], Attrs::new())
            });
        }
        made.sort_by_key(|v| g.graph.producer(*v).is_some_and(|n| g.graph.node(n).op == Op::If));
        for v in &made {
            g.output(*v);
        }

        let mut plan = QuantPlan::default();
        plan.encodings.insert(x, encoding(Scheme::activation(), 0.5, 128));
        plan.encodings.insert(w, encoding(Scheme::weight_per_tensor(), 0.25, 0));
        let q = insert_qdq(&g.graph, &plan).unwrap();
        // Codes of w at 0.25: 1, −4, 2, 3; of x at 0.5: 2, −2. So w is 0.25, −1, 0.5, 0.75 and x is 1, −1.
        let fed = f32s(&[1, 2], &[1.1, -0.9]);
        let expected = [vec![vec![-0.25, -1.75], vec![0.25, 1.75]], vec![vec![-0.25, -1.75], vec![0.25, 1.75]]];
        assert_eq!(both(&q, &fed), expected, "{subgraph_first}");
        let product = q.nodes().find(|(_, n)| n.op == Op::MatMul).unwrap().0;
        let program = compile(&q, Mode::Integer, Isa::PORTABLE).unwrap();
        let row = program.coverage.rows.iter().find(|r| r.node == product).unwrap();
        assert!(matches!(row.status, quantal_runtime::Status::Integer { .. }), "{:?}", row.status);

        // Back to floats: both read the dequantized weight, and x as it is fed within the range of its codes.
        let Extracted { graph: float, plan: read, .. } = extract_qdq(&reopened(&q)).unwrap();
        assert_eq!(read.encodings.len(), 2);
        assert!(names(&float).iter().all(|op| matches!(op, Op::Clip | Op::MatMul | Op::If)));
        let fed = f32s(&[1, 2], &[1.0, 2.0]);
        let expected = [vec![vec![1.25, 0.5], vec![-1.25, -0.5]], vec![vec![1.25, 0.5], vec![1.25, 0.5]]];
        assert_eq!(both(&float, &fed), expected);
    }
}

#[test]
fn operators_on_codes_before_a_subgraph_are_expanded() {
    let (mut g, x, condition) = begin(&[2]);
    let scale = g.constant("scale", Tensor::scalar(0.5_f32).unwrap());
    let zero = g.constant("zero", Tensor::scalar(128_u8).unwrap());
    let codes = g.node(Op::QuantizeLinear, &[x, scale, zero], Attrs::new());
    let twice = g.node(Op::QLinearAdd, &[codes, scale, zero, codes, scale, zero, scale, zero], Attrs::new());
    let branch = |op: Op| {
        let mut inner = GraphBuilder::new(17);
        let [codes, scale, zero] = [&*g.graph.value(twice).name, "scale", "zero"].map(|n| inner.capture(n));
        let f = inner.node(Op::DequantizeLinear, &[codes, scale, zero], Attrs::new());
        let y = inner.node(op, &[f], Attrs::new());
        inner.output(y);
        inner.into_attr()
    };
    let attrs = Attrs::new().with("then_branch", branch(Op::Neg)).with("else_branch", branch(Op::Abs));
    let y = g.node(Op::If, &[condition], attrs);
    g.output(y);
    let x = f32s(&[2], &[1.0, -2.0]);
    let expected = [vec![vec![-2.0, 4.0]], vec![vec![2.0, 4.0]]];
    assert_eq!(both(&g.graph, &x), expected);
    assert_eq!(expand_qoperators(&mut g.graph).unwrap().len(), 1);
    assert_eq!(both(&g.graph, &x), expected);
}
