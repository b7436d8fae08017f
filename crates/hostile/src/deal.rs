//! What the hub makes of a gateway's request for a session: whom it names to each side, and who stands in the middle.

use std::sync::Arc;

use hawser_proto::{Fault, NodeId};

use crate::middle::{Middle, honest};

/// A gateway's request for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks.
    pub from: NodeId,
    /// Whom it wants.
    pub target: NodeId,
}

/// How a request is answered.
pub enum Answer {
    /// With a session.
    Deal(Deal),
    /// With a refusal.
    Refuse(Fault),
    /// Not at all.
    Silence,
}

/// A session, honest or not.
#[derive(Clone)]
pub struct Deal {
    /// Who the asking gateway is told will be there.
    pub granted: NodeId,
    /// The gateway that is told to dial in; none: the hub takes that side itself.
    pub partner: Option<NodeId>,
    /// Who the partner is told is calling.
    pub announced: NodeId,
    /// What happens to the bytes.
    pub middle: Middle,
}

/// Decides about requests.
pub type Policy = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

impl Deal {
    /// What a real hub would do.
    pub fn honest(asked: &Asked) -> Self {
        Self {
            granted: asked.target.clone(),
            partner: Some(asked.target.clone()),
            announced: asked.from.clone(),
            middle: honest(),
        }
    }

    /// The right gateways, with this in the middle.
    pub fn with(asked: &Asked, middle: Middle) -> Self {
        Self {
            middle,
            ..Self::honest(asked)
        }
    }

    /// The partner is never told; the hub plays it by `middle`.
    pub fn alone(asked: &Asked, middle: Middle) -> Self {
        Self {
            partner: None,
            middle,
            ..Self::honest(asked)
        }
    }
}
