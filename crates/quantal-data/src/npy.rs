//! The `.npy` format: a magic number, a header that is a Python dict in text, the elements. The dict is parsed by a
//! grammar of its three keys, never evaluated. <https://numpy.org/neps/nep-0001-npy-format.html>

use crate::error::{Error, one_line};
use quantal_tensor::tensor::element_count;
use quantal_tensor::{Bytes, DType, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header text: that of a plain array is below 200 bytes.
const MAX_HEADER: usize = 64 << 10;
/// numpy's own limit on the number of dimensions.
const MAX_RANK: usize = 64;

/// What a header says.
#[derive(Debug)]
pub(crate) struct Header {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
    /// Bytes of the elements.
    pub(crate) len: usize,
}

/// Reads from the start of a file how long the part before the elements is: `(bytes read so far, bytes of text)`.
fn header_text_len(start: &[u8; 12]) -> Result<(usize, usize), String> {
    if &start[..6] != MAGIC {
        return Err("not an .npy array (its magic number is missing)".to_owned());
    }
    let (prefix, len) = match start[6] {
        1 => (10, u32::from(u16::from_le_bytes([start[8], start[9]]))),
        2 | 3 => (12, u32::from_le_bytes([start[8], start[9], start[10], start[11]])),
        version => return Err(format!(".npy version {version} is not known")),
    };
    let len = len as usize;
    if len > MAX_HEADER {
        Err(format!("the header of {len} bytes is over the limit of {MAX_HEADER}"))
    } else {
        Ok((prefix, len))
    }
}

/// Reads header and elements from a stream. `check` sees the bytes of the whole array before they are allocated.
pub(crate) fn read(
    path: &str,
    source: &mut impl std::io::Read,
    check: impl FnOnce(usize) -> Result<(), Error>,
) -> Result<Tensor, Error> {
    let broken = |e: std::io::Error| Error::array(path, format!("broken or truncated: {}", one_line(&e.to_string())));
    let bad = |message: String| Error::array(path, message);
    let mut start = [0; 12];
    source.read_exact(&mut start).map_err(broken)?;
    let (prefix, text_len) = header_text_len(&start).map_err(bad)?;
    let mut text = start[prefix..].to_vec();
    // Version 1 has two bytes of text in the first twelve.
    let have = text.len().min(text_len);
    text.resize(text_len, 0);
    source.read_exact(&mut text[have..]).map_err(broken)?;
    let header = parse(&text).map_err(bad)?;
    check(prefix.saturating_add(text_len).saturating_add(header.len))?;
    let mut bytes = Bytes::zeroed(header.len).map_err(Error::memory(path))?;
    source.read_exact(bytes.make_mut().map_err(Error::memory(path))?).map_err(broken)?;
    if source.read(&mut [0]).map_err(broken)? != 0 {
        return Err(bad("more bytes than its shape takes".to_owned()));
    }
    tensor(path, &header, bytes)
}

/// An array in a file's bytes, sharing them where memory layout and alignment allow.
pub(crate) fn from_bytes(path: &str, bytes: &Bytes) -> Result<Tensor, Error> {
    let bad = |message: String| Error::array(path, message);
    let start = bytes.first_chunk::<12>().ok_or_else(|| bad("too short for an .npy array".to_owned()))?;
    let (prefix, text_len) = header_text_len(start).map_err(bad)?;
    let end = prefix + text_len;
    let text = bytes.get(prefix..end).ok_or_else(|| bad("the header is truncated".to_owned()))?;
    let header = parse(text).map_err(bad)?;
    let found = bytes.len() - end;
    if found != header.len {
        return Err(bad(format!(
            "shape {:?} of {} takes {} bytes, found {found}",
            header.shape, header.dtype, header.len
        )));
    }
    let elements = bytes.slice(end..bytes.len()).expect("the header ends inside the file");
    tensor(path, &header, elements)
}

fn tensor(path: &str, header: &Header, mut bytes: Bytes) -> Result<Tensor, Error> {
    let size = header.dtype.size();
    if header.big_endian && size > 1 {
        // Complex numbers are two floats, each swapped by itself.
        let unit = if matches!(header.dtype, DType::C64 | DType::C128) { size / 2 } else { size };
        for element in bytes.make_mut().map_err(Error::memory(path))?.chunks_exact_mut(unit) {
            element.reverse();
        }
    }
    if header.dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
        return Err(Error::array(path, "a bool is neither 0 nor 1"));
    }
    if header.fortran && header.shape.len() > 1 {
        bytes = transposed(&bytes, &header.shape, size).map_err(Error::memory(path))?;
    }
    Tensor::from_bytes(header.dtype, &header.shape, bytes).map_err(Error::tensor(path))
}

