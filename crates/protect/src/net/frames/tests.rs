use proptest::prelude::*;

use super::*;

/// A frame as the redirector writes it.
fn frame(vnet_header: bool, length: usize, fill: u8) -> Vec<u8> {
    let mut out = u32::try_from(length).unwrap().to_be_bytes().to_vec();
    if vnet_header {
        out.extend(12u32.to_be_bytes());
    }
    out.resize(out.len() + length, fill);
    out
}

/// Gives bytes to a cutter in pieces of at most this size, and collects what comes out.
fn cut(cutter: &mut Cutter, mut bytes: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, TooLong> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let space = cutter.space();
        assert!(space.len() >= READ, "a read finds room");
        let n = bytes.len().min(piece).min(space.len());
        space[..n].copy_from_slice(&bytes[..n]);
        cutter.filled(n);
        bytes = &bytes[n..];
        while let Some(frame) = cutter.next()? {
            frames.push(frame.to_vec());
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_wherever_the_reads_cut(
        vnet_header: bool,
        lengths in proptest::collection::vec(prop_oneof![0usize..200, 1400usize..1600, Just(MAX_FRAME)], 0..20),
        piece in prop_oneof![1usize..10, 100usize..5000, Just(1 << 20)],
        torn in 0usize..80,
    ) {
        let frames: Vec<_> = lengths.iter().enumerate().map(|(i, n)| frame(vnet_header, *n, i as u8)).collect();
        let mut bytes = frames.concat();
        let rest = &frame(vnet_header, 100, 9)[..torn];
        bytes.extend(rest);
        let mut cutter = Cutter::new(vnet_header);
        prop_assert_eq!(cut(&mut cutter, &bytes, piece).unwrap(), frames);
        prop_assert_eq!(cutter.torn(), torn);
    }
}

#[test]
fn a_length_that_no_frame_has_is_an_error_as_soon_as_it_is_seen() {
    let length = u32::try_from(MAX_FRAME).unwrap() + 1;
    let mut cutter = Cutter::new(false);
    assert_eq!(cut(&mut cutter, &length.to_be_bytes(), 4), Err(TooLong(length)));
}
