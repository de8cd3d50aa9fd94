//! Functions of several inputs against plain indexing, for drawn pairs of shapes that stretch to each other: ranks that
//! differ, leading dimensions of 1 on either side, empty dimensions.

use quantal_ir::{Attr, Attrs, Op, ValueId, infer};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Session, compile};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::data;
use quantal_testkit::graph::GraphBuilder;

/// Numbers that a seed picks.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) as usize % n
    }

    /// `count` shapes that stretch to a common one of at most four dimensions.
    fn shapes(&mut self, count: usize) -> Vec<Vec<usize>> {
        let common: Vec<usize> = (0..self.below(5)).map(|_| [1, 1, 2, 3, 5, 8, 0][self.below(7)]).collect();
        let one = |draw: &mut Self| {
            let whole = draw.below(3) == 0;
            let dims = common[if whole { 0 } else { draw.below(common.len() + 1) }..].to_vec();
            let mut shape = vec![1; draw.below(3)];
            shape.extend(dims.into_iter().map(|d| if !whole && draw.below(3) == 0 { 1 } else { d }));
            shape
        };
        (0..count).map(|_| one(self)).collect()
    }
}

/// The shape that all of them stretch to.
fn common(shapes: &[Vec<usize>]) -> Vec<usize> {
    let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
    let dim = |axis: usize| {
        let of = |shape: &Vec<usize>| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
        shapes.iter().map(of).find(|&d| d != 1).unwrap_or(1)
    };
    (0..rank).map(dim).collect()
}

/// For each element of `out`, the element of a tensor of `shape` that is stretched to it.
fn stretched(shape: &[usize], out: &[usize]) -> Vec<usize> {
    let count: usize = out.iter().product();
    let index = |mut i: usize| {
        let (mut at, mut step) = (0, 1);
        for axis in (0..out.len()).rev() {
            let place = i % out[axis];
            i /= out[axis];
            if let Some(own) = (axis + shape.len()).checked_sub(out.len()) {
                at += if shape[own] == 1 { 0 } else { place * step };
                step *= shape[own];
            }
        }
        at
    };
    (0..count).map(index).collect()
}

/// Small halves without 0, so that every operator here is exact or one rounding.
fn values(shape: &[usize], seed: u64) -> Vec<f32> {
    let whole = |v: &f32| if *v < 0.0 { (v * 8.0).floor() / 2.0 } else { (v * 8.0).ceil() / 2.0 };
    data::uniform(shape.iter().product(), seed).iter().map(whole).collect()
}

/// Runs an operator on inputs of which some are constants.
fn run(op: Op, attrs: Attrs, tensors: &[Tensor], constant: usize) -> Tensor {
    let mut g = GraphBuilder::new(17);
    let mut feeds = Vec::new();
    let mut inputs = Vec::new();
    for (i, t) in tensors.iter().enumerate() {
        let name = format!("x{i}");
        if i == constant {
            inputs.push(g.constant(&name, t.clone()));
        } else {
            inputs.push(g.input(&name, t.dtype(), t.shape()));
            feeds.push((name, t.clone()));
        }
    }
    let y = g.node(op, &inputs, attrs);
    g.output(y);
    infer::run(&mut g.graph).unwrap();
    let mut session = Session::new(compile(&g.graph, Mode::Integer, Isa::detect().unwrap()).unwrap(), 2);
    session.run(&feeds).unwrap().remove(0).1
}

fn attr(op: Op) -> Attrs {
    if op == Op::Mod { Attrs::new().with("fmod", Attr::Int(1)) } else { Attrs::new() }
}

#[test]
fn floats_of_drawn_shapes_meet_as_plain_indexing_says() {
    type F = fn(f32, f32) -> f32;
    let functions: [(Op, F); 9] = [
        (Op::Add, |a, b| a + b),
        (Op::Sub, |a, b| a - b),
        (Op::Mul, |a, b| a * b),
        (Op::Div, |a, b| a / b),
        (Op::Max, f32::max),
        (Op::Min, f32::min),
        (Op::Mod, |a, b| a % b),
        (Op::Pow, |a, b| a.abs().powf(b)),
        (Op::PRelu, |a, b| if a < 0.0 { a * b } else { a }),
    ];
    for seed in 0..400 {
        let mut draw = Draw(seed);
        let shapes = draw.shapes(2);
        let out = common(&shapes);
        let (op, f) = functions[draw.below(functions.len())];
        if op == Op::PRelu && shapes[0] != out {
            continue;
        }
        let (mut a, b) = (values(&shapes[0], seed + 1), values(&shapes[1], seed + 7));
        if op == Op::Pow {
            a = a.iter().map(|a| a.abs()).collect();
        }
        let (at_a, at_b) = (stretched(&shapes[0], &out), stretched(&shapes[1], &out));
        let expected: Vec<f32> = at_a.iter().zip(&at_b).map(|(&i, &j)| f(a[i], b[j])).collect();
        let tensors = [Tensor::from_slice(&shapes[0], &a).unwrap(), Tensor::from_slice(&shapes[1], &b).unwrap()];
        for constant in 0..3 {
            let y = run(op, attr(op), &tensors, constant);
            let what = format!("{} of {shapes:?}, constant {constant}", op.name());
            assert_eq!(y.shape(), out, "{what}");
            for (y, e) in y.as_slice::<f32>().iter().zip(&expected) {
                assert!((y - e).abs() <= 1e-5 * e.abs(), "{what}: {y} instead of {e}");
            }
        }
    }
}

