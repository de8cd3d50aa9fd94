//! Integer programs of drawn graphs, of shapes that nobody would list: images one line high, strides and dilations
//! larger than the image, one channel, groups, no images, outputs without elements. Every layer is within a step of the
//! floats that it stands for, and the bits are the same with every instruction set and number of threads.
//!
//! `QUANTAL_ODD_GRAPHS` (how many) and `QUANTAL_ODD_SEED` (the first seed) draw others; `scripts/asan.sh` draws 2,000.

use quantal_ir::{Attr, Attrs, Graph, Op, ValueId, infer};
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

    fn pick(&mut self, from: &[usize]) -> usize {
        from[self.below(from.len())]
    }

    fn two(&mut self, from: &[usize]) -> Vec<usize> {
        vec![self.pick(from), self.pick(from)]
    }
}

/// How a value is held in codes.
#[derive(Clone, Copy, Debug)]
struct Codes {
    scale: f32,
    zero_point: i32,
    signed: bool,
}

impl Codes {
    fn draw(draw: &mut Draw, scale: f32) -> Self {
        let signed = draw.below(3) == 0;
        let zero_point = [0, 100 + draw.below(60) as i32, 128][draw.below(3)];
        Self { scale, zero_point: if signed { zero_point - 128 } else { zero_point }, signed }
    }

    /// QuantizeLinear and DequantizeLinear.
    fn pair(self, g: &mut GraphBuilder, x: ValueId) -> ValueId {
        let n = g.graph.value_count();
        let scale = g.constant(&format!("s{n}"), Tensor::scalar(self.scale).unwrap());
        let zero =
            if self.signed { Tensor::scalar(self.zero_point as i8) } else { Tensor::scalar(self.zero_point as u8) };
        let zero = g.constant(&format!("z{n}"), zero.unwrap());
        let q = g.node(Op::QuantizeLinear, &[x, scale, zero], Attrs::new());
        g.node(Op::DequantizeLinear, &[q, scale, zero], Attrs::new())
    }
}

/// One node, its weights by a seed, what follows it, and the codes of its result.
#[derive(Clone, Debug)]
struct Layer {
    op: Op,
    attrs: Attrs,
    weight: Option<Vec<usize>>,
    /// Weights have a scale for each slice along this axis.
    axis: Option<usize>,
    biased: bool,
    /// A second operand that is an input of the graph.
    beside: Option<(Vec<usize>, Codes)>,
    relu: bool,
    seed: u64,
    y: Codes,
}

const WEIGHT_SCALE: f32 = 0.01;

impl Layer {
    fn draw(draw: &mut Draw, shape: &[usize], x: Codes) -> Self {
        let mut layer = Self {
            op: Op::Relu,
            attrs: Attrs::new(),
            weight: None,
            axis: None,
            biased: draw.below(2) == 0,
            beside: None,
            relu: draw.below(3) == 0,
            seed: draw.below(1 << 30) as u64,
            y: x,
        };
        // Of how many products a sum is: what its codes have to reach over.
        let mut sums = 1;
        match (shape.len(), draw.below(10)) {
            (4, 0..=2) => sums = layer.conv(draw, shape, false),
            (4, 3..=5) => sums = layer.conv_transpose(draw, shape),
            (4, 6) => sums = layer.conv(draw, shape, true),
            (4, 7) if shape[2] * shape[3] > 0 => layer.pool(draw, shape),
            (2, 0..=5) => {
                layer.op = [Op::MatMul, Op::Gemm][draw.below(2)];
                let n = draw.pick(&[1, 1, 3, 8, 17, 40]);
                layer.biased &= layer.op == Op::Gemm;
                layer.weight = Some(vec![shape[1], n]);
                sums = shape[1];
            }
            (_, 6..=8) => {
                layer.op = [Op::Add, Op::Sub, Op::Mul][draw.below(3)];
                let codes = Codes::draw(draw, 0.01);
                let mut dims = shape.to_vec();
                for d in &mut dims {
                    *d = if draw.below(3) == 0 { 1 } else { *d };
                }
                layer.beside = Some((dims.split_off(draw.below(shape.len())), codes));
            }
            _ => layer.op = [Op::Sigmoid, Op::LeakyRelu, Op::HardSwish, Op::Flatten][draw.below(4)],
        }
        let scale = match layer.op {
            Op::Conv | Op::ConvTranspose | Op::MatMul | Op::Gemm => {
                x.scale * 73.0 * 73.0 * WEIGHT_SCALE / 40.0 * (sums.max(1) as f32).sqrt()
            }
            Op::Mul => x.scale * 0.01 * 40.0,
            Op::Add | Op::Sub => x.scale.max(0.01) * 1.3,
            Op::Sigmoid => 1.0 / 255.0,
            _ => x.scale,
        };
        layer.y = if matches!(layer.op, Op::MaxPool | Op::Flatten) { x } else { Codes::draw(draw, scale) };
        layer
    }

