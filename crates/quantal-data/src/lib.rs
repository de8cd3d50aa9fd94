//! Samples: images, arrays, text, and how they become model inputs.
