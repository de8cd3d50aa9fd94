//! Integer lowering: one rule a pattern, each giving steps or the reason why not.
//!
//! The pattern is the sandwich DequantizeLinear · operator · QuantizeLinear. A DequantizeLinear is put off until
//! somebody wants floats; a node whose inputs are codes and whose output becomes codes again is one step from codes to
//! codes, and the QuantizeLinear (with a Relu or Clip before it) goes into that step.

mod codes;
mod dynamic;
pub(crate) mod edge;
mod elementwise;
mod function;
mod movement;
mod norm;
mod pool;
mod prelu;
mod region;
mod softmax;
mod table;
mod weighted;

pub(crate) use movement::Transposed;
pub(crate) use table::Rooted;

use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::error::{Error, Result};
use crate::ops::OpError;
use quantal_ir::attrs::AttrError;
use quantal_ir::{NodeId, Op, QuantClass};

/// What a rule did.
pub(crate) enum Lowered {
    /// The node has its steps and its status, and so has every node that went into them.
    Done,
    /// Nothing was done; the node runs in float.
    Refused(Reason),
}

/// Why a rule stopped: with a reason to go on in float, or because nothing can go on.
pub(crate) enum Stop {
    Refused(Reason),
    Failed(Error),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a rule gives. A rule that refuses has emitted nothing.
pub(crate) type Rule<T> = std::result::Result<T, Stop>;

/// Lowers one node to integer steps.
pub(crate) fn integer(l: &mut Lowering<'_>, id: NodeId) -> Result<Lowered> {
    let rule = match l.graph.node(id).op {
        Op::Conv | Op::ConvTranspose => weighted::convolution(l, id),
        Op::Gemm | Op::MatMul => weighted::product(l, id),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Pow => elementwise::lower(l, id),
        Op::AveragePool | Op::GlobalAveragePool | Op::ReduceMean => pool::lower(l, id),
        Op::MaxPool => pool::maximum(l, id),
        Op::Softmax => softmax::lower(l, id),
        Op::PRelu => prelu::lower(l, id),
        Op::MatMulInteger => dynamic::lower(l, id),
        Op::LayerNormalization | Op::RmsNormalization | Op::SimplifiedLayerNormalization => norm::lower(l, id),
        Op::Clip if codes::is_of_codes(l, id) => codes::clip(l, id),
        op => match op.quant_class() {
            QuantClass::Table => table::lower(l, id),
            QuantClass::SameScale => movement::lower(l, id),
            QuantClass::Weighted | QuantClass::Integer | QuantClass::Quant | QuantClass::Shape | QuantClass::Float => {
                Err(codes::refusal(l, id).into())
            }
        },
    };
    // A node that ends in no codes may begin a region that does; why it failed alone says more than why that did.
    let rule = match rule {
        Err(Stop::Refused(reason)) if region::may_begin(&reason) => {
            region::lower(l, id).map_err(|stop| if let Stop::Refused(_) = stop { reason.into() } else { stop })
        }
        other => other,
    };
    match rule {
        Ok(()) => Ok(Lowered::Done),
        Err(Stop::Refused(reason)) => Ok(Lowered::Refused(reason)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// An attribute that cannot be read ends the compilation: in float it cannot be read either.
fn attr<T>(l: &Lowering<'_>, value: std::result::Result<T, AttrError>) -> Rule<T> {
    value.map_err(|e| Stop::Failed(l.error(OpError::Attr(e))))
}

/// A step that could not be prepared.
fn prepared<T>(l: &Lowering<'_>, value: std::result::Result<T, OpError>) -> Rule<T> {
    value.map_err(|e| Stop::Failed(l.error(e)))
}
