//! Sentences: one a line, or `sentence<TAB>label`, through a `tokenizer.json`.

use crate::error::{Error, one_line, shown};
use crate::files;
use crate::fit::InputSpec;
use quantal_tensor::{DType, Tensor};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::{PostProcessor, Tokenizer, TruncationParams};

/// Tokens kept of a sentence where neither the tokenizer nor the model says.
const DEFAULT_TOKENS: usize = 128;

/// What an input of a language model holds.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Ids,
    Mask,
    TypeIds,
    Positions,
}

/// A text file, its lines, and how to feed them.
pub(crate) struct Text {
    all: String,
    /// Line number (from 1) and bytes of each sentence.
    lines: Vec<(usize, Range<usize>)>,
    pub(crate) labels: Option<Vec<u32>>,
    tokenizer: Tokenizer,
    roles: Vec<(Role, InputSpec)>,
    /// The length that the model fixes, and the token to fill up with.
    padded: Option<(usize, u32)>,
}

impl Text {
    pub(crate) fn open(path: &Path, tokenizer: Option<&Path>, inputs: &[InputSpec]) -> Result<Self, Error> {
        let name = shown(path);
        let bytes = files::read(path, "the text", files::MAX_TEXT_BYTES)?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = valid.split(|&b| b == b'\n').count();
            Error::Text { path: name.clone(), line, message: "not UTF-8 text".to_owned() }
        })?;
        let (lines, labels) = sentences(&name, &text)?;
        let roles = roles(inputs)?;
        let (tokenizer, padded) = load(tokenizer, &name, &roles)?;
        Ok(Self { all: text, lines, labels, tokenizer, roles, padded })
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn line(&self, i: usize) -> usize {
        self.lines[i].0
    }

    /// The feeds of one sentence, each `[1, tokens]`.
    pub(crate) fn row(&self, path: &str, i: usize) -> Result<Vec<(String, Tensor)>, Error> {
        let (line, range) = &self.lines[i];
        let bad = |message: String| Error::Text { path: path.to_owned(), line: *line, message };
        let encoding = from_library(|| self.tokenizer.encode(&self.all[range.clone()], true)).map_err(bad)?;
        let mut ids = encoding.get_ids().to_vec();
        let mut mask = vec![1; ids.len()];
        let mut types = encoding.get_type_ids().to_vec();
        if ids.is_empty() {
            return Err(bad("the sentence has no tokens".to_owned()));
        }
        if let Some((len, pad)) = self.padded {
            ids.resize(len, pad);
            mask.resize(len, 0);
            types.resize(len, 0);
        }
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let feed = |(role, input): &(Role, InputSpec)| {
            let values = match role {
                Role::Ids => &ids,
                Role::Mask => &mask,
                Role::TypeIds => &types,
                Role::Positions => &positions,
            };
            let shape = [1, values.len()];
            let tensor = if input.dtype == DType::I32 {
                Tensor::from_slice(&shape, &values.iter().map(|&v| v.cast_signed()).collect::<Vec<i32>>())
            } else {
                Tensor::from_slice(&shape, &values.iter().map(|&v| i64::from(v)).collect::<Vec<i64>>())
            };
            Ok((input.name.clone(), tensor.map_err(Error::tensor(path))?))
        };
        self.roles.iter().map(feed).collect()
    }

    /// The tokens that the feeds of a sentence hold, without those that fill them up.
    pub(crate) fn tokens(&self, feeds: &[(String, Tensor)]) -> Vec<i64> {
        let of = |wanted: Role| {
            let (_, (_, tensor)) = self.roles.iter().zip(feeds).find(|((role, _), _)| *role == wanted)?;
            tensor.to_i64_vec()
        };
        let ids = of(Role::Ids).unwrap_or_default();
        let kept = of(Role::Mask).unwrap_or_else(|| vec![1; ids.len()]);
        ids.into_iter().zip(kept).filter(|(_, kept)| *kept != 0).map(|(id, _)| id).collect()
    }
}