#[test]
fn the_rank_of_the_result_may_be_that_of_the_smaller_side() {
    for op in [Op::Add, Op::Sub, Op::Mul, Op::Div, Op::Max, Op::Min] {
        let a = Tensor::from_slice(&[7, 8], &[6.0_f32; 56]).unwrap();
        let b = Tensor::from_slice(&[1, 1, 8], &[2.0_f32; 8]).unwrap();
        let y = run(op, Attrs::new(), &[a, b], 2);
        let value = [(Op::Add, 8.0), (Op::Sub, 4.0), (Op::Mul, 12.0), (Op::Div, 3.0), (Op::Max, 6.0), (Op::Min, 2.0)];
        let value = value.iter().find(|v| v.0 == op).unwrap().1;
        assert_eq!((y.shape(), y.as_slice::<f32>()), (&[1, 7, 8][..], &[value; 56][..]), "{}", op.name());
    }
}

#[test]
fn integers_and_truths_of_drawn_shapes_meet_as_plain_indexing_says() {
    type F = fn(i64, i64) -> i64;
    let functions: [(Op, F); 13] = [
        (Op::Add, |a, b| a + b),
        (Op::Sub, |a, b| a - b),
        (Op::Mul, |a, b| a * b),
        (Op::Div, |a, b| a / b),
        (Op::Max, i64::max),
        (Op::Min, i64::min),
        (Op::Mod, |a, b| a % b),
        (Op::Equal, |a, b| i64::from(a == b)),
        (Op::Greater, |a, b| i64::from(a > b)),
        (Op::Less, |a, b| i64::from(a < b)),
        (Op::And, |a, b| i64::from(a > 0 && b > 0)),
        (Op::Or, |a, b| i64::from(a > 0 || b > 0)),
        (Op::Xor, |a, b| i64::from((a > 0) != (b > 0))),
    ];
    for seed in 0..300 {
        let mut draw = Draw(seed);
        let shapes = draw.shapes(2);
        let out = common(&shapes);
        let (op, f) = functions[draw.below(functions.len())];
        let logic = matches!(op, Op::And | Op::Or | Op::Xor);
        let whole = |shape: &[usize], seed| values(shape, seed).iter().map(|v| (v * 2.0) as i64).collect::<Vec<i64>>();
        let (a, b) = (whole(&shapes[0], seed + 1), whole(&shapes[1], seed + 7));
        let tensor = |shape: &[usize], values: &[i64]| {
            let truths: Vec<bool> = values.iter().map(|&v| v > 0).collect();
            if logic { Tensor::from_bools(shape, &truths) } else { Tensor::from_slice(shape, values) }.unwrap()
        };
        let (at_a, at_b) = (stretched(&shapes[0], &out), stretched(&shapes[1], &out));
        let expected: Vec<i64> = at_a.iter().zip(&at_b).map(|(&i, &j)| f(a[i], b[j])).collect();
        let y = run(op, attr(op), &[tensor(&shapes[0], &a), tensor(&shapes[1], &b)], 2);
        let found = match y.dtype() {
            DType::Bool => y.as_slice::<u8>().iter().map(|&v| i64::from(v)).collect(),
            _ => y.as_slice::<i64>().to_vec(),
        };
        assert_eq!((y.shape(), found), (&out[..], expected), "{} of {shapes:?}", op.name());
    }
}

