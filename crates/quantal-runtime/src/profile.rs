//! What a step did in one run, as a profile shows it: its kernel, its shape, its work and its traffic.

use crate::layout::Layout;
use crate::program::{Program, StepRow};
use crate::steps::Step;
use crate::steps::conv::Conv;
use crate::steps::qconv::Packed;
use quantal_ir::NodeId;
use quantal_ir::op::conv::ConvAttrs;
use quantal_kernels::kernel::{GemmKernel, select};
use quantal_kernels::{Isa, Level};
use quantal_tensor::Tensor;
use std::sync::Arc;

/// How long one step took, and what it did meanwhile.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// The node that the step stands for.
    pub node: NodeId,
    /// The node's name.
    pub name: Arc<str>,
    /// The node's operator.
    pub op: Arc<str>,
    /// The kind of step.
    pub step: &'static str,
    /// When it began, in nanoseconds since the first step of the run did.
    pub start_nanoseconds: u64,
    /// Wall-clock time of this run, in nanoseconds.
    pub nanoseconds: u64,
    /// What it did.
    pub work: Work,
}

/// What a step does in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The row of the kernel table; the kind of step where there is none.
    pub kernel: &'static str,
    /// Whose peak bounds it; `None` for steps that do not multiply and add.
    pub unit: Option<Unit>,
    /// The problem. Products are `MxNxK`, after `B*` if there are B of them; convolutions `conv:HxWxC:OUT:KERNEL:STRIDE`
    /// and `dw:HxWxC:KERNEL:STRIDE`, before H the batch unless it is 1, at the end `:gGROUPS` unless it is 1. All else
    /// is the shape of the result in ONNX's order.
    pub shape: String,
    /// Multiply-accumulates, counted as the operator defines them; 0 for steps that do not multiply and add.
    pub macs: u64,
    /// Bytes of the tensors that it reads and writes, and of its weights as the model stores them.
    pub bytes: u64,
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// The dot product of an integer kernel.
    Codes(&'static GemmKernel),
    /// Fused multiply-adds of f32.
    F32,
}

/// Shape and bytes of a tensor that may be gone when the step is done.
pub(crate) struct Seen {
    shape: Vec<usize>,
    bytes: u64,
}

impl Seen {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Self { shape: tensor.shape().to_vec(), bytes: tensor.bytes().len() as u64 }
    }
}

/// What a step did that read `inputs` and made `outputs`.
pub(crate) fn work(program: &Program, row: &StepRow, mut inputs: &[Option<Seen>], outputs: &[Tensor]) -> Work {
    let mut outputs: Vec<Seen> = outputs.iter().map(Seen::of).collect();
    if let (Some((columns, begun)), Some(whole)) = (row.step.fills(), outputs.first_mut())
        && let Some(last) = whole.shape.last_mut()
    {
        whole.bytes = whole.bytes / (*last).max(1) as u64 * columns as u64;
        *last = columns;
        inputs = &inputs[usize::from(begun)..];
    }
    let (x, y) = (inputs.first().and_then(Option::as_ref), outputs.first());
    let x = x.map_or(&[][..], |seen| &seen.shape);
    let mut work = match y {
        Some(y) => of_step(&row.step, program.isa, x, &y.shape, || plain_shape(program, row, &y.shape)),
        None => Work { kernel: row.step.name(), unit: None, shape: String::new(), macs: 0, bytes: 0 },
    };
    work.bytes += inputs.iter().flatten().chain(&outputs).map(|seen| seen.bytes).sum::<u64>();
    work
}

