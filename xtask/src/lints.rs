//! The compiler forbids `unsafe` everywhere but in two crates: `unsafe_code = "forbid"` stands in the lints of the
//! workspace, which reach libraries, tests, benches and examples alike. This checks that every package takes them, and
//! that the two exceptions differ in what they must and in nothing else.

use std::path::Path;
use toml::{Table, Value};

/// Packages that hold `unsafe`, with the lints that they have in place of `forbid` and beside those of the workspace.
const EXCEPTIONS: &[(&str, &[(&str, &str)], &[(&str, &str)])] = &[
    // The kernels.
    (
        "quantal-kernels",
        &[("unsafe_code", "deny"), ("unsafe_op_in_unsafe_fn", "deny")],
        &[("undocumented_unsafe_blocks", "deny"), ("missing_safety_doc", "deny")],
    ),
    // Memory maps: the modules that may are named where the crate declares them.
    (
        "quantal-tensor",
        &[("unsafe_code", "deny"), ("unsafe_op_in_unsafe_fn", "deny")],
        &[("undocumented_unsafe_blocks", "deny"), ("missing_safety_doc", "deny")],
    ),
];

/// Lists the packages whose lints are not what they must be.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let workspace = crate::manifest(&root.join("Cargo.toml"))?;
    let lints = workspace.get("workspace").and_then(|w| w.get("lints")).and_then(Value::as_table);
    let lints = lints.ok_or("the workspace has no lints")?;
    let mut problems = Vec::new();
    if lints.get("rust").and_then(|r| r.get("unsafe_code")).and_then(Value::as_str) != Some("forbid") {
        problems.push("the lints of the workspace do not say `unsafe_code = \"forbid\"`".to_owned());
    }
    let mut folders = crate::entries(&root.join("crates"))?;
    folders.extend(["xtask", "fuzz"].map(|name| root.join(name)));
    for path in folders.iter().map(|folder| folder.join("Cargo.toml")).filter(|path| path.is_file()) {
        problems.extend(judge(&crate::manifest(&path)?, lints));
    }
    Ok(problems)
}

/// What is wrong with the lints of one package.
fn judge(manifest: &Table, workspace: &Table) -> Option<String> {
    let name = manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str).unwrap_or("a package");
    let own = manifest.get("lints");
    let Some((_, rust, clippy)) = EXCEPTIONS.iter().find(|e| e.0 == name) else {
        let inherits = own.and_then(|l| l.get("workspace")) == Some(&Value::Boolean(true));
        return (!inherits).then(|| format!("`{name}` does not take the lints of the workspace"));
    };
    let mut expected = workspace.clone();
    for (tool, lints) in [("rust", rust), ("clippy", clippy)] {
        let table = expected.entry(tool).or_insert_with(|| Table::new().into()).as_table_mut()?;
        table.extend(lints.iter().map(|(lint, level)| ((*lint).to_owned(), Value::from(*level))));
    }
    let equal = own.and_then(Value::as_table) == Some(&expected);
    (!equal).then(|| {
        format!("the lints of `{name}` are not those of the workspace with the exceptions in xtask/src/lints.rs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_takes_the_lints_or_is_an_exception_in_full() {
        let lints: Table =
            "[rust]\nunsafe_code = 'forbid'\nmissing_docs = 'warn'\n[clippy]\nexit = 'deny'\n".parse().unwrap();
        let wrong = |manifest: &str| judge(&manifest.parse().unwrap(), &lints).is_some();
        assert!(!wrong("[package]\nname = 'quantal-ir'\n[lints]\nworkspace = true\n"));
        assert!(wrong("[package]\nname = 'quantal-ir'\n"));
        assert!(wrong("[package]\nname = 'quantal-ir'\n[lints.rust]\nunsafe_code = 'deny'\n"));
        let kernels = |rest: &str| {
            format!(
                "[package]\nname = 'quantal-kernels'\n[lints.rust]\nunsafe_code = 'deny'\n\
                 unsafe_op_in_unsafe_fn = 'deny'\n{rest}\n[lints.clippy]\nexit = 'deny'\n\
                 undocumented_unsafe_blocks = 'deny'\nmissing_safety_doc = 'deny'\n"
            )
        };
        assert!(!wrong(&kernels("missing_docs = 'warn'")));
        assert!(wrong(&kernels("")), "a lint of the workspace is missing");
        assert!(wrong(&kernels("missing_docs = 'allow'")));
    }

    #[test]
    fn this_repository_forbids() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(check(root).unwrap(), Vec::<String>::new());
    }
}
