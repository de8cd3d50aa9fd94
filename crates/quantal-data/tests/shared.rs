//! The real data sets that models are measured with.

use quantal_data::{DataSpec, Dataset, InputSpec, Kind, Preprocess};
use quantal_tensor::DType;
use quantal_testkit::shared;

fn input(name: &str, dtype: DType, shape: &[usize]) -> [InputSpec; 1] {
    let shape = shape.iter().enumerate().map(|(i, &d)| (i > 0).then_some(d)).collect();
    [InputSpec { name: name.to_owned(), dtype, shape }]
}

#[test]
fn imagenet_evaluation_is_900_labelled_images() {
    let Some(data) = shared().map(|s| s.join("assets/data/imagenet/evaluation")) else { return };
    let spec = DataSpec {
        path: data.join("images"),
        labels: Some(data.join("labels.csv")),
        preprocess: Some(Preprocess::from_argument("imagenet").unwrap()),
        ..DataSpec::default()
    };
    let dataset = Dataset::open(&spec, &input("x", DType::F32, &[0, 3, 224, 224])).unwrap();
    assert_eq!((dataset.len(), dataset.kind()), (900, Kind::Images));
    assert_eq!(dataset.describe(), "900 images, imagenet preprocessing");
    let picked = dataset.pick(40, 0);
    let samples: Vec<_> = dataset.stream(&picked).collect::<Result<_, _>>().unwrap();
    // The first line of the labels file.
    assert_eq!((samples[0].name.as_str(), samples[0].label), ("ILSVRC2012_val_00000347.JPEG", Some(472)));
    // Normalized photos: about mean 0, deviation 1.
    let values: Vec<f32> = samples.iter().flat_map(|s| s.feeds[0].1.as_slice::<f32>().to_vec()).collect();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
    assert!(mean.abs() < 0.5 && (0.8..1.5).contains(&deviation), "{mean} {deviation}");
    assert!(values.iter().all(|v| (-2.12..=2.65).contains(v)), "outside what 0 to 255 can become");
}

#[test]
fn mnist_comes_compressed_with_its_labels() {
    let Some(data) = shared().map(|s| s.join("assets/data/mnist")) else { return };
    let spec = DataSpec { path: data, ..DataSpec::default() };
    let dataset = Dataset::open(&spec, &input("Input3", DType::F32, &[0, 1, 28, 28])).unwrap();
    // The first labels of t10k, as every tutorial shows them.
    assert_eq!((dataset.len(), &dataset.labels().unwrap()[..5]), (10_000, &[7, 2, 1, 0, 4][..]));
    assert!(dataset.sample(0).unwrap().feeds[0].1.as_slice::<f32>().contains(&254.0));
}

#[test]
fn magika_features_are_split_and_widened() {
    let Some(data) = shared().map(|s| s.join("assets/data/magika/features.npz")) else { return };
    let spec = DataSpec { path: data, ..DataSpec::default() };
    let dataset = Dataset::open(&spec, &input("bytes", DType::I32, &[0, 2048])).unwrap();
    assert_eq!((dataset.len(), dataset.labels().map(<[u32]>::len)), (76, Some(76)));
    assert_eq!(dataset.sample(75).unwrap().feeds[0].1.shape(), [1, 2048]);
}
