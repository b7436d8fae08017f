//! Text for people's eyes that somebody else wrote: one line without control characters, of bounded length, so that it can
//! forge no line of a log and move no terminal's cursor.

use minicbor::{Decoder, decode::Error};

/// Most characters kept.
const MAX: usize = 512;

/// Makes any text such a line.
pub(crate) fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX).map(visible).collect()
}

/// For `#[cbor(decode_with = "crate::line::decode")]`.
pub(crate) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<String, Error> {
    Ok(clean(d.str()?))
}
