//! Where in a TOML text something is wrong: the line with its number and what it says, so that a message shows the key and
//! what was found.

use crate::error::one_line;
use toml::de::{DeTable, DeValue};

/// The line that could not be read: ``line 3, `bins = "many"` ``.
pub fn of_error(text: &str, error: &toml::de::Error) -> Option<String> {
    error.span().map(|span| quoted(text, span.start))
}

/// The line of a field, named as in `weights.qmin` or `overrides[2].observer`; that of its table, if it is left out there.
pub fn of_field(text: &str, field: &str) -> Option<String> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut at) = (Some(root.get_ref()), None);
    for step in field.split('.') {
        let indexed = step.strip_suffix(']').and_then(|s| s.split_once('['));
        let (name, index) = indexed.map_or((step, None), |(name, i)| (name, i.parse::<usize>().ok()));
        let Some((key, mut value)) = table.and_then(|t| t.get_key_value(name)) else { break };
        at = Some(key.span().start);
        if let (Some(i), DeValue::Array(items)) = (index, value.get_ref()) {
            value = items.get(i)?;
            at = Some(value.span().start);
        }
        table = value.get_ref().as_table();
    }
    at.map(|at| quoted(text, at))
}

fn quoted(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count();
    format!("line {}, `{}`", number + 1, one_line(text.lines().nth(number).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_in_tables_of_every_spelling() {
        let text = "version = 1\nobserver = { kind = 'mse' }\n\n[weights]\nqmin = -300\n\n[[overrides]]\nnode = 'a'\n\n\
                    [[overrides]]\nnode = 'b'\n[overrides.observer]\nbins = 3";
        for (field, line) in [
            ("version", "line 1, `version = 1`"),
            ("observer.bins", "line 2, `observer = { kind = 'mse' }`"),
            ("weights.qmin", "line 5, `qmin = -300`"),
            ("weights.qmax", "line 4, `[weights]`"),
            ("overrides[1]", "line 10, `[[overrides]]`"),
            ("overrides[1].observer.bins", "line 13, `bins = 3`"),
        ] {
            assert_eq!(of_field(text, field).as_deref(), Some(line), "{field}");
        }
        assert_eq!(of_field(text, "calibration.samples"), None);
    }
}
