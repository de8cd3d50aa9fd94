//! IDX files, as MNIST comes: two zero bytes, a type, the number of dimensions, big-endian sizes, elements.
//! Compressed or not.

use crate::error::{Error, one_line, shown};
use crate::files;
use crate::npz::check_ratio;
use flate2::read::MultiGzDecoder;
use quantal_tensor::Bytes;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes by dimension.
pub(crate) struct Idx {
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Bytes,
}

/// Whether a file name is that of an IDX file of images: `train-images-idx3-ubyte`, `train-images.idx3-ubyte.gz` …
pub(crate) fn is_images(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().contains("idx3"))
}

/// The labels beside a file of images, if there is one.
pub(crate) fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?.replace("images", "labels").replace("idx3", "idx1");
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    [plain.to_owned(), format!("{plain}.gz")].iter().map(|n| images.with_file_name(n)).find(|p| p.is_file())
}

/// Reads a file of unsigned bytes with `rank` dimensions.
pub(crate) fn read(path: &Path, rank: usize) -> Result<Idx, Error> {
    let name = shown(path);
    let (file, stored) = files::open(path)?;
    let mut file = BufReader::new(file);
    let mut magic = [0; 2];
    file.read_exact(&mut magic).map_err(|_| Error::array(&name, "too short for an IDX file"))?;
    if magic == [0x1f, 0x8b] {
        elements(&name, MultiGzDecoder::new(magic.as_slice().chain(file)), rank, stored)
    } else {
        elements(&name, magic.as_slice().chain(file), rank, stored)
    }
}

/// Reads gzipped unsigned bytes with `rank` dimensions that are held in memory.
pub(crate) fn read_embedded(name: &str, gzip: &[u8], rank: usize) -> Result<Idx, Error> {
    elements(name, MultiGzDecoder::new(gzip), rank, gzip.len() as u64)
}

fn elements(name: &str, mut source: impl Read, rank: usize, stored: u64) -> Result<Idx, Error> {
    let broken = |e: std::io::Error| Error::array(name, format!("broken or truncated: {}", one_line(&e.to_string())));
    let mut head = [0; 4];
    source.read_exact(&mut head).map_err(broken)?;
    if head[..2] != [0, 0] {
        return Err(Error::array(name, "not an IDX file (it does not start with two zero bytes)"));
    }
    if head[2] != 8 || usize::from(head[3]) != rank {
        let message = format!("IDX of {rank} dimensions of bytes expected, found {} of type {:#04x}", head[3], head[2]);
        return Err(Error::array(name, message));
    }
    let mut shape = Vec::new();
    let mut len = 1_usize;
    for _ in 0..rank {
        let mut size = [0; 4];
        source.read_exact(&mut size).map_err(broken)?;
        let size = u32::from_be_bytes(size) as usize;
        len = len.checked_mul(size).ok_or_else(|| Error::array(name, "the sizes are too large"))?;
        shape.push(size);
    }
    check_ratio(name, len as u64, stored)?;
    let mut bytes = Bytes::zeroed(len).map_err(Error::memory(name))?;
    source.read_exact(bytes.make_mut().map_err(Error::memory(name))?).map_err(broken)?;
    if source.read(&mut [0]).map_err(broken)? != 0 {
        return Err(Error::array(name, "more bytes than its sizes take"));
    }
    Ok(Idx { shape, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn plain_and_compressed_files_are_read_and_bad_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let good = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 10, 11, 12, 13];
        let idx = read(&save("a-images-idx3-ubyte", &good), 3).unwrap();
        assert_eq!((idx.shape, &idx.bytes[..]), (vec![2, 1, 2], &[10, 11, 12, 13][..]));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&good).unwrap();
        let packed = save("b-images-idx3-ubyte.gz", &packed.finish().unwrap());
        assert_eq!(&read(&packed, 3).unwrap().bytes[..], [10, 11, 12, 13]);
        for bad in [&good[..19], &good[..5], &[good.as_slice(), &[1]].concat(), &[1; 20], &[]] {
            assert!(read(&save("bad", bad), 3).is_err());
        }
        // 2^96 bytes, and 4 GB: refused before they are allocated.
        assert!(read(&save("c", &[[0, 0, 8, 3].as_slice(), &[255; 12]].concat()), 3).is_err());
        assert!(matches!(read(&save("d", &[0, 0, 8, 1, 255, 255, 255, 255]), 1), Err(Error::Bomb { .. })));
        save("a-labels-idx1-ubyte.gz", &[]);
        let labels = labels_beside(&folder.path().join("a-images-idx3-ubyte")).unwrap();
        assert!(labels.ends_with("a-labels-idx1-ubyte.gz"));
    }
}
