//! What a publisher sends, and what of it a device can show.
//!
//! [`cloudevents`] reads events from HTTP requests, [`mod@routing`] what their extensions ask for, [`class`] turns a device's capability
//! profile into a class of devices that get the same bytes, and [`mod@adapt`] makes those bytes: sanitised HTML, Markdown, plain text,
//! images of a fitting size, shortened where they are too long. Pure functions without network, files or clocks: the only crate that
//! imports libraries for HTML and images, and of the project it imports `proto` alone. What it reads is hostile until shown otherwise;
//! [`mod@adapt`]'s module page gives the bounds.

pub mod adapt;
pub mod class;
pub mod cloudevents;
pub mod media;
pub mod routing;

pub use adapt::{Adapted, Limits, adapt};
pub use class::{Class, ProfileError};
pub use cloudevents::{Event, EventError};
pub use routing::{AckPolicy, Address, Routing, RoutingError, routing};
