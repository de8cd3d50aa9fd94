use super::*;
use crate::npz::{write_npy, write_npz};
use std::fs;

fn input(name: &str, dtype: DType, shape: &[usize]) -> InputSpec {
    // The batch is free, as most models leave it.
    let shape = shape.iter().enumerate().map(|(i, &d)| (i > 0).then_some(d)).collect();
    InputSpec { name: name.to_owned(), dtype, shape }
}

fn open(path: &Path, inputs: &[InputSpec]) -> Result<Dataset, Error> {
    Dataset::open(&DataSpec { path: path.to_path_buf(), ..DataSpec::default() }, inputs)
}

fn all(dataset: &Dataset) -> Vec<Sample> {
    let indices: Vec<usize> = (0..dataset.len()).collect();
    dataset.stream(&indices).collect::<Result<_, _>>().unwrap()
}

/// Saves an RGB image whose red is the column, green the row and blue `blue`.
fn save_png(path: &Path, h: u32, w: u32, blue: u8) {
    image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, blue])).save(path).unwrap();
}

#[test]
fn images_are_cropped_normalized_and_joined_with_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in ["b.png", "a.png", "c.PNG"].iter().enumerate() {
        save_png(&folder.path().join(name), 7, 6, i as u8 * 50);
    }
    fs::write(folder.path().join("notes.txt"), "not a sample").unwrap();
    let labels = folder.path().join("labels.csv");
    fs::write(&labels, "file,label\nb.png,4\na.png,2\n").unwrap();
    let caffe = Preprocess::from_argument("caffe-bgr").unwrap();
    let mut spec = DataSpec { path: folder.path().to_path_buf(), preprocess: Some(caffe), ..DataSpec::default() };
    let plain = Preprocess { resize: crate::preprocess::Resize::None, ..spec.preprocess.clone().unwrap() };
    spec.preprocess = Some(plain);
    let nchw = [input("x", DType::F32, &[0, 3, 4, 4])];
    let dataset = Dataset::open(&spec, &nchw).unwrap();
    assert_eq!((dataset.len(), dataset.kind(), dataset.labels()), (3, Kind::Images, None));
    spec.labels = Some(labels);
    let dataset = Dataset::open(&spec, &nchw).unwrap();
    assert_eq!(dataset.labels(), Some(&[2, 4][..]));
    assert_eq!(dataset.describe(), "2 images with a label of 3, custom preprocessing");
    let samples = all(&dataset);
    assert_eq!((samples[0].name.as_str(), samples[0].label), ("a.png", Some(2)));
    // 7 rows to 4: from row (7 - 4) / 2 = 1. 6 columns to 4: from column 1. Channels B, G, R less 104, 117, 123.
    let x = samples[0].feeds[0].1.as_slice::<f32>();
    for c in 0..3 {
        for y in 0..4 {
            for column in 0..4 {
                let wanted = [50.0 - 104.0, (y + 1) as f32 - 117.0, (column + 1) as f32 - 123.0][c];
                assert_eq!(x[(c * 4 + y) * 4 + column], wanted);
            }
        }
    }
    // The same pixels, channels last.
    let last = all(&Dataset::open(&spec, &[input("x", DType::F32, &[0, 4, 4, 3])]).unwrap());
    assert_eq!(last[0].feeds[0].1.shape(), [1, 4, 4, 3]);
    assert_eq!(last[0].feeds[0].1.as_slice::<f32>()[..3], [50.0 - 104.0, 1.0 - 117.0, 1.0 - 123.0]);
    // A crop that no image fills, a model of one channel, no preprocessing.
    assert!(matches!(Dataset::open(&spec, &[input("x", DType::F32, &[0, 3, 8, 8])]), Err(Error::Preprocess { .. })));
    assert!(matches!(Dataset::open(&spec, &[input("x", DType::F32, &[0, 1, 4, 4])]), Err(Error::Preprocess { .. })));
    let error = open(folder.path(), &nchw).unwrap_err();
    assert!(error.hint().unwrap().contains("imagenet-lite"));
}

