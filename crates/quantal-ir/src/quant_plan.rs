//! The side table of decisions: which value is held in which integers, and which node stays in float.

use crate::graph::{NodeId, ValueId};
use quantal_tensor::{QParams, Scheme};
use std::collections::{BTreeMap, BTreeSet};

/// Every decision about one graph. [`crate::qdq::insert_qdq`] writes it into the graph; nothing else reads it there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantPlan {
    /// How each quantized value is held. Biases are not listed: their scale is the product of input and weight scale.
    pub encodings: BTreeMap<ValueId, Encoding>,
    /// Nodes that could run in integers but are left in float, and why.
    pub fallback: BTreeMap<NodeId, String>,
    /// Graph outputs with an encoding that no integer node makes: they leave unrounded, the encoding is for their readers.
    pub float_outputs: BTreeSet<ValueId>,
    /// Products by weights whose data are quantized row by row while running.
    pub dynamic: BTreeSet<NodeId>,
}

/// How one value is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoding {
    /// What was chosen.
    pub scheme: Scheme,
    /// The numbers.
    pub params: Params,
    /// Who decided, on what evidence, in words: for the report.
    pub why: String,
}

/// Numbers of an encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Params {
    /// Not yet known: calibration sets them.
    Unset,
    /// Fixed.
    Static(QParams),
}

impl Encoding {
    /// An encoding whose numbers are still to come.
    pub fn unset(scheme: Scheme, why: impl Into<String>) -> Self {
        Self { scheme, params: Params::Unset, why: why.into() }
    }

    /// The numbers, if known.
    pub fn qparams(&self) -> Option<&QParams> {
        match &self.params {
            Params::Unset => None,
            Params::Static(p) => Some(p),
        }
    }
}
