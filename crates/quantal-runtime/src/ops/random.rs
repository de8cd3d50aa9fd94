//! Random numbers that are the same in every run, on every machine and for every number of threads.
//!
//! The generator is Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the numbers
//! at a place are a function of that place and of a key. The key is the bits of attribute `seed` where it is given, so
//! two nodes of one seed make the same numbers, as in ONNX Runtime; else the FNV-1a hash of the node's name, so that
//! nodes differ from each other. A node makes the same numbers in each turn of a loop.
//!
//! They are not the numbers of ONNX Runtime, which has a generator of its own and, without a seed, others in each run.

mod philox;

use super::cast::cast;
use super::number::{self, store_as};
use super::{Context, Inputs, OpError, required};
use philox::Philox;
use quantal_ir::attrs::AttrError;
use quantal_ir::{Attrs, Node, Op};
use quantal_tensor::{DType, Tensor};

/// An operator that makes random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    kind: Kind,
    generator: Philox,
    /// The type of the numbers; `None` for that of the input.
    dtype: Option<DType>,
}

#[derive(Debug, Clone)]
enum Kind {
    Normal { mean: f32, scale: f32, shape: Option<Vec<usize>> },
    Uniform { low: f32, high: f32, shape: Option<Vec<usize>> },
    Bernoulli,
    Multinomial { samples: usize },
}

/// The sizes in attribute `shape`.
fn given_shape(attrs: &Attrs) -> Result<Vec<usize>, OpError> {
    let shape = attrs.ints("shape")?.ok_or(AttrError::Missing("shape"))?;
    let size = |&n: &i64| usize::try_from(n).map_err(|_| OpError::invalid(format!("`shape` holds {n}")));
    shape.iter().map(size).collect()
}