#[test]
fn figures_of_images_are_those_of_the_pixels_in_any_layout_and_normalization() {
    let folder = tempfile::tempdir().unwrap();
    save_png(&folder.path().join("a.png"), 4, 6, 50);
    let levels: Vec<f64> = (0..24).flat_map(|i| [i % 6, i / 6, 50]).map(|level| f64::from(level) / 255.0).collect();
    let mean = levels.iter().sum::<f64>() / 72.0;
    let variance = levels.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 72.0;
    // Levels 0 and 1 are black: two columns of red, two rows of green. Of 3 · (5 · 4 + 6 · 3) steps, one level each, red
    // takes those to the right, green those below.
    let (black, step) = ((8.0 + 12.0) / 72.0, (20.0 + 18.0) / 114.0 / (255.0 * 255.0));
    let expected = [mean, variance.sqrt(), black, 0.0, step / (2.0 * variance)];
    for (preset, shape) in [("imagenet", [0, 3, 4, 6]), ("imagenet", [0, 4, 6, 3]), ("caffe-bgr", [0, 3, 4, 6])] {
        let preset = Preprocess::from_argument(preset).unwrap();
        let preprocess = Some(Preprocess { resize: crate::preprocess::Resize::None, ..preset });
        let spec = DataSpec { path: folder.path().to_path_buf(), preprocess, ..DataSpec::default() };
        let dataset = Dataset::open(&spec, &[input("x", DType::F32, &shape)]).unwrap();
        let figures = dataset.figures(&all(&dataset)[0]);
        assert_eq!(figures.len(), expected.len());
        for ((name, figure), expected) in figures.iter().zip(expected) {
            // Normalization rounds to 24 bits, and steps are one 255th.
            assert!((figure - expected).abs() < 1e-5, "{name}: {figure}, not {expected}");
        }
    }
}

#[test]
fn a_crop_of_less_than_half_of_both_sides_is_small() {
    use crate::preprocess::Resize;
    let crop_of = |h, w, resize| {
        let folder = tempfile::tempdir().unwrap();
        save_png(&folder.path().join("a.png"), h, w, 0);
        let preprocess = Some(Preprocess { resize, ..Preprocess::default() });
        let spec = DataSpec { path: folder.path().to_path_buf(), preprocess, ..DataSpec::default() };
        Dataset::open(&spec, &[input("x", DType::F32, &[0, 3, 4, 4])]).unwrap().small_crop()
    };
    let small = |pixels| Some(SmallCrop { image: "a.png".to_owned(), pixels, kept: [4, 4] });
    assert_eq!(crop_of(9, 10, Resize::None), small([9, 10]));
    assert_eq!(crop_of(5, 6, Resize::ShortSide(40)), small([40, 48]));
    // A half of a side, a panorama, a photo brought to the size first.
    assert_eq!(crop_of(8, 8, Resize::None), None);
    assert_eq!(crop_of(7, 90, Resize::None), None);
    assert_eq!(crop_of(90, 90, Resize::Auto), None);
}

#[test]
fn broken_images_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.png");
    save_png(&path, 8, 8, 0);
    let good = fs::read(&path).unwrap();
    let mut huge = good.clone();
    // Width and height of the header chunk, and its checksum.
    huge[16..24].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 0, 0x4e, 0x20]);
    let mut crc = flate2::Crc::new();
    crc.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let spec = DataSpec {
        path: folder.path().to_path_buf(),
        preprocess: Some(Preprocess::from_argument("unit").unwrap()),
        ..DataSpec::default()
    };
    for bytes in [&[][..], &good[..good.len() / 2], &huge, b"GIF89a", &[0; 100]] {
        fs::write(&path, bytes).unwrap();
        let error = Dataset::open(&spec, &[input("x", DType::F32, &[0, 3, 8, 8])]).unwrap_err();
        assert!(matches!(&error, Error::Image { path, .. } if path.ends_with("bad.png")), "{error}");
    }
    // The name is not asked what the file is.
    fs::write(&path, good).unwrap();
    fs::rename(&path, folder.path().join("good.jpg")).unwrap();
    assert_eq!(Dataset::open(&spec, &[input("x", DType::F32, &[0, 3, 8, 8])]).unwrap().len(), 1);
}

#[test]
fn a_folder_of_npz_feeds_inputs_by_name_with_shapes_that_vary() {
    let folder = tempfile::tempdir().unwrap();
    for (name, tokens) in [("1.npz", 3), ("0.npz", 5)] {
        let ids = Tensor::from_slice(&[1, tokens], &vec![7_i32; tokens]).unwrap();
        let mask = Tensor::from_slice(&[1, tokens], &vec![1_i64; tokens]).unwrap();
        let label = Tensor::scalar(tokens as i64).unwrap();
        let arrays = [("mask".to_owned(), mask), ("ids".to_owned(), ids), ("label".to_owned(), label)];
        fs::write(folder.path().join(name), write_npz(&arrays).unwrap()).unwrap();
    }
    let free = |name: &str| InputSpec { name: name.to_owned(), dtype: DType::I64, shape: vec![None, None] };
    let samples = all(&open(folder.path(), &[free("ids"), free("mask")]).unwrap());
    assert_eq!((samples[0].name.as_str(), samples[0].label), ("0.npz", Some(5)));
    assert_eq!(samples[0].feeds[0].0, "ids");
    assert_eq!(samples[0].feeds[0].1.as_slice::<i64>(), [7; 5]);
    assert_eq!(samples[1].feeds[1].1.shape(), [1, 3]);
    assert!(matches!(open(folder.path(), &[free("ids"), free("types")]), Err(Error::MissingInput { .. })));
    assert!(matches!(open(folder.path(), &[input("ids", DType::I64, &[0, 4])]), Err(Error::Shape { .. })));
    fs::write(folder.path().join("x.npy"), []).unwrap();
    assert!(matches!(open(folder.path(), &[free("ids")]), Err(Error::Mixed { .. })));
}