/// The sentences of a text, and their labels if its lines end in a tab and an integer. Blank lines are passed over.
fn sentences(name: &str, text: &str) -> Result<(Vec<(usize, Range<usize>)>, Option<Vec<u32>>), Error> {
    let mut lines: Vec<(usize, Range<usize>)> = Vec::new();
    let mut start = usize::from(text.starts_with('\u{feff}')) * '\u{feff}'.len_utf8();
    for (i, line) in text[start..].split_inclusive('\n').enumerate() {
        let sentence = line.trim_end_matches(['\n', '\r']);
        if !sentence.trim().is_empty() {
            lines.push((i + 1, start..start + sentence.len()));
        }
        start += line.len();
    }
    let labelled = |range: &Range<usize>| {
        let (sentence, label) = text[range.clone()].rsplit_once('\t')?;
        Some((range.start..range.start + sentence.len(), label.trim().parse::<u32>().ok()?))
    };
    let is_header = |range: &Range<usize>| {
        let last = text[range.clone()].rsplit_once('\t').map(|(_, l)| l.trim().to_lowercase());
        last.is_some_and(|l| l == "label" || l == "class")
    };
    if lines.first().is_some_and(|(_, r)| is_header(r)) {
        lines.remove(0);
    }
    if lines.first().is_none_or(|(_, range)| labelled(range).is_none()) {
        return Ok((lines, None));
    }
    let mut labels = Vec::with_capacity(lines.len());
    for (line, range) in &mut lines {
        let bad = || Error::Text {
            path: name.to_owned(),
            line: *line,
            message: "the lines before end in a tab and an integer label, this one does not".to_owned(),
        };
        let (sentence, label) = labelled(range).ok_or_else(bad)?;
        *range = sentence;
        labels.push(label);
    }
    Ok((lines, Some(labels)))
}

fn roles(inputs: &[InputSpec]) -> Result<Vec<(Role, InputSpec)>, Error> {
    let role = |input: &InputSpec| {
        let refuse = |why: &str| Error::Inputs {
            kind: "text",
            message: format!("input `{}` of {} {} {why}", one_line(&input.name), input.dtype, input.shape_text()),
        };
        if !matches!(input.dtype, DType::I64 | DType::I32) || input.shape.len() != 2 {
            return Err(refuse("does not take token ids: int64 or int32 of [batch, tokens]"));
        }
        if !matches!(input.shape[0], None | Some(1)) {
            return Err(refuse("has a fixed batch, sentences come one at a time"));
        }
        let name = input.name.to_lowercase();
        let role = if name.contains("mask") {
            Role::Mask
        } else if name.contains("type") || name.contains("segment") {
            Role::TypeIds
        } else if name.contains("position") {
            Role::Positions
        } else if name.contains("ids") || name.contains("token") || inputs.len() == 1 {
            Role::Ids
        } else {
            return Err(refuse("is none of input_ids, attention_mask, token_type_ids, position_ids"));
        };
        Ok((role, input.clone()))
    };
    inputs.iter().map(role).collect()
}

/// The tokenizer, set to truncate and never to pad, and what the model wants short sentences filled up to.
fn load(
    path: Option<&Path>,
    data: &str,
    roles: &[(Role, InputSpec)],
) -> Result<(Tokenizer, Option<(usize, u32)>), Error> {
    let Some(path) = path else {
        return Err(Error::Tokenizer { path: None, message: format!("`{data}` is text, and no tokenizer was given") });
    };
    let bad = |message: String| Error::Tokenizer { path: Some(shown(path)), message };
    let bytes = files::read(path, "the tokenizer", files::MAX_TOKENIZER_BYTES)?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| bad(one_line(&e.to_string())))?;
    if let Some(token) = undefined_token(&json["post_processor"]) {
        return Err(bad(format!("its template names the token `{}` and does not define it", one_line(token))));
    }
    let mut tokenizer = from_library(|| Tokenizer::from_bytes(bytes)).map_err(bad)?;
    let padding = tokenizer.get_padding().map_or(0, |p| p.pad_id);
    tokenizer.with_padding(None);
    let fixed = roles.first().and_then(|(_, input)| input.shape[1]);
    if roles.iter().any(|(_, input)| input.shape[1] != fixed) {
        return Err(Error::Inputs { kind: "text", message: "its inputs differ in the number of tokens".to_owned() });
    }
    let mut truncation = tokenizer.get_truncation().cloned().unwrap_or(TruncationParams {
        max_length: fixed.unwrap_or(DEFAULT_TOKENS),
        stride: 0,
        ..TruncationParams::default()
    });
    truncation.max_length = truncation.max_length.min(fixed.unwrap_or(usize::MAX));
    // The tokenizer subtracts these from the length without looking.
    let added = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
    if truncation.max_length <= added.saturating_add(truncation.stride) {
        return Err(bad(format!("sentences of {} tokens leave no room for words", truncation.max_length)));
    }
    from_library(|| tokenizer.with_truncation(Some(truncation)).map(drop)).map_err(bad)?;
    Ok((tokenizer, fixed.map(|len| (len, padding))))
}

/// What the library gives, or what is wrong. Some files it does not refuse but panics on, such as merges of a BPE model
/// that are shorter than its prefix.
fn from_library<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| one_line(&e.to_string())),
        Err(_) => Err("the tokenizer library cannot work with it: it is damaged".to_owned()),
    }
}

