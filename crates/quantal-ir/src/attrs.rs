//! Attributes of a node: names to values, in the order of the file.

use crate::graph::Graph;
use quantal_onnx::GraphProto;
use quantal_tensor::Tensor;
use std::sync::Arc;

/// The value of one attribute.
#[derive(Clone, Debug)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A byte string; ONNX does not promise UTF-8 here.
    Str(Arc<[u8]>),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Byte strings.
    Strs(Vec<Arc<[u8]>>),
    /// A tensor.
    Tensor(Arc<Tensor>),
    /// A subgraph, and the message it was read from (written back as it was: subgraphs are not rewritten).
    Graph(Arc<Graph>, Arc<GraphProto>),
    /// A kind that no operator here reads (type protos, lists of tensors or graphs); kept for export alone.
    Opaque,
}

/// The attributes of a node. A handful each, so lookup is a walk.
#[derive(Clone, Debug, Default)]
pub struct Attrs(Vec<(Arc<str>, Attr)>);

/// An attribute is missing or not of the kind that the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// A required attribute is not there.
    #[error("attribute `{0}` is missing")]
    Missing(&'static str),
    /// The attribute is there but of another kind.
    #[error("attribute `{name}` must be {wanted}")]
    Kind {
        /// Its name.
        name: String,
        /// What it should be, in words.
        wanted: &'static str,
    },
    /// The attribute has a value that the operator cannot take.
    #[error("attribute `{name}` {problem}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// What is wrong, as the rest of the sentence: "is 0, must be at least 1".
        problem: String,
    },
}

macro_rules! getter {
    ($(#[$doc:meta])* $get:ident, $kind:ident, $out:ty, $wanted:literal, $v:ident => $e:expr) => {
        $(#[$doc])*
        pub fn $get(&self, name: &str) -> Result<Option<$out>, AttrError> {
            match self.get(name) {
                None => Ok(None),
                Some(Attr::$kind($v)) => Ok(Some($e)),
                Some(_) => Err(AttrError::Kind { name: name.to_owned(), wanted: $wanted }),
            }
        }
    };
}

impl Attrs {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The attribute of that name.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, a)| a)
    }

    /// Sets or replaces one attribute.
    pub fn set(&mut self, name: &str, value: Attr) {
        match self.0.iter_mut().find(|(n, _)| &**n == name) {
            Some((_, a)) => *a = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// The same with one more attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: Attr) -> Self {
        self.set(name, value);
        self
    }

    /// Takes one attribute out.
    pub fn remove(&mut self, name: &str) -> Option<Attr> {
        let i = self.0.iter().position(|(n, _)| &**n == name)?;
        Some(self.0.remove(i).1)
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(n, a)| (&**n, a))
    }

    getter!(/// An integer, if given.
        int, Int, i64, "an integer", v => *v);
    getter!(/// A float, if given.
        float, Float, f32, "a float", v => *v);
    getter!(/// A list of integers, if given.
        ints, Ints, &[i64], "a list of integers", v => v);
    getter!(/// A list of floats, if given.
        floats, Floats, &[f32], "a list of floats", v => v);
    getter!(/// A tensor, if given.
        tensor, Tensor, &Arc<Tensor>, "a tensor", v => v);

    /// A string, if given; it must be UTF-8.
    pub fn str(&self, name: &str) -> Result<Option<&str>, AttrError> {
        let wrong = || AttrError::Kind { name: name.to_owned(), wanted: "a string" };
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Str(s)) => std::str::from_utf8(s).map(Some).map_err(|_| wrong()),
            Some(_) => Err(wrong()),
        }
    }

    /// A list of strings, if given; each must be UTF-8.
    pub fn strs(&self, name: &str) -> Result<Option<Vec<&str>>, AttrError> {
        let wrong = || AttrError::Kind { name: name.to_owned(), wanted: "a list of strings" };
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Strs(list)) => {
                list.iter().map(|s| std::str::from_utf8(s).map_err(|_| wrong())).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// A subgraph, if given.
    pub fn graph(&self, name: &str) -> Result<Option<&Arc<Graph>>, AttrError> {
        match self.get(name) {
            None => Ok(None),
            Some(Attr::Graph(g, _)) => Ok(Some(g)),
            Some(_) => Err(AttrError::Kind { name: name.to_owned(), wanted: "a graph" }),
        }
    }

    /// An integer with a default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, AttrError> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A float with a default.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32, AttrError> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A string with a default.
    pub fn str_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, AttrError> {
        Ok(self.str(name)?.unwrap_or(default))
    }

    /// An integer used as a flag: anything but 0 is true.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, AttrError> {
        Ok(self.int(name)?.map_or(default, |v| v != 0))
    }

    /// The subgraphs among the attributes, with their names.
    pub fn graphs(&self) -> impl Iterator<Item = (&str, &Arc<Graph>)> {
        self.0.iter().filter_map(|(n, a)| if let Attr::Graph(g, _) = a { Some((&**n, g)) } else { None })
    }
}
