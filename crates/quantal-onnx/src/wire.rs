//! The protobuf wire format: varints, tags, fields, and the limits that hostile files run into.

use crate::error::Error;
use quantal_tensor::Bytes;
use std::cell::Cell;
use std::io::{self, Write};
use std::ops::Range;

/// Deepest nesting of messages. A subgraph costs three levels (attribute, graph, node), so this is 64 graphs deep.
pub(crate) const MAX_DEPTH: usize = 200;

/// Most bytes that the parsed messages of one model may take, tensor data apart: a small file of a million empty
/// messages must not become gigabytes.
pub(crate) const MAX_PARSED_BYTES: usize = 512 << 20;

/// The wire types that protobuf still uses.
pub(crate) const VARINT: u8 = 0;
pub(crate) const FIXED64: u8 = 1;
pub(crate) const LENGTH: u8 = 2;
pub(crate) const FIXED32: u8 = 5;

/// The value of one field.
#[derive(Clone, Debug)]
pub(crate) enum WireValue {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: where its bytes lie in the source.
    Length(Range<usize>),
    /// Wire type 5.
    Fixed32(u32),
}

/// One field as found: its number, value, and all its bytes (tag included).
pub(crate) struct WireField {
    pub(crate) number: u32,
    pub(crate) value: WireValue,
    pub(crate) raw: Range<usize>,
}

/// Walks the fields of one message.
pub struct Reader<'a> {
    source: &'a Bytes,
    at: usize,
    end: usize,
    depth: usize,
    budget: &'a Cell<usize>,
    message: &'static str,
    field: u32,
}

impl<'a> Reader<'a> {
    /// A reader of the whole of `source` as one message.
    pub(crate) fn new(source: &'a Bytes, budget: &'a Cell<usize>, message: &'static str) -> Self {
        Self { source, at: 0, end: source.len(), depth: 0, budget, message, field: 0 }
    }

    /// A reader of a message inside this one.
    pub(crate) fn nested(&self, range: Range<usize>, message: &'static str) -> Result<Reader<'a>, Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::TooDeep(MAX_DEPTH));
        }
        Ok(Reader { at: range.start, end: range.end, depth: self.depth + 1, message, field: 0, ..*self })
    }

    pub(crate) fn error(&self, problem: &'static str) -> Error {
        Error::Damaged { message: self.message, field: self.field, at: self.at, problem }
    }

    /// All bytes not read yet.
    pub(crate) fn rest(&self) -> Range<usize> {
        self.at..self.end
    }

    /// Counts memory that parsing is about to take.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Error> {
        let left = self.budget.get().checked_sub(bytes).ok_or(Error::TooManyParts(MAX_PARSED_BYTES))?;
        self.budget.set(left);
        Ok(())
    }

    /// The bytes of a range that [`Reader::next_field`] returned.
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.source.get(range.clone()).unwrap_or_default()
    }

    /// The same, sharing the source.
    pub(crate) fn share(&self, range: &Range<usize>) -> Result<Bytes, Error> {
        self.source.slice(range.clone()).ok_or_else(|| self.error("a range lies outside the file"))
    }

    pub(crate) fn text(&self, range: &Range<usize>) -> Result<String, Error> {
        let text = std::str::from_utf8(self.bytes(range)).map_err(|_| self.error("a text is not valid UTF-8"))?;
        self.charge(text.len())?;
        Ok(text.to_owned())
    }

    pub(crate) fn next_field(&mut self) -> Result<Option<WireField>, Error> {
        if self.at == self.end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        self.field = number.ok_or_else(|| self.error("not a field number"))?;
        let value = match (tag & 7) as u8 {
            VARINT => WireValue::Varint(self.varint()?),
            FIXED64 => WireValue::Fixed64(u64::from_le_bytes(self.array()?)),
            FIXED32 => WireValue::Fixed32(u32::from_le_bytes(self.array()?)),
            LENGTH => {
                let len = self.varint()?;
                let len = usize::try_from(len).ok().filter(|&len| len <= self.end - self.at);
                let len = len.ok_or_else(|| self.error("a length reaches beyond its message"))?;
                self.at += len;
                WireValue::Length(self.at - len..self.at)
            }
            _ => return Err(self.error("not a wire type")),
        };
        Ok(Some(WireField { number: self.field, value, raw: start..self.at }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let array = self.bytes(&(self.at..self.end)).first_chunk().copied();
        let array = array.ok_or_else(|| self.error("the message ends inside a number"))?;
        self.at += N;
        Ok(array)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        match split_varint(self.bytes(&(self.at..self.end))) {
            Some((value, len)) => {
                self.at += len;
                Ok(value)
            }
            None => Err(self.error("the message ends inside a number, or the number is too long")),
        }
    }
}

/// The varint at the start of `bytes` and its length; `None` if it is cut off or longer than 64 bits.
pub(crate) fn split_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        if i == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Bytes that `value` takes as a varint.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn write_varint(mut value: u64, out: &mut dyn Write) -> io::Result<()> {
    let mut buffer = [0_u8; 10];
    let mut len = 0;
    while value >= 0x80 {
        buffer[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    buffer[len] = value as u8;
    out.write_all(&buffer[..=len])
}

pub(crate) fn tag_len(number: u32) -> usize {
    varint_len(u64::from(number) << 3)
}

pub(crate) fn write_tag(number: u32, wire: u8, out: &mut dyn Write) -> io::Result<()> {
    write_varint(u64::from(number) << 3 | u64::from(wire), out)
}

/// Bytes of a length-delimited field with `len` bytes of content.
pub(crate) fn delimited_len(number: u32, len: usize) -> usize {
    tag_len(number) + varint_len(len as u64) + len
}

pub(crate) fn write_delimited(number: u32, content: &[u8], out: &mut dyn Write) -> io::Result<()> {
    write_tag(number, LENGTH, out)?;
    write_varint(content.len() as u64, out)?;
    out.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_at_the_edges() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[128, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut out = Vec::new();
            write_varint(value, &mut out).unwrap();
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value), bytes.len());
            assert_eq!(split_varint(bytes), Some((value, bytes.len())));
        }
        assert_eq!(split_varint(&[0x80, 0x00]), Some((0, 2)), "longer than needed is legal");
        assert_eq!(split_varint(&[0x80]), None);
        assert_eq!(split_varint(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), None, "65 bits");
        assert_eq!(split_varint(&[0x80; 11]), None);
    }
}