/// Column-major elements in row-major order.
fn transposed(bytes: &[u8], shape: &[usize], size: usize) -> Result<Bytes, quantal_tensor::OutOfMemory> {
    let mut out = Bytes::zeroed(bytes.len())?;
    let mut strides = vec![size; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for element in out.make_mut()?.chunks_exact_mut(size) {
        element.copy_from_slice(&bytes[at..at + size]);
        for i in (0..shape.len()).rev() {
            index[i] += 1;
            at += strides[i];
            if index[i] < shape[i] {
                break;
            }
            at -= strides[i] * shape[i];
            index[i] = 0;
        }
    }
    Ok(out)
}

fn parse(text: &[u8]) -> Result<Header, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the header is not text".to_owned())?;
    let mut scanner = Scanner { rest: text };
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    scanner.expect('{')?;
    while !scanner.take('}') {
        let key = scanner.string()?;
        scanner.expect(':')?;
        match key {
            "descr" => descr = Some(scanner.string()?),
            "fortran_order" => fortran = Some(scanner.boolean()?),
            "shape" => shape = Some(scanner.tuple()?),
            other => return Err(format!("the header has an unknown key `{}`", one_line(other))),
        }
        if !scanner.take(',') {
            scanner.expect('}')?;
            break;
        }
    }
    scanner.end()?;
    let (Some(descr), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
        return Err("the header lacks descr, fortran_order or shape".to_owned());
    };
    let (dtype, big_endian) = element_type(descr)?;
    let len = element_count(&shape).and_then(|n| n.checked_mul(dtype.size()));
    let len = len.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    Ok(Header { dtype, big_endian, fortran, shape, len })
}

fn element_type(descr: &str) -> Result<(DType, bool), String> {
    let unknown = || format!("arrays of type `{}` are not supported", one_line(descr));
    let (order, code) = descr.split_at_checked(1).ok_or_else(unknown)?;
    let big_endian = match order {
        "<" | "|" | "=" => false,
        ">" => true,
        _ => return Err(unknown()),
    };
    let dtype = match code {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "b1" => DType::Bool,
        "c8" => DType::C64,
        "c16" => DType::C128,
        // How numpy names the bfloat16 of ml_dtypes, which is the one type of two bytes without a name of its own.
        "V2" => DType::BF16,
        "O" => return Err("arrays of pickled objects are refused: they can run code".to_owned()),
        _ => return Err(unknown()),
    };
    Ok((dtype, big_endian))
}

/// The few tokens of a header.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn take(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(c);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) { Ok(()) } else { Err(format!("the header is malformed: `{c}` expected")) }
    }

    fn end(&mut self) -> Result<(), String> {
        if self.rest.trim().is_empty() { Ok(()) } else { Err("the header is malformed: text after its end".to_owned()) }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        // A structured type is a list here, an object of numpy a call.
        let malformed = || "the header is malformed, or the type is a structured one: a string expected".to_owned();
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(malformed)?;
        let (text, rest) = self.rest[1..].split_once(quote).ok_or_else(malformed)?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("the header is malformed: True or False expected".to_owned())
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        self.expect('(')?;
        let mut dims = Vec::new();
        while !self.take(')') {
            self.rest = self.rest.trim_start();
            let digits = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at(digits);
            // Python 2 wrote long integers with an L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            dims.push(number.parse().map_err(|_| "the shape is not a tuple of sizes".to_owned())?);
            if dims.len() > MAX_RANK {
                return Err(format!("the shape has more than {MAX_RANK} dimensions"));
            }
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(dims)
    }
}

