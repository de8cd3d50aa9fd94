//! What a session says about its feeds, and outputs that no step makes.

use quantal_ir::{Attrs, Dim, Op};
use quantal_kernels::Isa;
use quantal_runtime::{Error, Mode, Session, compile};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::graph::GraphBuilder;

fn named(name: &str, tensor: Tensor) -> (String, Tensor) {
    (name.to_owned(), tensor)
}

fn floats(shape: &[usize]) -> Tensor {
    Tensor::zeros(DType::F32, shape).unwrap()
}

/// y = a + b for inputs [N, 3] and [N, 3].
fn sum() -> Session {
    let mut g = GraphBuilder::new(17);
    let shape = || vec![Dim::Symbol("N".into()), Dim::Known(3)];
    let a = g.input_of("a", DType::F32, shape());
    let b = g.input_of("b", DType::F32, shape());
    let y = g.node(Op::Add, &[a, b], Attrs::new());
    g.output(y);
    Session::new(compile(&g.graph, Mode::Simulate, Isa::PORTABLE).unwrap(), 1)
}

#[test]
fn wrong_feeds_are_refused_by_name() {
    let mut s = sum();
    let (a, b) = (|| named("a", floats(&[2, 3])), || named("b", floats(&[2, 3])));
    assert!(s.run(&[a(), b()]).is_ok());
    assert!(matches!(s.run(&[a()]), Err(Error::MissingInput { input, .. }) if input == "b"));
    assert!(matches!(s.run(&[a(), b(), a()]), Err(Error::RepeatedInput { input }) if input == "a"));
    let unknown = s.run(&[a(), b(), named("c", floats(&[1]))]).unwrap_err();
    assert_eq!(unknown.to_string(), "the model has no input `c`; its inputs are `a`, `b`");
    let ints = named("b", Tensor::zeros(DType::I64, &[2, 3]).unwrap());
    let wrong = s.run(&[a(), ints]).unwrap_err();
    assert_eq!(wrong.to_string(), "input `b` must be float32, found int64");
    let wrong = s.run(&[a(), named("b", floats(&[2, 4]))]).unwrap_err();
    assert_eq!(wrong.to_string(), "input `b` must have shape [N, 3], found [2, 4]");
    assert!(matches!(s.run(&[a(), named("b", floats(&[3]))]), Err(Error::InputShape { .. })));
    // Not for the name's sake, but because they cannot be added.
    let wrong = s.run(&[a(), named("b", floats(&[5, 3]))]).unwrap_err();
    assert!(matches!(wrong, Error::Node { .. }), "{wrong}");
    // Empty tensors are tensors.
    let out = s.run(&[named("a", floats(&[0, 3])), named("b", floats(&[0, 3]))]).unwrap();
    assert_eq!(out[0].1.shape(), [0, 3]);
}

#[test]
fn outputs_may_be_inputs_constants_or_the_same_value_twice() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[2]);
    let c = g.constant("c", Tensor::from_slice(&[2], &[5.0_f32, 6.0]).unwrap());
    let y = g.node(Op::Neg, &[x], Attrs::new());
    for v in [x, c, y, y] {
        g.output(v);
    }
    let mut s = Session::new(compile(&g.graph, Mode::Simulate, Isa::PORTABLE).unwrap(), 1);
    for _ in 0..2 {
        let out = s.run(&[named("x", Tensor::from_slice(&[2], &[1.0_f32, -2.0]).unwrap())]).unwrap();
        let values: Vec<&[f32]> = out.iter().map(|(_, t)| t.as_slice()).collect();
        assert_eq!(values, [[1.0, -2.0], [5.0, 6.0], [-1.0, 2.0], [-1.0, 2.0]]);
        assert_eq!((&*out[0].0, &*out[1].0), ("x", "c"));
    }
}

#[test]
fn a_value_without_a_producer_is_named() {
    let mut g = GraphBuilder::new(17);
    let lost = g.graph.add_value("lost", Some(DType::F32), None);
    let y = g.node(Op::Floor, &[lost], Attrs::new());
    g.output(y);
    let error = compile(&g.graph, Mode::Simulate, Isa::PORTABLE).unwrap_err();
    assert!(error.to_string().contains("`lost`"), "{error}");
}

