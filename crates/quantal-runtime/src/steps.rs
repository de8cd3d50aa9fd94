//! The steps of a program: what each kind computes from its input tensors.

pub mod activate;
pub mod binary;
pub mod codes;
pub mod conv;
pub mod edge;
pub mod join;
pub mod norm;
pub mod pool;
pub mod product;
pub mod qconv;
pub mod qeltwise;
pub mod qpool;
pub mod qprelu;
pub mod qproduct;
pub mod qrows;
pub mod qstack;
pub mod row_product;
pub mod tail;

use crate::control::{Branches, Scan, Turns};
use crate::layout::{Layout, moved};
use crate::ops::{Context, Inputs, OpError, OpKernel, required};
use crate::pool::Pool;
use quantal_kernels::{Isa, Threads};
use quantal_tensor::Tensor;

/// What a step runs on.
pub struct Env<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub threads: &'a Threads,
    /// Where results get their memory from.
    pub pool: &'a mut Pool,
}

/// One kind of work.
#[derive(Debug)]
pub enum Step {
    /// An operator as ONNX defines it, on tensors in the standard layout, or in any layout if it works element by
    /// element or its axes were rewritten.
    Op(Box<OpKernel>),
    /// The same tensor in this layout.
    Move(Layout),
    /// A convolution on channels-last tensors.
    Conv(Box<conv::Conv>),
    /// A product by a constant matrix.
    Product(Box<product::Product>),
    /// A product of two run-time tensors.
    MatMul,
    /// A function of each element.
    Activate(activate::Function),
    /// A function of two elements.
    Binary(Box<binary::Binary>),
    /// Pooling of a channels-last tensor.
    Pool(Box<pool::Window>),
    /// Reduction over neighbouring axes.
    Reduce(pool::Reduction),
    /// Softmax or normalization of rows.
    Rows(Box<norm::Rows>),
    /// Floats to codes or codes to floats.
    Edge(edge::Edge),
    /// A convolution of codes on channels-last tensors.
    QConv(Box<qconv::QConv>),
    /// A product of codes by a constant matrix.
    QProduct(Box<qproduct::QProduct>),
    /// A product of two run-time tensors of codes.
    QMatMul(Box<qproduct::QMatMul>),
    /// A product of codes by a stack of constant matrices.
    QStack(Box<qstack::QStack>),
    /// A PRelu of codes.
    QPRelu(Box<qprelu::QPRelu>),
    /// What is left of a Concat of codes whose other parts were written in place.
    Join(Box<join::Join>),
    /// A function of two codes.
    QEltwise(qeltwise::QEltwise),
    /// A function of each code.
    Lut(Box<qeltwise::Lut>),
    /// Pooling of codes on channels-last tensors.
    QPool(Box<qpool::QPool>),
    /// Means of codes.
    QMean(qpool::QMean),
    /// Softmax of codes.
    QSoftmax(Box<qrows::QSoftmax>),
    /// The codes of rows of floats, and the scale of each.
    QuantizeRows,
    /// A product of such rows by constant codes, as floats.
    RowProduct(Box<row_product::RowProduct>),
    /// Normalization of codes.
    QNorm(Box<qrows::QNorm>),
    /// Control flow: one of two subprograms.
    If(Box<Branches>),
    /// Control flow: a subprogram, turn after turn.
    Loop(Box<Turns>),
    /// Control flow: a subprogram for each element of some values.
    Scan(Box<Scan>),
}

