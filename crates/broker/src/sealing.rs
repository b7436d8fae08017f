//! From an event to envelopes: adapted once for each class of devices, sealed once for each variant, wrapped for each device.
//! Plaintext is here, and nowhere else but in the encrypted outbox.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hawser_content::{Class, adapt, adapt::Limits};
use hawser_proto::{
    DomainName, UnixTime,
    broker::{
        DeliveryId, DeviceHandle,
        api::Profile,
        envelope::{Content, MAX_ANSWER, Mode, whole},
        statement::{DeviceCertificate, FetchRequest, Signed, Skip},
    },
};
use hawser_seal::{EpochKey, Post, SealError, SealedContent, SenderKey, seal};
use tokio::sync::{OnceCell, Semaphore};

use crate::{
    delivery::{Event, Work},
    directory::Device,
    outbox::{Gap, Outbox, OutboxError},
};

/// How long a device's certificate is good for.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// After that a device gets a new wrapping key.
const EPOCH_KEY_LIFE: Duration = Duration::from_secs(86_400);
/// Most bytes of a body that goes inside an envelope of the queue.
pub(crate) const MAX_INLINE: usize = 128 * 1024;
/// Most bytes of a body in an answer; the rest of [`MAX_ANSWER`] is for what is around it.
const MAX_BODY: usize = MAX_ANSWER / 100 * 88;
/// Adaptations at one time of what may take long: each may take [`hawser_content::adapt::MEMORY`].
const HEAVY: usize = 2;
/// Adaptations at one time of what cannot: text of up to [`LIGHT_BYTES`].
const LIGHT: usize = 4;
const LIGHT_BYTES: usize = 64 * 1024;
/// Variants kept for further devices of a class.
const MAX_VARIANTS: usize = 256;
/// Wrapping keys kept.
const MAX_KEYS: usize = 100_000;

/// Why an envelope was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealingError {
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// Keys.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The content is not in the outbox any more.
    #[error("the content is gone: its time is over")]
    Gone,
    /// What is in the outbox is no event.
    #[error("the outbox holds no readable event for {0}")]
    Unreadable(DeliveryId),
    /// The adaptation failed altogether.
    #[error("the content could not be adapted")]
    Adaptation,
}

/// A sealed variant of an event, for all devices of a class.
#[derive(Debug)]
pub(crate) struct Variant {
    content: SealedContent,
    pub(crate) name: String,
    pub(crate) fetchable: bool,
}

/// Seals what this domain sends.
#[derive(Debug)]
pub(crate) struct Sealer {
    domain: DomainName,
    pub(crate) sender: SenderKey,
    inline_max: usize,
    heavy: Semaphore,
    light: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<DeviceHandle, (Arc<EpochKey>, UnixTime)>,
    variants: HashMap<(DeliveryId, Class), Arc<OnceCell<Arc<Variant>>>>,
    order: VecDeque<(DeliveryId, Class)>,
}

impl Sealer {
    pub(crate) fn new(domain: DomainName, sender: SenderKey, inline_max: usize) -> Self {
        Self {
            domain,
            sender,
            inline_max: inline_max.min(MAX_INLINE),
            heavy: Semaphore::new(HEAVY),
            light: Semaphore::new(LIGHT),
            state: Mutex::default(),
        }
    }

    /// A device's certificate, good from now on.
    pub(crate) fn certificate(
        &self,
        device: &Device,
        now: UnixTime,
    ) -> Result<Signed<DeviceCertificate>, SealError> {
        self.sender.sign(&DeviceCertificate {
            domain: self.domain.clone(),
            user: device.user.clone(),
            device: device.handle,
            name: device.name.clone(),
            signing_key: device.signing_key.clone(),
            sealing_key: device.sealing_key,
            epoch: device.epoch,
            issued: now,
            expires: now.plus(CERTIFICATE_LIFE),
            sender: self.sender.key_id(),
        })
    }

    /// The record that explains a gap.
    pub(crate) fn skip(&self, gap: &Gap) -> Result<Vec<u8>, SealError> {
        let signed = self.sender.sign(&Skip {
            device: gap.device,
            from: gap.from,
            to: gap.to,
            reason: gap.reason,
        })?;
        Ok(signed.to_bytes())
    }

    /// The event in the form that this device's class gets, made once for all who ask at the same time. Waits while too many are
    /// being adapted. Cancel safe.
    pub(crate) async fn variant(
        &self,
        outbox: &Outbox,
        event: &Event,
        device: &Device,
    ) -> Result<Arc<Variant>, SealingError> {
        let class = class(device)?;
        let place = (event.delivery, class.clone());
        let cell = self.place(place);
        let made = cell.get_or_try_init(|| async {
            let content = self.content(outbox, event, class, self.inline_max).await?;
            Ok::<_, SealingError>(Arc::new(Variant {
                name: content.variant.clone(),
                fetchable: content.item.is_some(),
                content: SealedContent::new(&content)?,
            }))
        });
        made.await.cloned()
    }

    /// Where a variant is, or will be.
    fn place(&self, place: (DeliveryId, Class)) -> Arc<OnceCell<Arc<Variant>>> {
        let mut state = self.state();
        if let Some(known) = state.variants.get(&place) {
            return known.clone();
        }
        let cell = Arc::<OnceCell<_>>::default();
        state.variants.insert(place.clone(), cell.clone());
        state.order.push_back(place);
        while state.order.len() > MAX_VARIANTS {
            if let Some(oldest) = state.order.pop_front() {
                state.variants.remove(&oldest);
            }
        }
        cell
    }

