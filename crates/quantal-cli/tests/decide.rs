//! `quantal quantize`, also within a budget, `explain`, `sensitivity`: what they refuse, and what they print.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantal/assets");

fn asset(name: &str) -> String {
    format!("{ASSETS}/quickstart{name}")
}

fn data() -> String {
    asset("-calibration-images.idx3-ubyte.gz")
}

fn labels() -> String {
    asset("-calibration-labels.idx1-ubyte.gz")
}

fn quantal(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantal"));
    command.env_remove("QUANTAL_ISA").args(args).output().expect("the command starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("the folder of tests can be written");
    path
}

/// Digits as a stack of floats without labels.
fn unlabelled(folder: &Path) -> String {
    let path = folder.join("digits.npy");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 1, 28, 28), }";
    let header = format!("{header:<117}\n");
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    for i in 0..12 * 784_u32 {
        let pixel = if i % 7 < 3 { (i * 31 % 256) as f32 } else { 0.0 };
        bytes.extend(pixel.to_le_bytes());
    }
    std::fs::write(&path, bytes).expect("written");
    path.to_str().expect("a path of text").to_owned()
}

#[test]
fn an_argument_that_means_nothing_is_named_and_ends_with_2() {
    let (model, data, labels, folder) = (asset(".onnx"), data(), labels(), folder("usage"));
    let written = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of tests can be written");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path of text").to_owned()
    };
    let recipe = written("recipe.toml", "[observer]\nkind = \"mse\"\nbins = 3");
    let crop = written("crop.toml", "scale = 1\ncrop = \"modl\"");
    let images = written("images/a.png", "").trim_end_matches("/a.png").to_owned();
    // A copy, for a check that fails would lose it.
    let own = folder.join("own.onnx").to_str().expect("a path of text").to_owned();
    std::fs::copy(&model, &own).expect("copied");
    let good = ["quantize", &model, "--data", &data];
    for (args, words) in [
        ([&good[..], &["--recipe", &recipe]].concat(), &["recipe.toml", "line 3, `bins = 3`", "512"][..]),
        (
            [&good[..], &["--preprocess", &crop]].concat(),
            &["crop.toml", "line 2, `crop = \"modl\"`", "\"none\", \"model\" or [height, width]"],
        ),
        (vec!["quantize", &model, "--data", &images], &["holds images", "add --preprocess"]),
        (vec!["quantize", &own, "--data", &data, "-o", &own], &["would overwrite"]),
        ([&good[..], &["--recipe", "fats"]].concat(), &["`fats`", "hint: give fast, balanced, best"][..]),
        (
            [&good[..], &["--preprocess", "cifar"]].concat(),
            &["`cifar`", "hint: a preprocessing is a preset (imagenet,"],
        ),
        ([&good[..], &["--labels", &labels]].concat(), &["--labels", "--eval"]),
        ([&good[..], &["--eval", "gone/"]].concat(), &["--eval <PATH>", "there is no /"]),
        (vec!["quantize", "gone.onnx", "--data", &data], &["<MODEL>", "gone.onnx"]),
    ] {
        let output = quantal(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(words.iter().all(|w| stderr(&output).contains(w)), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn an_override_that_changes_nothing_is_said() {
    let folder = folder("idle");
    let (recipe, out, model, data) = (folder.join("recipe.toml"), folder.join("out.onnx"), asset(".onnx"), data());
    let of = |node: &str| format!("[[overrides]]\nnode = \"{node}\"\nfallback = true\n");
    // The first takes all nodes, so nothing is left for the second.
    std::fs::write(&recipe, of("*") + &of("*pointwise")).expect("written");
    let (recipe, out) = (recipe.to_str().unwrap(), out.to_str().unwrap());
    let args = ["quantize", &model, "--data", &data, "--samples", "4", "--recipe", recipe, "-o", out];
    let made = json(&quantal(&[&args[..], &["--json"]].concat()));
    assert_eq!((&made["idle_overrides"][0]["index"], &made["integer_mac_share"]), (&1.into(), &0.0.into()));
    assert!(made["idle_overrides"][0]["why"].as_str().is_some_and(|why| why.contains("come first")));
    // Where nothing is in codes there are no ranges, and no samples were too few for them.
    let text = String::from_utf8(quantal(&args).stdout).expect("results are text");
    assert!(!text.contains("ranges by") && !text.contains("few samples") && text.contains("cost: none"), "{text}");
}

#[test]
fn a_search_that_cannot_be_judged_or_met_writes_nothing() {
    let folder = folder("budget");
    let out = folder.join("out.onnx");
    let (model, plain, out_text) = (asset(".onnx"), unlabelled(&folder), out.to_str().unwrap().to_owned());
    let base = ["quantize", &model, "--data", &plain, "--threads", "1", "-o", &out_text];
    let both = quantal(&[&base[..], &["--max-drop", "1", "--min-sqnr", "20"]].concat());
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
    let word = quantal(&[&base[..], &["--max-drop", "little"]].concat());
    assert!(word.status.code() == Some(2) && stderr(&word).contains("a number"), "{}", stderr(&word));
    let blind = quantal(&[&base[..], &["--max-drop", "1"]].concat());
    assert_eq!(blind.status.code(), Some(2));
    assert!(stderr(&blind).contains("no labels") && stderr(&blind).contains("--min-sqnr"), "{}", stderr(&blind));
    let hopeless = quantal(&[&base[..], &["--min-sqnr", "500", "--json"]].concat());
    assert_eq!(hopeless.status.code(), Some(1));
    // What is near comes before what takes weeks.
    let place = |words: &str| stderr(&hopeless).find(words).unwrap_or_else(|| panic!("{words}: {}", stderr(&hopeless)));
    assert!(place("a lower budget") < place("more data") && place("more data") < place("training"));
    let ladder = &json(&hopeless)["ladder"];
    assert_eq!(ladder["samples"], 4, "a third is held out");
    assert!(list(&ladder["rungs"]).len() > 3 && list(&ladder["rungs"]).iter().all(|r| r["met"] == false));
    assert!(!out.exists());
}

#[test]
fn a_search_that_is_met_stops_there_and_says_what_it_took() {
    let folder = folder("met");
    let (out, recipe) = (folder.join("out.onnx"), folder.join("recipe.toml"));
    let (out, recipe) = (out.to_str().unwrap(), recipe.to_str().unwrap());
    let (model, data, labels) = (asset(".onnx"), data(), labels());
    let made = quantal(&[
        "quantize",
        &model,
        "--data",
        &data,
        "--labels",
        &labels,
        "--max-drop",
        "5",
        "--threads",
        "1",
        "-o",
        out,
        "--save-recipe",
        recipe,
        "--json",
    ]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let made = json(&made);
    let rungs = list(&made["ladder"]["rungs"]);
    assert!(rungs.len() == 1 && rungs[0]["name"] == "fast" && rungs[0]["met"] == true, "{rungs:?}");
    assert!(rungs[0]["drop"].as_f64().unwrap() <= 5.0);
    // A third of 250 digits is held out: calibration has to do with the rest.
    assert_eq!((&made["ladder"]["samples"], &made["samples"]), (&Value::from(83), &Value::from(167)));
    let kept = std::fs::read_to_string(recipe).expect("the recipe was written");
    assert!(list(&made["warnings"]).iter().all(|w| w["kind"] != "noise"), "{}", made["warnings"]);
    assert!(kept.contains("kind = \"min_max\"") && kept.contains("samples = 167"), "{kept}");
    assert!(Path::new(out).is_file());
}

#[test]
fn every_decision_has_one_best_row_and_the_base_is_among_its_choices() {
    let folder = folder("explain");
    let (model, plain) = (asset(".onnx"), unlabelled(&folder));
    let table = json(&quantal(&["explain", &model, "--data", &plain, "--threads", "1", "--json"]));
    let rows = list(&table["rows"]);
    let decisions: std::collections::BTreeSet<&str> = rows.iter().map(|r| r["decision"].as_str().unwrap()).collect();
    for decision in &decisions {
        let of = || rows.iter().filter(|r| r["decision"] == *decision);
        assert_eq!(of().filter(|r| r["best"] == true).count(), 1, "{decision}");
        // There are only eight samples left to calibrate with, fewer than any number that is tried.
        assert!(*decision == "samples" || of().filter(|r| r["is_base"] == true).count() == 1, "{decision}");
    }
    assert!(decisions.contains("weights") && decisions.contains("ranges by"), "{decisions:?}");
    assert!(table["advice"].as_str().unwrap().contains("labels"), "{}", table["advice"]);
}

#[test]
fn nodes_are_ranked_by_the_noise_that_they_make_alone() {
    let (model, data) = (asset(".onnx"), data());
    let found =
        json(&quantal(&["sensitivity", &model, "--data", &data, "--samples", "20", "--threads", "1", "--json"]));
    assert_eq!(found["samples"], 20);
    let nodes = list(&found["nodes"]);
    let shares: Vec<f64> = nodes.iter().map(|n| n["noise_share"].as_f64().unwrap()).collect();
    assert!(shares.is_sorted_by(|a, b| a >= b) && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
    let db = |n: &Value, what: &str| n[what]["sqnr_db"].as_f64().unwrap();
    assert!(db(&nodes[0], "alone") < db(&nodes[nodes.len() - 1], "alone"));
    let macs: f64 = nodes.iter().filter_map(|n| n["mac_share"].as_f64()).sum();
    assert!((macs - 1.0).abs() < 1e-9, "{macs}");
}

#[test]
fn a_float_model_is_covered_in_a_line_an_operator() {
    let lines = String::from_utf8(quantal(&["inspect", &asset(".onnx"), "--coverage"]).stdout).expect("text");
    let rows: Vec<&str> = lines.lines().skip_while(|l| !l.starts_with("how its nodes run")).skip(1).collect();
    let all = list(&json(&quantal(&["inspect", &asset(".onnx"), "--coverage", "--json"]))["coverage"]).len();
    let counts = rows.iter().filter_map(|l| l.split_whitespace().nth(1)?.parse::<usize>().ok());
    assert!(counts.sum::<usize>() == all && rows.len() <= all, "{lines}");
}

#[test]
fn a_recipe_is_a_regular_file() {
    if !Path::new("/dev/zero").exists() {
        return;
    }
    let refused = quantal(&["quantize", &asset(".onnx"), "--data", &data(), "--recipe", "/dev/zero"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("not a regular file"), "{}", stderr(&refused));
}

#[test]
fn sizes_of_free_dimensions_count_macs() {
    let (model, one) = (asset(".onnx"), asset(".onnx"));
    let macs = |args: &[&str]| json(&quantal(args))["macs"].as_u64();
    let free = json(&quantal(&["inspect", &model, "--json"]));
    let names: Vec<String> =
        list(&free["inputs"][0]["shape"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let Some(batch) = names.iter().find(|n| n.parse::<u64>().is_err()) else { return };
    let sizes = [1, 3].map(|n| macs(&["inspect", &one, "--json", "--size", &format!("{batch}={n}")]).unwrap());
    assert!(sizes[0] > 0 && sizes[1] == 3 * sizes[0], "{sizes:?}");
}
