//! Hosts in network namespaces, firewalls, origins, clients, captures: the ground under the end-to-end tests and the demo.
//!
//! It starts the real `hawser` binary and speaks the real protocols to it from outside; it imports no other crate of ours
//! but the program of its own guests, so that nothing is proved with the code that is to be proved. Everything it starts
//! ends with the value that stands for it, also on a panic; what a killed run left behind is swept by the next one. Its
//! traffic never leaves the namespaces that it makes, or the loopback range.

pub mod authority;
pub mod browser;
pub mod ca;
pub mod capture;
pub mod curl;
pub mod gate;
pub mod hawser;
pub mod hosts;
pub mod kv;
pub mod load;
pub mod memory;
pub mod net;
pub mod office;
pub mod origin;
pub mod parties;
pub mod pattern;
pub mod proc;
pub mod publishing;
pub mod small;
pub mod vm;
pub mod wait;
pub mod web;
pub mod world;

pub use browser::Browser;
pub use hawser::Daemon;
pub use net::Host;
pub use proc::Process;
pub use small::Small;
pub use world::World;
