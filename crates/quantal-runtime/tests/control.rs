//! If and Loop: captures, carried values, scans, and loops that never end.

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
