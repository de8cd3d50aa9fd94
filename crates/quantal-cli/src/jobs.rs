//! From what was typed to what is done: one function a verb.

use crate::args::{Args, CompareArgs, DataArgs, EvalArgs, InspectArgs, QuickstartArgs, RunArgs, Threads, Verb};
use crate::{limits, printer};
use quantal::data::{DataSpec, Dataset, Preprocess, feeds_from_arrays, npz, shown};
use quantal::{Engine, Error, Mode, Model};
use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

mod bar;
mod bench;
mod check_data;
mod explain;
mod paths;
mod quantize;
mod sensitivity;
mod text;

/// Does the job and prints its result; gives the exit code.
pub(crate) fn run(args: &Args) -> ExitCode {
    quantal::set_memory_limit(limits::memory_limit(args.max_memory));
    let result = match &args.verb {
        Verb::Quantize(a) => quantize::quantize(a, args.json),
        Verb::Explain(a) => explain::explain(a, args.json),
        Verb::CheckData(a) => check_data::check_data(a, args.json),
        Verb::Sensitivity(a) => sensitivity::sensitivity(a, args.json),
        Verb::Compare(a) => compare(a, args.json),
        Verb::Quickstart(a) => quickstart(a, args.json),
        Verb::Run(a) => run_model(a),
        Verb::Eval(a) => eval(a, args.json),
        Verb::Bench(a) => bench::bench(a, args.json),
        Verb::Inspect(a) => inspect(a, args.json),
    };
    match result {
        Ok(text) => printer::out(&text),
        Err(e) => {
            let mut causes = vec![e.to_string()];
            let mut source = e.source();
            while let Some(cause) = source {
                causes.push(cause.to_string());
                source = cause.source();
            }
            printer::failure(&causes, e.hint().as_deref(), e.is_usage())
        }
    }
}

fn engine(threads: &Threads) -> Result<Engine, Error> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Engine::detect(threads.threads.map_or_else(cores, usize::from))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data with text keys") + "\n"
}

fn run_model(a: &RunArgs) -> Result<String, Error> {
    paths::check_outputs(&[&a.model, &a.input], &[Some(a.output.as_path())])?;
    let model = Model::open(&a.model)?;
    let arrays = npz::read_npz(&a.input)?;
    let feeds = feeds_from_arrays(&shown(&a.input), &arrays, &model.inputs()?)?;
    let outputs = quantal::run(&model, &feeds, engine(&a.threads)?)?;
    quantal::save_npz(&a.output, &outputs)?;
    Ok(String::new())
}

/// Opens the data that a model is to see.
fn dataset(a: &DataArgs, model_path: &Path, model: &Model) -> Result<Dataset, Error> {
    let beside = model_path.with_file_name("tokenizer.json");
    let spec = DataSpec {
        path: a.data.clone(),
        labels: a.labels.clone(),
        only: a.only.clone(),
        preprocess: a.preprocess.as_deref().map(Preprocess::from_argument).transpose()?,
        tokenizer: a.tokenizer.clone().or_else(|| beside.is_file().then_some(beside)),
    };
    Ok(Dataset::open(&spec, &model.inputs()?)?)
}

/// Opens the data, and other data to judge on, treated alike: the labels are those of the latter, if it is given.
fn data_and_evaluation(
    a: &DataArgs,
    eval: Option<&Path>,
    model_path: &Path,
    model: &Model,
) -> Result<(Dataset, Option<Dataset>), Error> {
    let Some(eval) = eval else { return Ok((dataset(a, model_path, model)?, None)) };
    let data = dataset(&DataArgs { labels: None, ..a.clone() }, model_path, model)?;
    Ok((data, Some(dataset(&a.at(eval), model_path, model)?)))
}

fn eval(a: &EvalArgs, as_json: bool) -> Result<String, Error> {
    let model = Model::open(&a.model)?;
    let data = dataset(&a.data, &a.model, &model)?;
    let mut session = model.session(Mode::Integer, engine(&a.threads)?)?;
    let result = quantal::evaluate(&mut session, &data, &mut bar::Bar::default())?;
    Ok(if as_json { json(&text::evaluation_json(&result)) } else { text::evaluation(&result) })
}

fn inspect(a: &InspectArgs, as_json: bool) -> Result<String, Error> {
    let sizes = quantal::bench::Sizes::new(a.sizes.iter().cloned());
    let mut model = Model::open(&a.model)?;
    sizes.check([&model])?;
    if !sizes.is_empty() {
        model = sizes.bind(&model);
    }
    let what = quantal::inspect(&model);
    let coverage = if a.coverage { Some(quantal::survey(&model, Engine::detect(1)?)?) } else { None };
    Ok(if as_json {
        json(&text::inspection_json(&what, coverage.as_ref()))
    } else {
        text::inspection(&what, coverage.as_ref())
    })
}

fn compare(a: &CompareArgs, as_json: bool) -> Result<String, Error> {
    let (first, second) = (Model::open(&a.a)?, Model::open(&a.b)?);
    let data = dataset(&a.data, &a.a, &first)?;
    let samples = data.pick(a.samples as usize, 0);
    let engine = engine(&a.threads)?;
    let result = quantal::compare(&first, &second, &data, &samples, engine, &mut bar::Bar::default())?;
    Ok(if as_json { json(&result) } else { text::comparison(&result) })
}

fn quickstart(a: &QuickstartArgs, as_json: bool) -> Result<String, Error> {
    let engine = engine(&a.threads)?;
    let story = quantal::quickstart(engine, &mut bar::Bar::default())?;
    let report = &story.quantization.report;
    Ok(if as_json {
        json(&serde_json::json!({ "report": report, "float": story.float, "integer": story.integer }))
    } else {
        text::quickstart(&story, &limits::cpu_name(), engine)
    })
}
