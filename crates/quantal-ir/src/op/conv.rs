//! Conv, ConvTranspose, ConvInteger and QLinearConv: the attributes of a convolution.

use crate::attrs::{AttrError, Attrs};

/// How padding is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoPad {
    /// By the `pads` attribute.
    Explicit,
    /// So that output = ceil(input / stride), the odd one at the end.
    SameUpper,
    /// The same, the odd one at the start.
    SameLower,
    /// None.
    Valid,
}

impl AutoPad {
    /// Reads `auto_pad`.
    pub fn of(attrs: &Attrs) -> Result<Self, AttrError> {
        match attrs.str_or("auto_pad", "NOTSET")? {
            "NOTSET" | "" => Ok(Self::Explicit),
            "SAME_UPPER" => Ok(Self::SameUpper),
            "SAME_LOWER" => Ok(Self::SameLower),
            "VALID" => Ok(Self::Valid),
            other => {
                Err(AttrError::Invalid { name: "auto_pad", problem: format!("is unknown: {}", other.escape_debug()) })
            }
        }
    }
}

/// The window of a convolution or pooling over `n` spatial axes. Lists left out in the file are filled with defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// Size along each axis, ≥ 1.
    pub kernel: Vec<usize>,
    /// Step along each axis, ≥ 1.
    pub strides: Vec<usize>,
    /// Distance between taps along each axis, ≥ 1.
    pub dilations: Vec<usize>,
    /// Padding before each axis, as given; see `auto_pad`.
    pub pads_begin: Vec<usize>,
    /// Padding after each axis.
    pub pads_end: Vec<usize>,
    /// How padding is chosen.
    pub auto_pad: AutoPad,
}

/// Larger than any dimension that a tensor can have here; keeps the products below it in range.
const MAX_EXTENT: i64 = i32::MAX as i64;

fn list(attrs: &Attrs, name: &'static str, n: usize, least: i64) -> Result<Option<Vec<usize>>, AttrError> {
    let Some(values) = attrs.ints(name)? else { return Ok(None) };
    if values.len() != n {
        return Err(AttrError::Invalid { name, problem: format!("has {} entries, must have {n}", values.len()) });
    }
    match values.iter().find(|&&v| v < least || v >= MAX_EXTENT) {
        Some(v) => {
            Err(AttrError::Invalid { name, problem: format!("holds {v}, must be at least {least} and below 2^31") })
        }
        None => Ok(Some(values.iter().map(|&v| v as usize).collect())),
    }
}

impl Window {
    /// Reads `kernel_shape`, `strides`, `dilations`, `pads` and `auto_pad`. `kernel` is the shape that the weights have,
    /// for convolutions; it must agree with `kernel_shape` where that is given.
    pub fn of(attrs: &Attrs, kernel: Option<&[usize]>) -> Result<Self, AttrError> {
        let given = attrs.ints("kernel_shape")?.map(<[i64]>::len);
        let n = kernel.map(<[usize]>::len).or(given).ok_or(AttrError::Missing("kernel_shape"))?;
        let shape = list(attrs, "kernel_shape", n, 1)?;
        let kernel = match (shape, kernel) {
            (Some(a), Some(b)) if a != b => {
                let problem = format!("is {a:?}, the weights have {b:?}");
                return Err(AttrError::Invalid { name: "kernel_shape", problem });
            }
            (Some(a), _) => a,
            (None, Some(b)) => b.to_vec(),
            (None, None) => return Err(AttrError::Missing("kernel_shape")),
        };
        let pads = list(attrs, "pads", 2 * n, 0)?.unwrap_or_else(|| vec![0; 2 * n]);
        Ok(Self {
            kernel,
            strides: list(attrs, "strides", n, 1)?.unwrap_or_else(|| vec![1; n]),
            dilations: list(attrs, "dilations", n, 1)?.unwrap_or_else(|| vec![1; n]),
            pads_begin: pads[..n].to_vec(),
            pads_end: pads[n..].to_vec(),
            auto_pad: AutoPad::of(attrs)?,
        })
    }

