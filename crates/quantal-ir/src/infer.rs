//! Shapes and element types, as far as they follow from the graph.
//!
//! Inference knows fixed and symbolic dimensions and follows the contents of small integer tensors, so that shapes
//! which a model computes (Shape → Gather → Concat → Reshape) come out. What is unknown stays unknown and is no error;
//! an error is a node that can never run. Where inference and the declared types of a file disagree, inference wins.

mod attention;
mod contents;
mod contrib;
mod control;
mod conv;
mod dims;
mod elementwise;
mod gather;
mod generate;
mod layout;
mod norm;
mod product;
mod quantize;
mod random;
mod recurrent;
mod reduce;
mod resample;
mod reshape;
mod slice;

#[cfg(test)]
mod tests;

use crate::attrs::{AttrError, Attrs};
use crate::graph::{Dim, Graph, Node, NodeId, ValueId};
use crate::op::Op;
use contents::Contents;
pub(crate) use product::einsum_sizes;
use quantal_tensor::DType;
use std::collections::BTreeMap;

/// Most dimensions of a tensor. Keeps what walks over pairs of them short, whatever a file claims.
const MAX_RANK: usize = 64;

/// A node can never run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// An attribute is missing or wrong.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// A required input is left out.
    #[error("input {index} is missing, {op} needs at least {least}")]
    MissingInput {
        /// Which.
        index: usize,
        /// The operator.
        op: String,
        /// Fewest inputs.
        least: usize,
    },
    /// There are more inputs or outputs than the operator has.
    #[error("{found} {what}, {op} has at most {most}")]
    TooMany {
        /// "inputs" or "outputs".
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The operator.
        op: String,
        /// Most of them.
        most: usize,
    },
    /// Shapes or contents contradict each other; the text says how, with the numbers.
    #[error("{0}")]
    Shape(String),
    /// Any of these, with the node that it happened at.
    #[error("`{node}` ({op}): {problem}")]
    AtNode {
        /// The node's name.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong.
        problem: Box<InferError>,
    },
}

impl InferError {
    fn shape(text: impl Into<String>) -> Self {
        Self::Shape(text.into())
    }

    /// The same with the node that it happened at.
    #[must_use]
    pub fn at(self, node: &Node) -> Self {
        let (node, op) = (node.name.escape_debug().to_string(), node.op_name());
        Self::AtNode { node, op, problem: Box::new(self) }
    }
}

/// What is inferred of one output.
#[derive(Clone, Debug, Default)]
struct Fact {
    dtype: Option<DType>,
    shape: Option<Vec<Dim>>,
    contents: Option<Contents>,
}

impl Fact {
    fn new(dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Self {
        Self { dtype, shape, contents: None }
    }

    fn holding(mut self, contents: Option<Contents>) -> Self {
        self.contents = contents;
        self
    }
}

/// A node and what is known of its inputs.
struct Context<'a> {
    graph: &'a Graph,
    node: &'a Node,
    contents: &'a BTreeMap<ValueId, Contents>,
}

impl<'a> Context<'a> {
    fn attrs(&self) -> &'a Attrs {
        &self.node.attrs
    }

    fn has(&self, i: usize) -> bool {
        self.node.input(i).is_some()
    }

    fn dtype(&self, i: usize) -> Option<DType> {
        self.graph.value(self.node.input(i)?).dtype
    }

    fn shape(&self, i: usize) -> Option<&'a [Dim]> {
        self.graph.value(self.node.input(i)?).shape.as_deref()
    }

    fn shape_vec(&self, i: usize) -> Option<Vec<Dim>> {
        self.shape(i).map(<[Dim]>::to_vec)
    }

    fn rank(&self, i: usize) -> Option<usize> {
        self.shape(i).map(<[Dim]>::len)
    }

    /// Whether anything is known of the contents of input `i`: cheaper than asking for them.
    fn follows(&self, i: usize) -> bool {
        self.node.input(i).is_some_and(|v| {
            let constant = self.graph.value(v).constant.as_ref();
            self.contents.contains_key(&v) || constant.is_some_and(|t| t.len() <= contents::MAX_ELEMENTS)
        })
    }

    /// What is known of the contents of input `i`.
    fn contents(&self, i: usize) -> Option<Contents> {
        let v = self.node.input(i)?;
        match &self.graph.value(v).constant {
            Some(tensor) => Contents::of_tensor(tensor),
            None => self.contents.get(&v).cloned(),
        }
    }

    /// The integers in input `i`, if all are known.
    fn ints(&self, i: usize) -> Option<Vec<i64>> {
        // A constant may be longer than what is followed: the sizes of a Split, say.
        match self.graph.constant(self.node.input(i)) {
            Some(t) if t.len() > contents::MAX_ELEMENTS && t.dtype() == DType::I64 => t.to_i64_vec(),
            _ => self.contents(i)?.ints(),
        }
    }

    /// The one integer in input `i`, if it is known.
    fn int(&self, i: usize) -> Option<i64> {
        if let [v] = *self.ints(i)? { Some(v) } else { None }
    }

    /// A list of axes, or of what goes with them: an attribute in old versions, input `i` in new ones.
    fn list(&self, name: &'static str, i: usize) -> Result<List, AttrError> {
        if let Some(values) = self.attrs().ints(name)? {
            return Ok(List::Given(values.to_vec()));
        }
        Ok(match (self.has(i), self.ints(i)) {
            (false, _) => List::Absent,
            (true, None) => List::Unknown,
            (true, Some(values)) => List::Given(values),
        })
    }
}

