//! How a message is declared: its fields by number, the bytes it came from, and the fields that it does not know.

use crate::error::Error;
use crate::wire::{
    FIXED32, FIXED64, LENGTH, Reader, VARINT, WireValue, delimited_len, split_varint, tag_len, varint_len,
    write_delimited, write_tag, write_varint,
};
use quantal_tensor::Bytes;
use std::io::{self, Write};

/// A protobuf message.
pub trait Message: Default {
    /// What messages to people call it.
    const KIND: &'static str;
    /// Reads all fields up to the end of `reader`.
    fn read(reader: Reader<'_>) -> Result<Self, Error>;
    /// Bytes that [`Message::write`] will write.
    fn size(&self) -> usize;
    /// Writes the original bytes if they are known to be true, else the fields.
    fn write(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// A type that can stand behind a field number.
pub(crate) trait Field: Default {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error>;
    fn field_size(&self, number: u32) -> usize;
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()>;
}

/// Declares messages. `[origin]` after a name: instances keep the bytes they were read from in `origin`, and are written
/// as those bytes for as long as it is `Some`.
macro_rules! messages {
    ($(
        $(#[$doc:meta])*
        $name:ident = $kind:literal $([$origin:ident])? { $($(#[$field_doc:meta])* $number:literal $field:ident: $ty:ty,)* }
    )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
            /// Fields that are not listed above, as they came: written after the others.
            pub unknown: Vec<u8>,
            $(
            /// The bytes that this was read from. While `Some` they are written instead of the fields: whoever changes
            /// a field sets this to `None`, here and in each message around.
            pub $origin: Option<Bytes>,
            )?
        }

        impl Message for $name {
            const KIND: &'static str = $kind;

            fn read(mut reader: Reader<'_>) -> Result<Self, Error> {
                reader.charge(std::mem::size_of::<Self>())?;
                let mut message = Self::default();
                $( message.$origin = Some(reader.share(&reader.rest())?); )?
                while let Some(field) = reader.next_field()? {
                    match field.number {
                        $($number => Field::merge(&mut message.$field, &field.value, &reader)?,)*
                        _ => {
                            reader.charge(field.raw.len())?;
                            message.unknown.extend_from_slice(reader.bytes(&field.raw));
                        }
                    }
                }
                Ok(message)
            }

            fn size(&self) -> usize {
                $( if let Some(origin) = &self.$origin { return origin.len(); } )?
                self.unknown.len() $(+ self.$field.field_size($number))*
            }

            fn write(&self, out: &mut dyn Write) -> io::Result<()> {
                $( if let Some(origin) = &self.$origin { return out.write_all(origin); } )?
                $( self.$field.write_field($number, out)?; )*
                out.write_all(&self.unknown)
            }
        }
    )* };
}
pub(crate) use messages;

fn wrong_wire_type(reader: &Reader<'_>) -> Error {
    reader.error("the wrong wire type")
}

fn varint(value: &WireValue, reader: &Reader<'_>) -> Result<u64, Error> {
    match value {
        WireValue::Varint(v) => Ok(*v),
        _ => Err(wrong_wire_type(reader)),
    }
}

fn length(value: &WireValue, reader: &Reader<'_>) -> Result<std::ops::Range<usize>, Error> {
    match value {
        WireValue::Length(range) => Ok(range.clone()),
        _ => Err(wrong_wire_type(reader)),
    }
}

// Scalars of the first kind: a value equal to the default counts as absent. Of the second: presence is kept.

macro_rules! integer_fields {
    ($($t:ty),*) => { $(
        impl Field for $t {
            fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
                *self = varint(value, reader)? as $t;
                Ok(())
            }
            fn field_size(&self, number: u32) -> usize {
                if *self == 0 { 0 } else { tag_len(number) + varint_len(i64::from(*self) as u64) }
            }
            fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
                if *self == 0 { Ok(()) } else { Some(*self).write_field(number, out) }
            }
        }

        impl Field for Option<$t> {
            fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
                *self = Some(varint(value, reader)? as $t);
                Ok(())
            }
            fn field_size(&self, number: u32) -> usize {
                self.map_or(0, |v| tag_len(number) + varint_len(i64::from(v) as u64))
            }
            fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
                let Some(v) = self else { return Ok(()) };
                write_tag(number, VARINT, out)?;
                write_varint(i64::from(*v) as u64, out)
            }
        }
    )* };
}
integer_fields!(i32, i64);

impl Field for Option<f32> {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        let WireValue::Fixed32(bits) = value else { return Err(wrong_wire_type(reader)) };
        *self = Some(f32::from_bits(*bits));
        Ok(())
    }
    fn field_size(&self, number: u32) -> usize {
        self.map_or(0, |_| tag_len(number) + 4)
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        let Some(v) = self else { return Ok(()) };
        write_tag(number, FIXED32, out)?;
        out.write_all(&v.to_le_bytes())
    }
}

