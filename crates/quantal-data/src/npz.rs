//! `.npy` and `.npz` files: numpy arrays, alone and by name in a zip archive.

use crate::error::{Error, one_line, shown};
use crate::{files, npy};
use quantal_tensor::Tensor;
use std::io::{BufReader, Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Archives that unpack to less than this are never bombs.
const BOMB_FLOOR_BYTES: u64 = 256 << 20;
/// Above it, unpacked bytes for each stored byte beyond which an archive is refused. Real arrays stay below 20, deflate
/// cannot exceed 1032.
const BOMB_RATIO: u64 = 200;
/// The most arrays of one archive.
const MAX_ARRAYS: usize = 65_536;

/// Refuses a file of `stored` bytes that unpacks to `claimed`, if no honest file does.
pub(crate) fn check_ratio(path: &str, claimed: u64, stored: u64) -> Result<(), Error> {
    if claimed > BOMB_FLOOR_BYTES && claimed / BOMB_RATIO > stored {
        return Err(Error::Bomb { path: path.to_owned(), claimed, stored });
    }
    Ok(())
}

/// The array of an `.npy` file.
pub fn read_npy(path: &Path) -> Result<Tensor, Error> {
    npy::from_bytes(&shown(path), &files::read_bytes(path)?)
}

/// The bytes of an `.npy` file, little-endian and row-major. Types that numpy lacks are written as their bits:
/// bfloat16 as uint16, floats of 8 and 4 bits as uint8, integers below 8 bits as int8 or uint8.
pub fn write_npy(tensor: &Tensor) -> Vec<u8> {
    npy::to_bytes(tensor)
}

/// The arrays of an `.npz` file by name, in the archive's order.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Tensor)>, Error> {
    let name = shown(path);
    let (file, stored) = files::open(path)?;
    let broken =
        |e: zip::result::ZipError| Error::array(&name, format!("not a readable .npz: {}", one_line(&e.to_string())));
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    if archive.len() > MAX_ARRAYS {
        return Err(Error::array(&name, format!("more than {MAX_ARRAYS} arrays")));
    }
    let mut arrays: Vec<(String, Tensor)> = Vec::new();
    let mut total = 0_u64;
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(broken)?;
        let member_name = String::from_utf8_lossy(member.name_raw()).into_owned();
        let Some(array_name) = member_name.strip_suffix(".npy") else {
            return Err(Error::array(&name, format!("`{}` is not an .npy array", one_line(&member_name))));
        };
        let inside = format!("{name}: {}", one_line(array_name));
        let claimed = member.size();
        let array = npy::read(&inside, &mut member, |needed| {
            // What the zip directory says is not trusted to allocate by, only to contradict the header.
            if needed as u64 != claimed {
                return Err(Error::array(
                    &inside,
                    format!("its shape takes {needed} bytes, the archive holds {claimed}"),
                ));
            }
            total = total.saturating_add(claimed);
            check_ratio(&name, total, stored)
        })?;
        if arrays.iter().any(|(n, _)| n == array_name) {
            return Err(Error::array(&inside, "the archive holds two arrays of this name"));
        }
        arrays.push((array_name.to_owned(), array));
    }
    Ok(arrays)
}