/// A list of integers that may be left out or not be known.
enum List {
    Absent,
    Unknown,
    Given(Vec<i64>),
}

/// Axes counted from the end if negative, checked against `rank` and against standing there twice.
fn normalize_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, InferError> {
    if axes.len() > MAX_RANK {
        return Err(InferError::shape(format!("{} axes, at most {MAX_RANK} can be", axes.len())));
    }
    let mut seen = vec![false; rank];
    let normalize = |&axis: &i64| {
        let a = crate::op::quant::normalize_axis(axis, rank)?;
        if std::mem::replace(&mut seen[a], true) {
            return Err(InferError::shape(format!("axis {axis} is given twice")));
        }
        Ok(a)
    };
    axes.iter().map(normalize).collect()
}

/// The axis in attribute `axis`, if the rank that it counts in is known.
fn axis(cx: &Context<'_>, default: i64, rank: usize) -> Result<usize, InferError> {
    Ok(crate::op::quant::normalize_axis(cx.attrs().int_or("axis", default)?, rank)?)
}

/// Infers node by node, remembering the contents of small integer tensors on the way.
#[derive(Debug, Default)]
pub struct Inferer {
    contents: BTreeMap<ValueId, Contents>,
}

impl Inferer {
    /// One that has seen no node yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets type and shape of the node's outputs. Nodes come in an order in which they can run. What the outputs
    /// already have is kept where inference knows less.
    pub fn node(&mut self, graph: &mut Graph, id: NodeId) -> Result<(), InferError> {
        let node = graph.node(id);
        check_arity(node)?;
        check_ranks(graph, node)?;
        let facts = infer(&Context { graph, node, contents: &self.contents })?;
        let outputs = node.outputs.clone();
        for (v, fact) in outputs.into_iter().zip(facts) {
            let Some(v) = v else { continue };
            match fact.contents {
                Some(c) => self.contents.insert(v, c),
                None => self.contents.remove(&v),
            };
            let value = graph.value_mut(v);
            if value.constant.is_none() {
                value.dtype = fact.dtype.or(value.dtype);
                value.shape = merge(fact.shape, value.shape.take());
            }
        }
        Ok(())
    }
}

/// Infers the whole graph. Subgraphs are taken as they are.
pub fn run(graph: &mut Graph) -> Result<(), InferError> {
    let mut inferer = Inferer::new();
    let order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    order.into_iter().try_for_each(|id| inferer.node(graph, id).map_err(|e| e.at(graph.node(id))))
}

/// Inferred and declared in one: fixed over symbolic over unknown; where both are fixed or name a symbol, inferred.
fn merge(inferred: Option<Vec<Dim>>, declared: Option<Vec<Dim>>) -> Option<Vec<Dim>> {
    let (inferred, declared) = match (inferred, declared) {
        (Some(i), Some(d)) if i.len() == d.len() => (i, d),
        (i, d) => return i.or(d),
    };
    let join = |pair: (Dim, Dim)| match pair {
        (Dim::Unknown, d) | (Dim::Symbol(_), d @ Dim::Known(_)) => d,
        (i @ (Dim::Known(_) | Dim::Symbol(_)), _) => i,
    };
    Some(inferred.into_iter().zip(declared).map(join).collect())
}

