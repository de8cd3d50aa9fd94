//! `quantal quickstart`: the whole story on a model and data that are inside the program.

use crate::engine::Engine;
use crate::error::Error;
use crate::eval::{Evaluation, evaluate};
use crate::model::Model;
use crate::quantize::{Quantization, quantize};
use quantal_data::Dataset;
use quantal_ptq::{Progress, Recipe};
use quantal_runtime::Mode;

/// A small convolutional network for handwritten digits; `scripts/quickstart` makes it.
const MODEL: &[u8] = include_bytes!("../assets/quickstart.onnx");
const CALIBRATION: [&[u8]; 2] = [
    include_bytes!("../assets/quickstart-calibration-images.idx3-ubyte.gz"),
    include_bytes!("../assets/quickstart-calibration-labels.idx1-ubyte.gz"),
];
const EVALUATION: [&[u8]; 2] = [
    include_bytes!("../assets/quickstart-evaluation-images.idx3-ubyte.gz"),
    include_bytes!("../assets/quickstart-evaluation-labels.idx1-ubyte.gz"),
];

/// What the quickstart did.
#[derive(Debug)]
pub struct Quickstart {
    /// The quantized model and how it came about.
    pub quantization: Quantization,
    /// Accuracy of the float model on digits that neither training nor calibration saw.
    pub float: Evaluation,
    /// Accuracy of the quantized model on the same digits.
    pub integer: Evaluation,
}

/// The embedded model, and its calibration and evaluation data.
pub(crate) fn embedded() -> Result<(Model, Dataset, Dataset), Error> {
    let model = Model::parse(MODEL, "quickstart.onnx")?;
    let inputs = model.inputs()?;
    let [calibration, evaluation] =
        [CALIBRATION, EVALUATION].map(|[images, labels]| Dataset::embedded_idx(images, labels, &inputs));
    Ok((model, calibration?, evaluation?))
}

/// Quantizes the embedded model, and evaluates and times both.
pub fn quickstart(engine: Engine, progress: &mut dyn Progress) -> Result<Quickstart, Error> {
    let (model, calibration, evaluation) = embedded()?;
    let quantization = quantize(&model, &calibration, &Recipe::default(), engine, progress)?;
    let float = evaluate(&mut model.session(Mode::Simulate, engine)?, &evaluation, progress)?;
    let integer = evaluate(&mut quantization.model.session(Mode::Integer, engine)?, &evaluation, progress)?;
    Ok(Quickstart { quantization, float, integer })
}
