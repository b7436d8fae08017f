//! Where clients come in: the web proxy and the listeners of imported services.

pub mod target;
