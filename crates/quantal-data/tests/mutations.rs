//! Damaged files of each kind: an error or a sample, never a panic, and never a name that can disturb a terminal.

use image::{ImageFormat, RgbImage};
use quantal_data::npz::{write_npy, write_npz};
use quantal_data::{DataSpec, Dataset, InputSpec, Preprocess};
use quantal_tensor::{DType, Tensor};
use std::fs;
use std::io::{Cursor, Write};

/// Mutants of each file.
const MUTANTS: u32 = 400;

struct Noise(u64);

impl Noise {
    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

fn mutate(bytes: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=noise.below(3) {
        let at = noise.below(bytes.len());
        match noise.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, noise.below(256) as u8),
            2 => bytes.get_mut(at).into_iter().for_each(|b| *b ^= 1 << noise.below(8)),
            3 => bytes.get_mut(at).into_iter().for_each(|b| *b = [0, 1, 127, 128, 255][noise.below(5)]),
            _ => bytes.extend_from_within(at.saturating_sub(20)..at),
        }
    }
    bytes
}

fn image(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let pixels = RgbImage::from_fn(9, 8, |x, y| image::Rgb([x as u8 * 20, y as u8 * 30, 7]));
    pixels.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn damaged_files_do_not_panic() {
    let array = Tensor::from_slice(&[2, 3, 4, 4], &[0.5_f32; 96]).unwrap();
    let one = Tensor::from_slice(&[1, 3, 4, 4], &[0.5_f32; 48]).unwrap();
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 12];
    idx.extend([9; 96]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&idx).unwrap();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a.png", image(ImageFormat::Png)),
        ("a.jpg", image(ImageFormat::Jpeg)),
        ("a.npz", write_npz(&[("x".to_owned(), one), ("label".to_owned(), Tensor::scalar(1_i64).unwrap())]).unwrap()),
        ("a.npy", write_npy(&array)),
        ("a-idx3-ubyte", idx),
        ("b-idx3-ubyte.gz", gz.finish().unwrap()),
        ("labels.csv", b"file,label\n\"a.png\",1\n".to_vec()),
        (
            "preprocess.toml",
            b"scale = 1\nresize = { short_side = 6 }\ncrop = [4, 4]\nmean = [1, 2, 3]\nchannels = 'bgr'\n".to_vec(),
        ),
    ];
    let inputs = [InputSpec { name: "x".to_owned(), dtype: DType::F32, shape: vec![None, Some(3), Some(4), Some(4)] }];
    let preprocess = Preprocess { resize: quantal_data::preprocess::Resize::Auto, ..Preprocess::default() };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.png"), image(ImageFormat::Png)).unwrap();
    let mut noise = Noise(7);
    let (mut opened, mut refused) = (0, 0);
    for (name, good) in files {
        let alone = tempfile::tempdir().unwrap();
        let path = alone.path().join(name);
        for i in 0..MUTANTS {
            let bytes = if i == 0 { good.clone() } else { mutate(&good, &mut noise) };
            fs::write(&path, &bytes).unwrap();
            let mut spec = DataSpec { path: path.clone(), preprocess: Some(preprocess.clone()), ..DataSpec::default() };
            if name == "preprocess.toml" {
                let parsed = Preprocess::from_file(&path);
                assert!(i > 0 || parsed.is_ok());
                spec = DataSpec { path: folder.path().to_path_buf(), preprocess: parsed.ok(), ..DataSpec::default() };
            } else if name == "labels.csv" {
                spec.path = folder.path().to_path_buf();
                spec.labels = Some(path.clone());
            } else if name == "a.npz" && i % 2 == 1 {
                spec.path = alone.path().to_path_buf();
            }
            let result = Dataset::open(&spec, &inputs).and_then(|d| {
                let indices: Vec<usize> = (0..d.len()).collect();
                d.stream(&indices).try_for_each(|sample| sample.map(drop))
            });
            match result {
                Ok(()) => opened += 1,
                Err(error) => {
                    // Gray IDX images do not feed three channels: that pair is here for its reader alone.
                    assert!(i > 0 || name.contains("idx3"), "{name}: {error}");
                    assert!(error.to_string().chars().all(|c| !c.is_control()), "{error:?}");
                    assert!(error.to_string().len() < 1000 && error.to_string().len() > 7);
                    refused += 1;
                }
            }
        }
    }
    assert!(opened > 200 && refused > 1000, "{opened} opened, {refused} refused");
}
