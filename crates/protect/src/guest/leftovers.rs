//! What Hawser added to a QEMU and is still there, perhaps by an agent that died. Everything of ours has an id that begins
//! with `hawser-`.

/// Begins every id that we give.
pub(super) const PREFIX: &str = "hawser-";
