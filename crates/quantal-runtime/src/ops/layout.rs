//! Operators that move elements and compute nothing: written once for each element size, not for each type.

mod joining;
mod padding;
mod viewing;

use super::{Context, Inputs, OpError, optional, required};
use padding::PadMode;
use quantal_ir::attrs::AttrError;
use quantal_ir::{Node, Op};
use quantal_tensor::Tensor;

/// An operator whose outputs hold elements of its inputs in other places.
#[derive(Debug, Clone)]
pub struct Movement(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Concat { axis: i64 },
    DepthToSpace { block: usize, column_first: bool },
    SpaceToDepth { block: usize, column_first: bool },
    Expand,
    Pad(PadMode),
    Slice,
    Split { axis: i64, outputs: usize, uneven: bool },
    Tile,
    Transpose { perm: Option<Vec<i64>> },
    Trilu { upper: bool },
}

impl Movement {
    /// Reads the attributes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let choice = |name: &'static str, value: &str, among: &str| -> OpError {
            let problem = format!("is \"{}\", must be one of {among}", value.escape_debug());
            AttrError::Invalid { name, problem }.into()
        };
        let block = || -> Result<usize, OpError> {
            let size = attrs.int("blocksize")?.ok_or(AttrError::Missing("blocksize"))?;
            let problem = || format!("is {size}, must be at least 1 and small");
            let size = u32::try_from(size).ok().filter(|&b| (1..1 << 16).contains(&b));
            size.map(|b| b as usize).ok_or_else(|| AttrError::Invalid { name: "blocksize", problem: problem() }.into())
        };
        let column_first = || match attrs.str_or("mode", "DCR")? {
            "DCR" => Ok(false),
            "CRD" => Ok(true),
            other => Err(choice("mode", other, "DCR, CRD")),
        };
        Ok(Self(match node.op {
            Op::Concat => Kind::Concat { axis: attrs.int("axis")?.ok_or(AttrError::Missing("axis"))? },
            Op::DepthToSpace => Kind::DepthToSpace { block: block()?, column_first: column_first()? },
            Op::SpaceToDepth => Kind::SpaceToDepth { block: block()?, column_first: column_first()? },
            Op::Expand => Kind::Expand,
            Op::Pad => Kind::Pad(match attrs.str_or("mode", "constant")? {
                "constant" => PadMode::Constant,
                "reflect" => PadMode::Reflect,
                "edge" => PadMode::Edge,
                "wrap" => PadMode::Wrap,
                other => return Err(choice("mode", other, "constant, reflect, edge, wrap")),
            }),
            Op::Slice => Kind::Slice,
            Op::Split => {
                let outputs = node.outputs.len();
                let asked = attrs.int("num_outputs")?;
                if asked.is_some_and(|n| n != outputs as i64) {
                    let problem = format!("is {}, the node has {outputs} outputs", asked.unwrap_or_default());
                    return Err(AttrError::Invalid { name: "num_outputs", problem }.into());
                }
                Kind::Split { axis: attrs.int_or("axis", 0)?, outputs, uneven: asked.is_some() }
            }
            Op::Tile => Kind::Tile,
            Op::Transpose => Kind::Transpose { perm: attrs.ints("perm")?.map(<[i64]>::to_vec) },
            Op::Trilu => Kind::Trilu { upper: attrs.flag("upper", true)? },
            other => return Err(OpError::Unsupported(format!("{} as a move of elements", other.name()))),
        }))
    }

    /// Applies it.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let out = match &self.0 {
            Kind::Concat { axis } => {
                let all = (0..inputs.len()).map(|i| required(inputs, i)).collect::<Result<Vec<_>, _>>()?;
                joining::concat(&all, *axis)?
            }
            Kind::Split { axis, outputs, uneven } => {
                return joining::split(x, optional(inputs, 1), *axis, *outputs, *uneven);
            }
            Kind::DepthToSpace { block, column_first } => viewing::depth_to_space(x, *block, *column_first)?,
            Kind::SpaceToDepth { block, column_first } => viewing::space_to_depth(x, *block, *column_first)?,
            Kind::Expand => viewing::expand(x, required(inputs, 1)?)?,
            Kind::Slice => viewing::slice(x, inputs)?,
            Kind::Tile => viewing::tile(x, required(inputs, 1)?)?,
            Kind::Transpose { perm } => viewing::transpose(x, perm.as_deref())?,
            Kind::Trilu { upper } => viewing::trilu(x, optional(inputs, 1), *upper)?,
            Kind::Pad(mode) => padding::pad(x, required(inputs, 1)?, optional(inputs, 2), optional(inputs, 3), *mode)?,
        };
        Ok(vec![out])
    }
}

#[cfg(test)]
mod tests;
