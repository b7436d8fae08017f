//! The register that says who may run a machine, as its clients see it.
