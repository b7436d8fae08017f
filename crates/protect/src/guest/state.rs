//! The device state as bytes: which sections it has, and what must surround it to be loaded. No I/O. Follows QEMU's
//! `docs/devel/migration` and `migration/savevm.c`.

use xxhash_rust::xxh3::Xxh3;

use super::error::GuestError;

/// `QEVM`, and version 3 of the stream.
const MAGIC: [u8; 8] = *b"QEVM\x00\x00\x00\x03";
const SECTION_FULL: u8 = 0x04;
const CONFIGURATION: u8 = 0x07;
const DESCRIPTION: u8 = 0x06;
const FOOTER: u8 = 0x7e;

/// The stream that an incoming QEMU loads: what `xen-save-devices-state` wrote, with the machine type that it leaves out.
pub fn compose(state: &[u8], machine: &str) -> Result<Vec<u8>, GuestError> {
    let Some(sections) = state.strip_prefix(&MAGIC) else {
        return Err(GuestError::protocol(
            "the device state",
            "no QEVM version 3 at its start",
        ));
    };
    let length =
        u32::try_from(machine.len()).map_err(|_| GuestError::protocol("the machine type", "too long"))?;
    let mut stream = Vec::with_capacity(state.len() + machine.len() + 16);
    stream.extend_from_slice(&MAGIC);
    stream.push(CONFIGURATION);
    stream.extend_from_slice(&length.to_be_bytes());
    stream.extend_from_slice(machine.as_bytes());
    stream.extend_from_slice(sections);
    stream.push(DESCRIPTION);
    stream.extend_from_slice(&2u32.to_be_bytes());
    stream.extend_from_slice(b"{}");
    Ok(stream)
}

/// A digest of which devices are in a state: their names and numbers, not their contents. A device added or removed changes it.
/// A guest that plants look-alikes in its devices' memory can change it too: a change is a reason to look, no proof.
pub(super) fn devices(state: &[u8]) -> u64 {
    let mut digest = Xxh3::new();
    sections(state, |name, instance| {
        digest.update(name);
        digest.update(&instance.to_be_bytes());
    });
    digest.digest()
}

/// Finds where sections begin: behind the footer of the one before, by its shape.
fn sections(state: &[u8], mut found: impl FnMut(&[u8], u32)) {
    const BEFORE_NAME: usize = 11;
    let mut rest = state;
    while let Some(at) = rest.iter().position(|b| *b == FOOTER) {
        rest = rest.get(at..).unwrap_or_default();
        let name = match rest.get(..BEFORE_NAME) {
            Some([_, _, _, _, _, SECTION_FULL, .., length]) => {
                rest.get(BEFORE_NAME..BEFORE_NAME + usize::from(*length))
            }
            _ => None,
        };
        let printable = name.filter(|n| !n.is_empty() && n.iter().all(u8::is_ascii_graphic));
        let instance = printable.and_then(|n| rest.get(BEFORE_NAME + n.len()..)?.first_chunk::<4>());
        if let (Some(name), Some(instance)) = (printable, instance) {
            found(name, u32::from_be_bytes(*instance));
        }
        rest = rest.get(1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, instance: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![SECTION_FULL, 0, 0, 0, 9, name.len() as u8];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&instance.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 1]);
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(&[FOOTER, 0, 0, 0, 9]);
        bytes
    }

    fn state(parts: &[Vec<u8>]) -> Vec<u8> {
        [&MAGIC[..], &parts.concat(), &[0]].concat()
    }

    #[test]
    fn a_state_gets_its_machine_type_and_an_end() {
        let saved = state(&[section("timer", 0, b"x")]);
        let stream = compose(&saved, "pc-q35-7.2").unwrap();
        assert_eq!(
            &stream[..23],
            b"QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x0apc-q35-7.2"
        );
        assert_eq!(&stream[23..23 + saved.len() - 8], &saved[8..]);
        assert!(stream.ends_with(b"\x06\x00\x00\x00\x02{}"));
        assert!(compose(b"QEVM\x00\x00\x00\x02....", "pc").is_err());
        assert!(compose(b"", "pc").is_err());
    }

    #[test]
    fn devices_change_the_digest_and_their_contents_do_not() {
        let before = state(&[
            section("timer", 0, b"1"),
            section("virtio-net", 0, &[FOOTER; 30]),
            section("x", 0, b""),
        ]);
        let later = state(&[
            section("timer", 0, b"2222"),
            section("virtio-net", 0, &[4; 300]),
            section("x", 0, b"7"),
        ]);
        let added = state(&[
            section("timer", 0, b"1"),
            section("virtio-net", 0, b""),
            section("virtio-net", 1, b""),
            section("x", 0, b""),
        ]);
        assert_eq!(devices(&before), devices(&later));
        assert_ne!(devices(&before), devices(&added));
        assert_eq!(devices(b""), devices(&[FOOTER]));
    }
}
