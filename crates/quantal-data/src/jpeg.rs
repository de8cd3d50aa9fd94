//! Whether a JPEG file holds all of its image, told by its markers alone (ITU-T T.81, annex B).

/// How every JPEG begins: the marker SOI.
pub(crate) const START: [u8; 2] = [0xff, 0xd8];

const END: u8 = 0xd9;
const SCAN: u8 = 0xda;

/// Whether the marker EOI comes after all segments; `rest` is what follows SOI. What comes behind it does not count, nor
/// what lies inside of segments (thumbnails are images of their own).
pub(crate) fn is_whole(mut rest: &[u8]) -> bool {
    let mut in_scan = false;
    loop {
        // Entropy-coded data hold no 0xff but before 0 and restart markers; anything may be filled up with 0xff.
        let Some(at) = rest.windows(2).position(|w| is_marker(w, in_scan)) else { return false };
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        match marker {
            END => return true,
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some(length) = rest.first_chunk().map(|b| usize::from(u16::from_be_bytes(*b))) else {
                    return false;
                };
                let Some(after) = rest.get(length.max(2)..) else { return false };
                (rest, in_scan) = (after, marker == SCAN);
            }
        }
    }
}

fn is_marker(bytes: &[u8], in_scan: bool) -> bool {
    bytes[0] == 0xff && !matches!(bytes[1], 0 | 0xff) && !(in_scan && matches!(bytes[1], 0xd0..=0xd7))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comment that holds an end of its own, a scan with stuffed bytes, a restart and fill bytes, and the end.
    fn file() -> Vec<u8> {
        let comment = [0xff, 0xfe, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0, 3, 9, 1, 2, 0xff, 0, 0xff, 0xd0, 3, 4, 0xff, 0xff, 0xd9];
        [&comment[..], &scan].concat()
    }

    #[test]
    fn a_file_is_whole_up_to_its_own_end_and_not_before() {
        let file = file();
        assert!(is_whole(&file));
        for len in 0..file.len() {
            assert!(!is_whole(&file[..len]), "{len} of {} bytes", file.len());
        }
        assert!(is_whole(&[&file[..], b"and more"].concat()));
    }
}
