//! Samples: how files become model inputs.
//!
//! [`Dataset::open`] finds out what a path holds (images, `.npy`/`.npz` arrays, IDX, text, raw tensors), checks it
//! against the model's inputs before any compute, and [`Dataset::stream`] decodes it in parallel in small chunks, so
//! that memory does not grow with the number of samples. What is done to an image is data: [`Preprocess`].
//!
//! Every file is untrusted: a size is checked before it is allocated, and each error names the file.

mod arrays;
pub mod dataset;
mod error;
mod files;
pub mod fit;
mod idx;
mod image;
mod jpeg;
mod labels;
pub mod metric;
mod npy;
pub mod npz;
pub mod preprocess;
mod resize;
mod text;
pub mod toml_line;

pub use dataset::{DataSpec, Dataset, Kind, Sample, Skipped, SmallCrop};
pub use error::{Error, shown};
pub use files::read_text;
pub use fit::{InputSpec, feeds_from_arrays};
pub use metric::Accuracy;
pub use preprocess::Preprocess;
