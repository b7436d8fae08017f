//! What follows from a type's text alone.

/// Derives from a type's `Display` and `FromStr`, whose error is the second argument, what serde and people read it by.
macro_rules! by_text {
    ($name:ident, $error:ty) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{self}")
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;
            fn try_from(s: String) -> Result<Self, $error> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(it: $name) -> String {
                it.to_string()
            }
        }
    };
}

pub(crate) use by_text;