impl Field for String {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        *self = reader.text(&length(value, reader)?)?;
        Ok(())
    }
    fn field_size(&self, number: u32) -> usize {
        if self.is_empty() { 0 } else { delimited_len(number, self.len()) }
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        if self.is_empty() { Ok(()) } else { write_delimited(number, self.as_bytes(), out) }
    }
}

/// The ways to hold bytes with presence: text, owned bytes, a window of the file.
macro_rules! delimited_fields {
    ($($t:ty, $from:expr;)*) => { $(
        impl Field for Option<$t> {
            fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
                *self = Some($from(reader, &length(value, reader)?)?);
                Ok(())
            }
            fn field_size(&self, number: u32) -> usize {
                self.as_ref().map_or(0, |v| delimited_len(number, v.len()))
            }
            fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
                self.as_ref().map_or(Ok(()), |v| write_delimited(number, v.as_ref(), out))
            }
        }

        impl Field for Vec<$t> {
            fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
                reader.charge(std::mem::size_of::<$t>())?;
                self.push($from(reader, &length(value, reader)?)?);
                Ok(())
            }
            fn field_size(&self, number: u32) -> usize {
                self.iter().map(|v| delimited_len(number, v.len())).sum()
            }
            fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
                self.iter().try_for_each(|v| write_delimited(number, v.as_ref(), out))
            }
        }
    )* };
}
delimited_fields! {
    String, Reader::text;
    Vec<u8>, owned;
    Raw, raw;
}

fn owned(reader: &Reader<'_>, range: &std::ops::Range<usize>) -> Result<Vec<u8>, Error> {
    reader.charge(range.len())?;
    Ok(reader.bytes(range).to_vec())
}

fn raw(reader: &Reader<'_>, range: &std::ops::Range<usize>) -> Result<Raw, Error> {
    reader.share(range).map(Raw)
}

/// Bytes that stay a window of the file.
#[derive(Clone, Debug)]
pub struct Raw(pub Bytes);

impl std::ops::Deref for Raw {
    type Target = Bytes;
    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Field for Vec<i64> {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        match value {
            WireValue::Varint(v) => {
                reader.charge(8)?;
                self.push(*v as i64);
            }
            WireValue::Length(range) => {
                let mut rest = reader.bytes(range);
                reader.charge(rest.iter().filter(|&&b| b < 0x80).count() * 8)?;
                while !rest.is_empty() {
                    let (v, len) =
                        split_varint(rest).ok_or_else(|| reader.error("a packed list ends inside a number"))?;
                    self.push(v as i64);
                    rest = &rest[len..];
                }
            }
            WireValue::Fixed32(_) | WireValue::Fixed64(_) => return Err(wrong_wire_type(reader)),
        }
        Ok(())
    }
    fn field_size(&self, number: u32) -> usize {
        self.iter().map(|&v| tag_len(number) + varint_len(v as u64)).sum()
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        self.iter().try_for_each(|&v| Some(v).write_field(number, out))
    }
}

impl Field for Vec<f32> {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        match value {
            WireValue::Fixed32(bits) => {
                reader.charge(4)?;
                self.push(f32::from_bits(*bits));
            }
            WireValue::Length(range) => {
                reader.charge(range.len())?;
                let (values, rest) = reader.bytes(range).as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(reader.error("a packed list ends inside a number"));
                }
                self.extend(values.iter().map(|&v| f32::from_le_bytes(v)));
            }
            WireValue::Varint(_) | WireValue::Fixed64(_) => return Err(wrong_wire_type(reader)),
        }
        Ok(())
    }
    fn field_size(&self, number: u32) -> usize {
        self.len() * (tag_len(number) + 4)
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        self.iter().try_for_each(|&v| Some(v).write_field(number, out))
    }
}

