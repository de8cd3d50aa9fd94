//! Values whose relative error counts: the inputs of logarithms and roots, and divisors.
//!
//! Such an operator depends on small values as much as on large ones, and one scale rounds all values below half its
//! step to zero. A log-mel front end is the worst case: energies span eight orders of magnitude, of which 8 bits hold
//! two and a half. So each of these values, and each value that leads to one without a squashing function between (the
//! power, the spectrum), gets a histogram of the binary logarithm of its magnitudes. The SQNR of the operator's result
//! after rounding is estimated from it.

use crate::observer::Range;
use quantal_ir::graph::Uses;
use quantal_ir::{Graph, Node, NodeId, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Values of one tensor of one sample that are counted, evenly spaced.
const COUNTED: usize = 1 << 12;
/// Two bins for each power of two.
const BINS: usize = 512;
/// Steps of a scale over the range of a value.
const LEVELS: f64 = 255.0;

/// The magnitudes of a value, zeros left out: codes hold those exactly.
#[derive(Clone, Debug)]
pub struct Orders {
    /// By exponent and first bit of the fraction.
    counts: Vec<u64>,
    seen: Range,
}

impl Orders {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BINS], seen: Range { min: 0.0, max: 0.0 } }
    }

    /// Takes in one tensor of one sample, of which `range` is the smallest and the largest value.
    pub(crate) fn add(&mut self, values: &[f32], range: Option<(f32, f32)>) {
        let Some((min, max)) = range else { return };
        self.seen = self.seen.union(Range { min, max });
        for x in values.iter().step_by(values.len().div_ceil(COUNTED).max(1)).filter(|x| **x != 0.0) {
            self.counts[(x.to_bits() >> 22) as usize % BINS] += 1;
        }
    }

    /// The middle of each bin that holds something, and its count.
    fn bins(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        let middle = |i: usize| f64::from(f32::from_bits(((i as u32) << 22) | (1 << 21)));
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, n)| (middle(i), *n as f64))
    }

    /// How well codes over the range seen would hold `x^power` (the logarithm for a power of 0), in decibels: of each
    /// value the part of its result's energy that rounding changes, all of it where the value rounds to 0. Infinite where
    /// nothing was seen.
    pub fn sqnr_db(&self, power: f64) -> f64 {
        let step = (f64::from(self.seen.max) - f64::from(self.seen.min)) / LEVELS;
        let factor = if power == 0.0 { 1.0 } else { power * power };
        let (mut noise, mut energy) = (0.0, 0.0);
        for (x, n) in self.bins() {
            let weight = n * libm::pow(x, 2.0 * power);
            let share = if x < step / 2.0 { 1.0 } else { (factor * step * step / (12.0 * x * x)).min(1.0) };
            noise += weight * share;
            energy += weight;
        }
        if noise == 0.0 { f64::INFINITY } else { -10.0 * libm::log10(noise / energy) }
    }

    /// Orders of magnitude between the least and the largest of the middle nine tenths of the values.
    pub fn orders(&self) -> f64 {
        let total: f64 = self.bins().map(|(_, n)| n).sum();
        let at = |share: f64| {
            let mut left = share * total;
            let mut bins = self.bins();
            bins.find(|(_, n)| {
                left -= n;
                left <= 0.0
            })
        };
        match (at(0.05), at(0.95)) {
            (Some((low, _)), Some((high, _))) => libm::log10(high / low),
            _ => 0.0,
        }
    }
}

/// An operator whose result depends on the relative error of one of its inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reader {
    value: ValueId,
    /// It computes this power of the value; 0 stands for the logarithm.
    power: f64,
}

fn reader(graph: &Graph, node: &Node) -> Option<Reader> {
    let of = |i: usize, power: f64| Some(Reader { value: node.input(i)?, power });
    let found = match node.op {
        Op::Log | Op::ReduceLogSum => of(0, 0.0),
        Op::Sqrt => of(0, 0.5),
        Op::Reciprocal => of(0, -1.0),
        Op::Div => of(1, -1.0),
        Op::Pow => {
            let power = graph.constant(node.input(1)).filter(|t| t.len() == 1)?.to_f32_vec()?[0];
            (power < 1.0 && power != 0.0).then_some(())?;
            of(0, f64::from(power))
        }
        _ => None,
    }?;
    graph.value(found.value).constant.is_none().then_some(found)
}

