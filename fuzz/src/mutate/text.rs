//! Changes to texts: lines, numbers and words.

use super::Noise;

/// A changed copy; `None` if the bytes are no text or hold nothing.
pub(super) fn mutate(bytes: &[u8], other: &[u8], noise: &mut Noise) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())?;
    if noise.below(2) == 0 {
        return Some(lines(text, other, noise).into_bytes());
    }
    // Words: runs of letters, digits and what numbers are made of.
    let in_word = |c: char| c.is_alphanumeric() || "_.-+".contains(c);
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (in_word(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                words.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    if words.is_empty() {
        return None;
    }
    let word = noise.pick(&words).clone();
    let new = match noise.below(7) {
        0 => String::new(),
        1 => text[noise.pick(&words).clone()].to_owned(),
        2 => noise.number().to_string(),
        3 => (*noise.pick(&["nan", "-inf", "1e400", "0.0", "-0.5", "1e-45", "true", "''", "[]", "{}"])).to_owned(),
        4 => text[word.clone()].repeat(2),
        5 => format!("[{}, {}]", &text[word.clone()], noise.number()),
        _ => (*noise.pick(&["\u{0}", "\u{7f}", "é", "\u{202e}", "\"", "\\", "#", "="])).to_owned(),
    };
    Some([&text[..word.start], &new, &text[word.end..]].concat().into_bytes())
}

/// Removes, doubles, moves or borrows a line.
fn lines(text: &str, other: &[u8], noise: &mut Noise) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let i = noise.below(lines.len());
    let foreign: Vec<&str> = std::str::from_utf8(other).unwrap_or_default().lines().collect();
    match noise.below(4) {
        0 if lines.len() > 1 => _ = lines.remove(i),
        1 if !lines.is_empty() => lines.insert(i, lines[i]),
        2 if !foreign.is_empty() => lines.insert(i, foreign[noise.below(foreign.len())]),
        _ => {
            let j = noise.below(lines.len());
            if !lines.is_empty() {
                lines.swap(i, j);
            }
        }
    }
    lines.join("\n")
}
