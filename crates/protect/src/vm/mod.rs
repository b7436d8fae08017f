//! Command lines of QEMU: described, read from a process, judged, and derived for a standby.