/// The bytes of an `.npz` file that holds these arrays, uncompressed, as `numpy.savez` writes it. The same arrays give
/// the same bytes: no clock enters. Element types as in [`write_npy`].
///
/// # Errors
/// Two arrays of one name, or an archive too large to write.
pub fn write_npz(arrays: &[(String, Tensor)]) -> Result<Vec<u8>, Error> {
    let failed = |e: String| Error::array("npz", format!("cannot be written: {}", one_line(&e)));
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, tensor) in arrays {
        let bytes = npy::to_bytes(tensor);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(bytes.len() as u64 >= u64::from(u32::MAX));
        writer.start_file(format!("{name}.npy"), options).map_err(|e| failed(e.to_string()))?;
        writer.write_all(&bytes).map_err(|e| failed(e.to_string()))?;
    }
    Ok(writer.finish().map_err(|e| failed(e.to_string()))?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantal_tensor::DType;
    use std::io::Read;

    fn saved(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// An archive of one deflated member that claims `claimed` bytes unpacked.
    fn archive(name: &str, member: &[u8], claimed: u32) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::read::DeflateEncoder::new(member, flate2::Compression::best()).read_to_end(&mut packed).unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(member);
        let mut about = Vec::new();
        about.extend_from_slice(&[20, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
        for n in [crc.sum(), packed.len() as u32, claimed] {
            about.extend_from_slice(&n.to_le_bytes());
        }
        about.extend_from_slice(&(name.len() as u16).to_le_bytes());
        about.extend_from_slice(&[0, 0]);
        let mut out = [b"PK\x03\x04", &about[..], name.as_bytes(), &packed].concat();
        let directory = out.len() as u32;
        out.extend([b"PK\x01\x02\x14\x00", &about[..], &[0; 14], name.as_bytes()].concat());
        let len = out.len() as u32 - directory;
        out.extend_from_slice(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&directory.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out
    }

    #[test]
    fn what_is_written_is_read_back_and_the_same_each_time() {
        let arrays = vec![
            ("a".to_owned(), Tensor::from_slice(&[2, 2], &[1.0_f32, f32::NAN, -0.0, 3.0]).unwrap()),
            ("layer/b:0".to_owned(), Tensor::from_slice(&[3], &[i64::MIN, 0, 7]).unwrap()),
            ("s".to_owned(), Tensor::scalar(5_u8).unwrap()),
            ("none".to_owned(), Tensor::zeros(DType::F64, &[0, 4]).unwrap()),
            ("t".to_owned(), Tensor::from_bools(&[2], &[true, false]).unwrap()),
        ];
        let bytes = write_npz(&arrays).unwrap();
        assert_eq!(bytes, write_npz(&arrays).unwrap());
        let back = read_npz(saved(&bytes).path()).unwrap();
        for ((name, tensor), (read_name, read)) in arrays.iter().zip(&back) {
            assert_eq!(
                (name, tensor.dtype(), tensor.shape(), tensor.bytes()),
                (read_name, read.dtype(), read.shape(), read.bytes())
            );
        }
        assert_eq!(read_npz(saved(&write_npz(&[]).unwrap()).path()).unwrap().len(), 0);
    }

    #[test]
    fn deflated_members_are_read() {
        let tensor = Tensor::from_slice(&[1000], &[3_u16; 1000]).unwrap();
        let member = write_npy(&tensor);
        let back = read_npz(saved(&archive("x.npy", &member, member.len() as u32)).path()).unwrap();
        assert_eq!(back[0].1.bytes(), tensor.bytes());
    }

    #[test]
    fn sizes_that_disagree_and_bombs_are_refused_before_they_are_unpacked() {
        let huge = |shape: usize| {
            let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape},), }}");
            let mut member = b"\x93NUMPY\x01\x00".to_vec();
            member.extend_from_slice(&(text.len() as u16).to_le_bytes());
            member.extend_from_slice(text.as_bytes());
            member
        };
        let bomb = huge(4_000_000_000);
        let claimed = (bomb.len() + 4_000_000_000_usize) as u32;
        let error = read_npz(saved(&archive("x.npy", &bomb, claimed)).path()).unwrap_err();
        assert!(matches!(error, Error::Bomb { .. }), "{error}");
        let mut short = huge(100);
        short.extend([0; 50]);
        let lies = read_npz(saved(&archive("x.npy", &short, short.len() as u32)).path()).unwrap_err();
        assert!(lies.to_string().contains("the archive holds"), "{lies}");
        let mut member = huge(100);
        member.extend([0; 100]);
        let mut broken = archive("x.npy", &member, member.len() as u32);
        broken.truncate(broken.len() / 2);
        assert!(read_npz(saved(&broken).path()).is_err());
        assert!(read_npz(saved(&archive("x.txt", &member, member.len() as u32)).path()).is_err());
    }
}
