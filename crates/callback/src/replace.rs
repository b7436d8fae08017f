//! What is asked about each address that is found, what is said about a message afterwards, and why one is refused.

use std::fmt;

use http::HeaderName;

/// Most entries of each list of a [`Report`].
pub const MAX_ENTRIES: usize = 64;
/// Longest text of a [`Report`] in bytes.
pub const MAX_TEXT: usize = 512;

/// Where in a message an address stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// `wsa:To`: where the message itself is sent.
    To,
    /// `wsa:ReplyTo`.
    ReplyTo,
    /// `wsa:FaultTo`.
    FaultTo,
    /// `wsa:From`.
    From,
    /// `wse:NotifyTo`: where WS-Eventing delivers events.
    NotifyTo,
    /// `wse:EndTo`: where WS-Eventing says that a subscription ended.
    EndTo,
    /// `wse:SubscriptionManager`: where a subscription is renewed and ended.
    SubscriptionManager,
    /// `wsrm:AcksTo`: where WS-ReliableMessaging acknowledges.
    AcksTo,
    /// Any other endpoint reference in a SOAP message, by its element's local name. It may well lead to somebody who is not the sender.
    Endpoint(String),
    /// A header.
    Header(HeaderName),
    /// A member of a JSON body, by the pointer of the rules.
    Json(String),
    /// The member `sink` of a CloudEvents subscription.
    Sink,
    /// A field of a form.
    Form(String),
    /// A query parameter.
    Query(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To => f.write_str("wsa:To"),
            Self::ReplyTo => f.write_str("wsa:ReplyTo"),
            Self::FaultTo => f.write_str("wsa:FaultTo"),
            Self::From => f.write_str("wsa:From"),
            Self::NotifyTo => f.write_str("wse:NotifyTo"),
            Self::EndTo => f.write_str("wse:EndTo"),
            Self::SubscriptionManager => f.write_str("wse:SubscriptionManager"),
            Self::AcksTo => f.write_str("wsrm:AcksTo"),
            Self::Endpoint(name) => write!(f, "the endpoint reference {name}"),
            Self::Header(name) => write!(f, "the header {name}"),
            Self::Json(pointer) => write!(f, "the JSON member {pointer}"),
            Self::Sink => f.write_str("sink"),
            Self::Form(name) => write!(f, "the form field {name}"),
            Self::Query(name) => write!(f, "the query parameter {name}"),
        }
    }
}

/// What becomes of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// This stands in its place. It is escaped as the place asks for.
    With(String),
    /// The whole message is refused, for this reason.
    Refuse(String),
}

/// Decides about addresses.
pub trait Replace {
    /// What becomes of `original`, which stands at `place`: an http or https address without surrounding space, not yet checked further.
    fn replace(&mut self, place: &Place, original: &str) -> Verdict;
}

impl<F: FnMut(&Place, &str) -> Verdict> Replace for F {
    fn replace(&mut self, place: &Place, original: &str) -> Verdict {
        self(place, original)
    }
}

/// Why a message is refused. The message is for the sender; [`Refusal::status`] goes with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Undecided after as many bytes as are held.
    #[error(
        "{what} does not end within {window} bytes: send it earlier and shorter, or have the window of the service's rules widened"
    )]
    TooLarge {
        /// What is being read.
        what: &'static str,
        /// Bytes.
        window: usize,
    },
    /// Nested too deep.
    #[error("elements are nested deeper than {limit}")]
    Depth {
        /// The limit.
        limit: usize,
    },
    /// A DTD.
    #[error(
        "the message has a document type declaration, which SOAP forbids (SOAP 1.1 section 3, SOAP 1.2 section 5)"
    )]
    Dtd,
    /// An entity beyond the five of XML.
    #[error("the message has an entity reference that XML does not define of itself")]
    Entity,
    /// A content coding that is not read here.
    #[error("the content coding {0:?} cannot be looked into: send gzip, br, zstd, or none")]
    Coding(String),
    /// A character set that is not read here.
    #[error("the character set {0:?} cannot be looked into: send UTF-8")]
    Charset(String),
    /// Not what its Content-Type says.
    #[error("the message is not well-formed: {0}")]
    Malformed(&'static str),
    /// Whoever was asked about an address refused.
    #[error("{place}: {reason}")]
    Policy {
        /// Where the address stands.
        place: String,
        /// Why it is refused.
        reason: String,
    },
    /// What should stand in an address's place cannot stand there: the gateway's fault.
    #[error("the new address does not fit into {0}")]
    Unfit(String),
}