/// How a node passes on the noise of what it reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passes {
    /// Ratios survive it: sums, products, powers, moves.
    Ratios,
    /// It multiplies by a matrix of constants, or two of what it reads.
    Product,
    /// It cuts off: the guard before a logarithm, but between two products the activation of a network.
    Cuts,
    /// It squashes or normalizes: what is small before it need not be after.
    Nothing,
}

fn passes(op: Op) -> Passes {
    match op {
        Op::Conv | Op::ConvTranspose | Op::MatMul | Op::Gemm => Passes::Product,
        Op::Relu | Op::Clip | Op::Max | Op::Min => Passes::Cuts,
        Op::Abs
        | Op::Add
        | Op::AveragePool
        | Op::Cast
        | Op::Concat
        | Op::Div
        | Op::Flatten
        | Op::Gather
        | Op::GlobalAveragePool
        | Op::Identity
        | Op::MaxPool
        | Op::Mul
        | Op::Neg
        | Op::Pad
        | Op::Pow
        | Op::ReduceL1
        | Op::ReduceL2
        | Op::ReduceMax
        | Op::ReduceMean
        | Op::ReduceMin
        | Op::ReduceSum
        | Op::ReduceSumSquare
        | Op::Reshape
        | Op::Slice
        | Op::Split
        | Op::Sqrt
        | Op::Squeeze
        | Op::Sub
        | Op::Sum
        | Op::Transpose
        | Op::Unsqueeze => Passes::Ratios,
        _ => Passes::Nothing,
    }
}

/// The nodes that make `v` and lead to it with its ratios intact, from it backwards, each with the value on the way;
/// `enters` says whether the way goes on beyond a value.
fn walk(graph: &Graph, uses: &Uses, v: ValueId, enters: &mut dyn FnMut(ValueId) -> bool) -> Vec<(NodeId, ValueId)> {
    let (mut way, mut seen) = (Vec::new(), BTreeSet::from([(v, false)]));
    let mut open = vec![(v, false)];
    while let Some((v, behind_product)) = open.pop() {
        let Some(id) = uses.producer(v) else { continue };
        let node = graph.node(id);
        let passes = passes(node.op);
        if passes == Passes::Cuts && behind_product {
            continue;
        }
        way.push((id, v));
        if passes == Passes::Nothing {
            continue;
        }
        let behind_product = behind_product || passes == Passes::Product;
        for u in node.reads() {
            let data =
                graph.value(u).constant.is_none() && graph.value(u).dtype.is_none_or(quantal_tensor::DType::is_float);
            if data && seen.insert((u, behind_product)) && enters(u) {
                open.push((u, behind_product));
            }
        }
    }
    way
}

/// The values to look at: those that an operator reads by their ratio, and those that lead to them.
pub(crate) fn watched(graph: &Graph, uses: &Uses) -> BTreeSet<ValueId> {
    let mut all = BTreeSet::new();
    for (_, node) in graph.nodes() {
        let Some(r) = reader(graph, node) else { continue };
        all.insert(r.value);
        all.extend(walk(graph, uses, r.value, &mut |_| true).into_iter().map(|(_, v)| v));
    }
    all
}

/// Below this, what an operator reads by its ratio must not come from codes.
const LEAST_DB: f64 = 15.0;
/// Below this, a value that leads there spreads as widely itself. Activations of networks, with a peak and long tails,
/// come to 10 to 18 dB; spectra and their powers to 1 to 5.
const LEAST_DB_BEFORE: f64 = 8.0;