impl Step {
    /// What profiles call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Op(_) => "op",
            Self::Move(Layout::ChannelsLast) => "to_channels_last",
            Self::Move(Layout::Standard) => "to_standard",
            Self::Conv(_) => "conv_f32",
            Self::Product(_) => "product_f32",
            Self::MatMul => "matmul_f32",
            Self::Activate(_) => "activate_f32",
            Self::Binary(_) => "binary_f32",
            Self::Pool(_) => "pool_f32",
            Self::Reduce(_) => "reduce_f32",
            Self::Rows(rows) => match **rows {
                norm::Rows::Softmax { .. } => "softmax_f32",
                norm::Rows::Norm { .. } => "norm_f32",
            },
            Self::Edge(edge::Edge::Quantize(_)) => "quantize",
            Self::Edge(edge::Edge::QuantizeMoved(_)) => "quantize_channels_last",
            Self::Edge(edge::Edge::Dequantize(_)) => "dequantize",
            Self::QConv(_) => "conv_codes",
            Self::QProduct(_) => "product_codes",
            Self::QMatMul(_) => "matmul_codes",
            Self::QStack(_) => "stack_codes",
            Self::QPRelu(_) => "prelu_codes",
            Self::Join(_) => "join_codes",
            Self::QEltwise(_) => "eltwise_codes",
            Self::Lut(_) => "lut",
            Self::QPool(_) => "pool_codes",
            Self::QMean(_) => "mean_codes",
            Self::QSoftmax(_) => "softmax_codes",
            Self::QNorm(_) => "norm_codes",
            Self::QuantizeRows => "quantize_rows",
            Self::RowProduct(_) => "product_rows",
            Self::If(_) => "if",
            Self::Loop(_) => "loop",
            Self::Scan(_) => "scan",
        }
    }

    /// Whether all results are float32, whatever the graph says.
    pub(crate) fn makes_f32(&self) -> bool {
        match self {
            Self::Conv(_)
            | Self::Product(_)
            | Self::MatMul
            | Self::Activate(_)
            | Self::Binary(_)
            | Self::Pool(_)
            | Self::Reduce(_)
            | Self::Rows(_)
            | Self::RowProduct(_)
            | Self::Edge(edge::Edge::Dequantize(_)) => true,
            Self::QConv(c) => matches!(c.end, codes::End::F32 { .. }),
            Self::QProduct(p) => matches!(p.end, codes::End::F32 { .. }),
            Self::QMatMul(p) => p.y.is_none(),
            Self::QStack(p) => p.y.is_none(),
            Self::Edge(edge::Edge::Quantize(_) | edge::Edge::QuantizeMoved(_))
            | Self::Join(_)
            | Self::QEltwise(_)
            | Self::QPRelu(_)
            | Self::Lut(_)
            | Self::QPool(_)
            | Self::QMean(_)
            | Self::QSoftmax(_)
            | Self::QNorm(_)
            | Self::QuantizeRows
            | Self::Op(_)
            | Self::Move(_)
            | Self::If(_)
            | Self::Loop(_)
            | Self::Scan(_) => false,
        }
    }

    /// The input that the step can write its result over.
    pub(crate) fn in_place(&self) -> Option<usize> {
        match self {
            Self::Activate(_) | Self::Binary(_) | Self::Join(_) => Some(0),
            Self::QConv(conv) => conv.under(),
            Self::QProduct(product) => product.end.under(),
            Self::Pool(_)
            | Self::Reduce(_)
            | Self::Rows(_)
            | Self::Op(_)
            | Self::Move(_)
            | Self::Conv(_)
            | Self::Product(_)
            | Self::MatMul
            | Self::Edge(_)
            | Self::QMatMul(_)
            | Self::QStack(_)
            | Self::QPRelu(_)
            | Self::QEltwise(_)
            | Self::Lut(_)
            | Self::QPool(_)
            | Self::QMean(_)
            | Self::QSoftmax(_)
            | Self::QNorm(_)
            | Self::QuantizeRows
            | Self::RowProduct(_)
            | Self::If(_)
            | Self::Loop(_)
            | Self::Scan(_) => None,
        }
    }

    /// The columns that the step fills of a wider tensor, and whether that is its first input.
    pub(crate) fn fills(&self) -> Option<(usize, bool)> {
        match self {
            Self::QConv(conv) => conv.end.columns().map(|columns| (conv.c_out, columns.begun)),
            Self::Join(join) => Some((join.columns.iter().map(ExactSizeIterator::len).sum(), true)),
            Self::Activate(_)
            | Self::Binary(_)
            | Self::Pool(_)
            | Self::Reduce(_)
            | Self::Rows(_)
            | Self::Op(_)
            | Self::Move(_)
            | Self::Conv(_)
            | Self::Product(_)
            | Self::MatMul
            | Self::Edge(_)
            | Self::QProduct(_)
            | Self::QMatMul(_)
            | Self::QStack(_)
            | Self::QPRelu(_)
            | Self::QEltwise(_)
            | Self::Lut(_)
            | Self::QPool(_)
            | Self::QMean(_)
            | Self::QSoftmax(_)
            | Self::QNorm(_)
            | Self::QuantizeRows
            | Self::RowProduct(_)
            | Self::If(_)
            | Self::Loop(_)
            | Self::Scan(_) => None,
        }
    }

    /// Runs a step that [works in place](Step::in_place) on `x`, the input that it does so on and nobody else needs.
    pub(crate) fn run_in_place(&self, x: Tensor, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Tensor, OpError> {
        match self {
            Self::Activate(function) => function.run_in_place(x, env),
            Self::Binary(binary) => binary.run_in_place(x, inputs, env),
            Self::QConv(conv) => conv.run(Some(x), inputs, env),
            Self::QProduct(product) => product.run(Some(x), inputs, env),
            Self::Join(join) => join.run_in_place(x, inputs.get(1..).unwrap_or_default()),
            _ => Err(OpError::invalid("the step does not work in place")),
        }
    }

    /// Runs a step without subprograms.
    pub(crate) fn run(&self, inputs: &Inputs<'_>, env: &mut Env<'_>) -> Result<Vec<Tensor>, OpError> {
        match self {
            Self::Op(kernel) => kernel.run(inputs, &Context { isa: env.isa, threads: env.threads }),
            Self::Move(to) => Ok(vec![moved(required(inputs, 0)?, *to, env.pool, env.threads)?]),
            Self::Conv(conv) => Ok(vec![conv.run(inputs, env)?]),
            Self::Product(product) => Ok(vec![product.run(inputs, env)?]),
            Self::MatMul => Ok(vec![product::matmul(inputs, env)?]),
            Self::Activate(function) => Ok(vec![function.run(required(inputs, 0)?, env)?]),
            Self::Binary(binary) => Ok(vec![binary.run(inputs, env)?]),
            Self::Pool(window) => Ok(vec![window.run(required(inputs, 0)?, env)?]),
            Self::Reduce(reduction) => Ok(vec![reduction.run(required(inputs, 0)?, env)?]),
            Self::Rows(rows) => Ok(vec![rows.run(required(inputs, 0)?, env)?]),
            Self::Edge(edge) => Ok(vec![edge.run(inputs, env)?]),
            Self::QConv(conv) => Ok(vec![conv.run(None, inputs, env)?]),
            Self::QProduct(product) => Ok(vec![product.run(None, inputs, env)?]),
            Self::QMatMul(product) => Ok(vec![product.run(inputs, env)?]),
            Self::QStack(product) => Ok(vec![product.run(inputs, env)?]),
            Self::QPRelu(relu) => Ok(vec![relu.run(inputs, env)?]),
            Self::QEltwise(eltwise) => Ok(vec![eltwise.run(inputs, env)?]),
            Self::Lut(lut) => Ok(vec![lut.run(inputs, env)?]),
            Self::QPool(pool) => Ok(vec![pool.run(inputs, env)?]),
            Self::QMean(mean) => Ok(vec![mean.run(inputs, env)?]),
            Self::QSoftmax(softmax) => Ok(vec![softmax.run(inputs, env)?]),
            Self::QNorm(norm) => Ok(vec![norm.run(inputs, env)?]),
            Self::QuantizeRows => row_product::quantize(inputs, env),
            Self::RowProduct(product) => Ok(vec![product.run(inputs, env)?]),
            Self::Join(_) => Err(OpError::invalid("the tensor to write into is read elsewhere")),
            Self::If(_) | Self::Loop(_) | Self::Scan(_) => Err(OpError::invalid("control flow is run by the session")),
        }
    }
}
