//! What models are fed for timing: inputs made up, with sizes for what the model leaves free, or arrays and samples.

use crate::error::Error;
use crate::model::Model;
use quantal_ir::graph::Uses;
use quantal_ir::{Dim, Graph, Op, ValueId};
use quantal_tensor::{DType, Tensor, TensorError};
use std::collections::{BTreeMap, BTreeSet};

/// What one model is fed.
#[derive(Clone, Debug)]
pub struct Fed {
    /// The inputs.
    pub feeds: Vec<(String, Tensor)>,
    /// Sizes that were made up, in words: `batch = 1`, `x:2 = 128`.
    pub assumed: Vec<String>,
}

/// Sizes for free dimensions, as they were asked for: by the dimension's name, or as `INPUT:AXIS`.
#[derive(Clone, Debug, Default)]
pub struct Sizes(BTreeMap<String, usize>);

impl Sizes {
    /// Of two sizes for one key the later one counts.
    pub fn new(given: impl IntoIterator<Item = (String, usize)>) -> Self {
        Self(given.into_iter().collect())
    }

    /// Whether no size was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that each key is a free dimension of one of the models.
    ///
    /// # Errors
    /// Names the first that is not, with those that there are.
    pub fn check<'a>(&self, models: impl IntoIterator<Item = &'a Model>) -> Result<(), Error> {
        let free: BTreeSet<String> = models.into_iter().flat_map(|m| free(&m.graph)).flat_map(|d| d.keys()).collect();
        let Some(unknown) = self.0.keys().find(|key| !free.contains(*key)) else { return Ok(()) };
        let names = free.iter().map(|k| format!("`{}`", k.escape_debug())).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "all sizes are fixed".to_owned() } else { format!("there are {names}") };
        let message = format!("--size: `{}` is no free dimension of an input: {names}", unknown.escape_debug());
        Err(Error::usage(message, "give the dimension's name, or INPUT:AXIS with axes from 0, as in `x:2=48`"))
    }

    /// The model with these sizes for its inputs, and the shapes that follow from them.
    pub fn bind(&self, model: &Model) -> Model {
        let mut graph = model.graph.clone();
        for d in free(&model.graph) {
            let size = d.keys().into_iter().find_map(|key| self.0.get(&key));
            if let (Some(&n), Some(shape)) = (size, &mut graph.value_mut(d.input).shape) {
                shape[d.axis] = Dim::Known(n);
            }
        }
        // What cannot be inferred stays unknown: the figures that want it then say so.
        let _ = quantal_ir::infer::run(&mut graph);
        Model { graph, ..model.clone() }
    }
}

/// A free dimension of an input.
struct Free {
    input: ValueId,
    /// The input's name.
    name: String,
    axis: usize,
    symbol: Option<String>,
}

impl Free {
    /// What it may be called in a size.
    fn keys(&self) -> Vec<String> {
        let axis = format!("{}:{}", self.name, self.axis);
        [Some(axis), self.symbol.clone()].into_iter().flatten().collect()
    }
}

fn free(graph: &Graph) -> Vec<Free> {
    let mut all = Vec::new();
    for &input in &graph.inputs {
        let value = graph.value(input);
        for (axis, d) in value.shape.iter().flatten().enumerate() {
            let symbol = match d {
                Dim::Known(_) => continue,
                Dim::Symbol(s) => Some(s.to_string()),
                Dim::Unknown => None,
            };
            all.push(Free { input, name: value.name.to_string(), axis, symbol });
        }
    }
    all
}

/// What a free dimension stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Batch,
    /// Tokens that are in the cache of a decoder.
    Past,
    /// Tokens that a decoder with a cache is given: one.
    Current,
    /// Past and current ones.
    Total,
    Other,
}

/// The sizes that stand for the roles.
#[derive(Clone, Copy, Debug)]
pub struct Assumed {
    /// Of the batch.
    pub batch: usize,
    /// Of all others.
    pub free: usize,
}

impl Assumed {
    fn size(self, role: Role) -> usize {
        match role {
            Role::Batch => self.batch,
            Role::Current => 1,
            Role::Past | Role::Other => self.free,
            Role::Total => self.free + 1,
        }
    }
}