/// The nodes that make values which spread over more orders of magnitude than codes hold and are read by their ratio, and
/// the readers, each with the reason.
pub(crate) fn too_wide(graph: &Graph, uses: &Uses, seen: &BTreeMap<ValueId, Orders>) -> BTreeMap<NodeId, String> {
    let mut found = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let Some(r) = reader(graph, node) else { continue };
        let Some(orders) = seen.get(&r.value) else { continue };
        let db = orders.sqnr_db(r.power);
        if db >= LEAST_DB {
            continue;
        }
        let why = format!(
            "`{}`, which the {} `{}` reads, spreads over {:.1} orders of magnitude: 8 bits would hold its small values within \
             {db:.1} dB",
            graph.value(r.value).name.escape_debug(),
            node.op_name(),
            node.name.escape_debug(),
            orders.orders()
        );
        let mut wide = |v: ValueId| seen.get(&v).is_some_and(|o| o.sqnr_db(0.0) < LEAST_DB_BEFORE);
        let way = walk(graph, uses, r.value, &mut wide);
        for id in std::iter::once(id).chain(way.into_iter().map(|(id, _)| id)) {
            found.entry(id).or_insert_with(|| why.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::Build;
    use quantal_ir::Attrs;

    fn orders(values: &[f32]) -> Orders {
        let mut orders = Orders::new();
        let ends = values.iter().fold((0.0_f32, 0.0_f32), |(a, b), &x| (a.min(x), b.max(x)));
        orders.add(values, Some(ends));
        orders
    }

    #[test]
    fn noise_is_told_by_the_ratio_of_each_value() {
        // A range of 255 in 255 steps: 0.3 rounds to 0, all others keep most of their ratio; bins are half an octave wide.
        let found = orders(&[0.3, 255.0, 255.0, 255.0, 0.0, -0.0]);
        assert!((found.sqnr_db(0.0) - 6.02).abs() < 0.05, "one of four is lost: {}", found.sqnr_db(0.0));
        // The reciprocal of the smallest is all that counts, of its square next to nothing.
        assert!(found.sqnr_db(-1.0) < 0.1, "{}", found.sqnr_db(-1.0));
        assert!(found.sqnr_db(1.0) > 40.0, "{}", found.sqnr_db(1.0));
        assert!((orders(&[1e-6, 1e-3, 1.0]).orders() - 6.0).abs() < 0.2);
        assert_eq!((Orders::new().sqnr_db(0.0), Orders::new().orders()), (f64::INFINITY, 0.0));
    }

    #[test]
    fn what_is_spread_evenly_may_be_read_by_any() {
        let even: Vec<f32> = (1..=1000).map(|i| i as f32 / 1000.0).collect();
        assert!(orders(&even).sqnr_db(0.0) > LEAST_DB && orders(&even).sqnr_db(0.5) > LEAST_DB);
    }

    /// A spectrum by a product, its power, bands by another product, a guard, a logarithm.
    fn front_end() -> (Build, [ValueId; 5]) {
        let mut b = Build::new();
        let x = b.input("x", &[1, 8]);
        let spectrum = b.matmul(x, 8);
        let power = b.binary(Op::Mul, spectrum, spectrum);
        let bands = b.matmul(power, 8);
        let floor = b.scalar(1e-6);
        let guarded = b.node(Op::Max, &[bands, floor], Attrs::new());
        b.unary(Op::Log, guarded);
        (b, [x, spectrum, power, bands, guarded])
    }

    #[test]
    fn the_way_back_ends_where_values_are_even() {
        let (b, [x, spectrum, power, bands, guarded]) = front_end();
        let uses = b.graph.uses();
        assert_eq!(watched(&b.graph, &uses), BTreeSet::from([spectrum, power, bands, guarded]));
        let wide = orders(&[1e-6, 1e-5, 1e-4, 1e-3, 1.0]);
        let even = orders(&[0.5, 0.6, 0.7, 1.0]);
        let of = |values: &[(ValueId, &Orders)]| {
            let seen = values.iter().map(|(v, o)| (*v, (*o).clone())).collect();
            let names = too_wide(&b.graph, &uses, &seen).into_keys().map(|id| b.graph.node(id).name.to_string());
            names.collect::<Vec<_>>()
        };
        let all = [(x, &even), (spectrum, &wide), (power, &wide), (bands, &wide), (guarded, &wide)];
        assert_eq!(of(&all), ["MatMul", "Mul", "MatMul_1", "Max", "Log"]);
        let upper = [(spectrum, &even), (power, &even), (bands, &wide), (guarded, &wide)];
        assert_eq!(of(&upper), ["MatMul_1", "Max", "Log"]);
        assert!(of(&[(bands, &even), (guarded, &even)]).is_empty());
    }

    #[test]
    fn between_products_an_activation_ends_the_way() {
        let mut b = Build::new();
        let x = b.input("x", &[1, 8]);
        let hidden = b.matmul(x, 8);
        let hidden = b.unary(Op::Relu, hidden);
        let y = b.matmul(hidden, 8);
        let y = b.unary(Op::Relu, y);
        b.unary(Op::Sqrt, y);
        let names: Vec<String> = walk(&b.graph, &b.graph.uses(), y, &mut |_| true)
            .into_iter()
            .map(|(id, _)| b.graph.node(id).name.to_string())
            .collect();
        assert_eq!(names, ["Relu_1", "MatMul_1"]);
    }
}
