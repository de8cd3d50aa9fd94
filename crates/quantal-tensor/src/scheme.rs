//! How a tensor is quantized: the scheme (what was chosen) and the qparams (the numbers that follow).

use crate::arith::{self, Affine};
use crate::dtype::DType;

/// The integer type that codes are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Storage {
    /// Unsigned, 0 … 255.
    U8,
    /// Signed, −128 … 127.
    S8,
}

impl Storage {
    /// The tensor type of the codes.
    pub fn dtype(self) -> DType {
        match self {
            Self::U8 => DType::U8,
            Self::S8 => DType::I8,
        }
    }

    /// Smallest and largest code that the type can hold.
    pub fn full_range(self) -> (i32, i32) {
        match self {
            Self::U8 => (0, 255),
            Self::S8 => (-128, 127),
        }
    }
}

/// Which elements share one scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granularity {
    /// All of them.
    PerTensor,
    /// Those with the same index along `axis`.
    PerChannel {
        /// The channel axis.
        axis: usize,
    },
    /// Those of one row of the last axis; parameters are computed while running.
    PerToken,
    /// Runs of `size` elements along `axis`.
    PerBlock {
        /// The axis that is cut into blocks.
        axis: usize,
        /// Elements of one block.
        size: usize,
    },
}

/// What was chosen for one tensor. Narrow and 7-bit ranges are plain numbers: −127…127, −64…63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// The type of the codes.
    pub storage: Storage,
    /// Smallest code in use.
    pub qmin: i32,
    /// Largest code in use.
    pub qmax: i32,
    /// Whether the zero point is fixed to the middle code.
    pub symmetric: bool,
    /// Who shares a scale.
    pub granularity: Granularity,
}

impl Scheme {
    /// The default of weights: signed, symmetric, −127…127, one scale a channel of `axis`.
    pub fn weight_per_channel(axis: usize) -> Self {
        Self { granularity: Granularity::PerChannel { axis }, ..Self::weight_per_tensor() }
    }

    /// Signed, symmetric, −127…127, one scale.
    pub fn weight_per_tensor() -> Self {
        Self { storage: Storage::S8, qmin: -127, qmax: 127, symmetric: true, granularity: Granularity::PerTensor }
    }

    /// The default of activations: unsigned, asymmetric, 0…255, one scale.
    pub fn activation() -> Self {
        Self { storage: Storage::U8, qmin: 0, qmax: 255, symmetric: false, granularity: Granularity::PerTensor }
    }

    /// Equation (7) of [`arith`] under this scheme; `None` if an end of the range is not finite.
    pub fn params_of_range(&self, min: f32, max: f32) -> Option<(f32, i32)> {
        arith::range_to_qparams(min, max, self.qmin, self.qmax, self.symmetric)
    }
}

/// The numbers of a quantized tensor: one entry, or one for each channel or block.
#[derive(Clone, Debug, PartialEq)]
pub struct QParams {
    /// Step sizes, each finite and > 0.
    pub scale: Vec<f32>,
    /// Codes of real 0, as many as scales.
    pub zero_point: Vec<i32>,
}

impl QParams {
    /// Parameters with one scale for the whole tensor.
    pub fn per_tensor(scale: f32, zero_point: i32) -> Self {
        Self { scale: vec![scale], zero_point: vec![zero_point] }
    }

    /// Scale, zero point and code range of channel `c` (the only entry serves every channel).
    pub fn affine(&self, c: usize, qmin: i32, qmax: i32) -> Affine {
        let i = if self.scale.len() == 1 { 0 } else { c };
        Affine { scale: self.scale[i], zero_point: self.zero_point[i], qmin, qmax }
    }
}