/// A special token that a template uses without defining it: the library would stop on it, not fail.
fn undefined_token(processor: &serde_json::Value) -> Option<&str> {
    // Processors nest in sequences only; serde_json bounds the depth.
    if let Some(list) = processor["processors"].as_array() {
        return list.iter().find_map(undefined_token);
    }
    let pieces = ["single", "pair"].into_iter().filter_map(|template| processor[template].as_array()).flatten();
    let mut used = pieces.filter_map(|piece| piece["SpecialToken"]["id"].as_str());
    used.find(|&token| processor["special_tokens"].get(token).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "good": 1, "film": 2, "bad": 3}, "unk_token": "[UNK]"}}"#;

    fn input(name: &str, tokens: Option<usize>) -> InputSpec {
        InputSpec { name: name.to_owned(), dtype: DType::I64, shape: vec![None, tokens] }
    }

    fn open(text: &str, inputs: &[InputSpec]) -> Result<Text, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.txt"), text).unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), WORDS).unwrap();
        Text::open(&folder.path().join("t.txt"), Some(&folder.path().join("tokenizer.json")), inputs)
    }

    fn ids(text: &Text, i: usize) -> Vec<Vec<i64>> {
        text.row("t", i).unwrap().iter().map(|(_, t)| t.as_slice::<i64>().to_vec()).collect()
    }

    #[test]
    fn sentences_keep_their_length_unless_the_model_fixes_one() {
        let free = [input("input_ids", None), input("attention_mask", None)];
        let text = open("Good film\n\nbad\n", &free).unwrap();
        assert_eq!((text.len(), text.line(1)), (2, 3));
        assert_eq!(ids(&text, 0), [[1, 2], [1, 1]]);
        assert_eq!(ids(&text, 1), [[3], [1]]);
        let fixed = [input("attention_mask", Some(3)), input("input_ids", Some(3))];
        let text = open("good bad good bad\nfilm", &fixed).unwrap();
        assert_eq!(ids(&text, 0), [[1, 1, 1], [1, 3, 1]]);
        assert_eq!(ids(&text, 1), [[1, 0, 0], [2, 0, 0]]);
        assert_eq!(text.tokens(&text.row("t", 1).unwrap()), [2]);
        let long = open(&"good ".repeat(500), &free).unwrap();
        assert_eq!(ids(&long, 0)[0].len(), DEFAULT_TOKENS);
    }

    #[test]
    fn a_template_with_an_undefined_token_is_refused() {
        let template = |defined: &str| {
            let text = format!(
                r#"{{"processors": [{{"type": "TemplateProcessing", "pair": [],
                "single": [{{"SpecialToken": {{"id": "[CLS]", "type_id": 0}}}}, {{"Sequence": {{"id": "A", "type_id": 0}}}}],
                "special_tokens": {{"{defined}": {{"id": "{defined}", "ids": [2], "tokens": ["{defined}"]}}}}}}]}}"#
            );
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        assert_eq!(undefined_token(&template("[CLS]")), None);
        assert_eq!(undefined_token(&template("[SEP]")), Some("[CLS]"));
        assert_eq!(undefined_token(&serde_json::Value::Null), None);
    }

    #[test]
    fn a_file_that_the_library_panics_on_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [sentences, tokenizer] = ["t.txt", "tokenizer.json"].map(|name| folder.path().join(name));
        std::fs::write(&sentences, "good").unwrap();
        // The prefix is longer than what it is taken from.
        let damaged = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "BPE", "continuing_subword_prefix": "@@@@",
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#;
        std::fs::write(&tokenizer, damaged).unwrap();
        let error = Text::open(&sentences, Some(&tokenizer), &[input("input_ids", None)]).err();
        assert!(matches!(error, Some(Error::Tokenizer { path: Some(_), .. })), "{error:?}");
    }

    #[test]
    fn labels_are_the_integers_after_the_last_tab() {
        let inputs = [input("ids", None)];
        let text = open("sentence\tlabel\ngood\tfilm\t1\r\nbad\t0\n", &inputs).unwrap();
        assert_eq!(text.labels, Some(vec![1, 0]));
        assert_eq!(ids(&text, 0), [[1, 2]]);
        assert!(matches!(open("good\t1\nbad\n", &inputs), Err(Error::Text { line: 2, .. })));
        assert!(open("good\tfilm\n", &inputs).unwrap().labels.is_none());
    }

    #[test]
    fn what_cannot_feed_the_model_is_refused() {
        assert!(open("good", &[input("input_ids", Some(0))]).is_err());
        assert!(open("good", &[input("input_ids", None), input("pixels", None)]).is_err());
        let float = InputSpec { dtype: DType::F32, ..input("input_ids", None) };
        assert!(open("good", &[float]).is_err());
        let missing = Text::open(Path::new("/dev/null"), None, &[]);
        assert!(matches!(missing, Err(Error::NotAFile { .. })));
    }
}
