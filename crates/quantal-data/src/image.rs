//! From an image file, or from plain pixels, to the model's input.

use crate::error::{Error, one_line, shown};
use crate::files;
use crate::fit::{InputSpec, batch_of_one, cast};
use crate::jpeg;
use crate::preprocess::{Channels, Crop, Layout, Preprocess};
use crate::resize;
use image::{DynamicImage, ImageDecoder, ImageReader};
use quantal_tensor::{Element, Tensor};
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The largest image that is decoded.
const MAX_PIXELS: u64 = 100_000_000;
/// The most bytes that a decoded image may take, in the file's own pixel format.
const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// Images above this many bytes are decoded one at a time, so that threads times size stays bounded.
const LARGE_IMAGE_BYTES: u64 = 32 << 20;
static LARGE_IMAGE: Mutex<()> = Mutex::new(());

/// 8-bit pixels `[h, w, channels]`, with 1 (gray) or 3 (RGB) channels.
pub(crate) struct Pixels {
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) channels: usize,
    pub(crate) data: Vec<u8>,
}

/// A preprocessing settled against one input of a model: nothing is left to decide for an image but its own size.
pub(crate) struct Plan {
    preprocess: Preprocess,
    input: InputSpec,
    crop: Option<[usize; 2]>,
    layout: Layout,
}

impl Plan {
    pub(crate) fn new(preprocess: &Preprocess, inputs: &[InputSpec]) -> Result<Self, Error> {
        preprocess.check()?;
        let [input] = inputs else {
            let message = format!("it has {} inputs, and an image feeds one", inputs.len());
            return Err(Error::Inputs { kind: "a folder of images", message });
        };
        batch_of_one(input)?;
        let channels = preprocess.channel_count();
        // Inputs that are not [N, C, H, W] (flattened ones, say) take the values in channels-first order.
        let (layout, model_size) = if let &[_, a, b, c] = input.shape.as_slice() {
            let layout = preprocess.layout.unwrap_or(match (a, c) {
                (Some(1 | 3), _) => Layout::Nchw,
                (_, Some(1 | 3)) => Layout::Nhwc,
                _ => Layout::Nchw,
            });
            let (depth, h, w) = match layout {
                Layout::Nchw => (a, b, c),
                Layout::Nhwc => (c, a, b),
            };
            if depth.is_some_and(|d| d != channels) {
                let name = one_line(&input.name);
                let message = format!("input `{name}` of shape {} has no {channels} channels", input.shape_text());
                return Err(Error::preprocess("`channels`", message));
            }
            (layout, h.zip(w).map(|(h, w)| [h, w]))
        } else {
            (preprocess.layout.unwrap_or(Layout::Nchw), None)
        };
        let crop = match preprocess.crop {
            Crop::None => None,
            Crop::Size(size) => Some(size),
            Crop::Model if model_size.is_some() || input.shape.len() != 4 => model_size,
            Crop::Model => {
                let text = input.shape_text();
                let message = format!("the model leaves the size free ({text}): give one, as in `imagenet:224`");
                return Err(Error::preprocess("`crop`", message));
            }
        };
        let plain = preprocess.scale == 1.0
            && preprocess.mean.iter().all(|&m| m == 0.0)
            && preprocess.std.iter().all(|&s| s == 1.0);
        if !input.dtype.is_float() && !plain {
            let message =
                format!("input `{}` is {}, the preprocessing gives fractions", one_line(&input.name), input.dtype);
            return Err(Error::preprocess("`scale`", message));
        }
        Ok(Self { preprocess: preprocess.clone(), input: input.clone(), crop, layout })
    }

    /// Decodes the file and makes the input of it.
    pub(crate) fn load(&self, path: &Path) -> Result<Tensor, Error> {
        let name = shown(path);
        self.tensor(&name, decode(path)?)
    }

    /// Height and width of an image of that size once it is resized, and of what is kept of it.
    pub(crate) fn cropped(&self, [h, w]: [usize; 2]) -> ([usize; 2], [usize; 2]) {
        let (h, w) = self.preprocess.resized(h, w, self.crop).unwrap_or((h, w));
        ([h, w], self.crop.unwrap_or([h, w]))
    }