impl Random {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let dtype = match attrs.int_or("dtype", 0)? {
            0 => None,
            code => {
                let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
                Some(dtype.ok_or_else(|| OpError::invalid(format!("`dtype` is {code}, which is no element type")))?)
            }
        };
        let generator = match attrs.float("seed")? {
            Some(seed) => Philox::new(u64::from(seed.to_bits())),
            None => Philox::new(fnv(node.name.as_bytes())),
        };
        let shape = || match node.op {
            Op::RandomNormal | Op::RandomUniform => given_shape(attrs).map(Some),
            _ => Ok(None),
        };
        let kind = match node.op {
            Op::Bernoulli => Kind::Bernoulli,
            Op::Multinomial => {
                let n = attrs.int_or("sample_size", 1)?;
                let samples = usize::try_from(n);
                Kind::Multinomial { samples: samples.map_err(|_| OpError::invalid(format!("`sample_size` is {n}")))? }
            }
            Op::RandomNormal | Op::RandomNormalLike => Kind::Normal {
                mean: attrs.float_or("mean", 0.0)?,
                scale: attrs.float_or("scale", 1.0)?,
                shape: shape()?,
            },
            Op::RandomUniform | Op::RandomUniformLike => {
                Kind::Uniform { low: attrs.float_or("low", 0.0)?, high: attrs.float_or("high", 1.0)?, shape: shape()? }
            }
            other => return Err(OpError::Unsupported(format!("{} as a source of random numbers", other.name()))),
        };
        Ok(Self { kind, generator, dtype })
    }

    /// Makes the numbers.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let like = |shape: &Option<Vec<usize>>| -> Result<(Vec<usize>, DType), OpError> {
            if let Some(shape) = shape {
                return Ok((shape.clone(), self.dtype.unwrap_or(DType::F32)));
            }
            let x = required(inputs, 0)?;
            Ok((x.shape().to_vec(), self.dtype.unwrap_or(x.dtype())))
        };
        let made = match &self.kind {
            Kind::Normal { mean, scale, shape } => {
                let (shape, dtype) = like(shape)?;
                let mut out = Tensor::zeros(DType::F32, &shape)?;
                for (i, pair) in out.as_mut_slice::<f32>()?.chunks_mut(2).enumerate() {
                    for (y, z) in pair.iter_mut().zip(self.generator.normal_pair(i as u64)) {
                        *y = (f64::from(*mean) + f64::from(*scale) * z) as f32;
                    }
                }
                store_as(out, dtype)?
            }
            Kind::Uniform { low, high, shape } => {
                let (shape, dtype) = like(shape)?;
                let (low, high) = (f64::from(*low), f64::from(*high));
                let mut out = Tensor::zeros(DType::F32, &shape)?;
                for (y, u) in out.as_mut_slice::<f32>()?.iter_mut().zip(self.generator.uniform()) {
                    *y = (low + (high - low) * u) as f32;
                }
                store_as(out, dtype)?
            }
            Kind::Bernoulli => {
                let x = required(inputs, 0)?;
                let chances = number::floats(Op::Bernoulli, x)?;
                let drawn: Vec<f32> = chances
                    .iter()
                    .zip(self.generator.uniform())
                    .map(|(&p, u)| if u < f64::from(p) { 1.0 } else { 0.0 })
                    .collect();
                cast(&Tensor::from_slice(x.shape(), &drawn)?, self.dtype.unwrap_or(x.dtype()))?
            }
            Kind::Multinomial { samples } => self.classes(required(inputs, 0)?, *samples)?,
        };
        Ok(vec![made])
    }

    /// Draws classes from rows of logarithms of chances, which need not sum to 1.
    fn classes(&self, x: &Tensor, samples: usize) -> Result<Tensor, OpError> {
        let &[rows, classes] = x.shape() else {
            return Err(OpError::invalid(format!("Multinomial on shape {:?}, must have 2 dimensions", x.shape())));
        };
        if classes == 0 {
            return Err(OpError::invalid("Multinomial of no classes"));
        }
        let logits = number::floats(Op::Multinomial, x)?;
        let mut out = Tensor::zeros(DType::I64, &[rows, samples])?;
        let mut uniform = self.generator.uniform();
        let drawn = out.as_mut_slice::<i64>()?.chunks_exact_mut(samples.max(1));
        for (drawn, row) in drawn.zip(logits.chunks_exact(classes)) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0.0;
            let sums: Vec<f64> = row
                .iter()
                .map(|&v| {
                    total += libm::exp(f64::from(v) - f64::from(most));
                    total
                })
                .collect();
            for y in drawn {
                let at = uniform.next().unwrap_or(0.0) * total;
                *y = sums.iter().position(|&s| at < s).unwrap_or(classes - 1) as i64;
            }
        }
        cast(&out, self.dtype.unwrap_or(DType::I32))
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{f32s, run};
    use super::*;
    use quantal_ir::Attr;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n)
    }

    #[test]
    fn normal_and_uniform_numbers_have_the_moments_asked_for() {
        let shape = Attrs::new().with("shape", Attr::Ints(vec![100, 201]));
        let normal = shape.clone().with("mean", Attr::Float(3.0)).with("scale", Attr::Float(2.0));
        let y = run(Op::RandomNormal, normal, 13, &[]).unwrap();
        let (mean, variance) = moments(y[0].as_slice());
        // Five deviations of the mean (2/√n) and of the variance (4·√(2/n)) of 20,100 numbers.
        assert!((mean - 3.0).abs() < 0.071 && (variance - 4.0).abs() < 0.2, "{mean} {variance}");
        let uniform = shape.with("low", Attr::Float(-1.0)).with("high", Attr::Float(3.0));
        let y = run(Op::RandomUniform, uniform, 13, &[]).unwrap();
        let (mean, variance) = moments(y[0].as_slice());
        assert!((mean - 1.0).abs() < 0.041 && (variance - 16.0 / 12.0).abs() < 0.05, "{mean} {variance}");
        assert!(y[0].as_slice::<f32>().iter().all(|v| (-1.0..=3.0).contains(v)));
    }

    #[test]
    fn a_seed_decides_and_so_does_a_name_without_one() {
        let x = f32s(&[7], &[0.0; 7]);
        let of = |name: &str, seed: Option<f32>| {
            let attrs = seed.map_or_else(Attrs::new, |s| Attrs::new().with("seed", Attr::Float(s)));
            let node = Node::new(Op::RandomNormalLike, name, vec![None], Vec::new(), attrs);
            let threads = quantal_kernels::Threads::new(1);
            let context = Context { isa: quantal_kernels::Isa::PORTABLE, threads: &threads };
            Random::prepare(&node, 13).unwrap().run(&[Some(&x)], &context).unwrap()[0].as_slice::<f32>().to_vec()
        };
        assert_eq!(of("a", Some(1.0)), of("b", Some(1.0)));
        assert_ne!(of("a", Some(1.0)), of("a", Some(2.0)));
        assert_eq!(of("a", None), of("a", None));
        assert_ne!(of("a", None), of("b", None));
    }

    #[test]
    fn chances_decide_how_often_a_class_is_drawn() {
        let p = f32s(&[3, 1000], &[[0.0; 1000], [0.25; 1000], [1.0; 1000]].concat());
        let to_bool = Attrs::new().with("dtype", Attr::Int(i64::from(DType::Bool.to_onnx())));
        let y = run(Op::Bernoulli, to_bool, 15, &[Some(&p)]).unwrap();
        let ones: Vec<usize> =
            y[0].as_slice::<u8>().chunks(1000).map(|row| row.iter().map(|&v| usize::from(v)).sum()).collect();
        assert_eq!((ones[0], ones[2]), (0, 1000));
        // 250 and five deviations of √(1000 · 0.25 · 0.75).
        assert!(ones[1].abs_diff(250) < 69, "{}", ones[1]);

        let logits = f32s(&[2, 3], &[0.0, f32::NEG_INFINITY, 3f32.ln(), f32::NEG_INFINITY, 7.0, f32::NEG_INFINITY]);
        let attrs = Attrs::new().with("sample_size", Attr::Int(1000));
        let y = run(Op::Multinomial, attrs, 13, &[Some(&logits)]).unwrap();
        assert_eq!((y[0].dtype(), y[0].shape()), (DType::I32, &[2, 1000][..]));
        let (first, second) = y[0].as_slice::<i32>().split_at(1000);
        assert!(second.iter().all(|&c| c == 1) && first.iter().all(|&c| c != 1));
        let zeros = first.iter().filter(|&&c| c == 0).count();
        assert!(zeros.abs_diff(250) < 69, "{zeros}");
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        assert!(run(Op::RandomNormal, Attrs::new(), 13, &[]).is_err());
        assert!(run(Op::Multinomial, Attrs::new(), 13, &[Some(&f32s(&[2, 0], &[]))]).is_err());
        let negative = Attrs::new().with("shape", Attr::Ints(vec![-1]));
        assert!(run(Op::RandomUniform, negative, 13, &[]).is_err());
    }
}
