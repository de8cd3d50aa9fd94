//! `quantal bench`: what it refuses, and the shape of what it prints. No figure is judged: they are times.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantal/assets/quickstart.onnx");

fn quantal(args: &[&str]) -> Output {
    quantal_on(None, args)
}

fn quantal_on(isa: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantal"));
    command.env_remove("QUANTAL_ISA").envs(isa.map(|isa| ("QUANTAL_ISA", isa)));
    command.args(args).output().expect("the command starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are text")
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("the folder of tests can be written");
    path
}

#[test]
fn a_wrong_command_line_is_told_what_is_wrong() {
    for (args, what) in [
        (&["bench"][..], "<MODELS>"),
        (&["bench", MODEL, "--seconds", "nan"], "between 0 and 86400"),
        (&["bench", MODEL, "--size", "7"], "NAME=N"),
        (&["bench", MODEL, "--size", "N=-1"], "no number"),
        (&["bench", MODEL, "--size", "nobody=3"], "`nobody` is no free dimension"),
        (&["bench", MODEL, "--size", "N=3", "--data", MODEL], "cannot be used with"),
        (&["bench", "kernels", "512x512"], "a product has three sizes"),
        (&["bench", "kernels", "conv:56x56x64:64:3:1:g5"], "groups must divide the channels"),
        (&["bench", "kernels", "pool:3x3x3:2"], "only `conv:` and `dw:` come before a colon"),
        (&["bench", "kernels", "--seconds", "1"], "unexpected argument '--seconds'"),
        (&["bench", "kernels", "--threads", "0"], "0 is not in 1..=1024"),
    ] {
        let output = quantal(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(what), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_profile_accounts_for_every_mac_and_all_time() {
    let profile = json(&quantal(&["bench", MODEL, "--profile", "--seconds", "0", "--threads", "1", "--json"]));
    assert_eq!(profile["threads"], 1);
    let profile = &profile["profiles"][0];
    let steps = profile["steps"].as_array().expect("a list of steps");
    let sum = |key: &str| steps.iter().map(|s| s[key].as_f64().expect(key)).sum::<f64>();
    let inspection = json(&quantal(&["inspect", MODEL, "--json"]));
    assert_eq!(sum("macs"), inspection["macs"].as_f64().expect("all sizes are known"));
    assert!((sum("share") - 1.0).abs() < 1e-9);
    assert!((sum("time_us") - 1e3 * profile["steps_ms"].as_f64().expect("a time")).abs() < 1e-6);
    let kinds = profile["kinds"].as_array().expect("a list of kinds");
    let counted: u64 = kinds.iter().map(|k| k["count"].as_u64().expect("a count")).sum();
    assert_eq!(counted, steps.len() as u64);
    for step in steps {
        assert!(step["node"].is_string() && step["kernel"].is_string() && step["shape"].is_string(), "{step}");
        assert!(step["bytes"].as_u64() > Some(0), "{step}");
        let works = step["macs"].as_u64() > Some(0);
        assert_eq!((step["gops"].is_number(), step["peak_share"].is_number()), (works, works), "{step}");
    }
    // It is a float model: each product says why it is not in integers.
    let product = steps.iter().find(|s| s["step"] == "conv_f32").expect("it has convolutions");
    assert!(product["float"].as_str().is_some_and(|reason| reason.contains("is not quantized")), "{product}");
    assert!(!profile["peaks"].as_array().expect("a list of peaks").is_empty());
}

#[test]
fn a_profile_for_people_has_a_line_for_each_step() {
    let output = quantal(&["bench", MODEL, "--profile", "--seconds", "0", "--threads", "1"]);
    let text = String::from_utf8(output.stdout).expect("text");
    for part in
        [", 1 thread\n", "a run takes", "measured peaks, GOP/s: ", "conv:28x28x1:", "by kind of step", "  float: "]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_trace_has_an_event_for_each_step_one_after_the_other() {
    let folder = folder("trace");
    let path = folder.join("trace.json");
    let path = path.to_str().expect("the folder of tests has a plain name");
    let args = ["bench", MODEL, "--trace", path, "--seconds", "0", "--threads", "1", "--json"];
    let report = json(&quantal(&args));
    let steps = report["profiles"][0]["steps"].as_array().expect("a list of steps").len();
    let written = std::fs::read(path).expect("the trace is there");
    let trace: Value = serde_json::from_slice(&written).expect("the trace is JSON");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let (steps_of, names): (Vec<&Value>, Vec<&Value>) = events.iter().partition(|e| e["ph"] == "X");
    assert_eq!((steps_of.len(), names.len()), (steps, 1));
    assert_eq!((&names[0]["ph"], &names[0]["name"]), (&Value::from("M"), &Value::from("process_name")));
    let mut end = 0.0;
    for event in steps_of {
        let number = |key: &str| event[key].as_f64().expect(key);
        // A nanosecond is lost where microseconds are rounded.
        assert!(number("ts") >= end - 1e-3 && number("dur") >= 0.0, "{event}");
        end = number("ts") + number("dur");
        assert!(event["args"]["kernel"].is_string() && event["args"]["shape"].is_string(), "{event}");
    }
    // Nothing else is left in the folder.
    assert_eq!(std::fs::read_dir(&folder).expect("it can be read").count(), 1);
}

#[test]
fn a_trace_does_not_overwrite_the_model() {
    let copy = folder("overwrite").join("model.onnx");
    std::fs::copy(MODEL, &copy).expect("the model can be copied");
    let copy = copy.to_str().expect("the folder of tests has a plain name");
    let output = quantal(&["bench", copy, "--trace", copy]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("would overwrite another file") && stderr(&output).contains("hint: "));
    assert_eq!(std::fs::read(copy).expect("it is there"), std::fs::read(MODEL).expect("it is there"));
}

#[test]
fn kernels_are_listed_with_one_pick() {
    for shape in ["5x70x33", "conv:6x6x16:20:3:1", "dw:6x6x8:3:2"] {
        let report = json(&quantal(&["bench", "kernels", shape, "--json"]));
        assert_eq!((&report["problems"][0]["shape"], report["threads"].as_u64()), (&Value::from(shape), Some(1)));
        let rows = report["problems"][0]["rows"].as_array().expect("a list of kernels");
        assert_eq!(rows.iter().filter(|r| r["pick"] == true).count(), 1, "{shape}: {report}");
        assert_eq!(rows.iter().filter(|r| r["pick_for_small"] == true).count(), 1, "{shape}: {report}");
        assert!(rows.iter().all(|r| r["gops"].as_f64() > Some(0.0)), "{report}");
        assert!(rows.is_sorted_by_key(|r| (r["time_us"].as_f64().expect("a time") * 1e3) as u64), "{report}");
        // Every machine has the portable kernel.
        assert!(rows.iter().any(|r| r["level"] == "portable"), "{report}");
    }
}

#[test]
fn a_check_passes_where_there_is_nothing_else_to_pick() {
    let args = ["bench", "kernels", "5x70x33", "dw:6x6x8:3:2", "--check"];
    let output = quantal_on(Some("portable"), &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("2 shapes; the slowest pick takes 1.00 times as long as the best"), "{text}");
}

#[test]
fn what_was_assumed_is_said_and_sizes_and_data_take_its_place() {
    let row = |args: &[&str]| {
        let all = [&["bench", MODEL, "--seconds", "0", "--threads", "1", "--json"], args].concat();
        json(&quantal(&all))["results"][0].clone()
    };
    let free = row(&[]);
    let assumed = free["assumed"][0].as_str().expect("the batch is free").to_owned();
    let (name, size) = assumed.split_once(" = ").expect("a name and a size");
    assert_eq!((size, free["batch"].as_u64()), ("1", Some(1)));
    assert_eq!(row(&["--batch", "3"])["batch"], 3);
    let given = row(&["--size", &format!("{name}=2")]);
    assert_eq!((given["batch"].as_u64(), given.get("assumed")), (Some(2), None));
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantal/assets/quickstart-calibration-images.idx3-ubyte.gz");
    assert_eq!(row(&["--data", data]).get("assumed"), None);
}