    /// The input from pixels, with a batch dimension of 1.
    pub(crate) fn tensor(&self, name: &str, mut pixels: Pixels) -> Result<Tensor, Error> {
        let (to, [h, w]) = self.cropped([pixels.h, pixels.w]);
        if to != [pixels.h, pixels.w] {
            let data = resize::bilinear(&pixels.data, (pixels.h, pixels.w), to.into(), pixels.channels);
            pixels = Pixels { h: to[0], w: to[1], data, ..pixels };
        }
        if h > pixels.h || w > pixels.w {
            let message = format!(
                "{}x{} pixels are smaller than the crop of {h}x{w}: it needs a resize, or is another model's",
                pixels.h, pixels.w
            );
            return Err(Error::preprocess(format!("of `{name}`"), message));
        }
        let tensor = if self.input.dtype.is_float() {
            self.gather(name, &pixels, [h, w], |c| self.values(c))?
        } else {
            self.gather(name, &pixels, [h, w], |_| std::array::from_fn(|level| level as u8))?
        };
        self.fitted(name, tensor)
    }

    /// The center of the pixels in the input's layout, each level of channel `c` replaced by `values(c)` of it.
    fn gather<T: Element>(
        &self,
        name: &str,
        pixels: &Pixels,
        [h, w]: [usize; 2],
        values: impl Fn(usize) -> [T; 256],
    ) -> Result<Tensor, Error> {
        let (top, left) = ((pixels.h - h) / 2, (pixels.w - w) / 2);
        let channels = self.preprocess.channel_count();
        let shape = match self.layout {
            Layout::Nchw => [1, channels, h, w],
            Layout::Nhwc => [1, h, w, channels],
        };
        let mut tensor = Tensor::zeros(T::DTYPE, &shape).map_err(Error::tensor(name))?;
        let out = tensor.as_mut_slice::<T>().map_err(Error::tensor(name))?;
        for c in 0..channels {
            let table = values(c);
            let (mut at, step) = match self.layout {
                Layout::Nchw => (c * h * w, 1),
                Layout::Nhwc => (c, channels),
            };
            for y in top..top + h {
                let row = &pixels.data[(y * pixels.w + left) * pixels.channels..][..w * pixels.channels];
                for pixel in row.chunks_exact(pixels.channels) {
                    out[at] = table[usize::from(self.level(pixel, c))];
                    at += step;
                }
            }
        }
        Ok(tensor)
    }

    /// What each grey level becomes in channel `c`.
    fn values(&self, c: usize) -> [f32; 256] {
        let of = |values: &[f32]| values[if values.len() == 1 { 0 } else { c }];
        let (scale, mean, std) = (self.preprocess.scale, of(&self.preprocess.mean), of(&self.preprocess.std));
        std::array::from_fn(|p| (p as f32 * scale - mean) / std)
    }

    /// The pixels that an input was made of, from 0 (black) to 1 (white), row by row for each channel, and the width of a
    /// row: all of a channel, where the input is flat.
    pub(crate) fn planes(&self, input: &Tensor) -> (Vec<Vec<f32>>, usize) {
        let channels = self.preprocess.channel_count();
        let values = input.to_f32_vec().unwrap_or_default();
        let count = values.len() / channels;
        let plane = |c: usize| {
            let table = self.values(c);
            let (start, step) = match self.layout {
                Layout::Nchw => (c * count, 1),
                Layout::Nhwc => (c, channels),
            };
            let pixel = |v: &f32| (v - table[0]) / (table[255] - table[0]);
            values.iter().skip(start).step_by(step).take(count).map(pixel).collect()
        };
        let width = match self.layout {
            Layout::Nchw => input.shape().last(),
            Layout::Nhwc => input.shape().iter().nth_back(1),
        };
        ((0..channels).map(plane).collect(), width.copied().unwrap_or(1))
    }

