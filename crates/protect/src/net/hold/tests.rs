use proptest::prelude::*;

use super::*;

/// What is done to a hold.
#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Mark,
    /// Of the epoch this many before the next one.
    Release(u64),
    /// Take, and have this share of a segment sent.
    Take(usize),
    Open,
    Mute,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop_oneof![4usize..200, 1400usize..1600, 60_000usize..70_000].prop_map(Step::Push),
        3 => Just(Step::Mark),
        3 => (0u64..5).prop_map(Step::Release),
        6 => (0usize..100_000).prop_map(Step::Take),
        1 => prop_oneof![8 => Just(Step::Mark), 1 => Just(Step::Open), 1 => Just(Step::Mute)],
    ]
}

/// The same in the plainest words: all bytes that came, and where the frames of each epoch end.
#[derive(Default)]
struct Model {
    stream: Vec<u8>,
    /// End and epoch of each frame.
    frames: Vec<(usize, u64)>,
    next_epoch: u64,
    released: u64,
    open: bool,
    mute: bool,
    dropped: u64,
    sent: usize,
}

impl Model {
    fn kept(&self) -> usize {
        self.stream.len() - self.sent
    }

    /// Frames before all that must wait.
    fn may(&self) -> usize {
        if self.open {
            return self.frames.len();
        }
        self.frames.partition_point(|(_, epoch)| *epoch < self.released)
    }

    fn allowed(&self) -> &[u8] {
        let end = self.may().checked_sub(1).map_or(0, |last| self.frames[last].0);
        &self.stream[..end]
    }

    /// What came since the last line.
    fn unmarked(&self) -> Boundary {
        let before = self.frames.partition_point(|(_, epoch)| *epoch < self.next_epoch);
        let start = before.checked_sub(1).map_or(0, |last| self.frames[last].0);
        Boundary {
            frames: (self.frames.len() - before) as u64,
            bytes: (self.stream.len() - start) as u64,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_leaves_early_or_out_of_order_and_none_is_forgotten(
        steps in proptest::collection::vec(step(), 1..150),
        hard in prop_oneof![Just(usize::MAX), 1000usize..300_000],
        soft in 0usize..200_000,
    ) {
        let limits = Limits { soft, hard };
        let (mut hold, mut model) = (Hold::new(limits), Model::default());
        // How much has left, and is the same as the beginning of what came.
        let mut out = 0;
        let mut on_its_way: Vec<u8> = Vec::new();
        let (mut first, mut soft_told) = (true, false);
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(length) => {
                    let frame = vec![n as u8; length];
                    let kept = model.kept();
                    let pushed = hold.push(&frame, Instant::now());
                    let fits = kept + length <= hard;
                    if model.mute {
                        prop_assert_eq!(pushed, Pushed::default());
                    } else if fits {
                        model.stream.extend(&frame);
                        model.frames.push((model.stream.len(), model.next_epoch));
                    } else {
                        model.dropped += 1;
                    }
                    let waits = !model.open && !model.mute;
                    prop_assert_eq!(pushed.first, waits && fits && first);
                    let full = waits && !soft_told && if fits { kept + length } else { kept } >= soft;
                    prop_assert_eq!(pushed.soft, full);
                    first &= !pushed.first;
                    soft_told |= full;
                }
                Step::Mark => {
                    let made = hold.mark(model.next_epoch).unwrap();
                    if !model.mute {
                        prop_assert_eq!(made, model.unmarked());
                    }
                    prop_assert!(hold.mark(model.next_epoch).is_err());
                    model.next_epoch += 1;
                    (first, soft_told) = (true, false);
                }
                Step::Release(back) => {
                    let Some(epoch) = model.next_epoch.checked_sub(1 + back) else { continue };
                    let before = model.may();
                    model.released = model.released.max(epoch + 1);
                    let gone = hold.release(epoch);
                    if !model.mute {
                        prop_assert_eq!(gone.frames as usize, model.may() - before);
                    }
                }
                Step::Take(most) => {
                    if on_its_way.is_empty() {
                        on_its_way = hold.take().unwrap_or_default();
                        prop_assert!(on_its_way.len() <= SEGMENT);
                    }
                    let n = on_its_way.len().min(most);
                    if !model.mute {
                        hold.sent(n);
                        model.sent += n;
                        prop_assert!(model.stream[out..].starts_with(&on_its_way[..n]), "in order");
                        on_its_way.drain(..n);
                        out += n;
                    }
                    if on_its_way.is_empty() {
                        hold.recycle(std::mem::take(&mut on_its_way));
                    }
                }
                Step::Open => {
                    hold.open();
                    model.open |= !model.mute;
                }
                Step::Mute => {
                    hold.mute();
                    on_its_way.clear();
                    model.mute = true;
                }
            }
            prop_assert!(out + on_its_way.len() <= model.allowed().len(), "only what may");
            prop_assert_eq!(hold.dropped().frames, model.dropped);
            if model.mute {
                prop_assert!(hold.take().is_none());
                prop_assert_eq!(hold.held(), Held::default());
            } else {
                prop_assert_eq!(hold.held().frames as usize, model.frames.len() - model.may());
                prop_assert_eq!(hold.held().since.is_some(), model.frames.len() > model.may());
                prop_assert_eq!(hold.passed() as usize, model.may());
                prop_assert!(model.kept() <= hard);
            }
        }
        if !model.mute {
            while let Some(more) = hold.take() {
                on_its_way.extend(more);
            }
            prop_assert!(model.allowed()[out..] == on_its_way, "and all that may");
        }
    }
}

#[test]
fn memory_follows_what_is_held() {
    let mut hold = Hold::new(Limits::default());
    let frame = [7; 1514];
    for epoch in 0..2000 {
        for _ in 0..100 {
            hold.push(&frame, Instant::now());
        }
        hold.mark(epoch).unwrap();
        hold.release(epoch);
        while let Some(bytes) = hold.take() {
            hold.sent(bytes.len());
            hold.recycle(bytes);
        }
    }
    assert_eq!(hold.dropped().frames, 0);
    assert!(hold.segments.len() + hold.spare.len() <= SPARE + 1);
}
