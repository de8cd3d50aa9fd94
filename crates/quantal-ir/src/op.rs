//! The operators: one variant and one table row each.
//!
//! [`Op`] says which operator a node is; its attributes stay with the node as they came ([`crate::Attrs`]) and are
//! read through the typed views of [`conv`], [`pool`] and their like where an operator is inferred, lowered or run.
//! So a node that nobody changed, or whose inputs alone changed, is written back with the attributes of the file.

pub mod conv;
pub mod einsum;
pub mod gemm;
pub mod pool;
pub mod quant;
pub mod weighted;

/// What quantization does with an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuantClass {
    /// Multiplies by weights: integer accumulators, requantized per channel.
    Weighted,
    /// Has an exact integer form of its own; input and output have qparams of their own.
    Integer,
    /// A function of each element: on codes, a table of 256 entries.
    Table,
    /// Moves or selects elements: input and output share one encoding.
    SameScale,
    /// Quantizes or dequantizes.
    Quant,
    /// Works on shapes, indices or conditions: nothing to quantize.
    Shape,
    /// Runs in float.
    Float,
}

const MANY: usize = usize::MAX;

macro_rules! ops {
    ($($op:ident $name:literal $domain:ident $inputs:expr, $outputs:expr, $class:ident;)*) => {
        /// An operator. `Opaque` stands for every operator that is not in the table: carried through byte for byte,
        /// refused when run.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum Op { $($op,)* Opaque }

        impl Op {
            /// Every operator of the table.
            pub const ALL: &'static [Self] = &[$(Self::$op),*];

            /// The ONNX name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$op => $name,)* Self::Opaque => "opaque" }
            }

            /// The ONNX domain; the default one is empty.
            pub fn domain(self) -> &'static str {
                match self { $(Self::$op => $domain,)* Self::Opaque => "" }
            }

            /// Fewest and most inputs, and most outputs, over all versions.
            pub fn arity(self) -> (usize, usize, usize) {
                match self { $(Self::$op => ($inputs.0, $inputs.1, $outputs),)* Self::Opaque => (0, MANY, MANY) }
            }

            /// What quantization does with it.
            pub fn quant_class(self) -> QuantClass {
                match self { $(Self::$op => QuantClass::$class,)* Self::Opaque => QuantClass::Float }
            }
        }
    };
}

const ONNX: &str = "";
const MS: &str = "com.microsoft";