#[test]
fn one_file_of_arrays_is_split_along_its_first_dimension() {
    let folder = tempfile::tempdir().unwrap();
    let x = Tensor::from_slice(&[3, 2], &[1_u16, 2, 3, 4, 5, 6]).unwrap();
    let label = Tensor::from_slice(&[3], &[9_i32, 8, 7]).unwrap();
    let path = folder.path().join("features.npz");
    fs::write(&path, write_npz(&[("x".to_owned(), x.clone()), ("label".to_owned(), label)]).unwrap()).unwrap();
    let dataset = open(&path, &[input("bytes", DType::I32, &[0, 2])]).unwrap();
    assert_eq!((dataset.len(), dataset.labels()), (3, Some(&[9, 8, 7][..])));
    let last = dataset.sample(2).unwrap();
    assert_eq!((last.feeds[0].1.shape(), last.feeds[0].1.as_slice::<i32>()), (&[1, 2][..], &[5, 6][..]));
    let path = folder.path().join("features.npy");
    fs::write(&path, write_npy(&x)).unwrap();
    let dataset = open(&path, &[input("bytes", DType::F32, &[0, 2])]).unwrap();
    assert_eq!(dataset.sample(1).unwrap().feeds[0].1.as_slice::<f32>(), [3.0, 4.0]);
    assert!(dataset.sample(3).is_err());
    assert!(open(&path, &[input("bytes", DType::F32, &[0, 3])]).is_err());
    fs::write(&path, []).unwrap();
    assert!(open(&path, &[input("bytes", DType::F32, &[0, 2])]).is_err());
}