    /// Extent of the dilated kernel along axis `i`; `None` on overflow.
    pub fn extent(&self, i: usize) -> Option<usize> {
        (self.kernel[i].checked_sub(1)?).checked_mul(self.dilations[i])?.checked_add(1)
    }

    /// Padding (before, after) of axis `i` for an input of `size`, with `auto_pad` resolved; `None` on overflow.
    pub fn padding(&self, i: usize, size: usize) -> Option<(usize, usize)> {
        match self.auto_pad {
            AutoPad::Explicit => Some((self.pads_begin[i], self.pads_end[i])),
            AutoPad::Valid => Some((0, 0)),
            AutoPad::SameUpper | AutoPad::SameLower => {
                let steps = size.div_ceil(self.strides[i]).saturating_sub(1);
                let total = steps.checked_mul(self.strides[i])?.checked_add(self.extent(i)?)?.saturating_sub(size);
                let small = total / 2;
                let large = total - small;
                Some(if self.auto_pad == AutoPad::SameUpper { (small, large) } else { (large, small) })
            }
        }
    }

    /// Output size of axis `i` for an input of `size`; `None` if the kernel does not fit or a number overflows. With
    /// `ceil`, a last window that starts inside the input or the padding before it counts (pooling's `ceil_mode`).
    pub fn output_size(&self, i: usize, size: usize, ceil: bool) -> Option<usize> {
        let (before, after) = self.padding(i, size)?;
        let padded = size.checked_add(before)?.checked_add(after)?;
        let (extent, stride) = (self.extent(i)?, self.strides[i]);
        let Some(room) = padded.checked_sub(extent) else {
            // Rounded up, (padded − extent) / stride is 0 here: one window, which hangs over the end.
            return (ceil && extent - padded < stride && size.checked_add(before)? > 0).then_some(1);
        };
        let mut out = room / stride + 1;
        if ceil && room % stride != 0 && out.checked_mul(stride)? < size + before {
            out += 1;
        }
        Some(out)
    }
}

/// The attributes of a convolution.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConvAttrs {
    /// Its window.
    pub window: Window,
    /// Number of groups, ≥ 1.
    pub group: usize,
}

impl ConvAttrs {
    /// Reads them; `weight_shape` is `[C_out, C_in / group, k…]` (for a transposed convolution `[C_in, C_out / group, k…]`).
    pub fn of(attrs: &Attrs, weight_shape: &[usize]) -> Result<Self, AttrError> {
        let kernel = weight_shape.get(2..).unwrap_or_default();
        Ok(Self { window: Window::of(attrs, Some(kernel))?, group: group(attrs)? })
    }
}

fn group(attrs: &Attrs) -> Result<usize, AttrError> {
    let group = attrs.int_or("group", 1)?;
    if !(1..MAX_EXTENT).contains(&group) {
        return Err(AttrError::Invalid { name: "group", problem: format!("is {group}, must be at least 1") });
    }
    Ok(group as usize)
}

/// What a transposed convolution has besides: extra rows at the end, or the output's size outright.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConvTransposeAttrs {
    /// Window and groups.
    pub conv: ConvAttrs,
    /// Added to the end of each axis.
    pub output_padding: Vec<usize>,
    /// The output's spatial size, if given: pads follow from it.
    pub output_shape: Option<Vec<usize>>,
}

impl ConvTransposeAttrs {
    /// Reads them; `weight_shape` is `[C_in, C_out / group, k…]`.
    pub fn of(attrs: &Attrs, weight_shape: &[usize]) -> Result<Self, AttrError> {
        let conv = ConvAttrs::of(attrs, weight_shape)?;
        let n = conv.window.kernel.len();
        let output_padding = list(attrs, "output_padding", n, 0)?.unwrap_or_else(|| vec![0; n]);
        // Some exporters write the batch and channel sizes too; the spatial ones are last.
        let output_shape = match attrs.ints("output_shape")? {
            Some(s) if s.len() == n + 2 => {
                let tail = Attrs::new().with("output_shape", crate::Attr::Ints(s[2..].to_vec()));
                list(&tail, "output_shape", n, 1)?
            }
            _ => list(attrs, "output_shape", n, 1)?,
        };
        Ok(Self { conv, output_padding, output_shape })
    }