ops! {
    Abs "Abs" ONNX (1, 1), 1, Table;
    Add "Add" ONNX (2, 2), 1, Integer;
    And "And" ONNX (2, 2), 1, Shape;
    ArgMax "ArgMax" ONNX (1, 1), 1, Shape;
    ArgMin "ArgMin" ONNX (1, 1), 1, Shape;
    Attention "Attention" ONNX (3, 7), 4, Float;
    AveragePool "AveragePool" ONNX (1, 1), 1, Integer;
    BatchNormalization "BatchNormalization" ONNX (5, 5), 5, Float;
    Bernoulli "Bernoulli" ONNX (1, 1), 1, Float;
    Cast "Cast" ONNX (1, 1), 1, Shape;
    CastLike "CastLike" ONNX (2, 2), 1, Shape;
    Ceil "Ceil" ONNX (1, 1), 1, Table;
    Clip "Clip" ONNX (1, 3), 1, Table;
    Concat "Concat" ONNX (1, MANY), 1, SameScale;
    Constant "Constant" ONNX (0, 0), 1, Shape;
    ConstantOfShape "ConstantOfShape" ONNX (1, 1), 1, Shape;
    Conv "Conv" ONNX (2, 3), 1, Weighted;
    ConvInteger "ConvInteger" ONNX (2, 4), 1, Quant;
    ConvTranspose "ConvTranspose" ONNX (2, 3), 1, Weighted;
    Cos "Cos" ONNX (1, 1), 1, Table;
    CumSum "CumSum" ONNX (2, 2), 1, Float;
    DepthToSpace "DepthToSpace" ONNX (1, 1), 1, SameScale;
    DequantizeLinear "DequantizeLinear" ONNX (2, 3), 1, Quant;
    Div "Div" ONNX (2, 2), 1, Float;
    Dropout "Dropout" ONNX (1, 3), 2, Float;
    DynamicQuantizeLinear "DynamicQuantizeLinear" ONNX (1, 1), 3, Quant;
    Einsum "Einsum" ONNX (1, MANY), 1, Float;
    Elu "Elu" ONNX (1, 1), 1, Table;
    Equal "Equal" ONNX (2, 2), 1, Shape;
    Erf "Erf" ONNX (1, 1), 1, Table;
    Exp "Exp" ONNX (1, 1), 1, Table;
    Expand "Expand" ONNX (2, 2), 1, SameScale;
    EyeLike "EyeLike" ONNX (1, 1), 1, Shape;
    Flatten "Flatten" ONNX (1, 1), 1, SameScale;
    Floor "Floor" ONNX (1, 1), 1, Table;
    Gather "Gather" ONNX (2, 2), 1, SameScale;
    GatherElements "GatherElements" ONNX (2, 2), 1, SameScale;
    GatherND "GatherND" ONNX (2, 2), 1, SameScale;
    Gelu "Gelu" ONNX (1, 1), 1, Table;
    Gemm "Gemm" ONNX (2, 3), 1, Weighted;
    GlobalAveragePool "GlobalAveragePool" ONNX (1, 1), 1, Integer;
    GlobalMaxPool "GlobalMaxPool" ONNX (1, 1), 1, SameScale;
    Greater "Greater" ONNX (2, 2), 1, Shape;
    GreaterOrEqual "GreaterOrEqual" ONNX (2, 2), 1, Shape;
    GridSample "GridSample" ONNX (2, 2), 1, Float;
    GroupNormalization "GroupNormalization" ONNX (3, 3), 1, Float;
    Gru "GRU" ONNX (3, 6), 2, Float;
    HardSigmoid "HardSigmoid" ONNX (1, 1), 1, Table;
    HardSwish "HardSwish" ONNX (1, 1), 1, Table;
    Identity "Identity" ONNX (1, 1), 1, SameScale;
    If "If" ONNX (1, 1), MANY, Float;
    InstanceNormalization "InstanceNormalization" ONNX (3, 3), 1, Float;
    IsInf "IsInf" ONNX (1, 1), 1, Shape;
    IsNaN "IsNaN" ONNX (1, 1), 1, Shape;
    LayerNormalization "LayerNormalization" ONNX (2, 3), 3, Float;
    LeakyRelu "LeakyRelu" ONNX (1, 1), 1, Table;
    Less "Less" ONNX (2, 2), 1, Shape;
    LessOrEqual "LessOrEqual" ONNX (2, 2), 1, Shape;
    Log "Log" ONNX (1, 1), 1, Table;
    LogSoftmax "LogSoftmax" ONNX (1, 1), 1, Float;
    Loop "Loop" ONNX (2, MANY), MANY, Float;
    Lrn "LRN" ONNX (1, 1), 1, Float;
    Lstm "LSTM" ONNX (3, 8), 3, Float;
    MatMul "MatMul" ONNX (2, 2), 1, Weighted;
    MatMulInteger "MatMulInteger" ONNX (2, 4), 1, Quant;
    Max "Max" ONNX (1, MANY), 1, Float;
    MaxPool "MaxPool" ONNX (1, 1), 2, SameScale;
    Mean "Mean" ONNX (1, MANY), 1, Float;
    Min "Min" ONNX (1, MANY), 1, Float;
    Mish "Mish" ONNX (1, 1), 1, Table;
    Mod "Mod" ONNX (2, 2), 1, Float;
    Mul "Mul" ONNX (2, 2), 1, Integer;
    Multinomial "Multinomial" ONNX (1, 1), 1, Float;
    Neg "Neg" ONNX (1, 1), 1, Table;
    NonMaxSuppression "NonMaxSuppression" ONNX (2, 5), 1, Float;
    NonZero "NonZero" ONNX (1, 1), 1, Shape;
    Not "Not" ONNX (1, 1), 1, Shape;
    OneHot "OneHot" ONNX (3, 3), 1, Shape;
    Or "Or" ONNX (2, 2), 1, Shape;
    PRelu "PRelu" ONNX (2, 2), 1, Float;
    Pad "Pad" ONNX (1, 4), 1, SameScale;
    Pow "Pow" ONNX (2, 2), 1, Float;
    QLinearConv "QLinearConv" ONNX (8, 9), 1, Quant;
    QLinearMatMul "QLinearMatMul" ONNX (8, 8), 1, Quant;
    QuantizeLinear "QuantizeLinear" ONNX (2, 3), 1, Quant;
    RmsNormalization "RMSNormalization" ONNX (2, 2), 1, Float;
    RandomNormal "RandomNormal" ONNX (0, 0), 1, Float;
    RandomNormalLike "RandomNormalLike" ONNX (1, 1), 1, Float;
    RandomUniform "RandomUniform" ONNX (0, 0), 1, Float;
    RandomUniformLike "RandomUniformLike" ONNX (1, 1), 1, Float;
    Range "Range" ONNX (3, 3), 1, Shape;
    Reciprocal "Reciprocal" ONNX (1, 1), 1, Table;
    ReduceL1 "ReduceL1" ONNX (1, 2), 1, Float;
    ReduceL2 "ReduceL2" ONNX (1, 2), 1, Float;
    ReduceLogSum "ReduceLogSum" ONNX (1, 2), 1, Float;
    ReduceLogSumExp "ReduceLogSumExp" ONNX (1, 2), 1, Float;
    ReduceMax "ReduceMax" ONNX (1, 2), 1, SameScale;
    ReduceMean "ReduceMean" ONNX (1, 2), 1, Integer;
    ReduceMin "ReduceMin" ONNX (1, 2), 1, SameScale;
    ReduceProd "ReduceProd" ONNX (1, 2), 1, Float;
    ReduceSum "ReduceSum" ONNX (1, 2), 1, Float;
    ReduceSumSquare "ReduceSumSquare" ONNX (1, 2), 1, Float;
    Relu "Relu" ONNX (1, 1), 1, Table;
    Reshape "Reshape" ONNX (1, 2), 1, SameScale;
    Resize "Resize" ONNX (1, 4), 1, SameScale;
    RoiAlign "RoiAlign" ONNX (3, 3), 1, Float;
    RotaryEmbedding "RotaryEmbedding" ONNX (3, 4), 1, Float;
    Round "Round" ONNX (1, 1), 1, Table;
    Scan "Scan" ONNX (1, MANY), MANY, Float;
    ScatterElements "ScatterElements" ONNX (3, 3), 1, Float;
    ScatterND "ScatterND" ONNX (3, 3), 1, Float;
    Shape "Shape" ONNX (1, 1), 1, Shape;
    Sigmoid "Sigmoid" ONNX (1, 1), 1, Table;
    Sign "Sign" ONNX (1, 1), 1, Table;
    SimplifiedLayerNormalization "SimplifiedLayerNormalization" ONNX (2, 2), 2, Float;
    Sin "Sin" ONNX (1, 1), 1, Table;
    Size "Size" ONNX (1, 1), 1, Shape;
    Slice "Slice" ONNX (1, 5), 1, SameScale;
    Softmax "Softmax" ONNX (1, 1), 1, Integer;
    Softplus "Softplus" ONNX (1, 1), 1, Table;
    SpaceToDepth "SpaceToDepth" ONNX (1, 1), 1, SameScale;
    Split "Split" ONNX (1, 2), MANY, SameScale;
    Sqrt "Sqrt" ONNX (1, 1), 1, Table;
    Squeeze "Squeeze" ONNX (1, 2), 1, SameScale;
    Sub "Sub" ONNX (2, 2), 1, Integer;
    Sum "Sum" ONNX (1, MANY), 1, Float;
    Swish "Swish" ONNX (1, 1), 1, Table;
    Tanh "Tanh" ONNX (1, 1), 1, Table;
    Tile "Tile" ONNX (2, 3), 1, SameScale;
    TopK "TopK" ONNX (1, 2), 2, Float;
    Transpose "Transpose" ONNX (1, 1), 1, SameScale;
    Trilu "Trilu" ONNX (1, 2), 1, Float;
    Unsqueeze "Unsqueeze" ONNX (1, 2), 1, SameScale;
    Upsample "Upsample" ONNX (1, 2), 1, SameScale;
    Where "Where" ONNX (3, 3), 1, Float;
    Xor "Xor" ONNX (2, 2), 1, Shape;
    BiasGelu "BiasGelu" MS (2, 2), 1, Float;
    DynamicQuantizeLstm "DynamicQuantizeLSTM" MS (12, 12), 3, Float;
    DynamicQuantizeMatMul "DynamicQuantizeMatMul" MS (3, 5), 1, Float;
    EmbedLayerNormalization "EmbedLayerNormalization" MS (7, 9), 3, Float;
    FastGelu "FastGelu" MS (1, 2), 1, Table;
    FusedConv "FusedConv" MS (2, 4), 1, Float;
    FusedGemm "FusedGemm" MS (2, 3), 1, Float;
    FusedMatMul "FusedMatMul" MS (2, 2), 1, Float;
    GatherBlockQuantized "GatherBlockQuantized" MS (3, 4), 1, Float;
    GroupQueryAttention "GroupQueryAttention" MS (7, 17), 4, Float;
    MatMulIntegerToFloat "MatMulIntegerToFloat" MS (4, 7), 1, Float;
    MatMulNBits "MatMulNBits" MS (3, 6), 1, Float;
    MsAttention "Attention" MS (2, 7), 2, Float;
    MsDequantizeLinear "DequantizeLinear" MS (2, 3), 1, Quant;
    MsGelu "Gelu" MS (1, 1), 1, Table;
    MsQuantizeLinear "QuantizeLinear" MS (2, 3), 1, Quant;
    MsRotaryEmbedding "RotaryEmbedding" MS (4, 4), 1, Float;
    MultiHeadAttention "MultiHeadAttention" MS (1, 10), 4, Float;
    QAttention "QAttention" MS (5, 9), 2, Float;
    QGemm "QGemm" MS (6, 9), 1, Quant;
    QLinearAdd "QLinearAdd" MS (7, 8), 1, Quant;
    QLinearAveragePool "QLinearAveragePool" MS (4, 5), 1, Quant;
    QLinearConcat "QLinearConcat" MS (5, MANY), 1, Quant;
    QLinearGlobalAveragePool "QLinearGlobalAveragePool" MS (5, 5), 1, Quant;
    QLinearLeakyRelu "QLinearLeakyRelu" MS (4, 5), 1, Quant;
    QLinearMul "QLinearMul" MS (7, 8), 1, Quant;
    QLinearSigmoid "QLinearSigmoid" MS (4, 5), 1, Quant;
    QLinearSoftmax "QLinearSoftmax" MS (5, 5), 1, Quant;
    QLinearWhere "QLinearWhere" MS (9, 9), 1, Quant;
    QuickGelu "QuickGelu" MS (1, 1), 1, Table;
    SkipLayerNormalization "SkipLayerNormalization" MS (3, 5), 4, Float;
    SkipSimplifiedLayerNormalization "SkipSimplifiedLayerNormalization" MS (3, 4), 4, Float;
}

impl Op {
    /// The operator of that domain and name, `Opaque` if there is none in the table.
    pub fn find(domain: &str, name: &str) -> Self {
        let domain = if domain == "ai.onnx" { "" } else { domain };
        let found = Self::ALL.iter().find(|op| op.name() == name && op.domain() == domain);
        found.copied().unwrap_or(Self::Opaque)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_own_name() {
        for &op in Op::ALL {
            assert_eq!(Op::find(op.domain(), op.name()), op);
        }
        assert_eq!(Op::find("ai.onnx", "Conv"), Op::Conv);
        assert_eq!(Op::find("com.evil", "Conv"), Op::Opaque);
    }
}
