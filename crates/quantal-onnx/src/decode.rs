//! From a `TensorProto` to a tensor: all element types, all the places where data may be, sizes checked first.

use crate::error::{Error, quote, tensor_name};
use crate::external::{External, parse_u64};
use crate::message::Packed;
use crate::schema::TensorProto;
use crate::wire::{VARINT, split_varint};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{Bytes, DType, Tensor};

/// Decodes `t`.
pub(crate) fn tensor(t: &TensorProto, external: &External) -> Result<Tensor, Error> {
    let name = &t.name;
    let (dtype, shape, count) = describe(t)?;
    let bytes = if t.is_external() {
        unpack(external_bytes(t, external)?, dtype, count)?
    } else if let Some(raw) = t.raw_data.as_ref().filter(|raw| !raw.is_empty()) {
        if has_typed_data(t) {
            return Err(Error::tensor(name, "has both raw and typed data"));
        }
        check_len(name, file_len(name, dtype, count)?, raw.len())?;
        unpack(raw.0.clone(), dtype, count)?
    } else {
        typed(t, dtype, count)?
    };
    let bytes = if dtype == DType::Bool { canonical_bools(bytes)? } else { bytes };
    Tensor::from_bytes(dtype, &shape, bytes).map_err(|e| Error::from_tensor(name, e))
}

/// The bytes of an external tensor as in its file, their number checked.
pub(crate) fn external_bytes(t: &TensorProto, external: &External) -> Result<Bytes, Error> {
    let (dtype, _, count) = describe(t)?;
    let needed = file_len(&t.name, dtype, count)? as u64;
    if t.raw_data.as_ref().is_some_and(|raw| !raw.is_empty()) || has_typed_data(t) {
        return Err(Error::tensor(&t.name, "has both external and inner data"));
    }
    let entry = |key: &str| t.external_data.iter().rev().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").unwrap_or_default();
    let refuse = |problem: String| Error::External { name: tensor_name(&t.name), location: quote(location), problem };
    let number = |key: &str| {
        entry(key).map_or(Ok(None), |text| {
            parse_u64(text).map(Some).ok_or_else(|| refuse(format!("{key} {} is not a byte count", quote(text))))
        })
    };
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(needed);
    if length != needed {
        return Err(refuse(format!("its length is {length} bytes, dims and type need {needed}")));
    }
    external.read(location, offset, Some(length)).map_err(refuse)
}

/// Element type, shape and element count, checked for sense but not against data.
fn describe(t: &TensorProto) -> Result<(DType, Vec<usize>, usize), Error> {
    let name = &t.name;
    if t.segment.is_some() {
        return Err(Error::tensor(name, "tensors in segments are unsupported"));
    }
    let dtype = DType::from_onnx(t.data_type)
        .ok_or_else(|| Error::tensor(name, format!("data type {} is unsupported", t.data_type)))?;
    if dtype == DType::String {
        return Err(Error::Unsupported { name: tensor_name(name), dtype });
    }
    let (shape, count) = shape(name, &t.dims)?;
    Ok((dtype, shape, count))
}

/// Dims of a file as a shape, and its number of elements.
pub(crate) fn shape(name: &str, dims: &[i64]) -> Result<(Vec<usize>, usize), Error> {
    let shape = dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| Error::tensor(name, format!("dimension {d} is not a size"))))
        .collect::<Result<Vec<_>, _>>()?;
    let count = element_count(&shape)
        .ok_or_else(|| Error::tensor(name, "its dimensions multiply to more elements than can be counted"))?;
    Ok((shape, count))
}

/// Bytes of `count` elements in a file.
fn file_len(name: &str, dtype: DType, count: usize) -> Result<usize, Error> {
    let bits = count.checked_mul(dtype.bits_in_file());
    bits.map(|bits| bits.div_ceil(8)).ok_or_else(|| Error::tensor(name, format!("{count} elements are too many")))
}

fn check_len(name: &str, needed: usize, found: usize) -> Result<(), Error> {
    if needed == found {
        return Ok(());
    }
    Err(Error::tensor(name, format!("its dims and type need {needed} bytes of data, found {found}")))
}

fn has_typed_data(t: &TensorProto) -> bool {
    !(t.float_data.is_empty()
        && t.int32_data.is_empty()
        && t.int64_data.is_empty()
        && t.double_data.is_empty()
        && t.uint64_data.is_empty()
        && t.string_data.is_empty())
}

/// Sub-byte elements one a byte, the first in the lowest bits; others as they are. `packed` has the right length.
fn unpack(packed: Bytes, dtype: DType, count: usize) -> Result<Bytes, Error> {
    let bits = dtype.bits_in_file();
    if bits >= 8 {
        return Ok(packed);
    }
    let signed = matches!(dtype, DType::I4 | DType::I2);
    let (per_byte, shift) = (8 / bits, 8 - bits);
    let mut bytes = Bytes::zeroed(count)?;
    for (i, out) in bytes.make_mut()?.iter_mut().enumerate() {
        let high = packed[i / per_byte] >> (i % per_byte * bits) << shift;
        *out = if signed { (high as i8 >> shift) as u8 } else { high >> shift };
    }
    Ok(bytes)
}