/// Inputs made up for timing: float32 spread over −1 … 1, int32 and int64 all 1 (valid as ids and as masks), uint8 of
/// any value, other types all 0. Free dimensions have the sizes asked for, else those of `assumed`: one size for one
/// name, that of the batch where the name leads an input or says so, and for decoders with a cache one token after
/// `free` others.
///
/// # Errors
/// If an input has no known type or rank, or the inputs would not fit in memory.
pub fn synthetic_feeds(model: &Model, sizes: &Sizes, assumed: Assumed) -> Result<Fed, Error> {
    let specs = model.inputs()?;
    let (dims, mut notes, mut noted) = (free(&model.graph), Vec::new(), BTreeSet::new());
    let roles = roles(&model.graph, &dims);
    // A name that was given a size has it everywhere, and so does a sum that names it.
    let named = |symbol: &str| {
        let role = || dims.iter().position(|d| d.symbol.as_deref() == Some(symbol)).map(|i| assumed.size(roles[i]));
        sizes.0.get(symbol).copied().or_else(role)
    };
    let mut chosen: BTreeMap<(ValueId, usize), usize> = BTreeMap::new();
    for (d, role) in dims.iter().zip(&roles) {
        let given = d.keys().into_iter().find_map(|key| sizes.0.get(&key).copied());
        let total = || (*role == Role::Total).then(|| total(&dims, &roles, sizes, assumed));
        let size = given.or_else(|| d.symbol.as_deref().and_then(|s| sum(s, &named))).or_else(total);
        let size = size.unwrap_or_else(|| assumed.size(*role));
        chosen.insert((d.input, d.axis), size);
        let key = d.symbol.clone().unwrap_or_else(|| format!("{}:{}", d.name, d.axis));
        if given.is_none() && noted.insert(key.clone()) {
            notes.push(format!("{} = {size}", key.escape_debug()));
        }
    }
    let mut feeds = Vec::with_capacity(specs.len());
    for (&input, spec) in model.graph.inputs.iter().zip(specs) {
        let size = |(axis, d): (usize, &Option<usize>)| d.unwrap_or_else(|| chosen[&(input, axis)]);
        let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect();
        let tensor = made_up(&spec.name, spec.dtype, &shape);
        let message = |e: TensorError| Error::job(format!("input `{}`: {e}", spec.name.escape_debug()), "");
        feeds.push((spec.name.clone(), tensor.map_err(message)?));
    }
    Ok(Fed { feeds, assumed: notes })
}

/// Past and current tokens, as they were chosen or asked for.
fn total(dims: &[Free], roles: &[Role], sizes: &Sizes, assumed: Assumed) -> usize {
    let of = |role: Role| {
        let found = dims.iter().zip(roles).find(|(_, r)| **r == role).map(|(d, _)| d);
        let given = found.and_then(|d| d.keys().into_iter().find_map(|key| sizes.0.get(&key).copied()));
        given.unwrap_or_else(|| assumed.size(role))
    };
    of(Role::Past) + of(Role::Current)
}

/// The value of a name that is a sum, like `past_sequence_length + 1`, if all its parts are known.
fn sum(symbol: &str, named: &dyn Fn(&str) -> Option<usize>) -> Option<usize> {
    let parts: Vec<&str> = symbol.split('+').map(str::trim).collect();
    if parts.len() < 2 {
        return None;
    }
    parts.into_iter().try_fold(0_usize, |sum, part| sum.checked_add(part.parse().ok().or_else(|| named(part))?))
}

fn roles(graph: &Graph, dims: &[Free]) -> Vec<Role> {
    let uses = graph.uses();
    let cached = dims.iter().any(|d| is_cache(&d.name));
    let own: Vec<Role> = dims.iter().map(|d| own_role(graph, &uses, dims, d, cached)).collect();
    // One role for one name: the most telling that it has anywhere.
    let rank = |r: &Role| match r {
        Role::Batch => 0,
        Role::Past => 1,
        Role::Current => 2,
        Role::Total => 3,
        Role::Other => 4,
    };
    let of_name = |symbol: &str| {
        let all = dims.iter().zip(&own).filter(|(d, _)| d.symbol.as_deref() == Some(symbol)).map(|(_, r)| *r);
        all.min_by_key(rank).unwrap_or(Role::Other)
    };
    let of = |(d, own): (&Free, &Role)| match d.symbol.as_deref().map_or(*own, of_name) {
        // A mask over all tokens that shares its name with those given: one name for two sizes.
        Role::Current if *own == Role::Total => Role::Total,
        role => role,
    };
    dims.iter().zip(&own).map(of).collect()
}

