//! What an operator sees of the messages that wait, and does with them (`hawser queue`).

use base64::{Engine, engine::general_purpose::STANDARD};
use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use hawser_store::{
    StoreError,
    spool::{Change, Entry, Filter, Kind, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::{
    PAGE, Spool,
    accept::{parse, view},
    head::Head,
};
use crate::inspect::now;

/// Most entries in one answer.
const MOST: usize = 1000;
/// Least characters of an id by which a message can be named.
const SHORTEST: usize = 4;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// What was asked for cannot be read.
    #[error("the question cannot be read ({0}): is this command of another version than the gateway?")]
    Question(#[from] serde_json::Error),
    /// No such message.
    #[error(
        "no message is known by {0:?}: `hawser queue list` shows them; delivered ones are forgotten after a day"
    )]
    Unknown(String),
    /// Several messages.
    #[error("{0:?} is the beginning of several messages' ids: write more of it")]
    Ambiguous(String),
    /// It is not what can be replayed or discarded.
    #[error("{id} is {state}: {advice}")]
    State {
        /// Which one.
        id: String,
        /// What it is.
        state: &'static str,
        /// What can be done.
        advice: &'static str,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is kept cannot be read.
    #[error("{0}")]
    Kept(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Which {
    queue: Option<String>,
    state: Option<String>,
    ids: Vec<String>,
    all: bool,
    last: Option<usize>,
}

/// What can be asked and ordered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    List,
    Show,
    Replay,
    Discard,
}

impl Order {
    /// By the path of a question.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/queue/list" => Some(Order::List),
            "/queue/show" => Some(Order::Show),
            "/queue/replay" => Some(Order::Replay),
            "/queue/discard" => Some(Order::Discard),
            _ => None,
        }
    }
}

