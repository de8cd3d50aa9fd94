//! What mutation starts from: good files of each kind.

use crate::targets::Target;
use image::{ImageFormat, RgbImage};
use quantal::Recipe;
use quantal_data::npz::{write_npy, write_npz};
use quantal_tensor::Tensor;
use std::io::Cursor;
use std::path::Path;

/// Larger files make slow seeds and show nothing more.
const MOST_BYTES: u64 = 64 << 10;

/// The seeds of a target: its own files in `folder` (`fuzz/seeds`), those made here, and for models those of the
/// conformance cases, if their folder is given.
pub fn of(target: &Target, folder: &Path, cases: Option<&Path>) -> Vec<Vec<u8>> {
    let mut found = made(target.name);
    let models = matches!(target.name, "onnx" | "run");
    collect(&folder.join(if models { "onnx" } else { target.name }), &|_| true, &mut found);
    if let Some(cases) = cases.filter(|_| models) {
        collect(cases, &|path| path.extension().is_some_and(|e| e == "onnx"), &mut found);
    }
    found
}

/// All files below a folder that are wanted and not large, in the order of their names.
fn collect(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, wanted, found);
        } else if wanted(&path)
            && path.metadata().is_ok_and(|m| m.len() <= MOST_BYTES)
            && let Ok(bytes) = std::fs::read(&path)
        {
            found.push(bytes);
        }
    }
}

fn made(target: &str) -> Vec<Vec<u8>> {
    match target {
        "npy" => arrays().iter().map(|(_, t)| write_npy(t)).collect(),
        "npz" => write_npz(&arrays()).into_iter().collect(),
        "recipe" => {
            let presets = ["fast", "balanced", "best"].iter().filter_map(|name| Recipe::preset(name).ok());
            presets.map(|recipe| recipe.to_toml().into_bytes()).collect()
        }
        "image" => vec![png(), encoded(ImageFormat::Jpeg)],
        "idx" => {
            let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 8];
            idx.extend(0..128);
            vec![idx]
        }
        _ => Vec::new(),
    }
}

fn arrays() -> Vec<(String, Tensor)> {
    let floats: Vec<f32> = (0..48).map(|i| i as f32 - 20.0).collect();
    [Tensor::from_slice(&[1, 3, 4, 4], &floats), Tensor::scalar(7_i64), Tensor::from_slice::<u8>(&[0, 3], &[])]
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(i, t)| (format!("x{i}"), t))
        .collect()
}

/// A small image.
pub fn png() -> Vec<u8> {
    encoded(ImageFormat::Png)
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let pixels = RgbImage::from_fn(11, 9, |x, y| image::Rgb([x as u8 * 20, y as u8 * 25, 7]));
    // Into memory: nothing that could fail.
    let _ = pixels.write_to(&mut bytes, format);
    bytes.into_inner()
}
