//! Disk writes: taken from the guest by NBD on the active host, kept behind barriers on the standby (US 8,417,885).
