//! Network output of a guest: held until its epoch is committed.
