//! The recipe: every choice of a quantization run in one typed value, as a TOML file.
//!
//! A file may leave fields out, which then have the default; a field that does not exist is refused. A recipe is
//! written with every field, so that a run can be repeated whatever the defaults are by then.

use crate::error::{Error, Result};
use crate::observer::Observer;
use quantal_data::toml_line;
use quantal_tensor::{Granularity, Scheme, Storage};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// The version of the recipe format that this program writes and reads.
pub const VERSION: u32 = 1;

/// The names of the built-in recipes.
pub const PRESETS: [&str; 3] = ["fast", "balanced", "best"];

/// All choices of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Version of the format: 1.
    pub version: u32,
    /// Whether channels are scaled between neighbouring products until the weights reach equally far, and large biases
    /// move on ([`crate::equalize`]): what weights with one scale need.
    pub equalization: bool,
    /// Whether outliers among the channels of activations move into the weights ([`crate::smooth_quant`]).
    pub smooth_quant: bool,
    /// Whether biases take back the mean shift that rounding the weights makes.
    pub bias_correction: bool,
    /// How many samples are seen, and which.
    pub calibration: Calibration,
    /// How ranges of activations are chosen.
    pub observer: Observer,
    /// How weights are held.
    pub weights: Weights,
    /// How activations are held.
    pub activations: Activations,
    /// Exceptions, by node name. The first that fits a node counts.
    pub overrides: Vec<Override>,
}

/// How many samples calibration sees, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// The most samples that are used.
    pub samples: usize,
    /// Which ones are drawn if there are more.
    pub seed: u64,
}

/// Who shares the scale of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightGranularity {
    /// The whole tensor.
    PerTensor,
    /// Each output channel.
    PerChannel,
}

/// How the scale of weights is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightScales {
    /// The largest magnitude becomes the largest code.
    #[default]
    Largest,
    /// The squared error of the outputs is least, as far as weights and the variance of their inputs tell
    /// ([`crate::weights`]).
    LeastError,
}

/// How a weight becomes a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// The nearest.
    #[default]
    Nearest,
    /// One after the other, each taking up the error of those before ([`crate::rounding`]).
    Gptq,
    /// The same, and then up or down wherever that brings outputs nearer.
    AdaRound,
}

/// How weights are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// The type of the codes.
    #[serde(with = "StorageName")]
    pub storage: Storage,
    /// Smallest code in use.
    pub qmin: i32,
    /// Largest code in use.
    pub qmax: i32,
    /// Whether real 0 is the middle code.
    pub symmetric: bool,
    /// Who shares a scale.
    pub granularity: WeightGranularity,
    /// How scales are chosen.
    pub scales: WeightScales,
    /// How codes are chosen.
    pub rounding: Rounding,
}

/// How activations are held: one scale a tensor, all codes of the type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Activations {
    /// The type of the codes.
    #[serde(with = "StorageName")]
    pub storage: Storage,
    /// Whether real 0 is the middle code.
    pub symmetric: bool,
    /// A normalization whose input would be told from its rounding by less than this many decibels, at the position
    /// where that is worst, stays in float, and the sum before it: residual streams with outlier channels or with a faint
    /// class token. 0 leaves none.
    pub min_norm_sqnr_db: u32,
    /// A value whose channels would be told from their rounding by less than this many decibels, on average over them,
    /// stays in float, with the nodes that make and read it: long tails, boxes beside scores. 0 leaves none.
    pub min_channel_sqnr_db: u32,
    /// When the ranges are chosen.
    pub ranges: Ranges,
}

/// When the ranges of activations are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranges {
    /// By calibration, once for all.
    #[default]
    Static,
    /// While running, for each row (token) of what a MatMul or Gemm multiplies by weights: u8 codes around 128, the
    /// weights symmetric. Everything else that could run in integers is calibrated, as far as codes reach it.
    DynamicPerToken,
}

/// An exception for the nodes whose name fits a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// A pattern for node names: `*` stands for any run of characters, `?` for one.
    pub node: String,
    /// Leave these nodes in float.
    #[serde(default)]
    pub fallback: bool,
    /// Another observer for what these nodes make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observer: Option<Observer>,
    /// Another type, in its full range, for the codes of what these nodes make.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "OptionalStorage")]
    pub storage: Option<Storage>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Storage", rename_all = "snake_case")]