#[test]
fn an_input_with_a_default_may_be_left_out_repeated_or_replaced() {
    use quantal_onnx::Raw;
    use quantal_onnx::{GraphProto, Model, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
    use quantal_tensor::Bytes;
    let named = |name: &str| ValueInfoProto { name: name.to_owned(), ..ValueInfoProto::default() };
    let tensor = TensorProto {
        name: "w".to_owned(),
        dims: vec![2],
        data_type: 1,
        raw_data: Some(Raw(Bytes::copy_from(&[10.0_f32.to_le_bytes(), 20.0_f32.to_le_bytes()].concat()).unwrap())),
        ..TensorProto::default()
    };
    let node = NodeProto {
        op_type: "Add".to_owned(),
        input: vec!["x".to_owned(), "w".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        initializer: vec![tensor],
        input: vec![named("x"), named("w")],
        output: vec![named("y")],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() };
    let proto = ModelProto { graph: Some(Box::new(graph)), opset_import: vec![opset], ..ModelProto::default() };
    let bytes = Bytes::copy_from(&quantal_onnx::encode(&proto)).unwrap();
    let graph = quantal_ir::import(&std::sync::Arc::new(Model::parse(bytes).unwrap())).unwrap();
    let mut s = Session::new(compile(&graph, Mode::Simulate, Isa::PORTABLE).unwrap(), 1);
    let feed = |name: &str, v: &[f32]| (name.to_owned(), Tensor::from_slice(&[v.len()], v).unwrap());
    let x = feed("x", &[1.0, 2.0]);
    for (w, expected) in [
        (None, [11.0, 22.0]),
        (Some(feed("w", &[10.0, 20.0])), [11.0, 22.0]),
        (Some(feed("w", &[0.5, 0.0])), [1.5, 2.0]),
        (Some(feed("w", &[7.0])), [8.0, 9.0]),
        (None, [11.0, 22.0]),
    ] {
        let feeds: Vec<_> = std::iter::once(x.clone()).chain(w).collect();
        assert_eq!(s.run(&feeds).unwrap()[0].1.as_slice::<f32>(), expected);
    }
}

#[test]
fn a_name_for_two_sizes_is_a_hint_that_fails() {
    // The sum would go into the product if both sides were of one shape.
    let mut g = GraphBuilder::new(17);
    let shape = || vec![Dim::Symbol("N".into()), Dim::Known(2)];
    let a = g.input_of("a", DType::F32, shape());
    let b = g.input_of("b", DType::F32, shape());
    let w = g.constant("w", Tensor::from_slice(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]).unwrap());
    let product = g.node(Op::MatMul, &[a, w], Attrs::new());
    let y = g.node(Op::Add, &[product, b], Attrs::new());
    g.output(y);
    for mode in [Mode::Simulate, Mode::Integer] {
        let mut s = Session::new(compile(&g.graph, mode, Isa::PORTABLE).unwrap(), 1);
        let two = || Tensor::from_slice(&[2, 2], &[1.0_f32, 0.0, 0.0, 1.0]).unwrap();
        let one = || Tensor::from_slice(&[1, 2], &[10.0_f32, 20.0]).unwrap();
        // By hand; the same feeds again, the sides swapped, and sizes for which the name holds.
        for _ in 0..2 {
            let out = s.run(&[named("a", two()), named("b", one())]).unwrap();
            assert_eq!((out[0].1.shape(), out[0].1.as_slice::<f32>()), (&[2, 2][..], &[11.0, 22.0, 13.0, 24.0][..]));
            let out = s.run(&[named("a", one()), named("b", two())]).unwrap();
            assert_eq!((out[0].1.shape(), out[0].1.as_slice::<f32>()), (&[2, 2][..], &[71.0, 100.0, 70.0, 101.0][..]));
            let out = s.run(&[named("a", one()), named("b", one())]).unwrap();
            assert_eq!((out[0].1.shape(), out[0].1.as_slice::<f32>()), (&[1, 2][..], &[80.0, 120.0][..]));
        }
    }
}
