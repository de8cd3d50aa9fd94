//! Fitting data to a model's inputs: names, element types and shapes. Types are converted only where no value changes
//! its meaning.

use crate::error::{Error, one_line};
use half::{bf16, f16};
use quantal_tensor::{DType, Tensor, TensorError};

/// What a model wants of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The input's name in the model.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions; `None` where the model leaves one free.
    pub shape: Vec<Option<usize>>,
}

impl InputSpec {
    /// The shape as messages show it: `[?, 3, 224, 224]`.
    pub fn shape_text(&self) -> String {
        let dims: Vec<String> = self.shape.iter().map(|d| d.map_or("?".to_owned(), |n| n.to_string())).collect();
        format!("[{}]", dims.join(", "))
    }

    /// Whether a tensor of this shape can be fed.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(|(want, &d)| want.is_none_or(|w| w == d))
    }

    pub(crate) fn shape_error(&self, path: &str, found: &[usize]) -> Error {
        let (input, wants) = (one_line(&self.name), self.shape_text());
        Error::Shape { path: path.to_owned(), input, wants, found: found.to_vec() }
    }
}

/// Refuses an input whose first dimension is fixed to something other than 1: samples come one at a time.
pub(crate) fn batch_of_one(input: &InputSpec) -> Result<(), Error> {
    match input.shape.first() {
        Some(None | Some(1)) => Ok(()),
        first => {
            let batch = match first {
                Some(Some(n)) => format!("a fixed batch of {n}"),
                Some(None) | None => "no batch dimension".to_owned(),
            };
            let message = format!("input `{}` has {batch}, samples come one at a time", one_line(&input.name));
            Err(Error::Inputs { kind: "this data", message })
        }
    }
}

/// The tensor under the input's type and shape. `path` names the sample in errors.
pub(crate) fn fit(path: &str, input: &InputSpec, tensor: Tensor) -> Result<Tensor, Error> {
    if !input.accepts(tensor.shape()) {
        return Err(input.shape_error(path, tensor.shape()));
    }
    cast(path, input, tensor)
}

/// [`fit`], where a missing batch dimension is added.
pub(crate) fn fit_sample(path: &str, input: &InputSpec, tensor: Tensor) -> Result<Tensor, Error> {
    if tensor.rank() + 1 == input.shape.len() && matches!(input.shape.first(), Some(None | Some(1))) {
        let mut shape = vec![1];
        shape.extend_from_slice(tensor.shape());
        let batched = tensor.reshaped(&shape).map_err(Error::tensor(path))?;
        return fit(path, input, batched);
    }
    fit(path, input, tensor)
}

/// The feeds of a model from arrays by name, as an `.npz` holds them: one for each input, in the model's order, of a
/// shape that the input accepts and a type that converts to the input's without loss. Other arrays are passed over.
pub fn feeds_from_arrays(
    path: &str,
    arrays: &[(String, Tensor)],
    inputs: &[InputSpec],
) -> Result<Vec<(String, Tensor)>, Error> {
    let feed = |input: &InputSpec| {
        let tensor = find(path, arrays, input)?;
        Ok((input.name.clone(), fit(path, input, tensor.clone())?))
    };
    inputs.iter().map(feed).collect()
}

/// The array named like the input.
pub(crate) fn find<'a>(path: &str, arrays: &'a [(String, Tensor)], input: &InputSpec) -> Result<&'a Tensor, Error> {
    arrays.iter().find(|(name, _)| *name == input.name).map(|(_, t)| t).ok_or_else(|| {
        let names: Vec<String> = arrays.iter().take(8).map(|(n, _)| format!("`{}`", one_line(n))).collect();
        let more = if arrays.len() > 8 { format!(" and {} more", arrays.len() - 8) } else { String::new() };
        let found = if names.is_empty() { "none".to_owned() } else { format!("{}{more}", names.join(", ")) };
        Error::MissingInput { path: path.to_owned(), input: one_line(&input.name), found }
    })
}

/// Converts to the input's type. Floats go to any float type (rounded), integers to any type that holds each value
/// exactly; floats never become integers. Types that numpy lacks come as bits: `bfloat16` as `uint16`, the 8-bit
/// floats as `uint8`.
pub(crate) fn cast(path: &str, input: &InputSpec, tensor: Tensor) -> Result<Tensor, Error> {
    let (from, to) = (tensor.dtype(), input.dtype);
    if from == to {
        return Ok(tensor);
    }
    let refuse =
        |why: String| Error::Type { path: path.to_owned(), input: one_line(&input.name), wants: to, found: from, why };
    if is_bits_of(from, to) {
        let shape = tensor.shape().to_vec();
        return Tensor::from_bytes(to, &shape, tensor.into_bytes()).map_err(Error::tensor(path));
    }
    let converted = if from.is_float() && to.is_float() {
        convert_floats(&tensor, to).ok_or_else(|| refuse(String::new()))?
    } else {
        let values = integers(&tensor).ok_or_else(|| refuse(String::new()))?;
        convert_integers(tensor.shape(), &values, to).map_err(|why| match why {
            Refused::Never => refuse(String::new()),
            Refused::Value(v) => refuse(format!(", and {v} does not fit")),
        })?
    };
    converted.map_err(Error::tensor(path))
}

fn is_bits_of(from: DType, to: DType) -> bool {
    match to {
        DType::BF16 => from == DType::U16,
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => from == DType::U8,
        _ => false,
    }
}