enum StorageName {
    U8,
    S8,
}

/// Serde's `remote` reaches no further than the type itself.
struct OptionalStorage;

impl OptionalStorage {
    // The signature is serde's.
    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)]
    fn serialize<S: serde::Serializer>(value: &Option<Storage>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match value {
            Some(storage) => StorageName::serialize(storage, serializer),
            None => serializer.serialize_none(),
        }
    }

    fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Storage>, D::Error> {
        StorageName::deserialize(d).map(Some)
    }
}

/// Sums that real models keep in codes lie at 29 dB and above; those that ruin them, at 19 and below.
const MIN_NORM_SQNR_DB: u32 = 26;

/// Of what real classifiers hold in codes without harm, the least lies at 9.9 dB; the heads of detectors, whose scores
/// drown beside boxes, at 3 to 5, and a stem whose long tail ruins a whole detector at 5.5.
const MIN_CHANNEL_SQNR_DB: u32 = 8;

impl Default for Recipe {
    fn default() -> Self {
        Self {
            version: VERSION,
            equalization: false,
            smooth_quant: false,
            bias_correction: true,
            calibration: Calibration::default(),
            observer: Observer::DEFAULT,
            weights: Weights::default(),
            activations: Activations::default(),
            overrides: Vec::new(),
        }
    }
}

impl Default for Calibration {
    fn default() -> Self {
        Self { samples: 256, seed: 0 }
    }
}

impl Default for Weights {
    fn default() -> Self {
        let Scheme { storage, qmin, qmax, symmetric, .. } = Scheme::weight_per_tensor();
        Self {
            storage,
            qmin,
            qmax,
            symmetric,
            granularity: WeightGranularity::PerChannel,
            scales: WeightScales::default(),
            rounding: Rounding::default(),
        }
    }
}

impl Default for Activations {
    fn default() -> Self {
        let Scheme { storage, symmetric, .. } = Scheme::activation();
        Self {
            storage,
            symmetric,
            min_norm_sqnr_db: MIN_NORM_SQNR_DB,
            min_channel_sqnr_db: MIN_CHANNEL_SQNR_DB,
            ranges: Ranges::Static,
        }
    }
}

impl Weights {
    /// The scheme of a weight whose output channels lie along `axis`; one scale if it is `None`.
    pub fn scheme(&self, axis: Option<usize>) -> Scheme {
        let granularity = match (self.granularity, axis) {
            (WeightGranularity::PerChannel, Some(axis)) => Granularity::PerChannel { axis },
            (WeightGranularity::PerTensor, _) | (_, None) => Granularity::PerTensor,
        };
        Scheme { storage: self.storage, qmin: self.qmin, qmax: self.qmax, symmetric: self.symmetric, granularity }
    }
}

impl Activations {
    /// The scheme of activations.
    pub fn scheme(&self) -> Scheme {
        let Self { storage, symmetric, .. } = *self;
        let (qmin, qmax) = storage.full_range();
        Scheme { storage, qmin, qmax, symmetric, granularity: Granularity::PerTensor }
    }
}

impl Recipe {
    /// The built-in recipe of that name.
    pub fn preset(name: &str) -> Result<Self> {
        match name {
            // Ranges as they were seen: calibration looks at the ends of values alone.
            "fast" => Ok(Self { observer: Observer::MinMax {}, ..Self::default() }),
            "balanced" => Ok(Self::default()),
            "best" => Ok(Self { observer: Observer::Mse { bins: 8192 }, ..Self::default() }),
            _ => Err(Error::UnknownPreset { name: name.to_owned() }),
        }
    }

