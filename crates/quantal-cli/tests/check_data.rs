//! `quantal check-data` on the embedded digits: quiet on good data, loud on each kind of bad data.

use serde_json::Value;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantal/assets/quickstart");

fn quantal(data: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantal"));
    command.env_remove("QUANTAL_ISA").arg("check-data").arg(format!("{ASSETS}.onnx")).arg("--data").arg(data);
    command.args(["--threads", "1"]).args(more).output().expect("the command starts")
}

fn check(data: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let output = quantal(data, &[more, &["--json"]].concat());
    let found = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), found)
}

/// The kinds of the problems.
fn kinds(found: &Value) -> Vec<&str> {
    let problems = found["problems"].as_array().expect("a list");
    problems.iter().map(|p| p["kind"].as_str().expect("text")).collect()
}

/// The pixels and the labels of the embedded calibration digits.
fn digits() -> (Vec<Vec<u8>>, Vec<u8>) {
    let read = |name: &str, header: usize| {
        let file = std::fs::File::open(format!("{ASSETS}-calibration-{name}-ubyte.gz")).expect("the asset is there");
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
        bytes.split_off(header)
    };
    (read("images.idx3", 16).chunks(784).map(<[u8]>::to_vec).collect(), read("labels.idx1", 8))
}

/// A folder of one test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check_data_{name}"));
    std::fs::create_dir_all(&folder).expect("the folder of tests can be written");
    folder
}

/// Writes arrays of 28 × 28 values as one .npy file.
fn arrays(name: &str, values: &[Vec<f32>]) -> PathBuf {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 1, 28, 28), }}", values.len());
    let header = format!("{dict:<117}\n");
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values.concat().into_iter().flat_map(f32::to_le_bytes));
    let path = folder(name).join("arrays.npy");
    std::fs::write(&path, bytes).expect("written");
    path
}

