//! The one ordered channel: pages, device state, disk writes and barriers, out of the active host and into the standby.