fn check_arity(node: &Node) -> Result<(), InferError> {
    let (least, most, outputs) = node.op.arity();
    if node.inputs.len() > most {
        let (found, op) = (node.inputs.len(), node.op_name());
        return Err(InferError::TooMany { what: "inputs", found, op, most });
    }
    if node.outputs.len() > outputs {
        let (found, op) = (node.outputs.len(), node.op_name());
        return Err(InferError::TooMany { what: "outputs", found, op, most: outputs });
    }
    // Loop may leave out its count and its condition; the integer operators of Microsoft, zero points in the middle.
    let holes = node.op == Op::Loop || node.op.domain() == "com.microsoft";
    let missing = (0..least).find(|&i| if holes { i >= node.inputs.len() } else { node.input(i).is_none() });
    match missing {
        Some(index) => Err(InferError::MissingInput { index, op: node.op_name(), least }),
        None => Ok(()),
    }
}

fn check_ranks(graph: &Graph, node: &Node) -> Result<(), InferError> {
    for (i, v) in node.inputs.iter().enumerate() {
        if let Some(rank) = v.and_then(|v| graph.value(v).rank()).filter(|&n| n > MAX_RANK) {
            return Err(InferError::shape(format!("input {i} has {rank} dimensions, at most {MAX_RANK} can be")));
        }
    }
    Ok(())
}

