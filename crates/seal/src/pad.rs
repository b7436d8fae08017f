//! Size classes: how long a content is, is told to nobody more exactly than by one of few sizes.

/// The smallest class in bytes.
const SMALLEST: usize = 256;
/// Up to here each class is twice the one before; above, Padmé (Nikitin and others, "Reducing Metadata Leakage from Encrypted
/// Files and Communication with PURBs", 2019).
const DOUBLING: usize = 16 * 1024;

/// The class of a plaintext of so many bytes: the powers of two from 256 B to 16 KiB, then sizes that add at most 6.3 %.
pub fn size_class(length: usize) -> usize {
    if length <= DOUBLING {
        return length.max(SMALLEST).next_power_of_two();
    }
    let exponent = length.ilog2();
    let kept = exponent.ilog2() + 1;
    let unit = 1_usize << (exponent - kept);
    length.div_ceil(unit).saturating_mul(unit)
}

/// `plain` ends with an empty CBOR byte string, in whose place comes one of zeros that fills the class.
pub(crate) fn fill(plain: &mut Vec<u8>) {
    let before = plain.len().saturating_sub(1);
    let mut class = size_class(plain.len());
    loop {
        // Where the length of a byte string grows by a byte, one size cannot be reached.
        if let Some((head, zeros)) = byte_string(class - before) {
            plain.truncate(before);
            plain.reserve_exact(class - before);
            plain.extend_from_slice(&head);
            plain.resize(before + head.len() + zeros, 0);
            return;
        }
        class = size_class(class + 1);
    }
}

/// Head of a CBOR byte string that takes `total` bytes (at least 1) with its head, and the number of bytes in it.
fn byte_string(total: usize) -> Option<(Vec<u8>, usize)> {
    let (head, zeros) = match total {
        1..=24 => (vec![0x40 + (total - 1) as u8], total - 1),
        26..=257 => (vec![0x58, (total - 2) as u8], total - 2),
        259..=0x1_0002 => (
            [&[0x59], &((total - 3) as u16).to_be_bytes()[..]].concat(),
            total - 3,
        ),
        0x1_0005.. => (
            [&[0x5a], &u32::try_from(total - 5).ok()?.to_be_bytes()[..]].concat(),
            total - 5,
        ),
        _ => return None,
    };
    Some((head, zeros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_are_few_and_add_little() {
        for (length, class) in [
            (0, 256),
            (256, 256),
            (257, 512),
            (16_384, 16_384),
            (16_385, 17_408),
            (100_000, 100_352),
        ] {
            assert_eq!(size_class(length), class, "{length}");
        }
        let classes: std::collections::BTreeSet<_> = (0..1 << 20).map(size_class).collect();
        assert!(classes.len() < 200, "{}", classes.len());
        for length in DOUBLING + 1..1 << 18 {
            let class = size_class(length);
            assert!(
                class >= length && class - length <= length / 16,
                "{length} {class}"
            );
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn a_byte_string_takes_what_it_is_to_take() {
        for total in 1..70_000 {
            let Some((head, zeros)) = byte_string(total) else {
                assert!([25, 258, 0x1_0003, 0x1_0004].contains(&total), "{total}");
                continue;
            };
            assert_eq!(head.len() + zeros, total);
            let bytes = [head, vec![0; zeros]].concat();
            let mut decoder = minicbor::Decoder::new(&bytes);
            assert_eq!(decoder.bytes().unwrap().len(), zeros);
            assert_eq!(decoder.position(), total);
        }
    }

    proptest! {
        #[test]
        fn what_is_filled_is_of_a_class(length in 0..90_000_usize) {
            let mut plain = vec![1; length];
            plain.push(0x40);
            fill(&mut plain);
            prop_assert_eq!(size_class(plain.len()), plain.len());
            let mut decoder = minicbor::Decoder::new(&plain[length..]);
            prop_assert!(decoder.bytes().unwrap().iter().all(|b| *b == 0));
            prop_assert_eq!(decoder.position(), plain.len() - length);
        }
    }
}
