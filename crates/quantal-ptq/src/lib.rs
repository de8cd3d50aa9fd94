//! Deciding: observers, calibration and post-training quantization.
