//! What is fuzzed: a name, the form of its inputs and the function that reads them.

use crate::mutate::Form;
use quantal::{Engine, Mode, Model, Recipe, Session};
use quantal_data::npz::{read_npy, read_npz};
use quantal_data::preprocess::Resize;
use quantal_data::{DataSpec, Dataset, InputSpec, Preprocess};
use quantal_tensor::{Bytes, DType, Tensor};
use std::path::Path;

/// One target.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// How its inputs are mutated.
    pub form: Form,
    /// Reads an input: whatever it holds, this returns.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "onnx", form: Form::Protobuf, run: onnx },
    Target { name: "run", form: Form::Protobuf, run },
    Target { name: "npy", form: Form::Binary, run: npy },
    Target { name: "npz", form: Form::Binary, run: npz },
    Target { name: "image", form: Form::Binary, run: image },
    Target { name: "idx", form: Form::Binary, run: idx },
    Target { name: "recipe", form: Form::Text, run: recipe },
    Target { name: "preprocess", form: Form::Text, run: preprocess },
    Target { name: "tokenizer", form: Form::Text, run: tokenizer },
];

/// Most elements that are fed to an input of a mutated model.
const MOST_ELEMENTS: usize = 1 << 14;
/// The size of a dimension that a model leaves free.
const FREE: usize = 2;

/// The ONNX reader: parses, reads every tensor, and writes the model again.
pub fn onnx(data: &[u8]) {
    let Ok(Ok(model)) = Bytes::copy_from(data).map(quantal_onnx::Model::parse) else { return };
    let graph = model.graph();
    for tensor in &graph.initializer {
        drop(model.tensor(tensor));
    }
    for tensor in &graph.sparse_initializer {
        drop(model.sparse_tensor(tensor));
    }
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        if let Some(tensor) = &attribute.t {
            drop(model.tensor(tensor));
        }
    }
    if let Ok(model) = Model::parse(data, "fuzzed")
        && let Ok(proto) = quantal_ir::export(&model.graph)
    {
        drop(quantal_onnx::encode(&proto));
    }
}

/// Import, shape inference, compilation and a run, in float and in integers.
pub fn run(data: &[u8]) {
    let Ok(engine) = Engine::detect(1) else { return };
    let Ok(model) = Model::parse(data, "fuzzed") else { return };
    for mode in [Mode::Simulate, Mode::Integer] {
        let Ok(program) = model.compile(mode, engine) else { continue };
        let Some(feeds) = model.inputs().ok().and_then(|inputs| feeds(&inputs)) else { continue };
        drop(Session::new(program, engine.threads).run(&feeds));
    }
}

/// Small numbers for each input; `None` if one wants too many.
fn feeds(inputs: &[InputSpec]) -> Option<Vec<(String, Tensor)>> {
    let feed = |input: &InputSpec| {
        let shape: Vec<usize> = input.shape.iter().map(|d| d.unwrap_or(FREE)).collect();
        let count = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MOST_ELEMENTS)?;
        let tensor = match input.dtype {
            DType::F32 => {
                let values: Vec<f32> = (0..count).map(|i| (i % 17) as f32 / 4.0 - 2.0).collect();
                Tensor::from_slice(&shape, &values)
            }
            DType::I64 => Tensor::from_slice(&shape, &(0..count).map(|i| i as i64 % 3).collect::<Vec<_>>()),
            DType::U8 => Tensor::from_slice(&shape, &(0..count).map(|i| (i * 37) as u8).collect::<Vec<_>>()),
            other => Tensor::zeros(other, &shape),
        };
        Some((input.name.clone(), tensor.ok()?))
    };
    inputs.iter().map(feed).collect()
}

/// Hands a file of this name and these bytes, alone in its folder, to `read`.
fn in_file(name: &str, data: &[u8], read: impl FnOnce(&Path)) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join(name);
    if std::fs::write(&path, data).is_ok() {
        read(&path);
    }
}

/// Arrays of numpy.
pub fn npy(data: &[u8]) {
    in_file("a.npy", data, |path| drop(read_npy(path)));
}

/// Archives of arrays.
pub fn npz(data: &[u8]) {
    in_file("a.npz", data, |path| drop(read_npz(path)));
}

/// Images, decoded, resized and cropped.
pub fn image(data: &[u8]) {
    let name = if data.starts_with(b"\x89PNG") { "a.png" } else { "a.jpg" };
    in_file(name, data, |path| samples(&DataSpec { path: path.to_owned(), ..of_images() }, &image_input()));
}

/// Images as MNIST has them.
pub fn idx(data: &[u8]) {
    let name = if data.starts_with(&[0x1f, 0x8b]) { "a-idx3-ubyte.gz" } else { "a-idx3-ubyte" };
    in_file(name, data, |path| samples(&DataSpec { path: path.to_owned(), ..of_images() }, &image_input()));
}

fn of_images() -> DataSpec {
    let preprocess = Preprocess { resize: Resize::Auto, ..Preprocess::default() };
    DataSpec { preprocess: Some(preprocess), ..DataSpec::default() }
}

fn image_input() -> [InputSpec; 1] {
    [InputSpec { name: "x".to_owned(), dtype: DType::F32, shape: vec![None, Some(3), Some(8), Some(8)] }]
}

fn samples(spec: &DataSpec, inputs: &[InputSpec]) {
    let Ok(dataset) = Dataset::open(spec, inputs) else { return };
    let indices: Vec<usize> = (0..dataset.len().min(4)).collect();
    dataset.stream(&indices).for_each(drop);
}

/// Recipes.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(recipe) = Recipe::from_toml(text) {
        let written = recipe.to_toml();
        assert!(Recipe::from_toml(&written).is_ok(), "a recipe as it is written is not read: {written}");
    }
}

/// Descriptions of preprocessing, and one small image through what they say.
pub fn preprocess(data: &[u8]) {
    in_file("p.toml", data, |path| {
        let Ok(preprocess) = Preprocess::from_file(path) else { return };
        in_file("a.png", &crate::seeds::png(), |path| {
            let spec = DataSpec { path: path.to_owned(), preprocess: Some(preprocess), ..DataSpec::default() };
            samples(&spec, &image_input());
        });
    });
}

/// Tokenizers, and a few sentences through them.
pub fn tokenizer(data: &[u8]) {
    const TEXT: &str = "A good film, un film été.\n\nbad \u{1f3ac} films [SEP] 42\n";
    in_file("tokenizer.json", data, |tokenizer| {
        in_file("t.txt", TEXT.as_bytes(), |path| {
            let inputs = ["input_ids", "attention_mask"].map(|name| InputSpec {
                name: name.to_owned(),
                dtype: DType::I64,
                shape: vec![None, None],
            });
            let tokenizer = Some(tokenizer.to_owned());
            samples(&DataSpec { path: path.to_owned(), tokenizer, ..DataSpec::default() }, &inputs);
        });
    });
}

/// Sets the most memory that the tensors of a target may take.
pub fn limit_memory(bytes: usize) {
    quantal::set_memory_limit(bytes);
}
