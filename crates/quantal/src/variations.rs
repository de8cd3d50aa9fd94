//! Recipes that differ from one another by a single decision.

use quantal_ptq::recipe::{Ranges, Rounding, WeightGranularity, WeightScales};
use quantal_ptq::{Observer, Recipe};
use quantal_tensor::Storage;

/// A recipe that makes one decision in another way.
#[derive(Clone, Debug)]
pub(crate) struct Variation {
    /// The decision.
    pub(crate) decision: &'static str,
    /// How it is made here.
    pub(crate) name: String,
    /// The whole recipe.
    pub(crate) recipe: Recipe,
    /// Whether it is worth a try where the recipe it differs from is not accurate enough: the others show what a
    /// decision costs.
    pub(crate) may_help: bool,
}

/// Every way to make each decision, all others as in `base`; one of each is `base` itself.
pub(crate) fn variations(base: &Recipe) -> Vec<Variation> {
    let mut all = Vec::new();
    let mut add = |decision, name: &str, may_help, edit: &dyn Fn(&mut Recipe)| {
        let mut recipe = base.clone();
        edit(&mut recipe);
        all.push(Variation { decision, name: name.to_owned(), recipe, may_help });
    };
    add("activations", "u8, asymmetric", false, &|r| {
        (r.activations.storage, r.activations.symmetric) = (Storage::U8, false);
    });
    add("activations", "s8, symmetric", false, &|r| {
        (r.activations.storage, r.activations.symmetric) = (Storage::S8, true);
    });
    add("weights", "a scale for each channel", false, &|r| r.weights.granularity = WeightGranularity::PerChannel);
    add("weights", "one scale", false, &|r| r.weights.granularity = WeightGranularity::PerTensor);
    for (name, observer) in [
        ("min_max", Observer::MinMax {}),
        ("moving_average", Observer::MovingAverage {}),
        ("percentile 99.99", Observer::Percentile { percent: 99.99 }),
        ("percentile 99.999", Observer::Percentile { percent: 99.999 }),
        ("mse", Observer::DEFAULT),
        ("entropy", Observer::Entropy { bins: 2048, levels: 128 }),
    ] {
        add("ranges by", name, true, &|r| r.observer = observer);
    }
    add("ranges are chosen", "by calibration", false, &|r| r.activations.ranges = Ranges::Static);
    add("ranges are chosen", "for each row, while running", true, &|r| r.activations.ranges = Ranges::DynamicPerToken);
    add("scales of weights", "largest", true, &|r| r.weights.scales = WeightScales::Largest);
    add("scales of weights", "least_error", true, &|r| r.weights.scales = WeightScales::LeastError);
    for (name, rounding) in
        [("nearest", Rounding::Nearest), ("gptq", Rounding::Gptq), ("ada_round", Rounding::AdaRound)]
    {
        add("weights are rounded", name, true, &|r| r.weights.rounding = rounding);
    }
    add("equalization", "on", true, &|r| r.equalization = true);
    add("equalization", "off", true, &|r| r.equalization = false);
    add("smooth_quant", "on", true, &|r| r.smooth_quant = true);
    add("smooth_quant", "off", true, &|r| r.smooth_quant = false);
    add("bias correction", "on", true, &|r| r.bias_correction = true);
    add("bias correction", "off", true, &|r| r.bias_correction = false);
    all
}

/// The same with other numbers of calibration samples, as far as there are so many.
pub(crate) fn sample_counts(base: &Recipe, available: usize) -> Vec<Variation> {
    let counts = [16, 32, 64, 128, 256, 512, 1024].into_iter().filter(|&n| n <= available);
    let with = |samples| {
        let mut recipe = base.clone();
        recipe.calibration.samples = samples;
        Variation { decision: "samples", name: samples.to_string(), recipe, may_help: false }
    };
    counts.map(with).collect()
}
