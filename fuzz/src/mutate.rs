//! Mutation that knows the form of what it changes: fields of a protobuf message, lines and numbers of a text, bytes of
//! anything else.

mod protobuf;
mod text;

/// The form of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Messages in each other.
    Protobuf,
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// Numbers at which readers go wrong.
const NUMBERS: &[i64] = &[
    0,
    -1,
    1,
    2,
    3,
    7,
    16,
    64,
    127,
    128,
    255,
    256,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    -(1 << 31),
    1 << 32,
    1 << 40,
    1 << 62,
    i64::MAX,
    i64::MIN,
];

/// A stream of numbers from a seed: splitmix64.
pub struct Noise(pub u64);

impl Noise {
    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0 if that is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }

    /// One of `list`, which is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn number(&mut self) -> i64 {
        *self.pick(NUMBERS)
    }
}

/// A changed copy of `seed`; parts of `other`, another seed, may go into it.
pub fn mutate(form: Form, seed: &[u8], other: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=noise.below(3) {
        let changed = match form {
            Form::Protobuf if noise.below(10) > 0 => protobuf::mutate(&bytes, other, noise),
            Form::Text if noise.below(10) > 0 => text::mutate(&bytes, other, noise),
            _ => None,
        };
        bytes = changed.unwrap_or_else(|| binary(bytes, noise));
    }
    bytes
}

/// Changes bytes anywhere.
fn binary(mut bytes: Vec<u8>, noise: &mut Noise) -> Vec<u8> {
    let at = noise.below(bytes.len());
    match noise.below(7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, noise.word() as u8),
        2 => bytes.get_mut(at).into_iter().for_each(|b| *b ^= 1 << noise.below(8)),
        3 => bytes.get_mut(at).into_iter().for_each(|b| *b = *noise.pick(&[0, 1, 127, 128, 255])),
        4 => {
            let end = bytes.len().min(at + 1 + noise.below(64));
            bytes.drain(at..end);
        }
        5 => {
            let (number, big) = (noise.number(), noise.below(2) == 0);
            let number = if big { number.to_be_bytes() } else { number.to_le_bytes() };
            let width = *noise.pick(&[1, 2, 4, 8]);
            let part = if big { &number[8 - width..] } else { &number[..width] };
            bytes.iter_mut().skip(at).zip(part).for_each(|(b, n)| *b = *n);
        }
        _ => {
            let from = at.saturating_sub(1 + noise.below(40));
            bytes.extend_from_within(from..at);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_what_comes_and_every_form_survives_any_bytes() {
        for form in [Form::Protobuf, Form::Text, Form::Binary] {
            // Each is made from the one before it, whatever has become of that.
            let make = |seed| {
                let mut noise = Noise(seed);
                let mut made = vec![b"\x08\x07\x12\x04\x0a\x02ab".to_vec()];
                for _ in 0..200 {
                    let mut bytes = mutate(form, &made[made.len() - 1], b"\x0a\x01z x = 3\n", &mut noise);
                    bytes.truncate(500);
                    made.push(bytes);
                }
                made
            };
            assert_eq!(make(1), make(1), "{form:?}");
            assert_ne!(make(1), make(2), "{form:?}");
        }
    }
}
