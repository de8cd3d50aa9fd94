//! What is done to an image, as data: a preset, or a TOML file.
//!
//! ```text
//! 1. resize    antialiased bilinear, as PIL does it
//! 2. crop      the center, from row (h - crop_h) / 2 and column (w - crop_w) / 2, rounded down
//! 3. channels  rgb, bgr or gray (ITU-R 601)
//! 4. x = (pixel * scale - mean[c]) / std[c]    in f32, in that order; c counts the channels as ordered by 3
//! 5. layout    [1, C, H, W] or [1, H, W, C]
//! ```
//!
//! `docs/preprocessing.md` has the form of a file and what each preset does.
//!
//! An image's orientation tag (EXIF) is not applied, and transparency is dropped, as by `PIL.Image.convert("RGB")`.

use crate::error::{Error, one_line, shown};
use crate::{files, toml_line};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How pixels become the values of an input.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// The size that the image is brought to first.
    #[serde(default)]
    pub resize: Resize,
    /// The part of it that is kept.
    #[serde(default)]
    pub crop: Crop,
    /// Which channels, in which order.
    #[serde(default)]
    pub channels: Channels,
    /// Where the channels go. Without it, the model's input shape decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Each pixel (0 to 255) is multiplied by this first. A file must give it: a mean and deviation for pixels of 0 to 1
    /// beside pixels of 0 to 255 would go unnoticed.
    pub scale: f32,
    /// Subtracted next: one for each channel, or one for all.
    #[serde(default = "zero")]
    pub mean: Vec<f32>,
    /// Divided by last: one for each channel, or one for all.
    #[serde(default = "one")]
    pub std: Vec<f32>,
}

/// Which size an image is resized to.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Not at all.
    #[default]
    None,
    /// Only if the size is far from the crop's. With `r` the smaller of `h / crop_h` and `w / crop_w`: below 1, the
    /// image is enlarged to `r` = 1; above 1.02 · 256/224, it is reduced to `r` = 256/224; else it stays. So 227×227
    /// and a short side of 256 are cropped to 224 as they are, and a photo of 1000×800 goes through 320×256.
    Auto,
    /// The shorter side to this many pixels, the longer in proportion, rounded (half to even).
    ShortSide(usize),
    /// Height and width to these, whatever the proportions.
    Exact([usize; 2]),
}

/// Which part of an image is kept, around its center.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Debug)]
#[serde(from = "CropText", into = "CropText")]
pub enum Crop {
    /// All of it.
    None,
    /// As much as the model's input takes.
    #[default]
    Model,
    /// This height and width.
    Size([usize; 2]),
}

/// The channels of the input.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel: 0.299 R + 0.587 G + 0.114 B.
    Gray,
}

/// The order of the input's dimensions.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[N, C, H, W]`
    Nchw,
    /// `[N, H, W, C]`
    Nhwc,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(untagged, expecting = "must be \"none\", \"model\" or [height, width] in pixels")]
