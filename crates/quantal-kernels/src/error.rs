//! What can be refused before a kernel runs.

/// A shape or a parameter that the kernels cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The sum of so many products may not fit in 32 bits.
    #[error("a sum of {k} products does not surely fit in 32 bits, at most {most} do")]
    TooDeep {
        /// Products in one sum.
        k: usize,
        /// The most that surely fit.
        most: usize,
    },
    /// A transposed convolution whose output pixels fall into too many phases to pack weights for each.
    #[error("strides of a transposed convolution make {phases} phases, at most {most} are packed")]
    TooManyPhases {
        /// Output pixels that differ in the taps that reach them: the product of the strides.
        phases: usize,
        /// The most that are packed.
        most: usize,
    },
    /// A slice does not hold what its dimensions say.
    #[error("{what} holds {found} elements where {needed} are needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Elements that it holds.
        found: usize,
        /// Elements that the dimensions ask for.
        needed: usize,
    },
    /// A dimension, stride, dilation or number of groups that makes no convolution or window.
    #[error("{0}")]
    Geometry(&'static str),
    /// Memory for packed weights ran out.
    #[error("out of memory for {bytes} bytes of packed weights")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}

impl KernelError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::TooDeep { .. } => Some("split the sum, or keep this node in float"),
            Self::TooManyPhases { .. } => Some("keep this node in float"),
            Self::OutOfMemory { .. } => Some("give the process more memory, or quantize a smaller model"),
            Self::Length { .. } | Self::Geometry(_) => None,
        }
    }
}

/// `Ok` if `found` elements are at least `needed`.
pub(crate) fn check_length(what: &'static str, found: usize, needed: usize) -> Result<(), KernelError> {
    if found >= needed { Ok(()) } else { Err(KernelError::Length { what, found, needed }) }
}