/// A long list of numbers in wire form, decoded only when the tensor is asked for. `WIRE` is the wire type of one number.
#[derive(Clone, Debug, Default)]
pub struct Packed<const WIRE: u8> {
    chunks: Vec<Chunk>,
}

#[derive(Clone, Debug)]
enum Chunk {
    /// A packed list, as it lies in the file.
    Window(Bytes),
    /// Numbers that were given one field each.
    Single(Vec<u8>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Window(bytes) => bytes,
            Self::Single(bytes) => bytes,
        }
    }
}

impl<const WIRE: u8> Packed<WIRE> {
    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.chunks().map(<[u8]>::len).sum()
    }

    /// The numbers in wire form; none is split between two chunks.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(Chunk::bytes)
    }
}

impl<const WIRE: u8> Field for Packed<WIRE> {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        if let WireValue::Length(range) = value {
            let bytes = reader.bytes(range);
            let whole = match WIRE {
                FIXED32 => bytes.len().is_multiple_of(4),
                FIXED64 => bytes.len().is_multiple_of(8),
                _ => bytes.last().is_none_or(|&b| b < 0x80),
            };
            if !whole {
                return Err(reader.error("a packed list ends inside a number"));
            }
            reader.charge(std::mem::size_of::<Chunk>())?;
            self.chunks.push(Chunk::Window(reader.share(range)?));
            return Ok(());
        }
        if !matches!(self.chunks.last(), Some(Chunk::Single(_))) {
            reader.charge(std::mem::size_of::<Chunk>())?;
            self.chunks.push(Chunk::Single(Vec::new()));
        }
        let Some(Chunk::Single(bytes)) = self.chunks.last_mut() else { unreachable!("just pushed") };
        let before = bytes.len();
        match (value, WIRE) {
            (WireValue::Varint(v), VARINT) => write_varint(*v, bytes).expect("a Vec takes all"),
            (WireValue::Fixed32(v), FIXED32) => bytes.extend(v.to_le_bytes()),
            (WireValue::Fixed64(v), FIXED64) => bytes.extend(v.to_le_bytes()),
            _ => return Err(wrong_wire_type(reader)),
        }
        reader.charge(bytes.len() - before)
    }
    fn field_size(&self, number: u32) -> usize {
        if self.is_empty() { 0 } else { delimited_len(number, self.len()) }
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        write_tag(number, LENGTH, out)?;
        write_varint(self.len() as u64, out)?;
        self.chunks().try_for_each(|c| out.write_all(c))
    }
}

fn read_nested<M: Message>(value: &WireValue, reader: &Reader<'_>) -> Result<M, Error> {
    M::read(reader.nested(length(value, reader)?, M::KIND)?)
}

fn write_nested<M: Message>(message: &M, number: u32, out: &mut dyn Write) -> io::Result<()> {
    write_tag(number, LENGTH, out)?;
    write_varint(message.size() as u64, out)?;
    message.write(out)
}

impl<M: Message> Field for Vec<M> {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        self.push(read_nested(value, reader)?);
        Ok(())
    }
    fn field_size(&self, number: u32) -> usize {
        self.iter().map(|m| delimited_len(number, m.size())).sum()
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        self.iter().try_for_each(|m| write_nested(m, number, out))
    }
}

impl<M: Message> Field for Option<Box<M>> {
    fn merge(&mut self, value: &WireValue, reader: &Reader<'_>) -> Result<(), Error> {
        // Protobuf would merge the two; no writer of models makes them, and merged ones have no one origin.
        if self.is_some() {
            return Err(reader.error("a single message is given twice"));
        }
        *self = Some(Box::new(read_nested(value, reader)?));
        Ok(())
    }
    fn field_size(&self, number: u32) -> usize {
        self.as_ref().map_or(0, |m| delimited_len(number, m.size()))
    }
    fn write_field(&self, number: u32, out: &mut dyn Write) -> io::Result<()> {
        self.as_ref().map_or(Ok(()), |m| write_nested(&**m, number, out))
    }
}
