//! The command line, as typed.

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use quantal::bench::Problem;
use quantal::data::shown;
use std::path::{Path, PathBuf};

/// INT8 quantization of ONNX models that truly run in INT8
#[derive(Parser, Debug)]
#[command(name = "quantal", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,

    /// Most memory that tensors may take, in MiB [default: 80 % of what is free]
    #[arg(long, global = true, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_memory: Option<u64>,

    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Make an INT8 model from a float model and a sample of data
    Quantize(QuantizeArgs),
    /// Run a model once on arrays from an .npz file
    Run(RunArgs),
    /// Show what each decision costs on this model: the table to choose a recipe by
    Explain(ExplainArgs),
    /// Say whether data is fit to calibrate with, and which part of it is the best
    CheckData(CheckDataArgs),
    /// Show which nodes cost accuracy, and which would give it back
    Sensitivity(SensitivityArgs),
    /// Measure the accuracy of a classifier on labelled data
    Eval(EvalArgs),
    /// Show where two models differ, and by how much
    Compare(CompareArgs),
    /// Time models, in turns
    Bench(BenchArgs),
    /// Show what is in a model
    Inspect(InspectArgs),
    /// See the whole story on an embedded model and data
    Quickstart(QuickstartArgs),
}

#[derive(clap::Args, Debug)]
pub(crate) struct QuantizeArgs {
    /// The float model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Most samples that calibration sees [default: what the recipe says, 256]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: Option<u32>,
    /// All choices in one place: `fast`, `balanced`, `best`, or a TOML file [default: balanced]
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) recipe: Option<String>,
    /// Where the INT8 model goes [default: MODEL with the ending .int8.onnx]
    #[arg(short, long, value_name = "ONNX")]
    pub(crate) output: Option<PathBuf>,
    /// Write the full recipe of this run as TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) save_recipe: Option<PathBuf>,
    /// Measure the accuracy of both models on this data too; --labels are then its labels
    #[arg(long, value_name = "PATH", value_parser = existing())]
    pub(crate) eval: Option<PathBuf>,
    /// Search for a recipe that loses at most so many points of top-1
    #[arg(long, value_name = "POINTS", value_parser = points, allow_negative_numbers = true, conflicts_with = "min_sqnr")]
    pub(crate) max_drop: Option<f64>,
    /// Search for a recipe whose outputs are at least so close to those of the float model
    #[arg(long, value_name = "DB", value_parser = finite)]
    pub(crate) min_sqnr: Option<f64>,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The float model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Judge on this data [default: what calibration leaves of --data, at least a third]; --labels are its labels
    #[arg(long, value_name = "PATH", value_parser = existing())]
    pub(crate) eval: Option<PathBuf>,
    /// The recipe that each row differs from in one decision
    #[arg(long, value_name = "NAME|FILE", default_value = "balanced")]
    pub(crate) recipe: String,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct SensitivityArgs {
    /// The float model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Most samples that the effects are measured on
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: u32,
    /// The recipe that the nodes are quantized by
    #[arg(long, value_name = "NAME|FILE", default_value = "balanced")]
    pub(crate) recipe: String,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct CheckDataArgs {
    /// The float model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// What the model will see: is it covered by the ranges that --data gives?
    #[arg(long, value_name = "PATH", value_parser = existing())]
    pub(crate) against: Option<PathBuf>,
    /// Most samples of each to look at, evenly spaced [default: all]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: Option<u32>,
    /// Choose so many samples that cover the data best
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pick: Option<u32>,
    /// Write the names of the chosen samples here, one a line
    #[arg(short, long, value_name = "FILE", requires = "pick")]
    pub(crate) output: Option<PathBuf>,
    /// The recipe whose ranges are looked at
    #[arg(long, value_name = "NAME|FILE", default_value = "balanced")]
    pub(crate) recipe: String,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct CompareArgs {
    /// The model to compare with
    #[arg(value_parser = existing())]
    pub(crate) a: PathBuf,
    /// The other model
    #[arg(value_parser = existing())]
    pub(crate) b: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Most samples
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: u32,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct QuickstartArgs {
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    /// The model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    /// An .npz file with one array for each input, by name
    #[arg(long, value_name = "NPZ", value_parser = existing())]
    pub(crate) input: PathBuf,
    /// Where the outputs go: an .npz file with one array for each output, by name
    #[arg(long, value_name = "NPZ")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
pub(crate) struct EvalArgs {
    /// The model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: Option<BenchWhat>,
    /// The models
    #[arg(required = true, num_args = 1.., value_parser = existing())]
    pub(crate) models: Vec<PathBuf>,
    /// Size of a free batch dimension
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) batch: u32,
    /// Size of a free dimension: by its name, or as INPUT:AXIS=N; may be given several times
    #[arg(long = "size", value_name = "NAME=N", value_parser = size)]
    pub(crate) sizes: Vec<(String, usize)>,
    /// What to run on in place of inputs made up: an .npz file with one array for each input, or the first sample of a folder
    #[arg(long, value_name = "NPZ|DIR", value_parser = existing(), conflicts_with_all = ["sizes", "batch"])]
    pub(crate) data: Option<PathBuf>,
    /// What is done to images of --data: a preset (imagenet, cifar10, mnist …) or a TOML file, see docs/preprocessing.md
    #[arg(long, value_name = "NAME|FILE", requires = "data")]
    pub(crate) preprocess: Option<String>,
    /// Seconds for each model
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Show where the time goes, node by node
    #[arg(long)]
    pub(crate) profile: bool,
    /// Profile, and write one run as a trace for Perfetto or chrome://tracing
    #[arg(long, value_name = "JSON")]
    pub(crate) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(Subcommand, Debug)]
pub(crate) enum BenchWhat {
    /// Time every integer kernel at a shape, beside the peak of this CPU
    Kernels(KernelsArgs),
}

#[derive(clap::Args, Debug)]
pub(crate) struct KernelsArgs {
    /// MxNxK, conv:HxWxC:OUT:KERNEL:STRIDE or dw:HxWxC:KERNEL:STRIDE [default: some of real networks]
    #[arg(value_name = "SHAPE", value_parser = Problem::parse)]
    pub(crate) shapes: Vec<Problem>,
    /// Fail if dispatch picks a kernel more than 10 % slower than the best [default shapes: all of six networks]
    #[arg(long)]
    pub(crate) check: bool,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
}

#[derive(clap::Args, Debug)]
pub(crate) struct InspectArgs {
    /// The model
    #[arg(value_parser = existing())]
    pub(crate) model: PathBuf,
    /// For each node, whether it runs in integers here, and if not why
    #[arg(long)]
    pub(crate) coverage: bool,
    /// Size of a free dimension, for the counts of MACs: by its name, or as INPUT:AXIS=N; may be given several times
    #[arg(long = "size", value_name = "NAME=N", value_parser = size)]
    pub(crate) sizes: Vec<(String, usize)>,
}

/// Where samples come from.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DataArgs {
    /// Samples: a folder of images, .npz or .npy files, an IDX or text file
    #[arg(long, value_name = "PATH", value_parser = existing())]
    pub(crate) data: PathBuf,
    /// Use only the samples that this file names, one a line: what `check-data --pick N -o FILE` writes
    #[arg(long, value_name = "FILE", value_parser = existing())]
    pub(crate) only: Option<PathBuf>,
    /// Labels: a CSV with the columns file and label; it may cover more than the data
    #[arg(long, value_name = "CSV", value_parser = existing())]
    pub(crate) labels: Option<PathBuf>,
    /// What is done to images: a preset (imagenet, cifar10, mnist …) or a TOML file, see docs/preprocessing.md
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) preprocess: Option<String>,
    /// The tokenizer.json for text [default: the one beside the model]
    #[arg(long, value_name = "FILE", value_parser = existing())]
    pub(crate) tokenizer: Option<PathBuf>,
}

impl DataArgs {
    /// Other data, treated alike: all of it.
    pub(crate) fn at(&self, path: &Path) -> Self {
        Self { data: path.to_owned(), only: None, ..self.clone() }
    }
}

#[derive(clap::Args, Debug)]
pub(crate) struct Threads {
    /// Threads [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// A path to what is there: else the message names the argument, and where was looked.
fn existing() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        let looked_for = || std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        if path.exists() { Ok(path) } else { Err(format!("there is no {}", shown(&looked_for()))) }
    })
}

/// A dimension and its size.
fn size(text: &str) -> Result<(String, usize), String> {
    // The name may hold a `=`, the size does not.
    let (name, size) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("not of the form NAME=N")?;
    let size = size.trim().parse::<u32>().map_err(|_| "the size is no number")?;
    Ok((name.to_owned(), size as usize))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s.is_finite() && (0.0..=86_400.0).contains(&s) => Ok(s),
        _ => Err("a number of seconds between 0 and 86400".to_owned()),
    }
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| "not a number".to_owned())
}

fn points(text: &str) -> Result<f64, String> {
    let points = finite(text)?;
    if points >= 0.0 { Ok(points) } else { Err("points of accuracy to lose, so 0 or more".to_owned()) }
}