fn own_role(graph: &Graph, uses: &Uses, dims: &[Free], d: &Free, cached: bool) -> Role {
    let lower = d.symbol.as_deref().unwrap_or_default().to_lowercase();
    let says_batch = |s: &str| s.contains("batch") || matches!(s, "b" | "n" | "bs");
    if says_batch(&lower) {
        return Role::Batch;
    }
    if let Some(role) = recurrent(graph, uses, d) {
        return role;
    }
    if cached && is_cache(&d.name) && d.axis > 0 {
        return Role::Past;
    }
    let encoder = d.name.to_lowercase().contains("encoder");
    if cached && d.axis > 0 && is_mask(&d.name) && !encoder {
        // Queries before keys.
        let last = graph.value(d.input).shape.as_ref().is_none_or(|s| d.axis + 1 == s.len());
        return if last { Role::Total } else { Role::Current };
    }
    let tokens = ["input_ids", "inputs_embeds", "position_ids", "token_type_ids"];
    let is_tokens = |name: &str| tokens.iter().any(|t| name.to_lowercase().contains(t));
    // Where no input is called so, those are tokens that are neither cache nor mask.
    let unnamed = !dims.iter().any(|o| is_tokens(&o.name)) && !is_mask(&d.name) && !encoder;
    if cached && d.axis == 1 && (is_tokens(&d.name) || unnamed) {
        return Role::Current;
    }
    // The first dimension is the batch, unless another of the same input says that it is.
    let other = dims.iter().any(|o| {
        o.input == d.input && o.axis != d.axis && says_batch(&o.symbol.as_deref().unwrap_or_default().to_lowercase())
    });
    if d.axis == 0 && !other { Role::Batch } else { Role::Other }
}

fn is_mask(name: &str) -> bool {
    name.to_lowercase().contains("mask")
}

fn is_cache(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("past") && !name.contains("length") || name.contains("cache") && !name.contains("use_cache")
}

/// What a dimension is to a recurrent node that reads the input itself: its data has time first and the batch second,
/// unless `layout` says otherwise, and so have its states.
fn recurrent(graph: &Graph, uses: &Uses, d: &Free) -> Option<Role> {
    let reader = uses.readers(d.input).iter().map(|&r| graph.node(r)).find(|n| matches!(n.op, Op::Lstm | Op::Gru))?;
    let port = reader.inputs.iter().position(|v| *v == Some(d.input))?;
    let batch_first = reader.attrs.int_or("layout", 0) == Ok(1);
    match (port, d.axis, batch_first) {
        (0 | 5 | 6, 1, false) | (0 | 5 | 6, 0, true) | (4, 0, _) => Some(Role::Batch),
        (0, 0, false) | (0, 1, true) => Some(Role::Other),
        _ => None,
    }
}