    fn window(&mut self, draw: &mut Draw, pads: &[usize]) -> Vec<usize> {
        let kernel = draw.two(&[1, 1, 2, 3, 3, 5]);
        let ints = |v: &[usize]| Attr::Ints(v.iter().map(|&i| i as i64).collect());
        let pads: Vec<usize> = [draw.two(pads), draw.two(pads)].concat();
        let attrs = std::mem::take(&mut self.attrs).with("kernel_shape", ints(&kernel)).with("pads", ints(&pads));
        let strides = draw.two(&[1, 1, 2, 3, 20]);
        self.attrs = attrs.with("strides", ints(&strides)).with("dilations", ints(&draw.two(&[1, 1, 1, 2, 9])));
        kernel
    }

    fn conv(&mut self, draw: &mut Draw, shape: &[usize], depthwise: bool) -> usize {
        self.op = Op::Conv;
        let kernel = self.window(draw, &[0, 0, 1, 2, 9]);
        let c = shape[1];
        let groups = if depthwise { c } else { draw.pick(&[1, 1, c, if c.is_multiple_of(2) { 2 } else { 1 }]) };
        let n = if depthwise { c } else { groups * draw.pick(&[1, 2, 5, 16, 33]) };
        self.attrs = std::mem::take(&mut self.attrs).with("group", Attr::Int(groups as i64));
        self.weight = Some(vec![n, c / groups, kernel[0], kernel[1]]);
        self.axis = (draw.below(2) == 0).then_some(0);
        c / groups * kernel[0] * kernel[1]
    }

    fn conv_transpose(&mut self, draw: &mut Draw, shape: &[usize]) -> usize {
        self.op = Op::ConvTranspose;
        let kernel = self.window(draw, &[0, 0, 0, 1, 2]);
        let c = shape[1];
        let groups = draw.pick(&[1, 1, c, if c.is_multiple_of(2) { 2 } else { 1 }]);
        let n = draw.pick(&[1, 2, 5, 16, 33]);
        let mut attrs = std::mem::take(&mut self.attrs).with("group", Attr::Int(groups as i64));
        if draw.below(2) == 0 {
            // Smaller than the stride, where that is 2 or more.
            let strides = attrs.ints("strides").unwrap().unwrap_or_default().to_vec();
            attrs = attrs.with("output_padding", Attr::Ints(strides.iter().map(|s| s - 1).collect()));
        }
        self.attrs = attrs;
        self.weight = Some(vec![c, n, kernel[0], kernel[1]]);
        self.axis = (groups == 1 && draw.below(2) == 0).then_some(1);
        c / groups * kernel[0] * kernel[1]
    }

    fn pool(&mut self, draw: &mut Draw, shape: &[usize]) {
        if draw.below(3) == 0 {
            self.op = Op::GlobalAveragePool;
            return;
        }
        self.op = [Op::MaxPool, Op::AveragePool][draw.below(2)];
        let sides = [shape[2], shape[3]];
        // Of averages one tap at least lies in the image.
        let kernel: Vec<usize> = sides.iter().map(|&side| draw.pick(&[1, 2, 3, 5]).min(side)).collect();
        let pads: Vec<i64> = kernel.iter().chain(&kernel).map(|&k| draw.below(k) as i64).collect();
        let strides: Vec<i64> = draw.two(&[1, 1, 2, 3, 20]).iter().map(|&s| s as i64).collect();
        let attrs = Attrs::new().with("kernel_shape", Attr::Ints(kernel.iter().map(|&k| k as i64).collect()));
        self.attrs = attrs.with("pads", Attr::Ints(pads)).with("strides", Attr::Ints(strides));
        if self.op == Op::AveragePool {
            let include = Attr::Int(draw.below(2) as i64);
            self.attrs = std::mem::take(&mut self.attrs).with("count_include_pad", include);
        }
    }