#[test]
fn three_inputs_of_drawn_shapes_meet_as_plain_indexing_says() {
    for seed in 0..200 {
        let mut draw = Draw(seed);
        let shapes = draw.shapes(3);
        let out = common(&shapes);
        let [a, b, c] = [0, 1, 2].map(|i| values(&shapes[i], seed + i as u64));
        let at = [0, 1, 2].map(|i| stretched(&shapes[i], &out));
        let op = [Op::Max, Op::Min, Op::Sum, Op::Where][draw.below(4)];
        let f = |i: usize| {
            let (a, b, c) = (a[at[0][i]], b[at[1][i]], c[at[2][i]]);
            match op {
                Op::Max => a.max(b).max(c),
                Op::Min => a.min(b).min(c),
                Op::Sum => a + b + c,
                _ if a > 0.0 => b,
                _ => c,
            }
        };
        let expected: Vec<f32> = (0..out.iter().product()).map(f).collect();
        let tensors = [&a, &b, &c].map(Vec::as_slice);
        let truths: Vec<bool> = a.iter().map(|&v| v > 0.0).collect();
        let mut tensors = [0, 1, 2].map(|i| Tensor::from_slice(&shapes[i], tensors[i]).unwrap());
        if op == Op::Where {
            tensors[0] = Tensor::from_bools(&shapes[0], &truths).unwrap();
        }
        let y = run(op, Attrs::new(), &tensors, draw.below(6));
        assert_eq!((y.shape(), y.as_slice::<f32>()), (&out[..], &expected[..]), "{} of {shapes:?}", op.name());
    }
}

/// Codes in, codes out: sums and products of codes within half a step of the numbers that they stand for.
#[test]
fn codes_of_drawn_shapes_meet_as_plain_indexing_says() {
    const STEP: f32 = 1.0 / 127.0;
    for seed in 0..200 {
        let mut draw = Draw(seed);
        let shapes = draw.shapes(2);
        let out = common(&shapes);
        let op = [Op::Add, Op::Sub, Op::Mul][draw.below(3)];
        let constant = draw.below(3);
        // Numbers that codes hold exactly.
        let [a, b] = [0, 1].map(|i| -> Vec<f32> {
            let all = data::uniform(shapes[i].iter().product(), seed + 31 * i as u64);
            all.iter().map(|v| (v * 127.0).round() * STEP).collect()
        });
        let mut g = GraphBuilder::new(17);
        let scale = g.constant("scale", Tensor::scalar(STEP).unwrap());
        let zero = g.constant("zero", Tensor::scalar(128_u8).unwrap());
        let wide = g.constant("wide", Tensor::scalar(2.0 * STEP).unwrap());
        let pair = |g: &mut GraphBuilder, x: ValueId, s: ValueId| {
            let q = g.node(Op::QuantizeLinear, &[x, s, zero], Attrs::new());
            g.node(Op::DequantizeLinear, &[q, s, zero], Attrs::new())
        };
        let mut feeds = Vec::new();
        let mut inputs = Vec::new();
        for (i, values) in [&a, &b].into_iter().enumerate() {
            let tensor = Tensor::from_slice(&shapes[i], values).unwrap();
            if i == constant {
                let codes: Vec<u8> = values.iter().map(|v| (v / STEP).round() as i32 + 128).map(|c| c as u8).collect();
                let codes = g.constant("codes", Tensor::from_slice(&shapes[i], &codes).unwrap());
                inputs.push(g.node(Op::DequantizeLinear, &[codes, scale, zero], Attrs::new()));
            } else {
                let x = g.input(&format!("x{i}"), DType::F32, &shapes[i]);
                inputs.push(pair(&mut g, x, scale));
                feeds.push((format!("x{i}"), tensor));
            }
        }
        let y = g.node(op, &inputs, Attrs::new());
        let y = pair(&mut g, y, wide);
        g.output(y);
        infer::run(&mut g.graph).unwrap();
        let (at_a, at_b) = (stretched(&shapes[0], &out), stretched(&shapes[1], &out));
        let f = |a: f32, b: f32| match op {
            Op::Add => a + b,
            Op::Sub => a - b,
            _ => a * b,
        };
        let expected: Vec<f32> = at_a.iter().zip(&at_b).map(|(&i, &j)| f(a[i], b[j])).collect();
        for isa in Isa::available() {
            let mut session = Session::new(compile(&g.graph, Mode::Integer, isa).unwrap(), 2);
            let y = session.run(&feeds).unwrap().remove(0).1;
            let what = format!("{} of {shapes:?}, constant {constant}, {isa}", op.name());
            assert_eq!(y.shape(), out, "{what}");
            for (y, e) in y.as_slice::<f32>().iter().zip(&expected) {
                // 254 of 255 codes: the largest of all sums has none.
                let e = e.clamp(-128.0 * 2.0 * STEP, 127.0 * 2.0 * STEP);
                assert!((y - e).abs() <= 1.01 * STEP, "{what}: {y} instead of {e}");
            }
        }
    }
}