/// What the node's outputs are, one fact each, or fewer where nothing is known of the last.
fn infer(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let fact = match cx.node.op {
        Op::Abs
        | Op::Ceil
        | Op::Cos
        | Op::Elu
        | Op::Erf
        | Op::Exp
        | Op::Floor
        | Op::Gelu
        | Op::HardSigmoid
        | Op::HardSwish
        | Op::Identity
        | Op::LeakyRelu
        | Op::Log
        | Op::Mish
        | Op::Neg
        | Op::Reciprocal
        | Op::Relu
        | Op::Round
        | Op::Sigmoid
        | Op::Sign
        | Op::Sin
        | Op::Softplus
        | Op::Sqrt
        | Op::Swish
        | Op::Tanh
        | Op::FastGelu
        | Op::MsGelu
        | Op::QuickGelu
        | Op::QLinearLeakyRelu
        | Op::QLinearSigmoid
        | Op::Clip => elementwise::unary(cx),
        Op::Not | Op::IsInf | Op::IsNaN => elementwise::test(cx),
        Op::Cast | Op::CastLike => elementwise::cast(cx)?,
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Mod | Op::Pow | Op::Max | Op::Min | Op::Mean | Op::Sum => {
            elementwise::arithmetic(cx)?
        }
        Op::And | Op::Or | Op::Xor | Op::Equal | Op::Greater | Op::GreaterOrEqual | Op::Less | Op::LessOrEqual => {
            elementwise::comparison(cx)?
        }
        Op::PRelu => elementwise::prelu(cx)?,
        Op::Where => elementwise::choice(cx)?,
        Op::QLinearAdd | Op::QLinearMul => elementwise::quantized_arithmetic(cx)?,
        Op::QLinearWhere => elementwise::quantized_choice(cx)?,
        Op::Dropout => return Ok(elementwise::dropout(cx)),

        Op::Constant => generate::constant(cx)?,
        Op::ConstantOfShape => generate::constant_of_shape(cx)?,
        Op::EyeLike => generate::eye_like(cx)?,
        Op::NonZero => generate::non_zero(cx),
        Op::OneHot => generate::one_hot(cx)?,
        Op::Range => generate::range(cx)?,
        Op::Shape => generate::shape(cx)?,
        Op::Size => generate::size(cx),

        Op::Expand => reshape::expand(cx)?,
        Op::Flatten => reshape::flatten(cx)?,
        Op::Reshape => reshape::reshape(cx)?,
        Op::Squeeze => reshape::squeeze(cx)?,
        Op::Unsqueeze => reshape::unsqueeze(cx)?,

        Op::Concat => layout::concat(cx, &(0..cx.node.inputs.len()).collect::<Vec<_>>())?,
        Op::QLinearConcat => quantize::concat(cx)?,
        Op::DepthToSpace => layout::depth_to_space(cx)?,
        Op::SpaceToDepth => layout::space_to_depth(cx)?,
        Op::Tile => layout::tile(cx)?,
        Op::Transpose => layout::transpose(cx)?,
        Op::Trilu => layout::trilu(cx)?,
        Op::Pad => slice::pad(cx)?,
        Op::Slice => slice::slice(cx)?,
        Op::Split => return slice::split(cx),

        Op::Gather => gather::gather(cx)?,
        Op::GatherElements => gather::gather_elements(cx)?,
        Op::GatherND => gather::gather_nd(cx)?,
        Op::ScatterElements => gather::scatter_elements(cx)?,
        Op::ScatterND => gather::scatter_nd(cx)?,

        Op::ReduceL1
        | Op::ReduceL2
        | Op::ReduceLogSum
        | Op::ReduceLogSumExp
        | Op::ReduceMax
        | Op::ReduceMean
        | Op::ReduceMin
        | Op::ReduceProd
        | Op::ReduceSum
        | Op::ReduceSumSquare => reduce::reduce(cx)?,
        Op::ArgMax | Op::ArgMin => reduce::arg(cx)?,
        Op::CumSum => reduce::cum_sum(cx)?,
        Op::TopK => return reduce::top_k(cx),

        Op::Conv | Op::FusedConv => conv::conv(cx, &conv::Places::FLOAT, cx.dtype(0))?,
        Op::ConvInteger => conv::conv(cx, &conv::Places::INTEGER, Some(DType::I32))?,
        Op::QLinearConv => conv::qlinear(cx)?,
        Op::ConvTranspose => conv::transposed(cx)?,
        Op::AveragePool | Op::QLinearAveragePool => conv::pool(cx)?,
        Op::MaxPool => return conv::max_pool(cx),
        Op::GlobalAveragePool | Op::GlobalMaxPool | Op::QLinearGlobalAveragePool => conv::global_pool(cx)?,

        Op::Einsum => product::einsum(cx)?,
        Op::Gemm | Op::FusedGemm => product::gemm(cx, 1, 2, cx.dtype(0))?,
        Op::MatMul => product::matmul(cx, 1, cx.dtype(0).or(cx.dtype(1)))?,
        Op::MatMulInteger => product::matmul(cx, 1, Some(DType::I32))?,
        Op::QLinearMatMul => product::qlinear_matmul(cx)?,
        Op::QGemm => product::qgemm(cx)?,

        Op::BatchNormalization => return norm::batch(cx),
        Op::GroupNormalization => norm::group(cx)?,
        Op::InstanceNormalization => norm::instance(cx)?,
        Op::LayerNormalization => return norm::layer(cx),
        Op::RmsNormalization => norm::rms(cx)?,
        Op::SimplifiedLayerNormalization => return Ok(norm::layer(cx)?.into_iter().take(2).collect()),
        Op::Lrn => norm::lrn(cx)?,
        Op::LogSoftmax | Op::Softmax | Op::QLinearSoftmax => norm::softmax(cx)?,

        Op::Attention => return attention::attention(cx),
        Op::RotaryEmbedding => attention::rotary(cx)?,
        Op::Gru => return recurrent::recurrent(cx, 3),
        Op::Lstm => return recurrent::recurrent(cx, 4),

        Op::GridSample => resample::grid_sample(cx)?,
        Op::Resize => resample::resize(cx)?,
        Op::Upsample => resample::upsample(cx)?,
        Op::RoiAlign => resample::roi_align(cx)?,
        Op::NonMaxSuppression => resample::non_max_suppression(cx)?,

        Op::QuantizeLinear | Op::MsQuantizeLinear => quantize::quantize(cx)?,
        Op::DequantizeLinear | Op::MsDequantizeLinear => quantize::dequantize(cx)?,
        Op::DynamicQuantizeLinear => return Ok(quantize::dynamic(cx)),

        Op::RandomNormal | Op::RandomUniform => random::given(cx)?,
        Op::Bernoulli | Op::RandomNormalLike | Op::RandomUniformLike => random::like(cx)?,
        Op::Multinomial => random::multinomial(cx)?,

        Op::BiasGelu | Op::MsRotaryEmbedding => contrib::same(cx),
        Op::SkipLayerNormalization | Op::SkipSimplifiedLayerNormalization => return contrib::skip_norm(cx),
        Op::EmbedLayerNormalization => return contrib::embed_norm(cx),
        Op::FusedMatMul => product::fused_matmul(cx)?,
        Op::DynamicQuantizeMatMul => product::matmul(cx, 1, Some(DType::F32))?,
        Op::MatMulIntegerToFloat => product::matmul(cx, 1, cx.dtype(2))?,
        Op::MatMulNBits => contrib::matmul_nbits(cx)?,
        Op::GatherBlockQuantized => contrib::gather_blocks(cx)?,
        Op::MsAttention => return contrib::attention(cx, cx.dtype(0)),
        Op::QAttention => return contrib::attention(cx, cx.dtype(2).or(cx.dtype(3))),
        Op::MultiHeadAttention => return contrib::multi_head(cx),
        Op::GroupQueryAttention => return contrib::group_query(cx),
        Op::DynamicQuantizeLstm => return contrib::quantized_lstm(cx),

        Op::If => return control::branch(cx),
        Op::Loop => return control::repeat(cx),
        Op::Scan => return control::scan(cx),
        Op::Opaque => return Ok(Vec::new()),
    };
    Ok(vec![fact])
}
