//! `unsafe` has its rooms: the crate `quantal-kernels`, and the files of `quantal-tensor` that make memory maps.
//! Everywhere else the crate's root forbids it, and no test, bench or example (which the root does not reach) uses it.

use std::path::{Path, PathBuf};

/// What the root of a crate must say; crates not named here forbid `unsafe` outright.
const ROOTS: &[(&str, &[&str])] = &[
    (
        "quantal-kernels",
        &["unsafe_op_in_unsafe_fn", "clippy::undocumented_unsafe_blocks", "clippy::missing_safety_doc"],
    ),
    // The crate denies, the files that make maps allow.
    ("quantal-tensor", &["#![deny(unsafe_code)]"]),
];

/// The files of `quantal-tensor` that make memory maps.
const MAPS: [&str; 2] = ["src/bytes.rs", "src/slab.rs"];

const FORBID: &[&str] = &["#![forbid(unsafe_code)]"];

/// Lists the crate roots that do not state their rule, and each line with `unsafe` outside its rooms.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut problems = Vec::new();
    let mut folders = entries(&root.join("crates"))?;
    folders.push(root.join("xtask"));
    for folder in folders.iter().filter(|folder| folder.join("Cargo.toml").is_file()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let rule = ROOTS.iter().find(|(krate, _)| *krate == name).map_or(FORBID, |(_, rule)| rule);
        for file in ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file)) {
            if !file.is_file() {
                continue;
            }
            let text = read(&file)?;
            for missing in rule.iter().filter(|line| !text.contains(**line)) {
                problems.push(format!("`{}` does not say `{missing}`", shown(root, &file)));
            }
        }
        if name == "quantal-kernels" {
            continue;
        }
        for file in sources(folder)? {
            if name == "quantal-tensor" && MAPS.iter().any(|map| file.ends_with(map)) {
                continue;
            }
            for line in unsafe_lines(&read(&file)?) {
                problems.push(format!("`unsafe` outside its rooms, at {}:{line}", shown(root, &file)));
            }
        }
    }
    Ok(problems)
}

/// The entries of a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let fail = |e: std::io::Error| format!("cannot list `{}`: {e}", folder.display());
    let listed: Result<Vec<_>, _> = std::fs::read_dir(folder).map_err(fail)?.map(|e| e.map(|e| e.path())).collect();
    let mut listed = listed.map_err(fail)?;
    listed.sort();
    Ok(listed)
}

/// Every Rust file of a crate, sorted; build outputs left out.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The 1-based numbers of the lines where the keyword stands as code: before a block, an item, an attribute's
/// parenthesis or the line's end. A look at the text, not a parser: words in comments and strings do not match.
fn unsafe_lines(text: &str) -> Vec<usize> {
    const KEYWORD: &str = "unsafe";
    let is_code = |code: &str| {
        code.match_indices(KEYWORD).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + KEYWORD.len()..].trim_start();
            let items = ["{", "(", "fn ", "impl ", "impl<", "trait ", "extern "];
            !before.is_some_and(|c| c.is_alphanumeric() || "_\"`".contains(c))
                && (after.is_empty() || items.iter().any(|item| after.starts_with(item)))
        })
    };
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.enumerate().filter(|(_, code)| is_code(code)).map(|(i, _)| i + 1).collect()
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyword_is_found_in_code_only() {
        // Put together from parts, so that this file does not hold what it looks for.
        let word = ["un", "safe"].concat();
        for code in
            ["let x = W { f() };", "W fn f() {}", "W impl Send for X {}", "pub W trait T {}", "#[W(no_mangle)]", "W"]
        {
            assert_eq!(unsafe_lines(&format!("fn a() {{}}\n{}", code.replace('W', &word))), [2], "{code}");
        }
        for code in ["#![forbid(W_code)]", "// W { }", "let not_W = 1;", "\"W\"", "W_op_in_W_fn"] {
            assert_eq!(unsafe_lines(&code.replace('W', &word)), [0_usize; 0], "{code}");
        }
    }
}
