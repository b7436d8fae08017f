//! The mailbox with a gateway and devices, in one process.

mod devices;
mod fetching;
mod gateways;
mod measure;
mod proofs;
mod rig;