/// The same; `bytes` are those of the weights alone.
fn of_step(step: &Step, isa: Isa, x: &[usize], y: &[usize], plain: impl Fn() -> String) -> Work {
    let (kernel, count) = (step.name(), |shape: &[usize]| shape.iter().product::<usize>());
    let of_level = |n| Some(Unit::Codes(any_weights(isa.level(), n)));
    match step {
        Step::QConv(conv) => {
            let pixels = count(y).checked_div(conv.c_out).unwrap_or(0);
            let (kernel, unit, walked, word) = match &conv.weights {
                Packed::Dense(w) => {
                    let used = w.kernel_for(pixels);
                    (used.name, Unit::Codes(used), y, "conv")
                }
                Packed::Depthwise(_) => {
                    (conv.kernel(), Unit::Codes(any_weights(isa.level().of_vectors(), conv.c_out)), y, "dw")
                }
                Packed::Transposed(w, _) => (conv.kernel(), Unit::Codes(w.kernel()), x, "transposed"),
            };
            let weights = weight_count(&conv.attrs, conv.c_in, conv.c_out);
            let per = if word == "transposed" { conv.c_in } else { conv.c_out };
            Work {
                kernel,
                unit: Some(unit),
                shape: conv_shape(word, &conv.attrs, x, conv.c_out),
                macs: (count(walked) * weights.checked_div(per).unwrap_or(0)) as u64,
                bytes: weights as u64,
            }
        }
        Step::Conv(conv) => match conv.before.as_deref().and_then(|b| Some((b, b.shape_out(x)?))) {
            None => conv_work(kernel, conv, x, y),
            Some((before, between)) => {
                let (a, b) = (conv_work(kernel, before, x, &between), conv_work(kernel, conv, &between, y));
                let shape = format!("{}+{}", a.shape, b.shape);
                Work { shape, macs: a.macs + b.macs, bytes: a.bytes + b.bytes, ..a }
            }
        },
        Step::QProduct(product) => {
            let (n, k) = (product.b.n(), product.b.k());
            let used = product.b.kernel_for(count(y) / n.max(1));
            let unit = Some(Unit::Codes(used));
            Work { kernel: used.name, bytes: (n * k) as u64, ..gemm_work(kernel, unit, count(y), n, k, 1) }
        }
        Step::RowProduct(product) => {
            let (n, k) = (product.b.n(), product.b.k());
            let used = product.b.kernel_for(count(y) / n.max(1));
            let unit = Some(Unit::Codes(used));
            Work { kernel: used.name, bytes: (n * k) as u64, ..gemm_work(kernel, unit, count(y), n, k, 1) }
        }
        Step::Product(product) => {
            let (n, k) = (product.n(), product.k());
            Work { bytes: 4 * (n * k) as u64, ..gemm_work(kernel, Some(Unit::F32), count(y), n, k, 1) }
        }
        Step::QMatMul(_) | Step::MatMul => {
            let (n, k) = (y.last().copied().unwrap_or(0), x.last().copied().unwrap_or(0));
            let batch = count(y.get(..y.len().saturating_sub(2)).unwrap_or_default());
            let unit = if matches!(step, Step::MatMul) { Some(Unit::F32) } else { of_level(n) };
            gemm_work(kernel, unit, count(y), n, k, batch)
        }
        Step::QStack(stack) => {
            let (n, k) = stack.matrices.first().map_or((0, 0), |b| (b.n(), b.k()));
            let batch = count(y.get(..y.len().saturating_sub(2)).unwrap_or_default());
            let bytes = (stack.matrices.len() * n * k) as u64;
            Work { bytes, ..gemm_work(kernel, of_level(n), count(y), n, k, batch) }
        }
        Step::Op(_)
        | Step::Move(_)
        | Step::Activate(_)
        | Step::Binary(_)
        | Step::Pool(_)
        | Step::Reduce(_)
        | Step::Rows(_)
        | Step::Edge(_)
        | Step::Join(_)
        | Step::QEltwise(_)
        | Step::QPRelu(_)
        | Step::Lut(_)
        | Step::QPool(_)
        | Step::QMean(_)
        | Step::QSoftmax(_)
        | Step::QNorm(_)
        | Step::QuantizeRows
        | Step::If(_)
        | Step::Loop(_)
        | Step::Scan(_) => Work { kernel, unit: None, shape: plain(), macs: 0, bytes: 0 },
    }
}

fn conv_work(kernel: &'static str, conv: &Conv, x: &[usize], y: &[usize]) -> Work {
    let weights = weight_count(&conv.attrs, conv.c_in, conv.channels_out());
    let depthwise = conv.attrs.group > 1 && conv.attrs.group == conv.c_in;
    let per_result = weights.checked_div(conv.channels_out()).unwrap_or(0);
    Work {
        kernel,
        unit: Some(Unit::F32),
        shape: conv_shape(if depthwise { "dw" } else { "conv" }, &conv.attrs, x, conv.channels_out()),
        macs: (y.iter().product::<usize>() * per_result) as u64,
        bytes: 4 * weights as u64,
    }
}

/// The row that `n` columns of any weights get.
fn any_weights(level: Level, n: usize) -> &'static GemmKernel {
    select(level, n)
}

/// `batch` products that make `elements` results in all.
fn gemm_work(kernel: &'static str, unit: Option<Unit>, elements: usize, n: usize, k: usize, batch: usize) -> Work {
    let m = elements.checked_div(n * batch).unwrap_or(0);
    let times = if batch == 1 { String::new() } else { format!("{batch}*") };
    Work { kernel, unit, shape: format!("{times}{m}x{n}x{k}"), macs: (elements * k) as u64, bytes: 0 }
}

fn weight_count(attrs: &ConvAttrs, c_in: usize, c_out: usize) -> usize {
    attrs.window.kernel.iter().product::<usize>() * c_out * c_in.checked_div(attrs.group).unwrap_or(0)
}

/// A window on an input that lies channels-last.
fn conv_shape(word: &str, attrs: &ConvAttrs, x: &[usize], c_out: usize) -> String {
    let [n, spatial @ .., c] = x else { return String::new() };
    let joined = |sizes: &[usize]| match sizes {
        [one] => format!("1x{one}"),
        [a, b] if a == b => a.to_string(),
        _ => by_x(sizes),
    };
    let batch = if *n == 1 { String::new() } else { format!("{n}x") };
    let height = if spatial.len() == 1 { "1x" } else { "" };
    let out = if word == "dw" { String::new() } else { format!(":{c_out}") };
    let groups = if word == "dw" || attrs.group == 1 { String::new() } else { format!(":g{}", attrs.group) };
    let (kernel, stride) = (joined(&attrs.window.kernel), joined(&attrs.window.strides));
    format!("{word}:{batch}{height}{}x{c}{out}:{kernel}:{stride}{groups}", by_x(spatial))
}

fn by_x(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// The shape of a result in ONNX's order.
fn plain_shape(program: &Program, row: &StepRow, y: &[usize]) -> String {
    let slot = row.outputs.first().copied().flatten();
    let layout = slot.map_or(Layout::Standard, |slot| program.slots[slot.0 as usize].layout);
    let logical = (0..y.len()).map(|axis| y[layout.physical_axis(axis, y.len())]);
    by_x(&logical.collect::<Vec<_>>())
}