/// Any non-zero byte is true, and true is 1 from here on.
fn canonical_bools(mut bytes: Bytes) -> Result<Bytes, Error> {
    if bytes.iter().any(|&b| b > 1) {
        bytes.make_mut()?.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok(bytes)
}

/// The elements from the typed field that ONNX assigns to their type.
fn typed(t: &TensorProto, dtype: DType, count: usize) -> Result<Bytes, Error> {
    let name = &t.name;
    match dtype {
        DType::F32 | DType::C64 => fixed(name, dtype, count, &t.float_data),
        DType::F64 | DType::C128 => fixed(name, dtype, count, &t.double_data),
        DType::I64 => varints::<8>(name, count, &t.int64_data, |v| Some(v.to_le_bytes())),
        DType::U64 => varints::<8>(name, count, &t.uint64_data, |v| Some(v.to_le_bytes())),
        DType::U32 => varints::<4>(name, count, &t.uint64_data, |v| u32::try_from(v).ok().map(u32::to_le_bytes)),
        DType::I32 => varints::<4>(name, count, &t.int32_data, |v| Some((v as i32).to_le_bytes())),
        DType::I16 => varints::<2>(name, count, &t.int32_data, |v| i16::try_from(v as i32).ok().map(i16::to_le_bytes)),
        DType::U16 | DType::F16 | DType::BF16 => {
            varints::<2>(name, count, &t.int32_data, |v| u16::try_from(v as i32).ok().map(u16::to_le_bytes))
        }
        DType::I8 => varints::<1>(name, count, &t.int32_data, |v| i8::try_from(v as i32).ok().map(i8::to_le_bytes)),
        DType::Bool => varints::<1>(name, count, &t.int32_data, |v| Some([u8::from(v as i32 != 0)])),
        DType::U8 | DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => {
            varints::<1>(name, count, &t.int32_data, unsigned_byte)
        }
        // Each number holds one packed byte. Some writers sign-extend it.
        DType::U4 | DType::I4 | DType::F4E2M1 | DType::U2 | DType::I2 => {
            let packed = varints::<1>(name, file_len(name, dtype, count)?, &t.int32_data, |v| {
                unsigned_byte(v).or_else(|| i8::try_from(v as i32).ok().map(i8::to_le_bytes))
            })?;
            unpack(packed, dtype, count)
        }
        DType::String => Err(Error::Unsupported { name: tensor_name(name), dtype }),
    }
}

fn unsigned_byte(v: u64) -> Option<[u8; 1]> {
    u8::try_from(v as i32).ok().map(u8::to_le_bytes)
}

/// Little-endian numbers of a fixed width, copied as they are.
fn fixed<const WIRE: u8>(name: &str, dtype: DType, count: usize, data: &Packed<WIRE>) -> Result<Bytes, Error> {
    let found = data.chunks().map(<[u8]>::len).sum();
    check_len(name, file_len(name, dtype, count)?, found)?;
    let mut bytes = Bytes::zeroed(found)?;
    let mut rest = bytes.make_mut()?;
    for chunk in data.chunks() {
        let (now, later) = rest.split_at_mut(chunk.len());
        now.copy_from_slice(chunk);
        rest = later;
    }
    Ok(bytes)
}

/// `count` varints as elements of `N` bytes; `element` refuses what the type cannot hold.
fn varints<const N: usize>(
    name: &str,
    count: usize,
    data: &Packed<VARINT>,
    element: impl Fn(u64) -> Option<[u8; N]>,
) -> Result<Bytes, Error> {
    // Each number ends in the one byte that has no continuation bit: counted before anything is allocated.
    let found: usize = data.chunks().map(|c| c.iter().filter(|&&b| b < 0x80).count()).sum();
    if found != count {
        return Err(Error::tensor(name, format!("its dims and type need {count} numbers of data, found {found}")));
    }
    // Not more than 8 times the numbers that are there, so it cannot overflow.
    let mut bytes = Bytes::zeroed(count * N)?;
    let mut slots = bytes.make_mut()?.as_chunks_mut::<N>().0.iter_mut();
    for chunk in data.chunks() {
        let mut rest = chunk;
        while !rest.is_empty() {
            let (value, len) =
                split_varint(rest).ok_or_else(|| Error::tensor(name, "a number is longer than 64 bits"))?;
            rest = &rest[len..];
            let slot = slots.next().ok_or_else(|| Error::tensor(name, "too many numbers"))?;
            *slot = element(value)
                .ok_or_else(|| Error::tensor(name, format!("the value {} does not fit its type", value as i64)))?;
        }
    }
    Ok(bytes)
}
