//! Classes of devices that get the same bytes, made from capability profiles.
//!
//! What is adapted once serves all devices of a class: it is the key of the adaptation's cache. Sizes are rounded, so that devices that
//! differ by a few pixels or bytes share one.

use hawser_proto::broker::api::Profile;

use crate::media::{self, AcceptError, Quality, Range};

/// Smallest and largest content that a class has, in bytes.
pub const BYTES: std::ops::RangeInclusive<u64> = 256..=16 * 1024 * 1024;
/// Smallest and largest edge of a screen that a class has, in pixels.
pub const EDGE: std::ops::RangeInclusive<u32> = 64..=4096;
/// Screens are rounded up to multiples of so many pixels.
const EDGE_STEP: u32 = 64;
/// Edge of the screen where the profile has none, in pixels.
const DEFAULT_EDGE: u32 = 1024;
/// Largest edge when data is to be saved, in pixels.
const SAVING_EDGE: u32 = 640;
/// Version of the profile's format that is known.
const SCHEMA: u32 = 1;
/// Longest list of languages in bytes.
const MAX_LANGUAGES: usize = 256;

/// What a device can show. Equal classes get equal content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    ranges: Vec<Range>,
    max_bytes: u64,
    screen: (u32, u32),
    saving: bool,
}

/// Why a profile was refused: the device's fault; HTTP status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Its media types.
    #[error("accept: {0}")]
    Accept(#[from] AcceptError),
    /// It accepts nothing.
    #[error(
        "accept names no media type with a quality above 0: expected something like text/html, text/plain;q=0.5"
    )]
    Nothing,
    /// Of a version that is not known.
    #[error("a profile of schema {0}: this software knows schema 1")]
    Schema(u32),
    /// A size of nothing.
    #[error("max_bytes and the screen's width and height must be above 0")]
    Zero,
    /// Its languages.
    #[error("languages has {0} bytes: at most 256 are kept")]
    Languages(usize),
}

impl Class {
    /// The class of a device by its profile.
    pub fn of(profile: &Profile) -> Result<Self, ProfileError> {
        if profile.schema != SCHEMA {
            return Err(ProfileError::Schema(profile.schema));
        }
        if profile.languages.len() > MAX_LANGUAGES {
            return Err(ProfileError::Languages(profile.languages.len()));
        }
        let (width, height) = profile.screen.unwrap_or((DEFAULT_EDGE, DEFAULT_EDGE));
        if profile.max_bytes == 0 || width == 0 || height == 0 {
            return Err(ProfileError::Zero);
        }
        Ok(Self {
            ranges: ranges(&profile.accept)?.ok_or(ProfileError::Nothing)?,
            max_bytes: round_bytes(profile.max_bytes),
            screen: (round_edge(width), round_edge(height)),
            saving: false,
        })
    }

    /// The class for one request, which says more than the profile: an `Accept` in place of the profile's (none: the profile's),
    /// and `Save-Data`.
    pub fn refined(&self, accept: &str, save_data: bool) -> Result<Self, ProfileError> {
        let mut class = self.clone();
        if let Some(ranges) = ranges(accept)? {
            class.ranges = ranges;
        }
        if save_data {
            class.saving = true;
            class.screen = (class.screen.0.min(SAVING_EDGE), class.screen.1.min(SAVING_EDGE));
        }
        Ok(class)
    }

    /// How welcome a media type is.
    pub fn quality(&self, essence: &str) -> Quality {
        media::quality(&self.ranges, essence)
    }

    /// Most bytes of one content.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Width and height of the screen in pixels.
    pub fn screen(&self) -> (u32, u32) {
        self.screen
    }

    /// Whether data is to be saved.
    pub fn saves_data(&self) -> bool {
        self.saving
    }
}

/// In an order that does not depend on how the device wrote them. `None`: none is above 0.
fn ranges(accept: &str) -> Result<Option<Vec<Range>>, AcceptError> {
    let mut ranges = media::parse_accept(accept)?;
    // Of two with the same name the better one counts, as in [`media::quality`].
    ranges.sort_by(|a, b| (&a.pattern, b.quality).cmp(&(&b.pattern, a.quality)));
    ranges.dedup_by(|b, a| a.pattern == b.pattern);
    let any = ranges.iter().any(|range| range.quality > 0);
    Ok(any.then_some(ranges))
}

/// Down to two binary digits: at most a third is lost.
fn round_bytes(bytes: u64) -> u64 {
    let bytes = bytes.clamp(*BYTES.start(), *BYTES.end());
    let shift = bytes.ilog2().saturating_sub(1);
    (bytes >> shift) << shift
}

fn round_edge(pixels: u32) -> u32 {
    pixels
        .clamp(*EDGE.start(), *EDGE.end())
        .next_multiple_of(EDGE_STEP)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn profile(accept: &str) -> Profile {
        Profile {
            accept: accept.into(),
            ..Profile::default()
        }
    }

    #[test]
    fn devices_that_differ_little_share_a_class() {
        let a = Profile {
            max_bytes: 70_000,
            screen: Some((390, 844)),
            ..profile("text/html, text/plain;q=0.5")
        };
        let b = Profile {
            max_bytes: 66_000,
            screen: Some((393, 852)),
            ..profile("text/plain;q=0.5,Text/HTML;q=1.0")
        };
        assert_eq!(Class::of(&a).unwrap(), Class::of(&b).unwrap());
        assert_eq!(Class::of(&a).unwrap().max_bytes(), 65536);
        assert_eq!(Class::of(&a).unwrap().screen(), (448, 896));
        let other = Profile {
            max_bytes: 200_000,
            ..a.clone()
        };
        assert_ne!(Class::of(&a).unwrap(), Class::of(&other).unwrap());
        assert_eq!(round_bytes(200_000), 196_608);
        assert_eq!(round_bytes(u64::MAX), *BYTES.end());
        assert_eq!(round_bytes(1), *BYTES.start());
    }

    #[test]
    fn a_request_refines_its_class() {
        let class = Class::of(&profile("text/plain")).unwrap();
        assert_eq!(class.refined("", false).unwrap(), class);
        let refined = class.refined("text/html", true).unwrap();
        assert_eq!(refined.quality("text/html"), 1000);
        assert_eq!(refined.quality("text/plain"), 0);
        assert_eq!(refined.screen(), (640, 640));
        assert!(refined.saves_data());
        assert!(class.refined("nonsense", false).is_err());
    }

    #[test]
    fn profiles_that_make_no_sense_are_refused() {
        assert_eq!(Class::of(&profile("")), Err(ProfileError::Nothing));
        assert_eq!(Class::of(&profile("text/html;q=0")), Err(ProfileError::Nothing));
        assert!(matches!(Class::of(&profile("x")), Err(ProfileError::Accept(_))));
        for wrong in [
            Profile {
                schema: 2,
                ..Profile::default()
            },
            Profile {
                max_bytes: 0,
                ..Profile::default()
            },
            Profile {
                screen: Some((0, 1)),
                ..Profile::default()
            },
            Profile {
                languages: "x".repeat(300),
                ..Profile::default()
            },
        ] {
            assert!(Class::of(&wrong).is_err());
        }
    }
}