impl Refusal {
    /// The HTTP status that says so.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLarge { .. } => 413,
            Self::Coding(_) | Self::Charset(_) => 415,
            Self::Policy { .. } => 403,
            Self::Unfit(_) => 500,
            Self::Depth { .. } | Self::Dtd | Self::Entity | Self::Malformed(_) => 400,
        }
    }
}

/// An address that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Where it stood.
    pub place: Place,
    /// The address that was there, shortened to [`MAX_TEXT`].
    pub from: String,
    /// The one that is there now, shortened to [`MAX_TEXT`].
    pub to: String,
}

/// Something that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Where; `None`: the message as a whole.
    pub place: Option<Place>,
    /// Why.
    pub why: Why,
}

/// Why something was left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The sender wants the answer on the connection that it has (WS-Addressing anonymous).
    Anonymous,
    /// The sender wants no answer (WS-Addressing none).
    None,
    /// Not an http or https address.
    NotHttp,
    /// Whoever was asked said so.
    Kept,
    /// The message is signed, and a changed address would break the signature.
    Signed,
    /// Not a string.
    NotText,
    /// It cannot be looked into, and the rules let such messages pass.
    Unread(Refusal),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous: the answer goes back on the same connection",
            Self::None => "none: no answer is wanted",
            Self::NotHttp => "not an http or https address",
            Self::Kept => "kept",
            Self::Signed => {
                "the message is signed, and a changed address would break the signature: \
                 let the server use its gateway as web proxy, then the address stays as it is"
            }
            Self::NotText => "not a text",
            Self::Unread(refusal) => return write!(f, "passed unread: {refusal}"),
        })
    }
}

/// Version of SOAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoapVersion {
    /// SOAP 1.1.
    V1_1,
    /// SOAP 1.2.
    V1_2,
}

impl fmt::Display for SoapVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_1 => "SOAP 1.1",
            Self::V1_2 => "SOAP 1.2",
        })
    }
}

/// What a SOAP message says of itself. Texts are shortened to [`MAX_TEXT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soap {
    /// Version of the envelope.
    pub version: SoapVersion,
    /// `wsa:Action`.
    pub action: Option<String>,
    /// `wsa:MessageID`.
    pub message_id: Option<String>,
    /// `wsa:RelatesTo`: the messages that this one answers.
    pub relates_to: Vec<String>,
    /// `wsa:To` as it came.
    pub to: Option<String>,
    /// Whether the header holds a signature (WS-Security).
    pub signed: bool,
    /// Local name of the first element of the body.
    pub operation: Option<String>,
    /// What a message of WS-Eventing says of a subscription.
    pub subscription: Option<Box<Subscription>>,
}

/// What a message of WS-Eventing says of a subscription. Texts are shortened to [`MAX_TEXT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What it does.
    pub step: SubscriptionStep,
    /// Address of the subscription manager, as it came.
    pub manager: Option<String>,
    /// What tells this subscription from others of the same manager, as `NAME=TEXT`: the manager's reference parameters, or in
    /// a message to the manager all headers that may be such ones.
    pub references: Vec<String>,
    /// When it ends: a date or a duration (XML Schema), as it came.
    pub expires: Option<String>,
}

/// What a message of WS-Eventing does to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionStep {
    /// Asks for one.
    Subscribe,
    /// Tells of the one that was made.
    Subscribed,
    /// Asks for more time.
    Renew,
    /// Tells how much time it got.
    Renewed,
    /// Asks for its end.
    Unsubscribe,
    /// Tells that the service ended it.
    Ended,
}