    /// Adds the node, and the pair after it, to a graph.
    fn build(&self, g: &mut GraphBuilder, x: ValueId, codes: Codes) -> ValueId {
        let mut inputs = vec![x];
        if let Some(shape) = &self.weight {
            let count = shape.iter().product();
            let weights: Vec<i8> = data::uniform(count, self.seed).iter().map(|v| (v * 127.0) as i8).collect();
            let n = g.graph.value_count();
            let weights = g.constant(&format!("w{n}"), Tensor::from_slice(shape, &weights).unwrap());
            let count = self.axis.map_or(1, |axis| shape[axis]);
            let scales: Vec<f32> = (0..count).map(|c| WEIGHT_SCALE * (1.0 + 0.1 * (c % 4) as f32)).collect();
            let scale = match self.axis {
                None => Tensor::scalar(scales[0]).unwrap(),
                Some(_) => Tensor::from_slice(&[count], &scales).unwrap(),
            };
            let scale = g.constant(&format!("ws{n}"), scale);
            let axis = Attrs::new().with("axis", Attr::Int(self.axis.unwrap_or(0) as i64));
            inputs.push(g.node(Op::DequantizeLinear, &[weights, scale], axis));
            if self.biased {
                let outputs = match self.op {
                    Op::ConvTranspose => {
                        let groups = self.attrs.int_or("group", 1).unwrap() as usize;
                        shape[1] * groups
                    }
                    Op::Gemm => shape[1],
                    _ => shape[0],
                };
                let bias: Vec<i32> = (0..outputs as i32).map(|c| c * 211 % 900 - 400).collect();
                let scales: Vec<f32> = (0..outputs).map(|c| codes.scale * scales[c % scales.len()]).collect();
                let bias = g.constant(&format!("b{n}"), Tensor::from_slice(&[outputs], &bias).unwrap());
                let scales = g.constant(&format!("bs{n}"), Tensor::from_slice(&[outputs], &scales).unwrap());
                let axis = Attrs::new().with("axis", Attr::Int(0));
                inputs.push(g.node(Op::DequantizeLinear, &[bias, scales], axis));
            }
        }
        if let Some((shape, codes)) = &self.beside {
            let other = g.input(&format!("beside{}", self.seed), DType::F32, shape);
            inputs.push(codes.pair(g, other));
        }
        let mut y = g.node(self.op, &inputs, self.attrs.clone());
        if self.relu {
            y = g.node(Op::Relu, &[y], Attrs::new());
        }
        self.y.pair(g, y)
    }
}

/// Layers one after the other, the result of each an output if `shown`.
fn graph(shape: &[usize], x: Codes, layers: &[Layer], shown: bool) -> Option<Graph> {
    let mut g = GraphBuilder::new(17);
    let input = g.input("x", DType::F32, shape);
    let (mut v, mut codes) = (x.pair(&mut g, input), x);
    for (i, layer) in layers.iter().enumerate() {
        v = layer.build(&mut g, v, codes);
        codes = layer.y;
        if shown || i + 1 == layers.len() {
            g.output(v);
        }
    }
    infer::run(&mut g.graph).ok()?;
    Some(g.graph)
}

fn feeds(graph: &Graph, x: &Tensor) -> Vec<(String, Tensor)> {
    let feed = |&v: &ValueId| {
        let value = graph.value(v);
        let name = value.name.to_string();
        let seed: u64 = name.bytes().map(u64::from).sum();
        let tensor = if name == "x" { x.clone() } else { data::tensor(&value.known_shape().unwrap(), seed) };
        (name, tensor)
    };
    graph.inputs.iter().map(feed).collect()
}