    fn level(&self, pixel: &[u8], c: usize) -> u8 {
        match (self.preprocess.channels, pixel) {
            (_, &[gray]) => gray,
            (Channels::Rgb, _) => pixel[c],
            (Channels::Bgr, _) => pixel[2 - c],
            (Channels::Gray, _) => {
                // ITU-R 601 in 16 fractional bits, as PIL's convert("L").
                let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
                ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
            }
        }
    }

    fn fitted(&self, name: &str, tensor: Tensor) -> Result<Tensor, Error> {
        let tensor = cast(name, &self.input, tensor)?;
        if self.input.accepts(tensor.shape()) {
            return Ok(tensor);
        }
        // A flattened or squeezed input of the same size.
        let fixed: Option<Vec<usize>> =
            self.input.shape.iter().enumerate().map(|(i, &d)| if i == 0 { Some(1) } else { d }).collect();
        match fixed {
            Some(shape) if self.input.shape.len() != 4 && shape.iter().product::<usize>() == tensor.len() => {
                tensor.reshaped(&shape).map_err(Error::tensor(name))
            }
            _ => Err(self.input.shape_error(name, tensor.shape())),
        }
    }
}

/// Height and width of a JPEG or PNG file.
pub(crate) fn size(path: &Path) -> Result<[usize; 2], Error> {
    let (w, h) = decoder(path)?.dimensions();
    Ok([h as usize, w as usize])
}

/// The decoder of a JPEG or PNG file, whatever its name says.
fn decoder(path: &Path) -> Result<impl ImageDecoder, Error> {
    let name = shown(path);
    let (file, len) = files::open(path)?;
    if len == 0 {
        return Err(Error::image(&name, "the file is empty"));
    }
    let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| Error::io(path, &e))?;
    if reader.format().is_none() {
        return Err(Error::image(&name, "the file is neither JPEG nor PNG"));
    }
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits);
    reader.into_decoder().map_err(|e| Error::image(&name, one_line(&e.to_string())))
}

/// Refuses a JPEG that was cut off: the decoder would fill up what is missing with grey, and calibration would see it.
fn check_whole(path: &Path) -> Result<(), Error> {
    let (file, len) = files::open(path)?;
    let (mut file, name) = (file.take(len), shown(path));
    let mut head = [0; 2];
    if len > MAX_IMAGE_BYTES || file.read_exact(&mut head).is_err() || head != jpeg::START {
        return Ok(());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| Error::io(path, &e))?;
    if jpeg::is_whole(&bytes) {
        Ok(())
    } else {
        Err(Error::image(&name, "the file ends before the image does: it was cut off"))
    }
}

/// Decodes a JPEG or PNG file to gray or RGB.
fn decode(path: &Path) -> Result<Pixels, Error> {
    let name = shown(path);
    check_whole(path)?;
    let decoder = decoder(path)?;
    let (w, h) = decoder.dimensions();
    let bytes = decoder.total_bytes();
    if u64::from(w) * u64::from(h) > MAX_PIXELS || bytes > MAX_IMAGE_BYTES {
        return Err(Error::image(&name, format!("{w}x{h} pixels are more than the limit of {MAX_PIXELS}")));
    }
    if w == 0 || h == 0 {
        return Err(Error::image(&name, format!("{w}x{h} pixels are none")));
    }
    // A poisoned lock guards no data.
    let _one_at_a_time =
        (bytes > LARGE_IMAGE_BYTES).then(|| LARGE_IMAGE.lock().unwrap_or_else(PoisonError::into_inner));
    let decoded = DynamicImage::from_decoder(decoder).map_err(|e| Error::image(&name, one_line(&e.to_string())))?;
    let (h, w) = (h as usize, w as usize);
    Ok(match decoded {
        DynamicImage::ImageLuma8(gray) => Pixels { h, w, channels: 1, data: gray.into_raw() },
        DynamicImage::ImageRgb8(rgb) => Pixels { h, w, channels: 3, data: rgb.into_raw() },
        other => Pixels { h, w, channels: 3, data: other.into_rgb8().into_raw() },
    })
}