/// Writes digits as an IDX file.
fn written(name: &str, digits: &[Vec<u8>]) -> PathBuf {
    let folder = folder(name);
    let mut bytes = vec![0, 0, 8, 3];
    for size in [digits.len(), 28, 28] {
        bytes.extend((size as u32).to_be_bytes());
    }
    bytes.extend(digits.concat());
    let path = folder.join("images.idx3-ubyte");
    std::fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn good_digits_pass_with_labels_and_without() {
    let given = PathBuf::from(format!("{ASSETS}-calibration-images.idx3-ubyte.gz"));
    let (code, found) = check(&given, &[]);
    assert_eq!((code, kinds(&found)), (Some(0), vec![]));
    assert_eq!(found["classes"]["by"], "labels");
    assert!(found["enough"].as_u64().expect("a count") < 250);
    let (all, _) = digits();
    let (first, second) = (written("first", &all[..125]), written("second", &all[125..]));
    let (code, found) = check(&first, &["--against", second.to_str().expect("text")]);
    assert_eq!((code, kinds(&found)), (Some(0), vec![]));
    assert_eq!((&found["classes"]["by"], &found["classes"]["of"]), (&"predictions".into(), &10.into()));
}

#[test]
fn each_kind_of_bad_digits_is_caught() {
    let (all, labels) = digits();
    let sevens: Vec<Vec<u8>> = all.iter().zip(&labels).filter(|(_, l)| **l == 7).map(|(d, _)| d.clone()).collect();
    let dark: Vec<Vec<u8>> = all.iter().map(|d| d.iter().map(|p| p / 4).collect()).collect();
    // Each of four digits sixty times.
    let copies: Vec<Vec<u8>> = all[..4].iter().cycle().take(240).cloned().collect();
    for (kind, digits) in [
        ("one_class", &sevens[..]),
        ("dark", &dark),
        ("too_few", &copies),
        ("too_few", &all[..58]),
        ("too_few", &all[..4]),
        ("too_few", &all[..1]),
    ] {
        let (code, found) = check(&written(kind, digits), &[]);
        assert!(code == Some(1) && kinds(&found).contains(&kind), "{kind}: {:?}", kinds(&found));
    }
}

#[test]
fn a_damaged_sample_is_named_once_with_what_is_wrong_with_it() {
    let (all, _) = digits();
    // No two neighbours have to do with each other: bits of the digits of √2, √3, √5 …
    let noise = (2..786).map(|i| if (f64::from(i).sqrt() * 1e6) as u64 % 2 == 1 { 255 } else { 0 }).collect();
    let floats = |d: &Vec<u8>| -> Vec<f32> { d.iter().copied().map(f32::from).collect() };
    let good: Vec<Vec<f32>> = all.iter().map(floats).collect();
    let loud = good[3].iter().map(|v| 10.0 * v).collect();
    for (kind, data) in [
        ("noise", written("noise", &[&all[..], &[noise]].concat())),
        ("blank", written("blank", &[&all[..], &[vec![0; 784]]].concat())),
        ("blank", arrays("constant", &[&good[..], &[vec![180.0; 784]]].concat())),
        ("stretching", arrays("loud", &[&good[..], &[loud]].concat())),
    ] {
        let (code, found) = check(&data, &[]);
        assert_eq!((code, kinds(&found)), (Some(1), vec![kind]), "{}", data.display());
        let named = found["problems"][0]["samples"].as_array().expect("a list");
        assert!(named.len() == 1 && named[0].as_str().is_some_and(|n| n.ends_with("[250]")), "{kind}: {named:?}");
    }
}

#[test]
fn darker_data_is_told_from_what_the_model_will_see() {
    let (all, _) = digits();
    // Dark enough to differ, too bright to be called dark.
    let dim: Vec<Vec<u8>> = all.iter().map(|d| d.iter().map(|p| p / 2 + p / 8).collect()).collect();
    let (dim, all) = (written("dim", &dim), written("all", &all));
    let (code, found) = check(&dim, &["--against", all.to_str().expect("text")]);
    assert_eq!((code, kinds(&found)), (Some(1), vec!["drift"]));
    let shown = |found: &Value, of: &str| {
        let figures = found["problems"][0]["figures"].as_array().expect("a list");
        figures.iter().any(|f| f.as_str().is_some_and(|f| f.starts_with(of)))
    };
    assert!(shown(&found, "brightness") && shown(&found, "ranges") && shown(&found, "cut off"), "{found}");
    // The other way round nothing is cut off, but codes are wasted.
    let (_, back) = check(&all, &["--against", dim.to_str().expect("text")]);
    assert!(kinds(&back) == ["drift"] && !shown(&back, "cut off"), "{back}");
    let rows = back["ranges"].as_array().expect("a list");
    assert!(rows.iter().any(|r| r["against"]["wasted"].as_f64().is_some_and(|w| w > 0.2)));
}

#[test]
fn the_picked_samples_hold_every_class_and_no_spoilt_one() {
    let (mut all, labels) = digits();
    // Half of the digits are the same one.
    all.truncate(125);
    all.resize(250, all[0].clone());
    all.push((0..784_usize).map(|i| if (i + i / 28) % 2 == 1 { 255 } else { 0 }).collect());
    let data = written("pick", &all);
    let list = data.with_file_name("picked.txt");
    let (_, found) = check(&data, &["--pick", "20", "-o", list.to_str().expect("text")]);
    let picked: Vec<&str> = found["picked"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let text = picked.iter().fold(String::new(), |mut t, name| {
        writeln!(t, "{name}").expect("text takes what is written");
        t
    });
    assert_eq!(std::fs::read_to_string(&list).expect("the list was written"), text);
    let numbers: Vec<usize> = picked
        .iter()
        .map(|name| {
            name.rsplit_once('[').expect("a place in the file").1.trim_end_matches(']').parse().expect("a number")
        })
        .collect();
    assert_eq!(numbers.len(), 20);
    assert!(!numbers.contains(&250));
    let class = |i: usize| labels[if i < 125 { i } else { 0 }];
    let classes: std::collections::BTreeSet<u8> = numbers.iter().map(|&i| class(i)).collect();
    assert_eq!(classes.len(), 10, "{numbers:?}");
    // The list is what other jobs take.
    let (_, again) = check(&data, &["--only", list.to_str().expect("text")]);
    assert_eq!(again["samples"], 20);
    // Of 250 samples 126 are that digit; of the picked ones, fewer than a third.
    assert!(numbers.iter().filter(|&&i| i >= 125 || i == 0).count() < 7, "{numbers:?}");
}

#[test]
fn what_cannot_be_looked_at_is_one_clear_line() {
    let empty = quantal(&folder("empty"), &[]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(empty.stdout.is_empty() && String::from_utf8_lossy(&empty.stderr).contains("it is empty"));
    let mut values = vec![vec![1.0; 784]; 2];
    values[1][16] = f32::NAN;
    let nan = quantal(&arrays("nan", &values), &[]);
    assert_eq!(nan.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nan.stderr).contains("arrays.npy[1]"), "{nan:?}");
}
