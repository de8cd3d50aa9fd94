//! The order of the crates is a law: a crate may depend only on crates of earlier layers.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

/// The layers, lowest first. Crates of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["quantal-tensor"],
    &["quantal-onnx", "quantal-kernels", "quantal-data"],
    &["quantal-ir"],
    &["quantal-runtime"],
    &["quantal-ptq"],
    &["quantal"],
    &["quantal-cli"],
];

/// Crates for tests only: any crate may name them, but under `[dev-dependencies]` alone.
const DEVELOPMENT: &[&str] = &["quantal-testkit"];

/// One dependency on a crate of this repository.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    to: String,
    /// The manifest's table, `dependencies` for one.
    table: &'static str,
}

/// Reads every manifest under `crates/` and lists what breaks the order.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut manifests = BTreeMap::new();
    for folder in crate::entries(&root.join("crates"))? {
        let path = folder.join("Cargo.toml");
        if !path.is_file() {
            continue;
        }
        let manifest = crate::manifest(&path)?;
        let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        let name = name.ok_or_else(|| format!("`{}` names no package", path.display()))?;
        manifests.insert(name.to_owned(), edges(&manifest));
    }
    let mut problems: Vec<String> = manifests.iter().flat_map(|(name, edges)| judge(name, edges)).collect();
    for listed in LAYERS.iter().copied().flatten().chain(DEVELOPMENT) {
        if !manifests.contains_key(*listed) {
            problems.push(format!("`{listed}` has a place in xtask/src/dag.rs but no folder under crates/"));
        }
    }
    Ok(problems)
}

/// The dependencies on crates of this repository: all of them are named `quantal…`, whatever the manifest calls them.
fn edges(manifest: &Table) -> Vec<Edge> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let per_target = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for scope in std::iter::once(manifest).chain(per_target) {
        for table in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for (key, value) in scope.get(table).and_then(Value::as_table).into_iter().flatten() {
                let to = value.get("package").and_then(Value::as_str).unwrap_or(key);
                if to == "quantal" || to.starts_with("quantal-") {
                    found.push(Edge { to: to.to_owned(), table });
                }
            }
        }
    }
    found.sort();
    found
}

/// What is wrong with the dependencies of the crate `name`.
fn judge(name: &str, edges: &[Edge]) -> Vec<String> {
    if DEVELOPMENT.contains(&name) {
        return Vec::new();
    }
    let Some(layer) = layer_of(name) else {
        return vec![format!("`{name}` has no place in the order: give it one in `LAYERS`, xtask/src/dag.rs")];
    };
    edges.iter().filter_map(|edge| judge_edge(name, layer, edge)).collect()
}

fn judge_edge(name: &str, layer: usize, Edge { to, table }: &Edge) -> Option<String> {
    if DEVELOPMENT.contains(&to.as_str()) {
        let message = format!("`{name}` names `{to}` under [{table}]: it is for tests, under [dev-dependencies] only");
        return (*table != "dev-dependencies").then_some(message);
    }
    match layer_of(to) {
        None => Some(format!("`{name}` depends on `{to}` [{table}], which has no place in the order")),
        Some(below) if below < layer => None,
        Some(same) if same == layer => {
            Some(format!("`{name}` depends on `{to}` [{table}]: crates of one layer do not know each other"))
        }
        Some(_) => Some(format!("`{name}` depends on `{to}` [{table}], which stands on a later layer")),
    }
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, manifest: &str) -> Vec<String> {
        judge(name, &edges(&manifest.parse().unwrap()))
    }

    #[test]
    fn earlier_crates_and_foreign_ones_are_fine() {
        let manifest = "[dependencies]\nquantal-tensor.workspace = true\nquantal-ir.workspace = true\nhalf = \"2\"\n\
                        [dev-dependencies]\nquantal-testkit = { path = \"../quantal-testkit\" }\n";
        assert_eq!(problems("quantal-runtime", manifest), Vec::<String>::new());
    }

    #[test]
    fn later_sibling_unknown_and_misplaced_crates_are_refused() {
        let cases = [
            ("quantal-ir", "[dependencies]\nquantal-runtime.workspace = true", "later layer"),
            ("quantal-onnx", "[dev-dependencies]\nquantal-ir.workspace = true", "later layer"),
            ("quantal-data", "[dependencies]\nquantal-onnx.workspace = true", "one layer"),
            ("quantal-ir", "[dependencies]\nquantal-ir.workspace = true", "one layer"),
            ("quantal-ir", "[build-dependencies]\nquantal-testkit.workspace = true", "for tests"),
            ("quantal-ir", "[dependencies]\nquantal-new.workspace = true", "no place"),
            ("quantal-new", "[dependencies]\n", "no place"),
            ("quantal-ir", "[dependencies]\nfast = { package = \"quantal-cli\", version = \"1\" }", "`quantal-cli`"),
            ("quantal-ir", "[target.'cfg(unix)'.dependencies]\nquantal-ptq.workspace = true", "`quantal-ptq`"),
        ];
        for (name, manifest, wanted) in cases {
            let found = problems(name, manifest);
            assert!(found.len() == 1 && found[0].contains(wanted), "{name}: {manifest}: {found:?}");
        }
    }

    #[test]
    fn this_repository_keeps_the_order() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(check(root).unwrap(), Vec::<String>::new());
    }
}
