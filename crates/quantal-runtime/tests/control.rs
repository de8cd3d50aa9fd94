//! If, Loop and Scan: captures, carried values, scans, and loops that never end.

use quantal_ir::{Attr, Attrs, Op, ValueId};
use quantal_kernels::Isa;
use quantal_runtime::{Error, Mode, Session, compile};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::graph::GraphBuilder;

fn run(g: &GraphBuilder, feeds: &[(&str, Tensor)]) -> Result<Vec<Tensor>, Error> {
    let program = compile(&g.graph, Mode::Integer, Isa::PORTABLE)?;
    let feeds: Vec<_> = feeds.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    let mut session = Session::new(program, 1);
    let first: Vec<Tensor> = session.run(&feeds)?.into_iter().map(|o| o.1).collect();
    let second = session.run(&feeds)?;
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(a.bytes(), b.1.bytes(), "a second run in recycled memory differs");
    }
    Ok(first)
}

fn f32s(values: &[f32]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

#[test]
fn an_if_runs_one_side_on_what_it_captures() {
    let side = |op: Op| {
        let mut g = GraphBuilder::new(17);
        let (x, c) = (g.capture("x"), g.capture("c"));
        let y = g.node(op, &[x, c], Attrs::new());
        g.output(y);
        g.into_attr()
    };
    let mut g = GraphBuilder::new(17);
    let condition = g.input("condition", DType::Bool, &[]);
    g.input("x", DType::F32, &[2]);
    g.constant("c", f32s(&[10.0, 20.0]));
    let attrs = Attrs::new().with("then_branch", side(Op::Add)).with("else_branch", side(Op::Mul));
    let y = g.node(Op::If, &[condition], attrs);
    g.output(y);
    for (flag, expected) in [(true, [11.0, 22.0]), (false, [10.0, 40.0])] {
        let flag = Tensor::from_bools(&[], &[flag]).unwrap();
        let out = run(&g, &[("condition", flag), ("x", f32s(&[1.0, 2.0]))]).unwrap();
        assert_eq!(out[0].as_slice::<f32>(), expected);
    }
}

/// A loop whose body doubles the carried value and hands it to a scan as well; it goes on while `goes_on` says.
fn doubling(most: Option<i64>, goes_on: impl Fn(&mut GraphBuilder, ValueId) -> ValueId) -> GraphBuilder {
    let mut body = GraphBuilder::new(17);
    body.input("turn", DType::I64, &[]);
    body.input("again", DType::Bool, &[]);
    let a = body.input("a", DType::F32, &[1]);
    let two = body.capture("two");
    let doubled = body.node(Op::Mul, &[a, two], Attrs::new());
    let again = goes_on(&mut body, doubled);
    for v in [again, doubled, doubled] {
        body.output(v);
    }
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[1]);
    g.input("two", DType::F32, &[1]);
    let begin = g.constant("begin", Tensor::from_bools(&[], &[true]).unwrap());
    let m = g.constant("m", Tensor::scalar(most.unwrap_or(i64::MAX)).unwrap());
    let (_, out) = g.nodes(Op::Loop, &[m, begin, x], 2, Attrs::new().with("body", body.into_attr()));
    for v in out {
        g.output(v);
    }
    g
}

fn below_20(g: &mut GraphBuilder, v: ValueId) -> ValueId {
    let limit = g.constant("limit", f32s(&[20.0]));
    g.node(Op::Less, &[v, limit], Attrs::new())
}

#[test]
fn a_loop_carries_captures_and_scans() {
    let feeds = [("x", f32s(&[3.0])), ("two", f32s(&[2.0]))];
    let out = run(&doubling(None, below_20), &feeds).unwrap();
    assert_eq!(out[0].as_slice::<f32>(), [24.0]);
    assert_eq!((out[1].shape(), out[1].as_slice::<f32>()), (&[3, 1][..], &[6.0, 12.0, 24.0][..]));
    let out = run(&doubling(Some(2), below_20), &feeds).unwrap();
    assert_eq!((out[0].as_slice::<f32>(), out[1].len()), (&[12.0][..], 2));
    // No turn at all: the carried value as it came, an empty scan.
    let out = run(&doubling(Some(0), below_20), &feeds).unwrap();
    assert_eq!((out[0].as_slice::<f32>(), out[1].len()), (&[3.0][..], 0));
}