fn convert_floats(tensor: &Tensor, to: DType) -> Option<Result<Tensor, TensorError>> {
    let shape = tensor.shape();
    let values: Vec<f64> = match tensor.dtype() {
        DType::F64 => tensor.as_slice::<f64>().to_vec(),
        _ => tensor.to_f32_vec()?.into_iter().map(f64::from).collect(),
    };
    Some(match to {
        DType::F64 => Tensor::from_slice(shape, &values),
        DType::F32 => Tensor::from_slice(shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        DType::F16 => Tensor::from_slice(shape, &values.iter().map(|&v| f16::from_f64(v)).collect::<Vec<_>>()),
        DType::BF16 => Tensor::from_slice(shape, &values.iter().map(|&v| bf16::from_f64(v)).collect::<Vec<_>>()),
        _ => return None,
    })
}

fn integers(tensor: &Tensor) -> Option<Vec<i128>> {
    match tensor.dtype() {
        DType::U64 => Some(tensor.as_slice::<u64>().iter().map(|&v| v.into()).collect()),
        // Not even whole ones: what is a float in the data is rarely an index.
        dtype if dtype.is_float() => None,
        _ => Some(tensor.to_i64_vec()?.into_iter().map(i128::from).collect()),
    }
}

enum Refused {
    Never,
    Value(i128),
}

fn convert_integers(shape: &[usize], values: &[i128], to: DType) -> Result<Result<Tensor, TensorError>, Refused> {
    macro_rules! narrowed {
        ($t:ty) => {
            values
                .iter()
                .map(|&v| <$t>::try_from(v).map_err(|_| Refused::Value(v)))
                .collect::<Result<Vec<$t>, Refused>>()?
        };
    }
    macro_rules! exact {
        ($t:ty, $largest:expr, $from:expr) => {{
            if let Some(&v) = values.iter().find(|v| v.abs() > $largest) {
                return Err(Refused::Value(v));
            }
            Tensor::from_slice::<$t>(shape, &values.iter().map(|&v| $from(v)).collect::<Vec<_>>())
        }};
    }
    Ok(match to {
        DType::I64 => Tensor::from_slice(shape, &narrowed!(i64)),
        DType::U64 => Tensor::from_slice(shape, &narrowed!(u64)),
        DType::I32 => Tensor::from_slice(shape, &narrowed!(i32)),
        DType::U32 => Tensor::from_slice(shape, &narrowed!(u32)),
        DType::I16 => Tensor::from_slice(shape, &narrowed!(i16)),
        DType::U16 => Tensor::from_slice(shape, &narrowed!(u16)),
        DType::I8 => Tensor::from_slice(shape, &narrowed!(i8)),
        DType::U8 => Tensor::from_slice(shape, &narrowed!(u8)),
        DType::I4 | DType::I2 | DType::U4 | DType::U2 | DType::Bool => {
            let (least, most) = if to == DType::Bool { (0, 1) } else { to.int_range().ok_or(Refused::Never)? };
            if let Some(&v) = values.iter().find(|&&v| v < i128::from(least) || v > i128::from(most)) {
                return Err(Refused::Value(v));
            }
            let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
            quantal_tensor::Bytes::copy_from(&bytes)
                .map_err(TensorError::from)
                .and_then(|bytes| Tensor::from_bytes(to, shape, bytes))
        }
        // The largest n such that all integers up to n are representable.
        DType::F64 => exact!(f64, 1 << 53, |v| v as f64),
        DType::F32 => exact!(f32, 1 << 24, |v| v as f32),
        DType::F16 => exact!(f16, 1 << 11, |v| f16::from_f64(v as f64)),
        DType::BF16 => exact!(bf16, 1 << 8, |v| bf16::from_f64(v as f64)),
        DType::String
        | DType::C64
        | DType::C128
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::F4E2M1 => return Err(Refused::Never),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: DType, shape: &[Option<usize>]) -> InputSpec {
        InputSpec { name: "x".to_owned(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn types_convert_only_without_loss_of_meaning() {
        let to = |dtype, tensor: &Tensor| cast("f", &spec(dtype, &[None]), tensor.clone());
        let bytes = Tensor::from_slice(&[2], &[0_u16, 65_535]).unwrap();
        assert_eq!(to(DType::I32, &bytes).unwrap().as_slice::<i32>(), [0, 65_535]);
        assert!(matches!(to(DType::I16, &bytes), Err(Error::Type { why, .. }) if why.contains("65535")));
        let halves = Tensor::from_slice(&[1], &[0.5_f64]).unwrap();
        assert_eq!(to(DType::F32, &halves).unwrap().as_slice::<f32>(), [0.5]);
        assert!(to(DType::I64, &halves).is_err());
        let large = Tensor::from_slice(&[1], &[(1_i64 << 24) + 1]).unwrap();
        assert!(to(DType::F32, &large).is_err());
        assert!(to(DType::F64, &large).is_ok());
        let one = Tensor::from_slice(&[1], &[0x3f80_u16]).unwrap();
        assert_eq!(to(DType::BF16, &one).unwrap().as_slice::<bf16>(), [bf16::ONE]);
    }

    #[test]
    fn a_missing_batch_dimension_is_added_and_no_other() {
        let input = spec(DType::F32, &[None, Some(2)]);
        let fitted = fit_sample("f", &input, Tensor::zeros(DType::F32, &[2]).unwrap()).unwrap();
        assert_eq!(fitted.shape(), [1, 2]);
        assert!(fit_sample("f", &input, Tensor::zeros(DType::F32, &[3]).unwrap()).is_err());
        assert!(fit_sample("f", &input, Tensor::zeros(DType::F32, &[1, 1, 2]).unwrap()).is_err());
        assert!(fit("f", &input, Tensor::zeros(DType::F32, &[2]).unwrap()).is_err());
    }
}
