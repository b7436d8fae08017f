//! A coded body that is kept already, decoded for people's eyes.

use bytes::Bytes;

use super::{codec::Decoder, coding::Coding};

/// Bytes that are decoded at a time.
const STEP: usize = 16 * 1024;

/// Decodes what there is of a body coded in gzip, br or zstd, up to `limit` bytes. Of a body that is cut off, what can be decoded
/// comes. None: the coding is another, or the bytes are not of it.
pub fn decoded(coding: &str, coded: &[u8], limit: usize) -> Option<Vec<u8>> {
    let coding = match coding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Coding::Gzip,
        "br" => Coding::Brotli,
        "zstd" => Coding::Zstd,
        _ => return None,
    };
    let mut decoder = Decoder::new(coding).ok()?;
    decoder.push(Bytes::copy_from_slice(coded));
    let (mut plain, mut step) = (Vec::new(), vec![0; STEP]);
    while plain.len() < limit {
        let room = STEP.min(limit - plain.len());
        match decoder.pull(&mut step[..room]) {
            Ok(0) => break,
            Ok(n) => plain.extend_from_slice(&step[..n]),
            Err(_) if plain.is_empty() => return None,
            Err(_) => break,
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_coded_is_decoded_and_bounded() {
        let plain = vec![b'a'; 100_000];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for (coding, coded) in [("gzip", &gzip), ("ZSTD", &zstd)] {
            assert_eq!(decoded(coding, coded, 1 << 20).unwrap(), plain, "{coding}");
            assert_eq!(decoded(coding, coded, 1000).unwrap().len(), 1000, "{coding}");
        }
        assert!(decoded("gzip", &gzip[..gzip.len() / 2], 1 << 20).is_some());
        assert_eq!(decoded("gzip", b"no gzip at all", 1000), None);
        assert_eq!(decoded("deflate", &gzip, 1000), None);
    }
}