/// A scan along the columns of a matrix, from the last to the first, with running sums of twice each column.
fn sums(axes: Attrs) -> GraphBuilder {
    let mut body = GraphBuilder::new(17);
    let sum = body.input("sum", DType::F32, &[2]);
    let column = body.input("column", DType::F32, &[2]);
    let two = body.capture("two");
    let doubled = body.node(Op::Mul, &[column, two], Attrs::new());
    let sum = body.node(Op::Add, &[sum, doubled], Attrs::new());
    for v in [sum, sum, column] {
        body.output(v);
    }
    let mut g = GraphBuilder::new(17);
    let zero = g.constant("zero", f32s(&[0.0, 0.0]));
    let x = g.input("x", DType::F32, &[2, 3]);
    g.input("two", DType::F32, &[1]);
    let attrs = axes.with("num_scan_inputs", Attr::Int(1)).with("body", body.into_attr());
    let (_, out) = g.nodes(Op::Scan, &[zero, x], 3, attrs);
    for v in out {
        g.output(v);
    }
    g
}

#[test]
fn a_scan_takes_values_apart_along_axes_and_puts_them_together() {
    let x = Tensor::from_slice(&[2, 3], &[1.0_f32, 2.0, 3.0, 10.0, 20.0, 30.0]).unwrap();
    let feeds = [("x", x), ("two", f32s(&[2.0]))];
    let ints = |list: &[i64]| Attr::Ints(list.to_vec());
    let backwards = Attrs::new().with("scan_input_axes", ints(&[-1])).with("scan_input_directions", ints(&[1]));
    let rows = run(&sums(backwards.clone()), &feeds).unwrap();
    assert_eq!(rows[0].as_slice::<f32>(), [12.0, 120.0]);
    assert_eq!(rows[1].shape(), [3, 2]);
    assert_eq!(rows[1].as_slice::<f32>(), [6.0, 60.0, 10.0, 100.0, 12.0, 120.0]);
    let there = backwards.with("scan_output_axes", ints(&[1, -1])).with("scan_output_directions", ints(&[1, 0]));
    let columns = run(&sums(there), &feeds).unwrap();
    assert_eq!(columns[1].shape(), [2, 3]);
    assert_eq!(columns[1].as_slice::<f32>(), [12.0, 10.0, 6.0, 120.0, 100.0, 60.0]);
    assert_eq!(columns[2].as_slice::<f32>(), [3.0, 2.0, 1.0, 30.0, 20.0, 10.0]);
}

#[test]
fn a_scan_that_does_not_fit_is_an_error() {
    let x = Tensor::from_slice(&[2, 3], &[0.0_f32; 6]).unwrap();
    let feeds = [("x", x), ("two", f32s(&[2.0]))];
    for (name, list) in [
        ("scan_input_axes", vec![2]),
        ("scan_input_axes", vec![i64::MIN]),
        ("scan_output_axes", vec![1, 3]),
        ("scan_output_axes", vec![1]),
        ("scan_input_directions", vec![0, 0]),
    ] {
        let attrs = Attrs::new().with("scan_input_axes", Attr::Ints(vec![1])).with(name, Attr::Ints(list.clone()));
        let error = run(&sums(attrs), &feeds).unwrap_err();
        assert!(matches!(error, Error::Node { .. }), "{name} {list:?}: {error}");
    }
    // Rows have three elements, and the body's sums have two.
    assert!(run(&sums(Attrs::new()), &feeds).is_err());
}

#[test]
fn a_loop_that_never_ends_stops_at_its_budget() {
    let forever = |g: &mut GraphBuilder, _: ValueId| g.graph.find("again").expect("an input of the body");
    let error = run(&doubling(None, forever), &[("x", f32s(&[3.0])), ("two", f32s(&[2.0]))]).unwrap_err();
    assert!(matches!(error, Error::Budget { .. }), "{error}");
}

#[test]
fn subgraphs_nested_too_deep_are_refused() {
    let mut inner: Option<Attr> = None;
    for _ in 0..40 {
        let mut g = GraphBuilder::new(17);
        let c = g.constant("c", Tensor::from_bools(&[], &[true]).unwrap());
        let y = match inner.take() {
            None => c,
            Some(attr) => {
                g.node(Op::If, &[c], Attrs::new().with("then_branch", attr.clone()).with("else_branch", attr))
            }
        };
        g.output(y);
        // One side only from here on: 2^40 programs would be the other problem.
        inner = Some(g.into_attr());
    }
    let mut g = GraphBuilder::new(17);
    let c = g.input("c", DType::Bool, &[]);
    let attr = inner.unwrap();
    let y = g.node(Op::If, &[c], Attrs::new().with("then_branch", attr.clone()).with("else_branch", attr));
    g.output(y);
    assert!(matches!(compile(&g.graph, Mode::Simulate, Isa::PORTABLE), Err(Error::TooDeep { .. })));
}