enum CropText {
    Word(CropWord),
    Size([usize; 2]),
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum CropWord {
    None,
    Model,
}

impl From<CropText> for Crop {
    fn from(text: CropText) -> Self {
        match text {
            CropText::Word(CropWord::None) => Self::None,
            CropText::Word(CropWord::Model) => Self::Model,
            CropText::Size(size) => Self::Size(size),
        }
    }
}

impl From<Crop> for CropText {
    fn from(crop: Crop) -> Self {
        match crop {
            Crop::None => Self::Word(CropWord::None),
            Crop::Model => Self::Word(CropWord::Model),
            Crop::Size(size) => Self::Size(size),
        }
    }
}

impl Default for Preprocess {
    fn default() -> Self {
        Self {
            resize: Resize::default(),
            crop: Crop::default(),
            channels: Channels::default(),
            layout: None,
            scale: 1.0,
            mean: zero(),
            std: one(),
        }
    }
}

fn zero() -> Vec<f32> {
    vec![0.0]
}

fn one() -> Vec<f32> {
    vec![1.0]
}

/// A preprocessing with a name.
#[derive(Debug)]
pub struct Preset {
    /// What `--preprocess` takes.
    pub name: &'static str,
    channels: Channels,
    resize: Resize,
    scale: f32,
    mean: &'static [f32],
    std: &'static [f32],
}

const TORCHVISION_MEAN: &[f32] = &[0.485, 0.456, 0.406];
const TORCHVISION_STD: &[f32] = &[0.229, 0.224, 0.225];

/// The presets. All crop to the model's input size.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "imagenet",
        channels: Channels::Rgb,
        resize: Resize::Auto,
        scale: 1.0 / 255.0,
        mean: TORCHVISION_MEAN,
        std: TORCHVISION_STD,
    },
    Preset {
        name: "imagenet-tf",
        channels: Channels::Rgb,
        resize: Resize::Auto,
        scale: 1.0,
        mean: &[127.5],
        std: &[127.5],
    },
    Preset {
        name: "imagenet-lite",
        channels: Channels::Rgb,
        resize: Resize::Auto,
        scale: 1.0,
        mean: &[127.0],
        std: &[128.0],
    },
    Preset {
        name: "caffe-bgr",
        channels: Channels::Bgr,
        resize: Resize::Auto,
        scale: 1.0,
        mean: &[104.0, 117.0, 123.0],
        std: &[1.0],
    },
    Preset {
        name: "cifar10",
        channels: Channels::Rgb,
        resize: Resize::None,
        scale: 1.0 / 255.0,
        mean: TORCHVISION_MEAN,
        std: TORCHVISION_STD,
    },
    Preset { name: "mnist", channels: Channels::Gray, resize: Resize::None, scale: 1.0, mean: &[0.0], std: &[1.0] },
    Preset {
        name: "unit",
        channels: Channels::Rgb,
        resize: Resize::Auto,
        scale: 1.0 / 255.0,
        mean: &[0.0],
        std: &[1.0],
    },
    Preset { name: "raw-bgr", channels: Channels::Bgr, resize: Resize::Auto, scale: 1.0, mean: &[0.0], std: &[1.0] },
];

impl Preset {
    /// The preset as a value.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess {
            resize: self.resize,
            crop: Crop::Model,
            channels: self.channels,
            layout: None,
            scale: self.scale,
            mean: self.mean.to_vec(),
            std: self.std.to_vec(),
        }
    }
}

impl Preprocess {
    /// What `--preprocess` means: the name of a preset, a preset with a crop (`imagenet:224`, `imagenet:240x320`, height
    /// first), or the path of a TOML file.
    pub fn from_argument(argument: &str) -> Result<Self, Error> {
        let unknown = |message: String| Error::UnknownPreset { name: one_line(argument), message };
        let (name, size) = argument.split_once(':').map_or((argument, None), |(n, s)| (n, Some(s)));
        let Some(preset) = PRESETS.iter().find(|p| p.name == name) else {
            let path = Path::new(argument);
            return if path.exists() {
                Self::from_file(path)
            } else {
                Err(unknown("neither a preset nor a file".to_owned()))
            };
        };
        let mut preprocess = preset.preprocess();
        if let Some(size) = size {
            let (h, w) = size.split_once('x').unwrap_or((size, size));
            let parse = |text: &str| text.parse().map_err(|_| unknown("the size is not a number".to_owned()));
            preprocess.crop = Crop::Size([parse(h)?, parse(w)?]);
            preprocess.check().map_err(|e| unknown(e.to_string()))?;
        }
        Ok(preprocess)
    }