/// The outputs of a graph, or `None` where it is refused.
fn run(graph: &Graph, mode: Mode, isa: Isa, threads: usize, x: &Tensor) -> Option<Vec<Tensor>> {
    let program = compile(graph, mode, isa).ok()?;
    let results = Session::new(program, threads).run(&feeds(graph, x)).ok()?;
    Some(results.into_iter().map(|(_, t)| t).collect())
}

/// Draws a graph, runs it and checks it; gives how many of its layers ran.
fn check(seed: u64) -> usize {
    let mut draw = Draw(seed);
    let side = [0, 1, 1, 1, 2, 3, 5, 9, 21];
    let shape = match draw.below(4) {
        0 => vec![draw.pick(&[0, 1, 2, 3]), draw.pick(&[1, 3, 8, 40])],
        _ => vec![
            draw.pick(&[0, 1, 1, 1, 3]),
            draw.pick(&[1, 1, 2, 3, 8, 17, 32]),
            side[draw.below(side.len())],
            side[draw.below(side.len())],
        ],
    };
    let x_codes = Codes::draw(&mut draw, 1.0 / 127.0);
    let mut layers: Vec<Layer> = Vec::new();
    let mut shapes = vec![shape.clone()];
    for _ in 0..=draw.below(3) {
        let (last, codes) = (shapes[shapes.len() - 1].clone(), layers.last().map_or(x_codes, |l| l.y));
        let layer = Layer::draw(&mut draw, &last, codes);
        // What the standard refuses is drawn as well: windows that do not fit.
        let Some(alone) = graph(&last, codes, std::slice::from_ref(&layer), true) else { continue };
        let Some(next) = alone.outputs.first().and_then(|&v| alone.value(v).known_shape()) else { continue };
        if next.iter().product::<usize>() > 1 << 18 {
            continue;
        }
        shapes.push(next);
        layers.push(layer);
    }
    let what = format!("seed {seed}: {shape:?} {x_codes:?}\n{layers:#?}");
    let x = data::tensor(&shape, seed);
    for shown in [true, false] {
        let Some(whole) = graph(&shape, x_codes, &layers, shown) else { panic!("refused as a whole: {what}") };
        if layers.is_empty() {
            return 0;
        }
        let Some(expected) = run(&whole, Mode::Integer, Isa::PORTABLE, 1, &x) else {
            assert!(run(&whole, Mode::Simulate, Isa::PORTABLE, 1, &x).is_none(), "refused in integers: {what}");
            return 0;
        };
        for isa in Isa::available() {
            for threads in [1, 3] {
                let found = run(&whole, Mode::Integer, isa, threads, &x).expect("it ran before");
                for (a, b) in found.iter().zip(&expected) {
                    assert!(a.shape() == b.shape() && a.bytes() == b.bytes(), "{isa}, {threads} threads: {what}");
                }
            }
        }
        if !shown {
            continue;
        }
        // Each layer by itself, on what the one before it gave.
        for (i, layer) in layers.iter().enumerate() {
            let (input, codes) = if i == 0 { (&x, x_codes) } else { (&expected[i - 1], layers[i - 1].y) };
            let alone = graph(&shapes[i], codes, std::slice::from_ref(layer), true).expect("it was inferred before");
            let floats = run(&alone, Mode::Simulate, Isa::PORTABLE, 1, input).expect("the whole ran");
            assert_eq!(floats[0].shape(), expected[i].shape(), "layer {i} of {what}");
            for (a, b) in expected[i].as_slice::<f32>().iter().zip(floats[0].as_slice::<f32>()) {
                let steps = ((a - b) / layer.y.scale).abs();
                assert!(steps < 1.01, "layer {i}: {a} instead of {b}, {steps} steps, of {what}");
            }
        }
    }
    layers.len()
}

#[test]
fn layers_of_drawn_shapes_are_within_a_step_and_the_same_everywhere() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (count, first) = (number("QUANTAL_ODD_GRAPHS").unwrap_or(150), number("QUANTAL_ODD_SEED").unwrap_or(0));
    let ran: usize = (first..first + count).map(check).sum();
    assert!(ran as u64 >= count / 2, "only {ran} layers of {count} graphs ran");
}