impl Spool {
    /// Answers an operator.
    pub(crate) fn asked(self, order: Order, question: Value) -> BoxFuture<'static, Result<Value, String>> {
        Box::pin(async move {
            let answer = match order {
                Order::List => self.list(question).await,
                Order::Show => self.show(question).await,
                Order::Replay => self.replay(question).await,
                Order::Discard => self.discard(question).await,
            };
            answer.map_err(|e| e.to_string())
        })
    }

    async fn list(&self, question: Value) -> Result<Value, QueueError> {
        let which: Which = serde_json::from_value(question)?;
        let most = which.last.unwrap_or(MOST).min(MOST);
        let mut found = std::collections::VecDeque::new();
        let mut filter = which.filter();
        loop {
            let page = self.0.backend.list(filter.clone(), PAGE).await?;
            let Some(last) = page.last() else { break };
            filter.after = last.number;
            for entry in page {
                if found.len() == most {
                    found.pop_front();
                }
                found.push_back(entry);
            }
        }
        Ok(found.iter().map(operators).collect())
    }

    async fn show(&self, question: Value) -> Result<Value, QueueError> {
        let which: Which = serde_json::from_value(question)?;
        let entry = self.named(which.ids.first().map_or("", String::as_str)).await?;
        let mut shown = operators(&entry);
        let content = self.0.backend.content(entry.id).await?;
        if let (Some(content), Some(shown)) = (content, shown.as_object_mut()) {
            let head = Head::read(&content.head).map_err(|e| QueueError::Kept(e.to_string()))?;
            let (method, uri, headers) = head.shown();
            shown.insert("method".into(), method.into());
            shown.insert("uri".into(), uri.into());
            shown.insert("headers".into(), json!(headers));
            shown.insert("body".into(), STANDARD.encode(&content.body).into());
        }
        Ok(shown)
    }

    /// Dead ones wait again, with their whole time before them.
    async fn replay(&self, question: Value) -> Result<Value, QueueError> {
        let which: Which = serde_json::from_value(question)?;
        let mut replayed = Vec::new();
        for entry in self.chosen(which, Some(Kind::Dead)).await? {
            let life = self
                .plan(&entry.queue)
                .map_or(entry.expires - entry.accepted, |plan| {
                    u64::try_from(plan.expire.as_millis()).unwrap_or(u64::MAX)
                });
            let next = now();
            let change = Change::Replayed {
                next,
                expires: next.saturating_add(life),
            };
            let again = self.0.backend.change(entry.id, change).await?;
            let again = again.ok_or_else(|| not_dead(&entry))?;
            self.add(&again);
            replayed.push(HEXLOWER.encode(&entry.id));
        }
        info!(messages = replayed.len(), "an operator replays dead messages");
        Ok(json!(replayed))
    }

    async fn discard(&self, question: Value) -> Result<Value, QueueError> {
        let which: Which = serde_json::from_value(question)?;
        let mut discarded = Vec::new();
        for entry in self.chosen(which, Some(Kind::Dead)).await? {
            let gone = self.0.backend.change(entry.id, Change::Discarded).await?;
            let gone = gone.ok_or_else(|| gone_already(&entry))?;
            self.schedule().discard(gone.number);
            discarded.push(HEXLOWER.encode(&entry.id));
        }
        self.0.wake.notify_one();
        info!(messages = discarded.len(), "an operator discarded messages");
        Ok(json!(discarded))
    }

    /// Those that are named, or all of a kind.
    async fn chosen(&self, which: Which, of: Option<Kind>) -> Result<Vec<Entry>, QueueError> {
        let mut chosen = Vec::new();
        for id in &which.ids {
            chosen.push(self.named(id).await?);
        }
        if which.all {
            let mut filter = which.filter();
            filter.state = filter.state.or(of);
            loop {
                let page = self.0.backend.list(filter.clone(), PAGE).await?;
                let Some(last) = page.last() else { break };
                filter.after = last.number;
                chosen.extend(page);
            }
        }
        Ok(chosen)
    }

    /// The message with this id, or the beginning of one.
    async fn named(&self, text: &str) -> Result<Entry, QueueError> {
        let unknown = || QueueError::Unknown(text.to_owned());
        if let Some(id) = parse(text) {
            return self.0.backend.find(id).await?.ok_or_else(unknown);
        }
        if text.len() < SHORTEST {
            return Err(unknown());
        }
        let mut found: Option<Entry> = None;
        let mut filter = Filter::default();
        loop {
            let page = self.0.backend.list(filter.clone(), PAGE).await?;
            let Some(last) = page.last() else { break };
            filter.after = last.number;
            for entry in page {
                if HEXLOWER.encode(&entry.id).starts_with(text) && found.replace(entry).is_some() {
                    return Err(QueueError::Ambiguous(text.to_owned()));
                }
            }
        }
        found.ok_or_else(unknown)
    }
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            queue: self.queue.as_deref().map(Into::into),
            state: match self.state.as_deref() {
                Some("waiting") => Some(Kind::Waiting),
                Some("delivered") => Some(Kind::Delivered),
                Some("dead") => Some(Kind::Dead),
                _ => None,
            },
            after: 0,
        }
    }
}

fn operators(entry: &Entry) -> Value {
    let mut shown = view(entry);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("from".into(), (&*entry.from).into());
        shown.insert("to".into(), (&*entry.lane).into());
        shown.insert("order".into(), json!(entry.key.as_deref()));
        shown.insert("bytes".into(), entry.bytes.into());
    }
    shown
}

fn not_dead(entry: &Entry) -> QueueError {
    let (state, advice) = match entry.state {
        State::Waiting { .. } => ("waiting", "it is tried again by itself"),
        _ => ("delivered", "nothing of it is kept to be sent again"),
    };
    QueueError::State {
        id: HEXLOWER.encode(&entry.id),
        state,
        advice,
    }
}

fn gone_already(entry: &Entry) -> QueueError {
    QueueError::State {
        id: HEXLOWER.encode(&entry.id),
        state: "delivered",
        advice: "there is nothing left to discard",
    }
}