    async fn content(
        &self,
        outbox: &Outbox,
        event: &Event,
        class: Class,
        inline_max: usize,
    ) -> Result<Content, SealingError> {
        let published = published(outbox, event.delivery).await?;
        let subject = published.subject.clone();
        let travel = class.max_bytes() > MAX_INLINE as u64;
        let limits = Limits {
            body: MAX_INLINE,
            rest_can_be_fetched: travel,
        };
        let adapted = self.adapt(published, class, limits).await?;
        let mode = match event.mode {
            Some(mode) => mode,
            None if adapted.body.len() > inline_max => Mode::Fetch,
            None => Mode::Inline,
        };
        let whole = !(adapted.truncated && travel);
        let (content_type, variant, body) = match mode {
            Mode::Inline => (adapted.content_type, adapted.variant.as_str(), adapted.body),
            Mode::Fetch | Mode::Notice => (PLAIN.into(), "text", adapted.summary.into_bytes()),
        };
        let item = match mode {
            Mode::Inline => (!whole).then_some(event.item),
            Mode::Fetch => Some(event.item),
            Mode::Notice => None,
        };
        Ok(Content {
            source: event.source.clone(),
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            subject,
            created: event.accepted,
            mode,
            content_type,
            variant: variant.into(),
            body,
            item,
            size: item.map(|_| adapted.total),
            padding: Vec::new(),
        })
    }

    /// Bytes of the envelope for a work.
    pub(crate) fn envelope(
        &self,
        outbox: &Outbox,
        work: &Work,
        device: &Device,
        variant: &Variant,
        now: UnixTime,
    ) -> Result<Vec<u8>, SealError> {
        let event = &work.event;
        let collapse = event.collapse.as_ref();
        let post = Post {
            sequence: work.sequence,
            expires: event.expires,
            urgency: event.urgency,
            collapse: collapse.map(|key| outbox.key().collapse(&device.handle, &event.application, key)),
        };
        let key = self.epoch_key(device, now)?;
        match seal(&self.sender, &key, &variant.content, &post) {
            // A number goes out again that was sealed before: under a key that has not seen it.
            Err(SealError::Reused { .. }) => {
                self.rekey(&device.handle);
                seal(
                    &self.sender,
                    &*self.epoch_key(device, now)?,
                    &variant.content,
                    &post,
                )
            }
            sealed => sealed,
        }
    }

    fn epoch_key(&self, device: &Device, now: UnixTime) -> Result<Arc<EpochKey>, SealError> {
        let mut state = self.state();
        if let Some((key, made)) = state.keys.get(&device.handle)
            && made.until(now) < EPOCH_KEY_LIFE
            && key.certificate().epoch == device.epoch
        {
            return Ok(key.clone());
        }
        if state.keys.len() >= MAX_KEYS {
            state.keys.clear();
        }
        let key = Arc::new(EpochKey::new(&self.sender, &self.certificate(device, now)?, now)?);
        state.keys.insert(device.handle, (key.clone(), now));
        Ok(key)
    }

    /// The device gets another wrapping key with the next envelope; that of a revoked one is gone.
    pub(crate) fn rekey(&self, device: &DeviceHandle) {
        self.state().keys.remove(device);
    }

    /// The sealed answer to a fetch request, with the device's present profile.
    pub(crate) async fn answer(
        &self,
        outbox: &Outbox,
        event: &Event,
        device: &Device,
        request: &FetchRequest,
        now: UnixTime,
    ) -> Result<Vec<u8>, SealingError> {
        let class = class(device)?;
        let refined = class.refined(&request.accept, request.save_data);
        let class = refined.unwrap_or(class);
        let published = published(outbox, event.delivery).await?;
        let subject = published.subject.clone();
        let limits = Limits {
            body: MAX_BODY,
            rest_can_be_fetched: false,
        };
        let adapted = self.adapt(published, class, limits).await?;
        let content = Content {
            source: event.source.clone(),
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            subject,
            created: event.accepted,
            mode: Mode::Inline,
            content_type: adapted.content_type,
            variant: adapted.variant.as_str().into(),
            body: adapted.body,
            item: None,
            size: None,
            padding: Vec::new(),
        };
        let sealed = SealedContent::new(&content)?;
        let certificate = self.certificate(device, now)?;
        let expires = now.plus(hawser_proto::broker::mailbox::GRANT_LIFE);
        Ok(hawser_seal::answer(
            &self.sender,
            &certificate,
            &sealed,
            request.nonce,
            expires,
            now,
        )?)
    }

    async fn adapt(
        &self,
        event: hawser_content::Event,
        class: Class,
        limits: Limits,
    ) -> Result<hawser_content::Adapted, SealingError> {
        let text = event.media_type().is_none_or(|media| media.kind() != "image");
        let light = text && event.data.len() <= LIGHT_BYTES;
        let place = if light { &self.light } else { &self.heavy };
        let place = place.acquire().await;
        let _place = place.map_err(|_| SealingError::Adaptation)?;
        let work = tokio::task::spawn_blocking(move || adapt(&event, &class, &limits));
        work.await.map_err(|_| SealingError::Adaptation)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

async fn published(outbox: &Outbox, id: DeliveryId) -> Result<hawser_content::Event, SealingError> {
    let bytes = outbox.content(id).await?.ok_or(SealingError::Gone)?;
    whole(&bytes).map_err(|_| SealingError::Unreadable(id))
}

/// A profile is checked when it comes in; one that this version does not understand gets plain text.
fn class(device: &Device) -> Result<Class, SealingError> {
    Class::of(&device.profile)
        .or_else(|_| Class::of(&Profile::default()))
        .map_err(|_| SealingError::Adaptation)
}
