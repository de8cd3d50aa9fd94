//! The operators of ONNX on tensors, as the standard says: one file a family.
//!
//! [`OpKernel::prepare`] reads a node's attributes once; [`OpKernel::run`] applies it to tensors in the standard's
//! layout (NCHW). These are the float steps of a program, the judge of the integer ones, and what constant folding
//! calls. Integer steps and channels-last float steps are in `crate::steps`.

pub mod cast;
mod dispatch;
pub mod elementwise;
pub mod gather;
pub mod layout;
pub mod reduce;
pub mod shape;
pub(crate) mod strides;

pub mod attention;
pub mod conv;
pub mod detect;
pub mod matmul;
pub mod norm;
pub mod pool;
pub mod quant;
pub mod random;
pub mod recurrent;
pub mod resize;
pub mod softmax;

mod number;
#[cfg(test)]
mod testing;
mod walk;

use quantal_ir::attrs::AttrError;
use quantal_ir::{Node, Op};
use quantal_kernels::{Isa, Threads};
use quantal_tensor::{DType, Tensor, TensorError};

/// Why an operator cannot be prepared or run. The caller adds the node's name.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpError {
    /// An attribute is missing or wrong.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The inputs do not fit each other or the attributes; the text says how.
    #[error("{0}")]
    Invalid(String),
    /// The operator, or this use of it, is not covered; the text names it.
    #[error("unsupported: {0}")]
    Unsupported(String),
}

impl OpError {
    /// An [`OpError::Invalid`].
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// An [`OpError::Unsupported`] for an input type.
    pub fn dtype(op: Op, dtype: DType) -> Self {
        Self::Unsupported(format!("{} on {dtype}", op.name()))
    }
}

/// What an operator runs on.
pub struct Context<'a> {
    /// The instruction set.
    pub isa: Isa,
    /// The threads.
    pub threads: &'a Threads,
}

/// The inputs of one call; `None` for an optional one that is left out.
pub type Inputs<'a> = [Option<&'a Tensor>];

/// Input `i`, which the operator cannot do without.
pub fn required<'a>(inputs: &Inputs<'a>, i: usize) -> Result<&'a Tensor, OpError> {
    optional(inputs, i).ok_or_else(|| OpError::invalid(format!("input {i} is missing")))
}

/// Input `i`, if given.
pub fn optional<'a>(inputs: &Inputs<'a>, i: usize) -> Option<&'a Tensor> {
    inputs.get(i).copied().flatten()
}

macro_rules! kernels {
    ($($variant:ident = $module:ident { $($op:ident)|* };)*) => {
        /// An operator with its attributes read, ready to run on tensors.
        #[derive(Debug, Clone)]
        #[allow(missing_docs)]
        pub enum OpKernel { $($variant($module::$variant)),* }

        impl OpKernel {
            /// Reads the attributes of `node`, written in version `opset` of its domain.
            pub fn prepare(node: &Node, opset: i64) -> Result<Self, OpError> {
                match node.op {
                    $($(Op::$op)|* => $module::$variant::prepare(node, opset).map(Self::$variant),)*
                    Op::If | Op::Loop | Op::Scan => Err(OpError::Unsupported(format!("{} here", node.op_name()))),
                    // Written out as standard operators before anything runs; one that is left has no such form.
                    Op::BiasGelu | Op::DynamicQuantizeLstm | Op::DynamicQuantizeMatMul | Op::EmbedLayerNormalization
                    | Op::FusedConv | Op::FusedGemm | Op::FusedMatMul | Op::MatMulIntegerToFloat | Op::MatMulNBits
                    | Op::MsAttention | Op::MultiHeadAttention | Op::QAttention | Op::SkipLayerNormalization
                    | Op::SkipSimplifiedLayerNormalization => {
                        Err(OpError::Unsupported(format!("{} in this form", node.op_name())))
                    }
                    Op::Opaque => Err(OpError::Unsupported(format!("operator {}", node.op_name()))),
                }
            }

            /// Applies it. The outputs are as many as the operator has, wanted or not.
            pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
                match self { $(Self::$variant(k) => k.run(inputs, context)),* }
            }
        }
    };
}

kernels! {
    Unary = elementwise { Abs | Ceil | Clip | Cos | Elu | Erf | Exp | Floor | Gelu | HardSigmoid | HardSwish | IsInf | IsNaN
        | LeakyRelu | Log | Mish | Neg | Not | Reciprocal | Relu | Round | Sigmoid | Sign | Sin | Softplus | Sqrt | Swish
        | Tanh | MsGelu | FastGelu | QuickGelu };
    Broadcast = elementwise { Add | And | Div | Equal | Greater | GreaterOrEqual | Less | LessOrEqual | Max | Mean | Min
        | Mod | Mul | Or | PRelu | Pow | Sub | Sum | Where | Xor };
    CastTo = cast { Cast | CastLike };
    Reshaping = shape { Identity | Reshape | Flatten | Squeeze | Unsqueeze | Dropout };
    Generator = shape { Constant | ConstantOfShape | EyeLike | Range | Shape | Size };
    Movement = layout { Concat | DepthToSpace | Expand | Pad | Slice | SpaceToDepth | Split | Tile | Transpose | Trilu };
    Selection = gather { Gather | GatherElements | GatherND | NonZero | OneHot | ScatterElements | ScatterND
        | GatherBlockQuantized };
    Reduction = reduce { ReduceL1 | ReduceL2 | ReduceLogSum | ReduceLogSumExp | ReduceMax | ReduceMean | ReduceMin
        | ReduceProd | ReduceSum | ReduceSumSquare };
    Ordering = reduce { ArgMax | ArgMin | CumSum | TopK };
    Convolution = conv { Conv | ConvTranspose | ConvInteger | QLinearConv };
    Product = matmul { Einsum | Gemm | MatMul | MatMulInteger | QLinearMatMul | QGemm };
    Pooling = pool { AveragePool | GlobalAveragePool | GlobalMaxPool | MaxPool };
    Normalization = norm { BatchNormalization | GroupNormalization | InstanceNormalization | LayerNormalization | Lrn
        | RmsNormalization | SimplifiedLayerNormalization };
    Soft = softmax { LogSoftmax | Softmax };
    Attending = attention { Attention | RotaryEmbedding | MsRotaryEmbedding | GroupQueryAttention };
    Random = random { Bernoulli | Multinomial | RandomNormal | RandomNormalLike | RandomUniform | RandomUniformLike };
    Recurrent = recurrent { Gru | Lstm };
    Resampling = resize { GridSample | Resize | RoiAlign | Upsample };
    Detection = detect { NonMaxSuppression };
    Quantizing = quant { DequantizeLinear | DynamicQuantizeLinear | MsDequantizeLinear | MsQuantizeLinear | QLinearAdd
        | QLinearAveragePool | QLinearConcat | QLinearGlobalAveragePool | QLinearLeakyRelu | QLinearMul | QLinearSigmoid
        | QLinearSoftmax | QLinearWhere | QuantizeLinear };
}
