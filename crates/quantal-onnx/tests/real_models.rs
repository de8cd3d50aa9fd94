//! Models that real exporters wrote, if they are at hand.

use quantal_onnx::{Model, encode};
use std::path::{Path, PathBuf};

fn models(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(models(&path));
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
    found
}

#[test]
fn an_untouched_model_leaves_as_the_bytes_that_came_in() {
    let Some(shared) = quantal_testkit::shared() else { return };
    let paths = models(&shared.join("assets/models"));
    assert!(!paths.is_empty());
    for path in paths {
        let model = Model::open(&path).unwrap();
        assert!(encode(&model.proto) == std::fs::read(&path).unwrap(), "{}", path.display());
        for t in &model.graph().initializer {
            let tensor = model.tensor(t).unwrap();
            let shape: Vec<i64> = tensor.shape().iter().map(|&d| d as i64).collect();
            assert_eq!(shape, t.dims, "{}", t.name);
        }
    }
}
