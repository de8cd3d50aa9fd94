//! Runs a model on seeded data and prints how long it takes: `run_model MODEL [RUNS] [--steps] [--taps]`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use quantal_ir::Dim;
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Session, compile};
use quantal_tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("which model?")?;
    let runs: usize = args.get(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let model = Arc::new(quantal_onnx::Model::open(path.as_ref())?);
    let graph = quantal_ir::import(&model)?;
    let start = Instant::now();
    let program = compile(&graph, Mode::Integer, Isa::detect()?)?;
    println!("compiled {} nodes to {} steps in {:?}", graph.node_count(), program.steps.len(), start.elapsed());
    let mut feeds = Vec::new();
    for input in &program.inputs {
        let shape: Vec<usize> =
            input.shape.iter().flatten().map(|d| if let Dim::Known(n) = d { *n } else { 1 }).collect();
        let mut tensor = Tensor::zeros(input.dtype.unwrap_or(DType::F32), &shape)?;
        if let Some(DType::F32) = input.dtype {
            for (i, x) in tensor.as_mut_slice::<f32>()?.iter_mut().enumerate() {
                *x = ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
            }
        }
        feeds.push((input.name.to_string(), tensor));
    }
    let mut session = Session::new(program, 1);
    let mut times = Vec::new();
    let mut outputs = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        outputs = session.run(&feeds)?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("fastest {:?}, median {:?}", times[0], times[times.len() / 2]);
    for (name, tensor) in &outputs {
        let values = tensor.to_f32_vec().unwrap_or_default();
        let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
        println!("{name} {:?} sum {sum} first {:?}", tensor.shape(), &values[..values.len().min(4)]);
    }
    if args.iter().any(|a| a == "--steps") {
        let (_, steps) = session.run_profiled(&feeds)?;
        let mut by_kind: BTreeMap<String, (u64, usize)> = BTreeMap::new();
        for s in &steps {
            println!("{:>9.1} us {:>18} {:>20} {}", s.nanoseconds as f64 / 1e3, s.step, s.op, s.name);
            let entry = by_kind.entry(format!("{} {}", s.step, s.op)).or_default();
            *entry = (entry.0 + s.nanoseconds, entry.1 + 1);
        }
        for (kind, (nanoseconds, count)) in by_kind {
            println!("{:>9.1} us {count:>5} {kind}", nanoseconds as f64 / 1e3);
        }
    }
    Ok(())
}