    /// Reads a recipe from the text of a TOML file.
    pub fn from_toml(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| {
            let line = toml_line::of_error(text, &e);
            Error::RecipeText { line, message: e.message().trim().replace('\n', ", ") }
        })?;
        match recipe.problem() {
            Some((field, problem)) => {
                Err(Error::RecipeValue { line: toml_line::of_field(text, &field), field, problem })
            }
            None => Ok(recipe),
        }
    }

    /// The recipe as the text of a TOML file, with every field.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe has string keys and no value before a table")
    }

    /// Whether every number lies where it must.
    pub fn check(&self) -> Result<()> {
        self.problem().map_or(Ok(()), |(field, problem)| Err(Error::RecipeValue { line: None, field, problem }))
    }

    /// A field whose value lies where it must not, and what is wrong with it.
    fn problem(&self) -> Option<(String, String)> {
        let wrong = |field: &str, problem: String| Some((field.to_owned(), problem));
        if self.version != VERSION {
            return wrong("version", format!("must be {VERSION}, found {}", self.version));
        }
        if self.calibration.samples == 0 {
            return wrong("calibration.samples", "must be at least 1".into());
        }
        let (w, (least, most)) = (&self.weights, self.weights.storage.full_range());
        if w.qmin < least || w.qmax > most || w.qmin >= w.qmax {
            let problem = format!("must hold qmin < qmax within {least} to {most}, found {} to {}", w.qmin, w.qmax);
            return wrong(if w.qmin < least { "weights.qmin" } else { "weights.qmax" }, problem);
        }
        // Real 0 must be a code; asymmetric ranges see to it themselves.
        if w.symmetric && w.storage == Storage::S8 && !(w.qmin < 0 && w.qmax > 0) {
            return wrong("weights", format!("symmetric codes must lie around 0, found {} to {}", w.qmin, w.qmax));
        }
        if self.activations.ranges == Ranges::DynamicPerToken && !(w.symmetric && w.storage == Storage::S8) {
            return wrong("weights", "must be symmetric s8 where activations are dynamic".into());
        }
        if let Some((field, problem)) = self.observer.problem() {
            return wrong(&format!("observer.{field}"), problem);
        }
        for (i, o) in self.overrides.iter().enumerate() {
            if !o.fallback && o.observer.is_none() && o.storage.is_none() {
                let problem = "changes nothing: it must have `fallback = true`, an observer or a storage";
                return wrong(&format!("overrides[{i}]"), problem.into());
            }
            if let Some((field, problem)) = o.observer.and_then(|o| o.problem()) {
                return wrong(&format!("overrides[{i}].observer.{field}"), problem);
            }
        }
        None
    }

    /// Whether every exception fits some node: one that fits none is a slip of the pen.
    pub fn check_overrides(&self, names: &[&str]) -> Result<()> {
        for (i, o) in self.overrides.iter().enumerate() {
            if !names.iter().any(|name| fits(&o.node, name)) {
                return Err(Error::FitsNoNode { index: i, pattern: o.node.clone(), near: near(&o.node, names) });
            }
        }
        Ok(())
    }

    /// The first exception that fits a node of that name.
    pub fn override_of(&self, node: &str) -> Option<&Override> {
        self.first_override(node).map(|i| &self.overrides[i])
    }

    /// Its place.
    pub fn first_override(&self, node: &str) -> Option<usize> {
        self.overrides.iter().position(|o| fits(&o.node, node))
    }
}

/// The names that have most in common with a pattern: the longest run of characters.
fn near(pattern: &str, names: &[&str]) -> Vec<String> {
    const MOST: usize = 3;
    /// Nobody writes longer ones; a file may hold any.
    const LONGEST: usize = 200;
    let shared = |name: &str| {
        let (a, b) = (&pattern.as_bytes()[..pattern.len().min(LONGEST)], name.as_bytes());
        let run =
            |i: usize, j: usize| a[i..].iter().zip(&b[j..]).take_while(|(x, y)| x.eq_ignore_ascii_case(y)).count();
        (0..a.len()).flat_map(|i| (0..b.len()).map(move |j| (i, j))).map(|(i, j)| run(i, j)).max().unwrap_or(0)
    };
    let names = names.iter().filter(|n| n.len() <= LONGEST);
    let mut ranked: Vec<_> = names.map(|n| (Reverse(shared(n)), n.len().abs_diff(pattern.len()), *n)).collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().take(MOST).map(|(_, _, name)| name.to_owned()).collect()
}

