//! Whether a preprocessing keeps enough of a picture.

use super::{Dataset, Source};
use crate::image;
use serde::Serialize;

/// A crop that leaves most of a picture out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SmallCrop {
    /// The picture.
    pub image: String,
    /// Its height and width where it is cropped, in pixels.
    pub pixels: [usize; 2],
    /// Height and width of what is kept.
    pub kept: [usize; 2],
}

impl Dataset {
    /// The crop of the first image, if it keeps less than half of the height and less than half of the width, so less than
    /// a quarter of the picture. Models are evaluated on seven eighths of the shorter side; on less than half, what the
    /// label means is as often outside, and a size was meant for another step. A panorama may lose any part of its width.
    pub fn small_crop(&self) -> Option<SmallCrop> {
        let &first = self.members.first()?;
        let (plan, size) = match &self.source {
            Source::Images(files, plan) => (plan, image::size(&files.path(first)).ok()?),
            Source::Idx(images, plan) => (plan, [images.shape[1], images.shape[2]]),
            Source::Npz(_) | Source::Npy(_) | Source::Raw(..) | Source::Stack(_) | Source::Text(_) => return None,
        };
        let (pixels, kept) = plan.cropped(size);
        let small = (0..2).all(|i| 2 * kept[i] < pixels[i]);
        small.then(|| SmallCrop { image: self.source.name(&self.path, first), pixels, kept })
    }
}
