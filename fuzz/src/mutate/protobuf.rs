//! Changes to fields: no schema is known, any bytes that parse as a message may be one.

use super::Noise;

/// How deep messages are looked into.
const DEPTH: usize = 12;

/// A field with its number.
#[derive(Clone, Debug, PartialEq)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Raw(Vec<u8>),
    Message(Vec<Field>),
}

/// A changed copy; `None` if the bytes are no message or hold no field.
pub(super) fn mutate(bytes: &[u8], other: &[u8], noise: &mut Noise) -> Option<Vec<u8>> {
    let mut fields = parse(bytes, DEPTH)?;
    let count = size(&fields);
    if count == 0 {
        return None;
    }
    let donor = parse(other, DEPTH).unwrap_or_default();
    let mut left = noise.below(count);
    change(&mut fields, &mut left, &donor, noise);
    let mut out = Vec::with_capacity(bytes.len() + 64);
    write(&fields, &mut out);
    Some(out)
}

/// All fields, those in messages counted as well.
fn size(fields: &[Field]) -> usize {
    let inner = |f: &Field| if let Value::Message(inner) = &f.value { size(inner) } else { 0 };
    fields.iter().map(|f| 1 + inner(f)).sum()
}

/// Changes field number `left` in reading order; true when it is done.
fn change(fields: &mut Vec<Field>, left: &mut usize, donor: &[Field], noise: &mut Noise) -> bool {
    for i in 0..fields.len() {
        if *left == 0 {
            change_one(fields, i, donor, noise);
            return true;
        }
        *left -= 1;
        if let Value::Message(inner) = &mut fields[i].value
            && change(inner, left, donor, noise)
        {
            return true;
        }
    }
    false
}

fn change_one(fields: &mut Vec<Field>, i: usize, donor: &[Field], noise: &mut Noise) {
    match noise.below(12) {
        0 => _ = fields.remove(i),
        1 => fields.insert(i, fields[i].clone()),
        2 => {
            let j = noise.below(fields.len());
            fields.swap(i, j);
        }
        // The value of a sibling of the same number: an input of another node's name, one dimension for another.
        3 => {
            let same: Vec<usize> = (0..fields.len()).filter(|&j| fields[j].number == fields[i].number).collect();
            fields[i].value = fields[*noise.pick(&same)].value.clone();
        }
        // A field of the same number out of another file, from whatever depth.
        4 => {
            let mut found = Vec::new();
            gather(donor, fields[i].number, &mut found);
            if !found.is_empty() {
                fields[i] = (*noise.pick(&found)).clone();
            }
        }
        _ => change_value(&mut fields[i].value, noise),
    }
}

fn gather<'a>(fields: &'a [Field], number: u64, found: &mut Vec<&'a Field>) {
    for field in fields {
        if field.number == number {
            found.push(field);
        }
        if let Value::Message(inner) = &field.value {
            gather(inner, number, found);
        }
    }
}

fn change_value(value: &mut Value, noise: &mut Noise) {
    match value {
        Value::Varint(v) => {
            *v = match noise.below(4) {
                0 => v.wrapping_add(1),
                1 => v.wrapping_sub(1),
                2 => v.wrapping_neg(),
                _ => noise.number() as u64,
            }
        }
        Value::Fixed64(bytes) => *bytes = noise.number().to_le_bytes(),
        Value::Fixed32(bytes) => {
            let floats = [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38, 1e-45, 0.5];
            *bytes = noise.pick(&floats).to_le_bytes();
        }
        Value::Raw(bytes) => *bytes = super::binary(std::mem::take(bytes), noise),
        Value::Message(inner) => {
            if let Some(i) = inner.len().checked_sub(1).map(|last| noise.below(last + 1)) {
                inner.remove(i);
            }
        }
    }
}

fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = tag >> 3;
        if number == 0 || number > 1 << 16 {
            return None;
        }
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                let held = take(&mut bytes, len)?;
                let message = if depth > 0 && !held.is_empty() { parse(held, depth - 1) } else { None };
                message.map_or_else(|| Value::Raw(held.to_vec()), Value::Message)
            }
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(len)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for Field { number, value } in fields {
        let tag = |kind: u64, out: &mut Vec<u8>| write_varint(number << 3 | kind, out);
        match value {
            Value::Varint(v) => {
                tag(0, out);
                write_varint(*v, out);
            }
            Value::Fixed64(bytes) => {
                tag(1, out);
                out.extend(bytes);
            }
            Value::Fixed32(bytes) => {
                tag(5, out);
                out.extend(bytes);
            }
            Value::Raw(bytes) => {
                tag(2, out);
                write_varint(bytes.len() as u64, out);
                out.extend(bytes);
            }
            Value::Message(inner) => {
                tag(2, out);
                let mut held = Vec::new();
                write(inner, &mut held);
                write_varint(held.len() as u64, out);
                out.extend(held);
            }
        }
    }
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_written_as_it_was() {
        // {1: 300, 2: {1: "ab", 3: 1.0f32}, 4: <8 bytes>}
        let bytes =
            b"\x08\xac\x02\x12\x09\x0a\x02ab\x1d\x00\x00\x80\x3f\x21\x01\x02\x03\x04\x05\x06\x07\x08".as_slice();
        let fields = parse(bytes, DEPTH).unwrap();
        assert_eq!(fields.len(), 3);
        assert!(matches!(&fields[1].value, Value::Message(inner) if inner[1].value == Value::Fixed32([0, 0, 128, 63])));
        let mut out = Vec::new();
        write(&fields, &mut out);
        assert_eq!(out, bytes);
        assert_eq!(size(&fields), 5);
        assert!(parse(b"\x0a\x05abc", DEPTH).is_none(), "cut short");
    }
}