/// Whether `name` fits a pattern of `*` and `?`.
fn fits(pattern: &str, name: &str) -> bool {
    let (mut p, mut n) = (pattern.chars(), name.chars());
    // What follows the last star, and the part of the name that it has not taken: the place to go back to.
    let mut star = None;
    loop {
        let (mut after_p, mut after_n) = (p.clone(), n.clone());
        match (after_p.next(), after_n.next()) {
            (Some('*'), _) => {
                star = Some((after_p.clone(), n.clone()));
                p = after_p;
            }
            (Some(c), Some(d)) if c == '?' || c == d => (p, n) = (after_p, after_n),
            (None, None) => return true,
            _ => {
                let Some((after, left)) = &mut star else { return false };
                if left.next().is_none() {
                    return false;
                }
                (p, n) = (after.clone(), left.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_names_every_field() {
        let mut recipe = Recipe::default();
        let text = recipe.to_toml();
        assert_eq!(Recipe::from_toml(&text).unwrap(), recipe);
        for field in
            ["version", "samples", "seed", "kind", "storage", "qmin", "qmax", "symmetric", "granularity", "scales"]
        {
            assert!(text.contains(&format!("{field} = ")), "{field} in\n{text}");
        }
        recipe.observer = Observer::Percentile { percent: 99.99 };
        let all = Override {
            node: "head/*".into(),
            fallback: true,
            observer: Some(Observer::Entropy { bins: 2048, levels: 256 }),
            storage: Some(Storage::S8),
        };
        let some = Override { node: "x".into(), fallback: true, observer: None, storage: None };
        recipe.overrides = vec![all, some];
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    }

    #[test]
    fn what_is_left_out_has_the_default() {
        let recipe = Recipe::from_toml("[observer]\nkind = \"percentile\"\n").unwrap();
        assert_eq!(recipe, Recipe { observer: Observer::Percentile { percent: 99.999 }, ..Recipe::default() });
    }

    #[test]
    fn unknown_fields_and_wrong_values_are_named() {
        for (text, words) in [
            ("[calibration]\nsample = 3", "`sample`"),
            ("speed = 1", "`speed`"),
            ("[observer]\nkind = \"min_max\"\nbins = 3", "`bins`"),
            ("[observer]\nkind = \"best\"", "`best`"),
            ("observer = \"mse\"", "expected a table with the key `kind`"),
            ("[observer]\nkind = \"percentile\"\npercent = 0.5", "percent"),
            ("[weights]\nstorage = \"s4\"", "`s4`"),
            ("[weights]\nqmin = -300", "weights"),
            ("[activations]\nqmin = 255", "`qmin`"),
            ("[[overrides]]\nnode = \"a\"\nfallbck = true", "`fallbck`"),
            ("[[overrides]]\nnode = \"a\"", "changes nothing"),
            ("version = 9", "version"),
            ("[calibration]\nsamples = 0", "samples"),
            ("[calibration]\nsamples = -1", "line 2, `samples = -1`"),
            ("[observer]\nkind = \"mse\"\nbins = 3", "line 3, `bins = 3`: `observer.bins`"),
        ] {
            let message = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
        assert!(Recipe::preset("fastest").unwrap_err().hint().unwrap().contains("balanced"));
    }

    #[test]
    fn a_pattern_that_fits_no_node_brings_up_the_nearest_names() {
        let names =
            ["/stem/Conv", "/layer1/conv1/Conv", "/layer1/conv2/Conv", "/layer2/conv1/Conv", "Conv_10", "Conv_1"];
        for (pattern, first) in
            [("layer2/*", "/layer2/conv1/Conv"), ("conv1", "/layer1/conv1/Conv"), ("Conv_", "Conv_1")]
        {
            let node = Override { node: pattern.into(), fallback: true, observer: None, storage: None };
            let error = Recipe { overrides: vec![node], ..Recipe::default() }.check_overrides(&names).unwrap_err();
            assert!(error.to_string().contains(pattern), "{error}");
            assert!(error.hint().unwrap().contains(&format!("`{first}`, ")), "{:?}", error.hint());
        }
    }

    #[test]
    fn patterns_fit_as_a_shell_has_them() {
        for (pattern, name, fit) in [
            ("", "", true),
            ("*", "", true),
            ("/layer1/*", "/layer1/conv/Conv", true),
            ("*Conv", "/a/Conv/b/Conv", true),
            ("*Conv", "/a/Conv_1", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "a__b_b_c", true),
            ("a*b*c", "a__b_b_", false),
            ("Conv_1", "Conv_12", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }
}