#[test]
fn folders_of_npy_and_raw_tensors_hold_a_sample_each() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.npy"), write_npy(&Tensor::from_slice(&[2], &[1.0_f64, 2.0]).unwrap())).unwrap();
    let spec = [input("x", DType::F32, &[0, 2])];
    let samples = all(&open(folder.path(), &spec).unwrap());
    assert_eq!(
        (samples[0].feeds[0].1.shape(), samples[0].feeds[0].1.as_slice::<f32>()),
        (&[1, 2][..], &[1.0, 2.0][..])
    );
    fs::remove_file(folder.path().join("a.npy")).unwrap();
    fs::write(folder.path().join("a.bin"), [0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
    assert_eq!(all(&open(folder.path(), &spec).unwrap())[0].feeds[0].1.as_slice::<f32>(), [1.0, 2.0]);
    fs::write(folder.path().join("a.bin"), [0; 7]).unwrap();
    assert!(open(folder.path(), &spec).unwrap_err().to_string().contains("takes 8 bytes, found 7"));
}

#[test]
fn idx_images_come_with_the_labels_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("t-images-idx3-ubyte"),
        [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 10, 11, 12, 255],
    )
    .unwrap();
    fs::write(folder.path().join("t-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 2, 5, 6]).unwrap();
    let dataset = open(folder.path(), &[input("x", DType::F32, &[0, 1, 1, 2])]).unwrap();
    assert_eq!((dataset.len(), dataset.labels(), dataset.kind()), (2, Some(&[5, 6][..]), Kind::Idx));
    assert_eq!(dataset.sample(1).unwrap().feeds[0].1.as_slice::<f32>(), [12.0, 255.0]);
    let flat = open(folder.path(), &[input("x", DType::U8, &[0, 2])]).unwrap().sample(0).unwrap();
    assert_eq!((flat.feeds[0].1.shape(), flat.feeds[0].1.as_slice::<u8>()), (&[1, 2][..], &[10, 11][..]));
    assert!(open(folder.path(), &[input("x", DType::F32, &[0, 1, 28, 28])]).is_err());
    fs::write(folder.path().join("t-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 5]).unwrap();
    assert!(open(folder.path(), &[input("x", DType::F32, &[0, 1, 1, 2])]).is_err());
}

#[test]
fn folders_without_samples_and_odd_entries_are_no_trap() {
    let folder = tempfile::tempdir().unwrap();
    let spec = [input("x", DType::F32, &[0, 1])];
    assert!(matches!(open(folder.path(), &spec), Err(Error::Empty { .. })));
    fs::create_dir(folder.path().join("dir.npz")).unwrap();
    assert!(matches!(open(folder.path(), &spec), Err(Error::Empty { .. })));
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(
        folder.path().join("sub/a.npz"),
        write_npz(&[("x".to_owned(), Tensor::zeros(DType::F32, &[1, 1]).unwrap())]).unwrap(),
    )
    .unwrap();
    fs::write(folder.path().join("sub/.hidden.npz"), []).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::{ffi::OsStrExt, fs::symlink};
        symlink(".", folder.path().join("loop")).unwrap();
        symlink("self", folder.path().join("self")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"sub/\xff\n.npz");
        fs::copy(folder.path().join("sub/a.npz"), folder.path().join(odd)).unwrap();
        let dataset = open(folder.path(), &spec).unwrap();
        assert_eq!(dataset.len(), 2);
        assert!(dataset.sample(1).unwrap().name.chars().all(|c| !c.is_control()));
        fs::remove_file(folder.path().join(odd)).unwrap();
    }
    assert_eq!(all(&open(folder.path(), &spec).unwrap())[0].name, "sub/a.npz");
    assert!(open(&folder.path().join("gone"), &spec).is_err());
    assert!(matches!(open(Path::new("/dev/zero"), &spec), Err(Error::NotAFile { .. })));
}

#[test]
fn picks_are_sorted_distinct_and_the_same_each_time() {
    assert_eq!(pick(10, 5, 0), [0, 2, 4, 6, 8]);
    assert_eq!(pick(3, 9, 7), [0, 1, 2]);
    let picked = pick(1000, 100, 42);
    assert_eq!(picked, pick(1000, 100, 42));
    assert_ne!(picked, pick(1000, 100, 43));
    assert!(picked.len() == 100 && picked.is_sorted_by(|a, b| a < b) && picked[99] < 1000);
    // A uniform draw of 100 from 1000 has a mean of 499.5 with a deviation of 27.
    let mean = picked.iter().sum::<usize>() as f64 / 100.0;
    assert!((400.0..600.0).contains(&mean), "{mean}");
}

#[test]
fn a_list_of_names_chooses_samples_with_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let one = [input("x", DType::F32, &[0, 1])];
    let x = Tensor::from_slice(&[4, 1], &[0.0_f32, 1.0, 2.0, 3.0]).unwrap();
    let label = Tensor::from_slice(&[4], &[9_i32, 8, 7, 6]).unwrap();
    write("all.npz", &write_npz(&[("x".to_owned(), x), ("label".to_owned(), label)]).unwrap());
    let names = |of: &[usize]| of.iter().fold(String::new(), |t, i| t + &format!("all.npz[{i}]\r\n"));
    // However the path is spelled.
    let mut spec = DataSpec { path: folder.path().join("./all.npz"), ..DataSpec::default() };
    spec.only = Some(write("picked.txt", names(&[3, 1]).as_bytes()));
    let dataset = Dataset::open(&spec, &one).unwrap();
    assert_eq!(dataset.labels(), Some(&[8, 6][..]));
    let kept: Vec<f32> = all(&dataset).iter().map(|s| s.feeds[0].1.as_slice::<f32>()[0]).collect();
    assert_eq!(kept, [1.0, 3.0]);
    for text in [names(&[1, 4]), String::new()] {
        spec.only = Some(write("wrong.txt", text.as_bytes()));
        assert!(matches!(Dataset::open(&spec, &one), Err(Error::List { .. })), "{text}");
    }

    let folder = tempfile::tempdir().unwrap();
    for name in ["a.npy", "b.npy", "c.npy"] {
        let x = Tensor::from_slice(&[1, 1], &[f32::from(name.as_bytes()[0])]).unwrap();
        fs::write(folder.path().join(name), write_npy(&x)).unwrap();
    }
    spec.path = folder.path().to_path_buf();
    spec.only = Some(write("two.txt", b"a.npy\nc.npy"));
    // What is not chosen needs no label, and may have one.
    for labels in ["c.npy,3\na.npy,1", "a.npy,1\nb.npy,2\nc.npy,3"] {
        spec.labels = Some(write("labels.csv", labels.as_bytes()));
        assert_eq!(Dataset::open(&spec, &one).unwrap().labels(), Some(&[1, 3][..]));
    }
}
