//! From what was typed to what is done: one function a verb.

use crate::args::{Args, BenchArgs, DataArgs, EvalArgs, InspectArgs, RunArgs, Threads, Verb};
use crate::{limits, printer};
use quantal::data::{DataSpec, Dataset, Preprocess, npz};
use quantal::{Engine, Error, Mode, Model};
use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

mod text;

/// Does the job and prints its result; gives the exit code.
pub(crate) fn run(args: Args) -> ExitCode {
    quantal::set_memory_limit(limits::memory_limit(args.max_memory));
    let result = match &args.verb {
        Verb::Run(a) => run_model(a),
        Verb::Eval(a) => eval(a, args.json),
        Verb::Bench(a) => bench(a, args.json),
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
            printer::failure(&causes, e.hint().as_deref())
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
    let model = Model::open(&a.model)?;
    let feeds = npz::read_npz(&a.input)?;
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
        preprocess: a.preprocess.as_deref().map(Preprocess::from_argument).transpose()?,
        tokenizer: a.tokenizer.clone().or_else(|| beside.is_file().then_some(beside)),
    };
    Ok(Dataset::open(&spec, &model.inputs()?)?)
}

fn eval(a: &EvalArgs, as_json: bool) -> Result<String, Error> {
    let model = Model::open(&a.model)?;
    let data = dataset(&a.data, &a.model, &model)?;
    let mut session = model.session(Mode::Integer, engine(&a.threads)?)?;
    let bar = text::bar("evaluating");
    let result = quantal::evaluate(&mut session, &data, &mut |done, all| text::advance(&bar, done, all))?;
    Ok(if as_json { json(&result) } else { text::evaluation(&result) })
}

fn bench(a: &BenchArgs, as_json: bool) -> Result<String, Error> {
    let engine = engine(&a.threads)?;
    let models = a.models.iter().map(|p| Model::open(p)).collect::<Result<Vec<_>, _>>()?;
    let options = quantal::bench::BenchOptions { batch: a.batch as usize, free: 128, seconds: a.seconds };
    let rows = quantal::bench::bench(&models, engine, options)?;
    let report =
        text::Bench { cpu: limits::cpu_name(), isa: engine.isa.to_string(), threads: engine.threads, results: rows };
    Ok(if as_json { json(&report) } else { text::bench(&report) })
}

fn inspect(a: &InspectArgs, as_json: bool) -> Result<String, Error> {
    let model = Model::open(&a.model)?;
    let what = quantal::inspect(&model)?;
    let coverage = if a.coverage { Some(model.compile(Mode::Integer, Engine::detect(1)?)?.coverage) } else { None };
    Ok(if as_json {
        json(&text::inspection_json(&what, coverage.as_ref()))
    } else {
        text::inspection(&what, coverage.as_ref())
    })
}
