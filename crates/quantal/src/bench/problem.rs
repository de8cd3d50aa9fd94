//! The problems that kernels are timed on: how they are written, and what they are.

use quantal_kernels::ConvGeometry;
use quantal_kernels::pack::MAX_K_SIGNED;
use std::fmt;

/// One product or convolution of 8-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// `[m, k] · [k, n]`.
    Product {
        /// Rows of the result.
        m: usize,
        /// Columns of the result.
        n: usize,
        /// Depth of the sum.
        k: usize,
    },
    /// A convolution, padded by half its window on each side.
    Conv(ConvGeometry),
    /// A convolution with one filter for each channel, padded likewise.
    Depthwise(ConvGeometry),
}

/// Why a text is no [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; a shape is MxNxK, conv:HxWxC:OUT:KERNEL:STRIDE or dw:HxWxC:KERNEL:STRIDE")]
pub struct ShapeError(String);

/// No side of a problem is longer.
const LONGEST: usize = 65_536;
/// No tensor of a problem has more elements.
const MOST_ELEMENTS: usize = 1 << 26;

impl Problem {
    /// Reads `MxNxK`, `conv:[Nx]HxWxC:OUT:KERNEL[:STRIDE][:gGROUPS]` or `dw:[Nx]HxWxC:KERNEL[:STRIDE]`, as profiles print
    /// them. KERNEL and STRIDE are one number, or `HxW`.
    ///
    /// # Errors
    /// If the text has another form, or the sizes make no convolution or one too large to time.
    pub fn parse(text: &str) -> Result<Self, ShapeError> {
        let mut parts: Vec<&str> = text.split(':').collect();
        let problem = match parts.remove(0) {
            "conv" => {
                let groups = match parts.last().and_then(|p| p.strip_prefix('g')) {
                    Some(count) => {
                        parts.pop();
                        size(count)?
                    }
                    None => 1,
                };
                let (image, out, kernel, stride) = match parts[..] {
                    [image, out, kernel] => (image, out, kernel, "1"),
                    [image, out, kernel, stride] => (image, out, kernel, stride),
                    _ => return Err(wrong("`conv:` wants an image, channels out and a kernel")),
                };
                Self::Conv(window(image, Some(size(out)?), kernel, stride, groups)?)
            }
            "dw" => {
                let (image, kernel, stride) = match parts[..] {
                    [image, kernel] => (image, kernel, "1"),
                    [image, kernel, stride] => (image, kernel, stride),
                    _ => return Err(wrong("`dw:` wants an image and a kernel")),
                };
                Self::Depthwise(window(image, None, kernel, stride, 0)?)
            }
            product if parts.is_empty() => match sizes(product)?[..] {
                [m, n, k] => Self::Product { m, n, k },
                _ => return Err(wrong("a product has three sizes")),
            },
            _ => return Err(wrong("only `conv:` and `dw:` come before a colon")),
        };
        let (depth, elements) = match problem {
            Self::Product { m, n, k } => (k, [m * k, k * n, m * n].into_iter().max()),
            Self::Conv(g) | Self::Depthwise(g) => {
                let lengths = [g.checked_input_len(), g.checked_weight_len(), g.checked_output_len()];
                (g.k(), lengths.into_iter().map(|n| n.unwrap_or(usize::MAX)).max())
            }
        };
        if depth > MAX_K_SIGNED {
            return Err(wrong(&format!("a sum of {depth} products does not fit 32 bits, at most {MAX_K_SIGNED} do")));
        }
        if elements.is_none_or(|n| n > MOST_ELEMENTS) {
            return Err(wrong("that is too large to time"));
        }
        Ok(problem)
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        match self {
            Self::Product { m, n, k } => (m * n * k) as u64,
            Self::Conv(g) | Self::Depthwise(g) => (g.pixels_out() * g.c_out * g.k()) as u64,
        }
    }
}

fn wrong(what: &str) -> ShapeError {
    ShapeError(what.to_owned())
}

fn size(text: &str) -> Result<usize, ShapeError> {
    let size = text.parse().ok().filter(|n| (1..=LONGEST).contains(n));
    size.ok_or_else(|| wrong(&format!("`{}` is no whole number from 1 to {LONGEST}", text.escape_debug())))
}