    /// (padding before, padding after, output size) of axis `i` for an input of `size`; `None` on overflow or if the
    /// padding takes away more than there is. Padding after may be negative: the output is then longer than the taps reach.
    pub fn axis(&self, i: usize, size: usize) -> Option<(i64, i64, usize)> {
        let w = &self.conv.window;
        let full = size.checked_sub(1)?.checked_mul(w.strides[i])?.checked_add(w.extent(i)?)?;
        let full = i64::try_from(full.checked_add(self.output_padding[i])?).ok()?;
        let wanted = match (&self.output_shape, w.auto_pad) {
            (Some(shape), _) => Some(shape[i]),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => Some(size.checked_mul(w.strides[i])?),
            (None, AutoPad::Explicit | AutoPad::Valid) => None,
        };
        let (before, after) = match wanted {
            Some(wanted) => {
                let total = full - i64::try_from(wanted).ok()?;
                // An output longer than the taps reach grows at its end, whatever the padding.
                let half = total.max(0) / 2;
                if w.auto_pad == AutoPad::SameUpper || total < 0 { (half, total - half) } else { (total - half, half) }
            }
            None if w.auto_pad == AutoPad::Valid => (0, 0),
            None => (w.pads_begin[i] as i64, w.pads_end[i] as i64),
        };
        let out = full.checked_sub(before)?.checked_sub(after)?;
        Some((before, after, usize::try_from(out).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;

    fn window(pads: &[i64], strides: &[i64], auto: &str) -> Window {
        let attrs = Attrs::new()
            .with("pads", Attr::Ints(pads.to_vec()))
            .with("strides", Attr::Ints(strides.to_vec()))
            .with("auto_pad", Attr::Str(auto.as_bytes().into()));
        Window::of(&attrs, Some(&[3, 3])).unwrap()
    }

    #[test]
    fn sizes_follow_the_onnx_formulas() {
        assert_eq!(window(&[1, 1, 1, 1], &[2, 2], "NOTSET").output_size(0, 224, false), Some(112));
        assert_eq!(window(&[0; 4], &[2, 2], "SAME_UPPER").padding(0, 224), Some((0, 1)));
        assert_eq!(window(&[0; 4], &[2, 2], "SAME_LOWER").padding(0, 224), Some((1, 0)));
        assert_eq!(window(&[0; 4], &[1, 1], "VALID").output_size(1, 2, false), None);
        // ceil_mode adds the window that floor would drop: (4 − 3) / 2 → 0 + 1, ceil → 2.
        assert_eq!(window(&[0; 4], &[2, 2], "NOTSET").output_size(0, 4, true), Some(2));
        // The only window hangs over the end: ceil((2 − 3) / 2) + 1 = 1; a step further, ceil((1 − 3) / 2) + 1 = 0.
        assert_eq!(window(&[0; 4], &[2, 2], "NOTSET").output_size(0, 2, true), Some(1));
        assert_eq!(window(&[0; 4], &[2, 2], "NOTSET").output_size(0, 1, true), None);
        assert_eq!(window(&[0; 4], &[2, 2], "NOTSET").output_size(0, 2, false), None);
    }

    #[test]
    fn bad_lists_are_named() {
        let attrs = Attrs::new().with("strides", Attr::Ints(vec![0, 1]));
        assert!(Window::of(&attrs, Some(&[3, 3])).unwrap_err().to_string().contains("strides"));
        let attrs = Attrs::new().with("pads", Attr::Ints(vec![1, 1]));
        assert!(Window::of(&attrs, Some(&[3, 3])).unwrap_err().to_string().contains("must have 4"));
    }
}
