//! Depthwise convolutions of 8-bit codes, channels-last: each output channel sees its own input channel.
//!
//! Lanes run across channels. The usual ones (no dilation, stride 1 or 2, weights of 8 bits) go in strips: lines are
//! interleaved once so that a dot product takes several taps of a channel, and codes are rounded in registers. All
//! others take taps in pairs of i16. Depthwise with more than one output per channel is a grouped
//! [`crate::conv`].

mod general;
mod rows;
mod strips;
#[cfg(test)]
mod tests;
mod tile;

use crate::conv::{check_same, check_size, check_weights};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{Epilogue, RawEpilogue, Residual};
use crate::{ConvGeometry, Isa, Threads};
use quantal_tensor::bytes::Claim;
use strips::{StripCall, Strips};

/// Weights of a depthwise convolution.
pub struct PackedDwConv {
    isa: Isa,
    geometry: ConvGeometry,
    /// Σ of a channel's weights.
    sums: Vec<i32>,
    strips: Option<Strips>,
    general: general::Pairs,
    _claim: Claim,
}

impl PackedDwConv {
    /// Packs `[c, 1, kh, kw]` weights, two's complement if `signed`, of zero point `zero_points`: none (0), one, or one
    /// for each channel.
    ///
    /// # Errors
    /// If the shape is not depthwise with one output for each channel, or a slice is too short.
    pub fn pack(
        isa: Isa,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
        zero_points: &[i32],
    ) -> Result<Self, KernelError> {
        check_weights(geometry, weights.len())?;
        let &ConvGeometry { c_in: c, kernel: [kh, kw], .. } = geometry;
        if geometry.groups != c || geometry.c_out != c {
            return Err(KernelError::Geometry("not a depthwise convolution with one output for each channel"));
        }
        crate::gemm::check_zero_points(zero_points, c)?;
        let count = kh * kw;
        // Taps in pairs of i16.
        let bytes = c.saturating_mul(count + 1).saturating_mul(2);
        let claim = Claim::new(bytes).map_err(|_| KernelError::OutOfMemory { bytes })?;
        if count > crate::pack::MAX_K_UNSIGNED {
            return Err(KernelError::TooDeep { k: count, most: crate::pack::MAX_K_UNSIGNED });
        }
        let weight = |channel: usize, tap: usize| {
            let byte = weights[channel * count + tap];
            let zero_point = match zero_points {
                [] => 0,
                [one] => *one,
                many => many[channel],
            };
            if signed { i32::from(byte as i8) - zero_point } else { i32::from(byte) - zero_point }
        };
        Ok(Self {
            isa,
            geometry: *geometry,
            sums: (0..c).map(|channel| (0..count).map(|tap| weight(channel, tap)).sum()).collect(),
            strips: Strips::pack(isa, geometry, weight),
            general: general::Pairs::pack(geometry, weight),
            _claim: claim,
        })
    }

    /// The geometry that it was packed for.
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether its best kernel also serves an output whose rows are further apart than its channels.
    pub fn writes_rows_apart(&self) -> bool {
        self.strips.as_ref().is_none_or(Strips::writes_rows_apart)
    }

    /// The kernel's name, for coverage and profiles.
    pub fn kernel(&self) -> &'static str {
        self.strips.as_ref().map_or("dwconv_u8s8u8_general", Strips::name)
    }
}

/// One depthwise convolution.
pub struct DwConvCall<'a> {
    /// `[batch, h, w, c]` codes as bytes.
    pub x: &'a [u8],
    /// Whether they are s8 rather than u8.
    pub x_signed: bool,
    /// Their zero point, in their own signedness.
    pub x_zero_point: i32,
    /// The sizes of the images, and all else as the weights were packed for.
    pub geometry: &'a ConvGeometry,
    /// The weights.
    pub weights: &'a PackedDwConv,
    /// What becomes of each sum: an output of `batch · h_out · w_out` rows and `c` columns.
    pub epilogue: Epilogue<'a>,
}

/// Computes one depthwise convolution.
///
/// # Errors
/// If a slice is shorter than the sizes say, a zero point or range of codes does not fit 8 bits, or a residual lies in the
/// output.
pub fn dwconv(call: DwConvCall, threads: &Threads) -> Result<(), KernelError> {
    let DwConvCall { x, x_signed, x_zero_point, geometry: g, weights, mut epilogue } = call;
    let c = g.c_in;
    check_same(&weights.geometry, g)?;
    let (elements, pixels) = check_size(g)?;
    check_length("the input", x.len(), elements)?;
    if let Some(strips) = &weights.strips {
        let zero = if x_signed { x_zero_point + 128 } else { x_zero_point };
        if let Some(end) = strips.end(&mut epilogue, pixels, zero, &weights.sums)? {
            let isa = weights.isa;
            if pixels > 0 && c > 0 {
                strips.compute(&StripCall { isa, x, x_signed, x_zero_point, g, sums: &weights.sums, end }, threads);
            }
            return Ok(());
        }
    }
    if let Epilogue::Codes { add: Some(Residual { codes: None, .. }), .. } = epilogue {
        // The last columns are ended twice.
        return Err(KernelError::Geometry("a depthwise convolution cannot write over its residual"));
    }
    let epilogue = RawEpilogue::new(epilogue, pixels, c)?;
    if pixels > 0 && c > 0 {
        general::compute(&general::Image { x, x_signed, x_zero_point, g, weights, epilogue: &epilogue }, threads);
    }
    Ok(())
}