fn sizes(text: &str) -> Result<Vec<usize>, ShapeError> {
    text.split('x').map(size).collect()
}

/// A window over `image`, padded by half of it; without `out` there is one filter for each channel.
fn window(
    image: &str,
    out: Option<usize>,
    kernel: &str,
    stride: &str,
    groups: usize,
) -> Result<ConvGeometry, ShapeError> {
    let image = match sizes(image)?[..] {
        [h, w, c] => [1, h, w, c],
        [n, h, w, c] => [n, h, w, c],
        _ => return Err(wrong("an image is HxWxC, or NxHxWxC for a batch")),
    };
    let two = |text: &str| match sizes(text)?[..] {
        [both] => Ok([both, both]),
        [h, w] => Ok([h, w]),
        _ => Err(wrong("a kernel or stride is one number, or HxW")),
    };
    let (kernel, stride, channels) = (two(kernel)?, two(stride)?, image[3]);
    let [top, left] = kernel.map(|k| k / 2);
    let groups = if out.is_none() { channels } else { groups };
    let out = out.unwrap_or(channels);
    let geometry = ConvGeometry::new(image, out, kernel, stride, [1, 1], [top, left, top, left], groups);
    geometry.ok_or_else(|| wrong("these sizes make no convolution: groups must divide the channels"))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = |[h, w]: [usize; 2]| if h == w { h.to_string() } else { format!("{h}x{w}") };
        let image = |g: &ConvGeometry| {
            let batch = if g.batch == 1 { String::new() } else { format!("{}x", g.batch) };
            format!("{batch}{}x{}x{}", g.h, g.w, g.c_in)
        };
        match self {
            Self::Product { m, n, k } => write!(f, "{m}x{n}x{k}"),
            Self::Conv(g) => {
                write!(f, "conv:{}:{}:{}:{}", image(g), g.c_out, two(g.kernel), two(g.stride))?;
                if g.groups > 1 { write!(f, ":g{}", g.groups) } else { Ok(()) }
            }
            Self::Depthwise(g) => write!(f, "dw:{}:{}:{}", image(g), two(g.kernel), two(g.stride)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_printed() {
        for (text, macs) in [
            ("512x256x64", 512 * 256 * 64),
            ("conv:56x56x64:128:3:2", 28 * 28 * 128 * 9 * 64),
            ("conv:8x7x7x32:64:1x3:1:g4", 8 * 49 * 64 * 3 * 8),
            ("dw:112x112x32:5:2", 56 * 56 * 32 * 25),
        ] {
            let problem = Problem::parse(text).expect(text);
            assert_eq!((problem.to_string(), problem.macs()), (text.to_owned(), macs));
        }
        // The stride may be left out.
        assert_eq!(Problem::parse("conv:9x9x8:4:3"), Problem::parse("conv:9x9x8:4:3:1"));
        assert_eq!(Problem::parse("dw:9x9x8:3"), Problem::parse("dw:9x9x8:3:1"));
    }

    #[test]
    fn a_wrong_shape_is_told_what_is_wrong_and_what_a_shape_is() {
        for (text, what) in [
            ("", "`` is no whole number"),
            ("512", "a product has three sizes"),
            ("512x512x", "`` is no whole number"),
            ("0x1x1", "`0` is no whole number from 1 to 65536"),
            ("-1x1x1", "`-1` is no"),
            ("1x1x99999999999999999999", "is no whole number"),
            ("1x1x65794", "`65794` is no whole number"),
            ("65536x65536x1", "too large to time"),
            ("conv:56x56x64", "`conv:` wants"),
            ("conv:56x56:64:3", "an image is"),
            ("conv:56x56x64:64:3:1:g5", "groups must divide"),
            ("conv:56x56x64:64:3x3x3:1", "a kernel or stride"),
            ("conv:300x300x3000:3:200:1", "does not fit 32 bits"),
            ("dw:56x56x64", "`dw:` wants"),
            ("pool:1x1x1:2", "only `conv:` and `dw:`"),
        ] {
            let message = Problem::parse(text).expect_err(text).to_string();
            assert!(message.contains(what) && message.contains("a shape is MxNxK"), "{text}: {message}");
        }
    }
}