    /// Reads a TOML file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bytes = files::read(path, "the preprocessing", files::MAX_PREPROCESS_BYTES)?;
        let bad = |line: Option<String>, message: String| Error::PreprocessFile { path: shown(path), line, message };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad(None, "the file is not UTF-8 text".to_owned()))?;
        let parsed: Self =
            toml::from_str(text).map_err(|e| bad(toml_line::of_error(text, &e), one_line(e.message())))?;
        match parsed.problem() {
            Some((field, problem)) => Err(bad(toml_line::of_field(text, field), format!("`{field}`: {problem}"))),
            None => Ok(parsed),
        }
    }

    /// The preset that this is, or `custom`.
    pub fn name(&self) -> &'static str {
        let plain = Self { crop: Crop::Model, ..self.clone() };
        PRESETS.iter().find(|p| p.preprocess() == plain).map_or("custom", |p| p.name)
    }

    /// Number of channels of the result.
    pub fn channel_count(&self) -> usize {
        match self.channels {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }

    /// Checks that the numbers make sense together.
    pub fn check(&self) -> Result<(), Error> {
        self.problem().map_or(Ok(()), |(field, problem)| Err(Error::preprocess(format!("`{field}`"), problem)))
    }

    /// A field whose numbers make no sense, and why.
    fn problem(&self) -> Option<(&'static str, String)> {
        /// Longest side that a resize or crop may ask for.
        const LONGEST: usize = 16_384;
        let channels = self.channel_count();
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != 1 && values.len() != channels {
                return Some((name, format!("wants 1 or {channels} values, found {}", values.len())));
            }
            if !values.iter().all(|v| v.is_finite()) {
                return Some((name, "the values must be finite".to_owned()));
            }
        }
        if self.std.contains(&0.0) {
            return Some(("std", "a value of 0 would divide by zero".to_owned()));
        }
        if !self.scale.is_finite() || self.scale == 0.0 {
            return Some(("scale", "the value must be finite and not 0".to_owned()));
        }
        let resize = match self.resize {
            Resize::None | Resize::Auto => None,
            Resize::ShortSide(side) => Some([side, side]),
            Resize::Exact(size) => Some(size),
        };
        let crop = match self.crop {
            Crop::None | Crop::Model => None,
            Crop::Size(size) => Some(size),
        };
        for (name, size) in [("resize", resize), ("crop", crop)] {
            if size.is_some_and(|s| s.iter().any(|n| !(1..=LONGEST).contains(n))) {
                return Some((name, format!("a side must be 1 to {LONGEST} pixels")));
            }
        }
        if self.resize == Resize::Auto && self.crop == Crop::None {
            return Some(("resize", "\"auto\" goes by the crop, and `crop` is \"none\"".to_owned()));
        }
        None
    }

    /// The size `[h, w]` that an image of `h` × `w` pixels is resized to, given the crop. `None`: it stays.
    pub(crate) fn resized(&self, h: usize, w: usize, crop: Option<[usize; 2]>) -> Option<(usize, usize)> {
        /// The reduction that `ImageNet` models are evaluated with: short side 256, crop 224.
        const USUAL: f64 = 256.0 / 224.0;
        let scaled = |n: usize, by: f64| ((n as f64 * by).round_ties_even() as usize).max(1);
        let to = match (self.resize, crop) {
            (Resize::None, _) | (Resize::Auto, None) => return None,
            (Resize::Exact([to_h, to_w]), _) => (to_h, to_w),
            (Resize::ShortSide(side), _) => {
                let by = side as f64 / h.min(w) as f64;
                if h <= w { (side, scaled(w, by)) } else { (scaled(h, by), side) }
            }
            (Resize::Auto, Some([crop_h, crop_w])) => {
                let (by_h, by_w) = (h as f64 / crop_h as f64, w as f64 / crop_w as f64);
                let ratio = by_h.min(by_w);
                if (1.0..=USUAL * 1.02).contains(&ratio) {
                    return None;
                }
                let wanted = if ratio < 1.0 { 1.0 } else { USUAL };
                if by_h <= by_w {
                    let to_h = scaled(crop_h, wanted);
                    (to_h, scaled(w, to_h as f64 / h as f64).max(crop_w))
                } else {
                    let to_w = scaled(crop_w, wanted);
                    (scaled(h, to_w as f64 / w as f64).max(crop_h), to_w)
                }
            }
        };
        (to != (h, w)).then_some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_states_what_differs_and_comes_back_the_same() {
        let text = "resize = { short_side = 256 }\ncrop = [224, 192]\nchannels = 'bgr'\nlayout = 'nhwc'\nscale = 1\nmean = [1, 2, 3]";
        let parsed: Preprocess = toml::from_str(text).unwrap();
        assert_eq!((parsed.resize, parsed.crop), (Resize::ShortSide(256), Crop::Size([224, 192])));
        assert_eq!((parsed.channels, parsed.layout), (Channels::Bgr, Some(Layout::Nhwc)));
        let mut all: Vec<Preprocess> = PRESETS.iter().map(Preset::preprocess).collect();
        all.push(parsed);
        for preprocess in all {
            preprocess.check().unwrap();
            let written = toml::to_string(&preprocess).unwrap();
            assert_eq!(toml::from_str::<Preprocess>(&written).unwrap(), preprocess, "{written}");
        }
        assert!(toml::from_str::<Preprocess>("scale = 1\nreszie = 'none'").is_err());
        let without = toml::from_str::<Preprocess>("mean = [0.485, 0.456, 0.406]").unwrap_err();
        assert!(without.message().contains("scale"), "{without}");
    }

    #[test]
    fn the_page_says_what_each_preset_does_and_its_example_reads() {
        let page = include_str!("../../../docs/preprocessing.md");
        let numbers = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>().join(", ");
        for p in PRESETS {
            let channels = format!("{:?}", p.channels).to_lowercase();
            let resize = format!("{:?}", p.resize).to_lowercase();
            let scale = if p.scale == 1.0 { "1" } else { "1/255" };
            let row = [format!("`{}`", p.name), resize, channels, scale.to_owned(), numbers(p.mean), numbers(p.std)];
            assert!(page.contains(&format!("| {} |", row.join(" | "))), "no row {row:?}");
        }
        let example = page.split("```toml\n").nth(1).and_then(|t| t.split("```").next()).unwrap();
        let example: Preprocess = toml::from_str(example).unwrap();
        let imagenet = PRESETS[0].preprocess();
        let crop = Crop::Size([224, 224]);
        assert_eq!(
            example,
            Preprocess { resize: Resize::ShortSide(256), crop, layout: Some(Layout::Nchw), ..imagenet }
        );
    }

    #[test]
    fn presets_are_told_apart_and_take_a_size() {
        for preset in PRESETS {
            assert_eq!(preset.preprocess().name(), preset.name);
        }
        assert_eq!(Preprocess::from_argument("imagenet:240x320").unwrap().crop, Crop::Size([240, 320]));
        assert!(Preprocess::from_argument("imagenet:0").is_err());
        assert!(Preprocess::from_argument("no-such-preset").is_err());
    }

    #[test]
    fn auto_resize_keeps_what_is_near_and_brings_the_rest_to_256_over_224() {
        let auto = PRESETS[0].preprocess();
        let crop = Some([224, 224]);
        assert_eq!(auto.resized(227, 227, crop), None);
        assert_eq!(auto.resized(256, 341, crop), None);
        assert_eq!(auto.resized(800, 1000, crop), Some((256, 320)));
        assert_eq!(auto.resized(1000, 800, crop), Some((320, 256)));
        assert_eq!(auto.resized(227, 227, Some([240, 240])), Some((240, 240)));
        assert_eq!(auto.resized(500, 333, Some([260, 260])), Some((446, 297)));
    }

    #[test]
    fn contradictions_are_refused() {
        let base = Preprocess::default;
        assert!(Preprocess { std: vec![0.0], ..base() }.check().is_err());
        assert!(Preprocess { mean: vec![1.0, 2.0], ..base() }.check().is_err());
        assert!(Preprocess { scale: f32::NAN, ..base() }.check().is_err());
        assert!(Preprocess { resize: Resize::Auto, crop: Crop::None, ..base() }.check().is_err());
        assert!(Preprocess { resize: Resize::ShortSide(0), ..base() }.check().is_err());
    }
}