fn made_up(name: &str, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
    let mut t = Tensor::zeros(dtype, shape)?;
    // A fixed linear congruence: the same bytes on every machine.
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    match dtype {
        DType::F32 => t.as_mut_slice::<f32>()?.fill_with(|| next() as f32 / 8_388_608.0 - 1.0),
        DType::I64 => t.as_mut_slice::<i64>()?.fill(1),
        DType::I32 => t.as_mut_slice::<i32>()?.fill(1),
        DType::U8 => t.as_mut_slice::<u8>()?.fill_with(|| next() as u8),
        // The switch of a decoder that can do without its cache: here it has one.
        DType::Bool if name.contains("use_cache") => {
            let bytes = vec![1; shape.iter().product()];
            let held = quantal_tensor::Bytes::copy_from(&bytes)?;
            t = Tensor::from_bytes(DType::Bool, shape, held)?;
        }
        _ => {}
    }
    Ok(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Assumed = Assumed { batch: 1, free: 128 };

    fn model(inputs: &[(&str, DType, &[&str])]) -> Model {
        let mut graph = Graph::default();
        for (name, dtype, dims) in inputs {
            let dim = |d: &&str| match (d.parse(), *d) {
                (Ok(n), _) => Dim::Known(n),
                (_, "") => Dim::Unknown,
                (_, s) => Dim::Symbol(s.into()),
            };
            let v = graph.add_value(name, Some(*dtype), Some(dims.iter().map(dim).collect()));
            graph.inputs.push(v);
        }
        Model { graph, name: "m".into(), bytes: 0 }
    }

    fn shapes(model: &Model, sizes: &[(&str, usize)]) -> Vec<Vec<usize>> {
        let sizes = Sizes::new(sizes.iter().map(|(k, n)| ((*k).to_owned(), *n)));
        sizes.check([model]).unwrap();
        let fed = synthetic_feeds(model, &sizes, SIZES).unwrap();
        fed.feeds.iter().map(|(_, t)| t.shape().to_vec()).collect()
    }

    #[test]
    fn one_name_has_one_size_and_that_of_the_batch_where_it_leads() {
        let f = DType::F32;
        let lstm = model(&[("x", f, &["B", "T", "4"]), ("h0", f, &["1", "B", "6"]), ("c0", f, &["1", "B", "6"])]);
        assert_eq!(shapes(&lstm, &[]), [vec![1, 128, 4], vec![1, 1, 6], vec![1, 1, 6]]);
        assert_eq!(shapes(&lstm, &[("B", 3), ("T", 7)]), [vec![3, 7, 4], vec![1, 3, 6], vec![1, 3, 6]]);
        assert_eq!(synthetic_feeds(&lstm, &Sizes::default(), SIZES).unwrap().assumed, ["B = 1", "T = 128"]);
        // Time first, and a name that says what it is.
        let first = model(&[("x", f, &["seq", "batch", "4"]), ("h0", f, &["1", "batch", "6"])]);
        assert_eq!(shapes(&first, &[]), [[128, 1, 4], [1, 1, 6]]);
        let leads = model(&[("x", f, &["anything", "3", "h", "w"]), ("y", f, &["1", "anything"])]);
        assert_eq!(shapes(&leads, &[]), [vec![1, 3, 128, 128], vec![1, 1]]);
    }

    #[test]
    fn dimensions_without_a_name_are_sized_by_place_and_by_what_reads_them() {
        let f = DType::F32;
        let image = model(&[("x", f, &["", "3", "", ""])]);
        assert_eq!(shapes(&image, &[]), [[1, 3, 128, 128]]);
        assert_eq!(shapes(&image, &[("x:0", 2), ("x:2", 48), ("x:3", 192)]), [[2, 3, 48, 192]]);
        let mut rnn = model(&[("x", f, &["", "", "4"]), ("h0", f, &["1", "", "6"])]);
        let [x, h] = [0, 1].map(|i| Some(rnn.graph.inputs[i]));
        let y = rnn.graph.add_value("y", Some(f), None);
        let attrs = quantal_ir::Attrs::new();
        let inputs = vec![x, None, None, None, None, h];
        rnn.graph.add_node(quantal_ir::Node::new(Op::Gru, "gru", inputs, vec![y], attrs));
        assert_eq!(shapes(&rnn, &[]), [[128, 1, 4], [1, 1, 6]]);
    }

    #[test]
    fn a_decoder_with_a_cache_gets_one_token_and_a_mask_over_all() {
        let (f, i) = (DType::F32, DType::I64);
        let past = ["batch_size", "4", "past_sequence_length", "16"];
        for (mask, sequence) in [
            ("past_sequence_length + 1", "sequence_length"),
            ("past_sequence_length + sequence_length", "sequence_length"),
            ("total_sequence_length", "sequence_length"),
            ("sequence_length", "sequence_length"),
            ("", ""),
        ] {
            let decoder = model(&[
                ("input_ids", i, &["batch_size", sequence]),
                ("attention_mask", i, &["batch_size", mask]),
                ("past_key_values.0.key", f, &past),
                ("past_key_values.0.value", f, &past),
                ("use_cache_branch", DType::Bool, &["1"]),
            ]);
            let found = shapes(&decoder, &[]);
            assert_eq!(found[..3], [vec![1, 1], vec![1, 129], vec![1, 4, 128, 16]], "{mask}");
            let found = shapes(&decoder, &[("past_sequence_length", 9)]);
            assert_eq!(found[..3], [vec![1, 1], vec![1, 10], vec![1, 4, 9, 16]], "{mask}");
            let fed = synthetic_feeds(&decoder, &Sizes::default(), SIZES).unwrap();
            assert_eq!(fed.feeds[4].1.bytes(), [1]);
        }
        // Embedded tokens, and a mask of queries by keys.
        let named = [("x", f, &["B", "S", "16"][..]), ("past", f, &["B", "P", "16"]), ("mask", f, &["B", "S", "T"])];
        assert_eq!(shapes(&model(&named), &[]), [[1, 1, 16], [1, 128, 16], [1, 1, 129]]);
    }

    #[test]
    fn a_size_of_what_is_not_free_is_refused_with_what_is() {
        let m = model(&[("x", DType::F32, &["N", "3", "", "8"])]);
        for key in ["M", "x:1", "x:4", "y:0"] {
            let error = Sizes::new([(key.to_owned(), 2)]).check([&m]).unwrap_err();
            let text = error.to_string();
            assert!(error.is_usage() && text.contains(key) && text.contains("`N`") && text.contains("`x:2`"), "{text}");
        }
        assert!(Sizes::new([("N".to_owned(), 2)]).check([&m]).is_ok());
    }

    #[test]
    fn sizes_bound_to_a_model_reach_its_graph() {
        let m = model(&[("x", DType::F32, &["N", "3", "", "8"])]);
        let bound = Sizes::new([("N".to_owned(), 2), ("x:2".to_owned(), 5)]).bind(&m);
        assert_eq!(bound.graph.value(bound.graph.inputs[0]).known_shape(), Some(vec![2, 3, 5, 8]));
    }
}
