//! What a person should hear about a quantized model before they use it: that it is noise, or gains nothing.

use crate::quantize::Report;
use serde::Serialize;

/// A reason not to use a model as it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Warning {
    /// `nothing_quantized`, `noise`, `slower` or `larger`.
    pub kind: &'static str,
    /// What is wrong, with the figure.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// At this SQNR the noise has a tenth of the amplitude of the outputs, and a hundredth of their energy.
pub(crate) const LEAST_SQNR_DB: f64 = 20.0;
/// Below this share of samples with the same highest score, answers change.
pub(crate) const LEAST_AGREEMENT: f64 = 0.9;
/// What two timings of the same work may differ by.
const SAME_TIME: f64 = 1.05;

/// What the report of a model says against using it. `integer_nodes` is the number of nodes that run in integers.
pub(crate) fn of_report(r: &Report, integer_nodes: usize) -> Vec<Warning> {
    if integer_nodes == 0 {
        return vec![Warning {
            kind: "nothing_quantized",
            what: "no node runs in integers: what was written computes in float, as the model that it was made from"
                .to_owned(),
            advice: "the list of nodes in float says why; `quantal inspect MODEL --coverage` shows all of them"
                .to_owned(),
        }];
    }
    let mut all = Vec::new();
    let (compared, agreeing) = (r.compared, r.agreeing);
    let mut noise = Vec::new();
    // Not a number is no good either.
    if r.output_sqnr_db.is_nan() || r.output_sqnr_db < LEAST_SQNR_DB {
        noise.push(format!("outputs are within {:.1} dB of float, below {LEAST_SQNR_DB}", r.output_sqnr_db));
    }
    if (agreeing as f64) < LEAST_AGREEMENT * compared as f64 {
        noise.push(format!("the highest score is the same on {agreeing} of {compared} samples only"));
    }
    if !noise.is_empty() {
        all.push(Warning {
            kind: "noise",
            what: format!("the INT8 model differs much from the float model: {}", noise.join(", and ")),
            advice: "try `--recipe best`, or `--min-sqnr 30`, which finds the nodes that cost most and leaves them in float; \
                     `quantal sensitivity` shows them, `quantal check-data` whether the data is fit"
                .to_owned(),
        });
    }
    if let Some([float, integer]) = &r.timing {
        let (a, b) = (float.wall_ms.min, integer.wall_ms.min);
        if b > SAME_TIME * a {
            all.push(Warning {
                kind: "slower",
                what: format!("the INT8 model is {:.2} times slower than the float model on this CPU", b / a),
                advice: "use the float model here; `quantal bench MODEL --profile` shows where the time goes, and the nodes in \
                         float that codes are made and read around"
                    .to_owned(),
            });
        }
    }
    all
}

/// What the sizes of both files say against using the INT8 model.
pub fn of_sizes(float_bytes: u64, output_bytes: u64) -> Option<Warning> {
    (output_bytes > float_bytes).then(|| Warning {
        kind: "larger",
        what: format!("the INT8 model is larger than the float model: {output_bytes} bytes, not {float_bytes}"),
        advice:
            "few of its bytes are weights of products, or they were packed before (float16, 4 bits): it gains no size"
                .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{BenchRow, Spread};
    use crate::quickstart::embedded;
    use crate::{Engine, Recipe};
    use quantal_ptq::Silent;

    fn kinds(r: &Report, integer_nodes: usize) -> Vec<&'static str> {
        of_report(r, integer_nodes).into_iter().map(|w| w.kind).collect()
    }

    #[test]
    fn noise_slowness_and_nothing_gained_are_said() {
        let (model, data, _) = embedded().unwrap();
        let engine = Engine::detect(1).unwrap();
        let mut r = crate::quantize(&model, &data, &Recipe::default(), engine, &mut Silent).unwrap().report;
        let row = |min| {
            let wall_ms = Spread { min, median: min, p90: min };
            BenchRow { model: String::new(), batch: 1, runs: 3, assumed: Vec::new(), wall_ms, cpu_ms: wall_ms }
        };
        (r.output_sqnr_db, r.compared, r.agreeing, r.timing) = (20.0, 10, 9, Some([row(1.0), row(1.0)]));
        assert!(kinds(&r, 3).is_empty());
        assert_eq!(kinds(&r, 0), ["nothing_quantized"]);
        r.agreeing = 8;
        assert_eq!(kinds(&r, 3), ["noise"]);
        assert!(of_report(&r, 3)[0].what.contains("8 of 10") && of_report(&r, 3)[0].advice.contains("--min-sqnr"));
        (r.agreeing, r.output_sqnr_db) = (10, 19.9);
        assert_eq!(kinds(&r, 3), ["noise"]);
        r.output_sqnr_db = f64::NAN;
        r.timing = Some([row(1.0), row(3.5)]);
        assert_eq!(kinds(&r, 3), ["noise", "slower"]);
        assert!(of_report(&r, 3)[1].what.contains("3.50 times slower"));
        assert!(of_sizes(100, 100).is_none() && of_sizes(100, 101).unwrap().what.contains("101 bytes"));
    }
}
