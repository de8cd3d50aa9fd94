//! What each node became: read off the compiled program, never predicted.

use quantal_ir::NodeId;
use std::fmt;
use std::sync::Arc;

/// What became of one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// It runs on integers.
    Integer {
        /// The kernel that runs it.
        kernel: &'static str,
    },
    /// Another node's step does its work.
    Fused {
        /// That node.
        into: NodeId,
    },
    /// Its result was computed while compiling, or nobody wants it.
    Folded,
    /// It moves bytes, works on shapes and conditions, or quantizes or dequantizes at the edge: no arithmetic on data.
    Moves,
    /// It runs in float.
    Float {
        /// Why not in integers.
        reason: Reason,
    },
    /// It cannot run at all. A compiled program has no such node; [`crate::survey`] tells of them.
    Refused {
        /// Why not, as the error says it.
        why: String,
    },
}

/// Why a node runs in float.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The program was compiled to simulate: everything runs in float.
    Simulated,
    /// A data input is float: no DequantizeLinear makes it.
    InputNotQuantized {
        /// The input's name.
        input: String,
    },
    /// The output is not quantized again, and the operator has no form that ends in float.
    OutputNotQuantized,
    /// The output is quantized in two ways, or wanted in float as well.
    OutputReadersDiffer,
    /// Weights are not constant, so that they cannot be packed.
    WeightNotConstant {
        /// The input's name.
        input: String,
    },
    /// Scale or zero point of this value are computed while running.
    DynamicScale {
        /// The value's name.
        value: String,
    },
    /// Scales do not lie along an axis that the kernels support.
    Granularity {
        /// The value's name.
        value: String,
    },
    /// Codes of this value are neither uint8 nor int8.
    CodeType {
        /// The value's name.
        value: String,
    },
    /// Input and output of an operator that only moves codes have different qparams.
    ScalesDiffer,
    /// A zero point or bias lies outside of what the accumulator holds.
    AccumulatorRange,
    /// The scales of what it reads and makes have a ratio that no float stands for.
    ScaleRange,
    /// A sum of so many products may leave the 32 bits of the accumulator.
    ProductTooLong {
        /// Number of products in a sum.
        k: usize,
    },
    /// These attributes have no integer form; the text says which.
    Attribute(String),
    /// The operator has no integer form.
    NoIntegerForm {
        /// The operator.
        op: String,
    },
    /// It lies inside a control-flow subgraph, which runs in float.
    ControlFlow,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simulated => f.write_str("compiled to simulate"),
            Self::InputNotQuantized { input } => write!(f, "input `{input}` is not quantized"),
            Self::OutputNotQuantized => f.write_str("the output is not quantized"),
            Self::OutputReadersDiffer => f.write_str("the output is quantized in two ways or also read in float"),
            Self::WeightNotConstant { input } => write!(f, "weight `{input}` is not constant"),
            Self::DynamicScale { value } => write!(f, "the scale of `{value}` is computed while running"),
            Self::Granularity { value } => write!(f, "the scales of `{value}` lie along an unsupported axis"),
            Self::CodeType { value } => write!(f, "`{value}` is neither uint8 nor int8"),
            Self::ScalesDiffer => f.write_str("input and output have different qparams"),
            Self::AccumulatorRange => f.write_str("the bias does not fit a 32-bit accumulator"),
            Self::ScaleRange => f.write_str("its scales have a ratio beyond the range of a float"),
            Self::ProductTooLong { k } => {
                write!(f, "the product is too long: a sum of {k} products of 8-bit values may overflow 32 bits")
            }
            Self::Attribute(text) => f.write_str(text),
            Self::NoIntegerForm { op } => write!(f, "{op} has no integer form"),
            Self::ControlFlow => f.write_str("inside a control-flow subgraph"),
        }
    }
}

/// One node of the graph and what it became.
#[derive(Clone, Debug)]
pub struct Row {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// Its operator.
    pub op: String,
    /// What it became.
    pub status: Status,
    /// Its multiply-accumulates for one sample; `None` where a shape is not known.
    pub macs: Option<u64>,
}

/// What every node became, in graph order.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// One row a node.
    pub rows: Vec<Row>,
}

impl Coverage {
    /// The row of a node.
    pub fn row(&self, node: NodeId) -> Option<&Row> {
        // In graphs as they are read, ids ascend.
        let place = self.rows.binary_search_by_key(&node, |r| r.node).ok();
        place.map(|i| &self.rows[i]).or_else(|| self.rows.iter().find(|r| r.node == node))
    }

    /// Number of nodes whose status satisfies `which`.
    pub fn count(&self, which: impl Fn(&Status) -> bool) -> usize {
        self.rows.iter().filter(|r| which(&r.status)).count()
    }

    /// The status of what does the work of a node: of the node that it went into, if it was fused.
    pub fn run_by<'a>(&'a self, row: &'a Row) -> &'a Status {
        match &row.status {
            Status::Fused { into } => self.row(*into).map_or(&row.status, |r| &r.status),
            own => own,
        }
    }

    /// The part of all multiply-accumulates that runs in integers, 0 to 1; `None` if there are none or shapes are not
    /// known. A fused node counts as the node it went into.
    pub fn integer_mac_share(&self) -> Option<f64> {
        let integer = |row: &Row| matches!(self.run_by(row), Status::Integer { .. });
        let (mut all, mut in_integers) = (0_u128, 0_u128);
        for row in &self.rows {
            let macs = u128::from(row.macs?);
            all += macs;
            if macs > 0 && integer(row) {
                in_integers += macs;
            }
        }
        (all > 0).then(|| in_integers as f64 / all as f64)
    }

    /// The nodes that cannot run, with the reason.
    pub fn refused(&self) -> impl Iterator<Item = (&Row, &str)> {
        self.rows.iter().filter_map(|r| if let Status::Refused { why } = &r.status { Some((r, &**why)) } else { None })
    }

    /// The nodes that run in float, with the reason.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&Row, &Reason)> {
        self.rows.iter().filter_map(|r| if let Status::Float { reason } = &r.status { Some((r, reason)) } else { None })
    }
}