impl SubscriptionStep {
    /// By the local name of the first element of the body.
    pub(crate) fn of(operation: &str) -> Option<Self> {
        Some(match operation {
            "Subscribe" => Self::Subscribe,
            "SubscribeResponse" => Self::Subscribed,
            "Renew" => Self::Renew,
            "RenewResponse" => Self::Renewed,
            "Unsubscribe" => Self::Unsubscribe,
            "SubscriptionEnd" => Self::Ended,
            _ => return None,
        })
    }
}

/// What was found in a message, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Replaced addresses, the first [`MAX_ENTRIES`].
    pub replaced: Vec<Replaced>,
    /// What was left as it is, the first [`MAX_ENTRIES`].
    pub left: Vec<Left>,
    /// How many more there were of either.
    pub more: usize,
    /// What a SOAP message says of itself.
    pub soap: Option<Box<Soap>>,
}

impl Report {
    /// Whether any address was replaced.
    pub fn changed(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// Takes in what another report says of the same message.
    pub fn merge(&mut self, other: Report) {
        self.more += other.more;
        for replaced in other.replaced {
            self.push_replaced(replaced);
        }
        for left in other.left {
            self.push_left(left);
        }
        self.soap = self.soap.take().or(other.soap);
    }

    pub(crate) fn push_left(&mut self, left: Left) {
        push(&mut self.left, left, &mut self.more);
    }

    fn push_replaced(&mut self, replaced: Replaced) {
        push(&mut self.replaced, replaced, &mut self.more);
    }
}

fn push<T>(list: &mut Vec<T>, entry: T, more: &mut usize) {
    if list.len() < MAX_ENTRIES {
        list.push(entry);
    } else {
        *more += 1;
    }
}

/// At most [`MAX_TEXT`] bytes of a text.
pub(crate) fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// One who is asked, and the report of what was answered.
pub(crate) struct Asking<'a> {
    pub(crate) replace: &'a mut dyn Replace,
    pub(crate) report: &'a mut Report,
}

impl Asking<'_> {
    /// What shall stand in place of `original`; `None`: it stays.
    pub(crate) fn ask(&mut self, place: Place, original: &str) -> Result<Option<String>, Refusal> {
        let original = original.trim_matches(|c: char| c.is_ascii_whitespace());
        if let Some(why) = untouchable(original) {
            self.left(place, why);
            return Ok(None);
        }
        match self.replace.replace(&place, original) {
            Verdict::With(to) if to != original => {
                self.report.push_replaced(Replaced {
                    place,
                    from: shorten(original),
                    to: shorten(&to),
                });
                Ok(Some(to))
            }
            Verdict::Keep | Verdict::With(_) => {
                self.left(place, Why::Kept);
                Ok(None)
            }
            Verdict::Refuse(reason) => Err(Refusal::Policy {
                place: place.to_string(),
                reason,
            }),
        }
    }

    pub(crate) fn left(&mut self, place: Place, why: Why) {
        self.report.push_left(Left {
            place: Some(place),
            why,
        });
    }

    /// The message goes on as it is.
    pub(crate) fn passed(&mut self, refusal: Refusal) {
        self.report.push_left(Left {
            place: None,
            why: Why::Unread(refusal),
        });
    }
}

/// Why an address is none that anybody needs to be asked about.
pub(crate) fn untouchable(address: &str) -> Option<Why> {
    let scheme = |s: &str| address.get(..s.len()).is_some_and(|p| p.eq_ignore_ascii_case(s));
    match address {
        "http://www.w3.org/2005/08/addressing/anonymous"
        | "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous" => Some(Why::Anonymous),
        // Whoever names itself so fetches what is for it (WS-MakeConnection 1.1, section 2.1).
        _ if address.starts_with("http://docs.oasis-open.org/ws-rx/wsmc/200702/anonymous") => {
            Some(Why::Anonymous)
        }
        "http://www.w3.org/2005/08/addressing/none" => Some(Why::None),
        _ if scheme("http://") || scheme("https://") => None,
        _ => Some(Why::NotHttp),
    }
}
