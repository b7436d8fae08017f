//! What the program in a test's guest and the tests around it share: the format of the log on the guest's disk.

pub mod log;