/// The bytes of an `.npy` file, version 1.0, little-endian, row-major. Types that numpy lacks are written as their
/// bits: `bfloat16` as uint16, 8-bit and 4-bit floats as uint8, small integers as int8 or uint8.
pub(crate) fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let descr = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        DType::U16 | DType::BF16 => "<u2",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::C64 => "<c8",
        DType::C128 => "<c16",
        DType::Bool => "|b1",
        DType::I8 | DType::I4 | DType::I2 => "|i1",
        DType::U8
        | DType::U4
        | DType::U2
        | DType::F4E2M1
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        // Tensors of strings cannot be made.
        | DType::String => "|u1",
    };
    let dims: Vec<String> = tensor.shape().iter().map(ToString::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", dims.join(", "));
    // Elements start at a multiple of 64, so that a map of the file is aligned.
    let start = (MAGIC.len() + 4 + text.len() + 1).next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', start - MAGIC.len() - 4 - text.len() - 1));
    text.push('\n');
    let mut out = Vec::with_capacity(start + tensor.bytes().len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(tensor.bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, elements: &[u8]) -> Bytes {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[1, 0]);
        out.extend_from_slice(&(header.len() as u16).to_le_bytes());
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(elements);
        Bytes::copy_from(&out).unwrap()
    }

    #[test]
    fn fortran_order_and_big_endian_become_the_memory_layout() {
        // numpy: array([[1, 2, 3], [4, 5, 6]], order='F') stores 1 4 2 5 3 6.
        let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }\n";
        let stored: Vec<u8> = [1_i16, 4, 2, 5, 3, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
        let array = from_bytes("f", &file(header, &stored)).unwrap();
        assert_eq!((array.shape(), array.as_slice::<i16>()), (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
    }

    #[test]
    fn arrays_of_bfloat16_are_read_as_numpy_saves_them() {
        // np.save of ml_dtypes.bfloat16: 1.5 is 0x3fc0, -2 is 0xc000.
        let header = "{'descr': '<V2', 'fortran_order': False, 'shape': (2,), }\n";
        let array = from_bytes("f", &file(header, &[0xc0, 0x3f, 0x00, 0xc0])).unwrap();
        assert_eq!((array.dtype(), array.to_f32_vec().unwrap()), (DType::BF16, vec![1.5, -2.0]));
    }

    #[test]
    fn hostile_headers_are_refused() {
        for (header, wanted) in [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "pickled"),
            ("__import__('os').system('true')", "malformed"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}", "takes 4000000000000 bytes"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807)}",
                "too large",
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "not a tuple"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "structured"),
            ("{'descr': '<f4', 'shape': (1,)}", "lacks"),
            ("{'descr': 'é4', 'fortran_order': False, 'shape': (1,)}", "not supported"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", "takes 8 bytes, found 4"),
        ] {
            let message = from_bytes("f", &file(header, &[0; 4])).unwrap_err().to_string();
            assert!(message.contains(wanted), "{header}: {message}");
        }
        assert!(from_bytes("f", &Bytes::copy_from(b"\x93NUMPY").unwrap()).is_err());
    }

    #[test]
    fn the_stream_reader_stops_at_what_the_shape_takes() {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (), }\n";
        let long = file(header, &[7, 8]);
        assert!(read("f", &mut &long[..], |_| Ok(())).unwrap_err().to_string().contains("more bytes"));
        let right = file(header, &[7]);
        let array = read("f", &mut &right[..], |_| Ok(())).unwrap();
        assert_eq!((array.shape(), array.as_slice::<u8>()), (&[][..], &[7][..]));
    }
}
