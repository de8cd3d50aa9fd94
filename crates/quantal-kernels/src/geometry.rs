//! The shape of a two-dimensional convolution or pooling, shared by the integer and the float kernels.

/// A window sliding over a channels-last image: `[batch, h, w, c_in]` in, `[batch, h_out, w_out, c_out]` out.
///
/// Pairs are in the order (vertical, horizontal). A one-dimensional convolution has `h = kernel[0] = 1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConvGeometry {
    /// Images.
    pub batch: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels, all groups together.
    pub c_in: usize,
    /// Output channels, all groups together.
    pub c_out: usize,
    /// Taps.
    pub kernel: [usize; 2],
    /// Distance between two windows, in input pixels.
    pub stride: [usize; 2],
    /// Distance between two taps, in input pixels.
    pub dilation: [usize; 2],
    /// Padding as ONNX orders it: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Groups: each sees `c_in / groups` input channels and makes `c_out / groups` output channels.
    pub groups: usize,
    /// Output rows.
    pub h_out: usize,
    /// Output columns.
    pub w_out: usize,
}

/// How many windows fit along one axis: `floor((size + pads − dilation·(kernel − 1) − 1) / stride) + 1`.
///
/// `None` when a parameter is zero, the window does not fit once, or a number overflows.
pub fn out_size(
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    pad_begin: usize,
    pad_end: usize,
) -> Option<usize> {
    if kernel == 0 || stride == 0 || dilation == 0 {
        return None;
    }
    let padded = size.checked_add(pad_begin)?.checked_add(pad_end)?;
    let reach = dilation.checked_mul(kernel - 1)?.checked_add(1)?;
    Some(padded.checked_sub(reach)? / stride + 1)
}

impl ConvGeometry {
    /// The geometry with `h_out` and `w_out` computed (rounding down), or `None` where [`Self::valid`] would not hold.
    pub fn new(
        [batch, h, w, c_in]: [usize; 4],
        c_out: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        pads: [usize; 4],
        groups: usize,
    ) -> Option<Self> {
        let h_out = out_size(h, kernel[0], stride[0], dilation[0], pads[0], pads[2])?;
        let w_out = out_size(w, kernel[1], stride[1], dilation[1], pads[1], pads[3])?;
        let g = Self { batch, h, w, c_in, c_out, kernel, stride, dilation, pads, groups, h_out, w_out };
        g.valid().then_some(g)
    }

    /// Whether kernels may rely on it: no zero where one divides, groups divide the channels, the last window starts
    /// within the padded image (rounded up output sizes may hang over its end), and every length and coordinate fits
    /// in an `isize`, also times the channels.
    pub fn valid(&self) -> bool {
        let axis =
            |size: usize, kernel: usize, stride: usize, dilation: usize, begin: usize, end: usize, out: usize| {
                let fits = || {
                    let padded = size.checked_add(begin)?.checked_add(end)?;
                    let last = out.checked_sub(1)?.checked_mul(stride)?;
                    let reach = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
                    let end = last.checked_add(reach)?;
                    let bound = isize::MAX as usize;
                    Some(last < padded && end <= bound && padded <= bound)
                };
                stride > 0 && dilation > 0 && (out == 0 || fits() == Some(true))
            };
        let fits = |len: Option<usize>| len.is_some_and(|len| len <= isize::MAX as usize / 8);
        self.groups > 0
            && self.c_in.is_multiple_of(self.groups)
            && self.c_out.is_multiple_of(self.groups)
            && axis(self.h, self.kernel[0], self.stride[0], self.dilation[0], self.pads[0], self.pads[2], self.h_out)
            && axis(self.w, self.kernel[1], self.stride[1], self.dilation[1], self.pads[1], self.pads[3], self.w_out)
            && fits(self.checked_input_len())
            && fits(self.checked_output_len())
            && fits(self.checked_weight_len())
    }

    /// Elements of the input, `None` on overflow.
    pub fn checked_input_len(&self) -> Option<usize> {
        product(&[self.batch, self.h, self.w, self.c_in])
    }

    /// Elements of the output, `None` on overflow.
    pub fn checked_output_len(&self) -> Option<usize> {
        product(&[self.batch, self.h_out, self.w_out, self.c_out])
    }

    /// Elements of the weight, `None` on overflow (or without groups).
    pub fn checked_weight_len(&self) -> Option<usize> {
        product(&[self.kernel[0], self.kernel[1], self.c_in.checked_div(self.groups)?, self.c_out])
    }

    /// Multiplications per output element: taps times the input channels of a group.
    pub fn k(&self) -> usize {
        self.kernel[0] * self.kernel[1] * (self.c_in / self.groups)
    }

    /// Output pixels, all images together.
    pub fn pixels_out(&self) -> usize {
        self.batch * self.h_out * self.w_out
    }

    /// Whether each group has one input channel: a depthwise convolution with multiplier `c_out / c_in`.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.c_in && self.groups > 1
    }

    /// Whether the output is a plain matrix product of the input as it lies: 1×1, stride 1, no padding, one group.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pads == [0; 4] && self.groups == 1
    }
}

fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |p, &s| p.checked_mul(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_onnx_formula() {
        assert_eq!(out_size(224, 7, 2, 1, 3, 3), Some(112));
        assert_eq!(out_size(5, 3, 1, 2, 0, 0), Some(1));
        assert_eq!(out_size(4, 3, 1, 2, 0, 0), None);
        assert_eq!(out_size(usize::MAX, 1, 1, 1, 1, 0), None);
        assert_eq!(out_size(3, 0, 1, 1, 0, 0), None);
    }

    #[test]
    fn invalid_geometries_are_refused() {
        let new =
            |c_in, c_out, groups| ConvGeometry::new([1, 4, 4, c_in], c_out, [3, 3], [1, 1], [1, 1], [1; 4], groups);
        let good = new(4, 6, 2).expect("a plain convolution");
        assert_eq!((good.h_out, good.w_out, good.k()), (4, 4, 18));
        assert_eq!(new(4, 6, 0), None);
        assert_eq!(new(4, 6, 4), None);
        assert_eq!(new(usize::MAX / 8, 8, 1), None);
        assert!(!ConvGeometry { h_out: 8, ..good }.valid());
        assert!(ConvGeometry { h_out: 6, ..good }.valid());
    }
}
