//! Which pages a guest has written since the last checkpoint.
