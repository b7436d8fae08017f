//! Names and numbers of the broker.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// Longest [`UserName`] in bytes.
pub const MAX_USER: usize = 128;

/// Why a name or number was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Random bytes as text.
    #[error("{text:?} is no {what}: expected {length} bytes as base64url without padding")]
    Bytes {
        /// Of what.
        what: &'static str,
        /// The text, shortened.
        text: String,
        /// Bytes expected.
        length: usize,
    },
    /// A user, group or application.
    #[error(
        "{0:?} is not a name: expected 1 to 128 of a-z, 0-9 and . _ @ + -, beginning with a letter or digit (lower case)"
    )]
    User(String),
}

fn shorten(s: &str) -> String {
    s.chars().take(80).collect()
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $length:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                let refused = || IdError::Bytes { what: $what, text: shorten(s), length: $length };
                let mut bytes = [0; $length];
                match URL_SAFE_NO_PAD.decode_slice(s, &mut bytes) {
                    Ok($length) => Ok(Self(bytes)),
                    _ => Err(refused()),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?;
                Ok(())
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| {
                    decode::Error::message(format!(concat!("{} bytes where a ", $what, " has {}"), bytes.len(), $length))
                })
            }
        }
    };
}

bytes_type!(
    /// By which a mailbox knows a device: 16 random bytes that say nothing of its user.
    DeviceHandle, 16, "device handle"
);
bytes_type!(
    /// Content that a device may ask for: 16 random bytes.
    ItemId, 16, "item"
);
bytes_type!(
    /// An accepted event and what became of it: 16 random bytes.
    DeliveryId, 16, "delivery"
);
bytes_type!(
    /// A public signing key: the first eight bytes of the SHA-256 of its 65 bytes (SEC 1, uncompressed).
    KeyId, 8, "key id"
);

/// Name of a user, a group or an application within its domain: an account name or a mail address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Box<str>);

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok = (1..=MAX_USER).contains(&s.len())
            && s.bytes().all(|b| word(b) || b"._@+-".contains(&b))
            && s.bytes().next().is_some_and(word);
        match ok {
            true => Ok(Self(s.into())),
            false => Err(IdError::User(shorten(s))),
        }
    }
}

impl TryFrom<String> for UserName {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> String {
        name.0.into()
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<C> Encode<C> for UserName {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.0)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for UserName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(decode::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_are_base64url_of_the_right_length() {
        let handle = DeviceHandle([0xfb; 16]);
        assert_eq!(handle.to_string().len(), 22);
        assert_eq!(handle.to_string().parse::<DeviceHandle>().unwrap(), handle);
        for wrong in [
            "",
            "AAAA",
            "!!!!!!!!!!!!!!!!!!!!!!",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert!(wrong.parse::<DeviceHandle>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_are_account_names_or_mail_addresses() {
        for ok in ["alice", "a", "alice@acme.example", "7of9", "a.b+c_d-e"] {
            assert_eq!(ok.parse::<UserName>().unwrap().as_str(), ok);
        }
        for wrong in [
            "",
            "Alice",
            "@acme",
            ".a",
            "a b",
            "a/b",
            "a:b",
            "ä",
            "a\n",
            &"a".repeat(129),
        ] {
            assert!(wrong.parse::<UserName>().is_err(), "{wrong:?}");
        }
    }
}
