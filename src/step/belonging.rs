//! The life of what belongs to an application besides its devices: one pure transition function, used live and on replay, as
//! the device's (`step`). What is written was decided and sealed before the first call.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Illegal;
use crate::model::belonging::ItemKey;

/// One thing that is done about a belonging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemStep {
    /// Make its API key on the target.
    Key,
    /// Create it on the target and read it back.
    Create,
    /// Take it out of the pause in which it was created.
    Release,
    /// Have the source send it to the target: a gateway, by CUPS.
    Redirect,
    /// Pause it at the source; end it, where that is what pauses it.
    PauseSource,
    /// Delete it at the source.
    DeleteSource,
    /// Rollback: put it back at the source as it was.
    RestoreSource,
    /// Rollback: delete it on the target.
    Remove,
    /// Rollback: delete its API key on the target.
    RemoveKey,
}

impl ItemStep {
    /// What it does, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Key => "make its API key on the target",
            Self::Create => "create it on the target",
            Self::Release => "release it on the target",
            Self::Redirect => "have the source send it to the target",
            Self::PauseSource => "pause it at the source",
            Self::DeleteSource => "delete it at the source",
            Self::RestoreSource => "put it back at the source",
            Self::Remove => "remove it from the target",
            Self::RemoveKey => "remove its API key from the target",
        }
    }
}

/// What the journal records of what belongs to an application, under the application itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ItemEvent {
    /// It was read at the source, and what is written to the target was decided.
    Decided {
        /// Which: `target` (the application there), `sort`, `device` (for what one device has) and `id`.
        item: ItemKey,
        /// Seal of what was found and of what is written.
        seal: u64,
        /// True when an API key is made for it.
        key: bool,
        /// True when it begins only once the first device is live on the target.
        held: bool,
    },
    /// It is on the target as it should be, and not by us: a rollback leaves it there.
    Matched {
        /// Which.
        item: ItemKey,
        /// Seal of what was found and of what would be written.
        seal: u64,
    },
    /// Its new API key was made.
    Keyed {
        /// Which.
        item: ItemKey,
        /// ID of the key on the target.
        id: String,
        /// Seal of the key.
        seal: u64,
    },
    /// The call for this step is about to be made.
    ItemIntent {
        /// Which.
        item: ItemKey,
        /// What.
        step: ItemStep,
    },
    /// The step was done, and what it wrote was read back equal.
    ItemDone {
        /// Which.
        item: ItemKey,
        /// What.
        step: ItemStep,
    },
    /// The step failed; the next run goes on from here.
    ItemFailed {
        /// Which.
        item: ItemKey,
        /// What.
        step: ItemStep,
        /// False when it surely did not take effect.
        maybe_applied: bool,
        /// Why; no secrets.
        why: String,
    },
    /// Everything about it was undone; it can start again.
    ItemUndone {
        /// Which.
        item: ItemKey,
    },
}

impl ItemEvent {
    /// Which one it is about.
    pub fn item(&self) -> &ItemKey {
        match self {
            Self::Decided { item, .. }
            | Self::Matched { item, .. }
            | Self::Keyed { item, .. }
            | Self::ItemIntent { item, .. }
            | Self::ItemDone { item, .. }
            | Self::ItemFailed { item, .. }
            | Self::ItemUndone { item } => item,
        }
    }

    /// Its name in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decided { .. } => "decided",
            Self::Matched { .. } => "matched",
            Self::Keyed { .. } => "keyed",
            Self::ItemIntent { .. } => "item-intent",
            Self::ItemDone { .. } => "item-done",
            Self::ItemFailed { .. } => "item-failed",
            Self::ItemUndone { .. } => "item-undone",
        }
    }
}

/// Where a belonging stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ItemState {
    seal: Option<u64>,
    matched: bool,
    wants_key: bool,
    held: bool,
    /// ID and seal of its API key.
    key: Option<(String, u64)>,
    open: BTreeSet<ItemStep>,
    done: BTreeSet<ItemStep>,
}

impl ItemState {
    /// The state after `event`.
    ///
    /// # Errors
    /// When the event is not legal in this state; the error names the rule.
    pub fn apply(&self, event: &ItemEvent) -> Result<Self, Illegal> {
        self.check(event)
            .map_err(|why| Illegal { event: format!("{} of {}", event.name(), event.item()), why })?;
        let mut next = self.clone();
        match event {
            ItemEvent::Decided { seal, key, held, .. } => {
                (next.seal, next.wants_key, next.held) = (Some(*seal), *key, *held);
            }
            ItemEvent::Matched { seal, .. } => (next.seal, next.matched) = (Some(*seal), true),
            ItemEvent::Keyed { id, seal, .. } => {
                next.key = Some((id.clone(), *seal));
                next.open.remove(&ItemStep::Key);
            }
            ItemEvent::ItemIntent { step, .. } => {
                next.open.insert(*step);
                // Whether it is still there is not known any more.
                if *step == ItemStep::Remove && next.done.remove(&ItemStep::Create) {
                    next.done.remove(&ItemStep::Release);
                    next.open.insert(ItemStep::Create);
                }
            }
            ItemEvent::ItemDone { step, .. } => {
                next.open.remove(step);
                next.done.insert(*step);
                next.forget_opposite(*step);
            }
            ItemEvent::ItemFailed { step, maybe_applied, .. } => {
                if !maybe_applied {
                    next.open.remove(step);
                }
            }
            ItemEvent::ItemUndone { .. } => next = Self::default(),
        }
        Ok(next)
    }

    fn forget_opposite(&mut self, step: ItemStep) {
        use ItemStep as S;
        let opposites: &[S] = match step {
            S::RestoreSource => &[S::Redirect, S::PauseSource, S::DeleteSource],
            S::Redirect | S::PauseSource | S::DeleteSource => &[S::RestoreSource],
            S::Remove => &[S::Create, S::Release],
            S::RemoveKey => &[S::Key],
            _ => &[],
        };
        for opposite in opposites {
            self.open.remove(opposite);
            self.done.remove(opposite);
        }
        if step == S::RemoveKey {
            self.key = None;
        }
    }

    fn check(&self, event: &ItemEvent) -> Result<(), &'static str> {
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        match event {
            ItemEvent::Decided { .. } => rule(self.seal.is_none(), "it was decided already"),
            ItemEvent::Matched { .. } => rule(self.made().next().is_none(), "it is ours"),
            ItemEvent::Keyed { .. } => {
                rule(self.open.contains(&ItemStep::Key), "no key was about to be made (S5)")
            }
            ItemEvent::ItemIntent { step, .. } | ItemEvent::ItemDone { step, .. } => self.check_step(*step),
            ItemEvent::ItemFailed { .. } => Ok(()),
            ItemEvent::ItemUndone { .. } => {
                rule(self.made().next().is_none(), "it is on the target")?;
                rule(!self.source_changed(), "the source has not got it back (S3)")
            }
        }
    }

    fn check_step(&self, step: ItemStep) -> Result<(), &'static str> {
        use ItemStep as S;
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        rule(self.seal.is_some(), "it is not sealed (S3)")?;
        match step {
            S::Key => rule(self.wants_key && self.key.is_none(), "it needs no key, or has one (S5)"),
            S::Create => {
                rule(!self.matched, "it is there, and not ours")?;
                rule(!self.wants_key || self.key.is_some(), "its key is not sealed yet (S5)")
            }
            S::Release => rule(self.held && self.has(S::Create), "it is not there, or not held"),
            // What is held is not there for good until it is released: nobody is sent to it before.
            S::Redirect => rule(!self.matched && self.is_there(), "the target does not have it (S1)"),
            S::PauseSource | S::DeleteSource => {
                rule(self.matched || self.has(S::Create), "the target does not have it (S1)")
            }
            S::RestoreSource | S::Remove => Ok(()),
            S::RemoveKey => rule(!self.touched(S::Create), "it is on the target, and uses the key"),
        }
    }

    /// Seal of what was found and is written; `None` when nothing is decided.
    pub fn seal(&self) -> Option<u64> {
        self.seal
    }

    /// ID and seal of its API key.
    pub fn key(&self) -> Option<&(String, u64)> {
        self.key.as_ref()
    }

    /// True when it needs an API key.
    pub fn wants_key(&self) -> bool {
        self.wants_key
    }

    /// True when it is on the target and not by us.
    pub fn is_matched(&self) -> bool {
        self.matched
    }

    /// True when it begins only once the first device is live.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// True when `step` is done.
    pub fn has(&self, step: ItemStep) -> bool {
        self.done.contains(&step)
    }

    /// True when `step` was done or may have been done.
    pub fn touched(&self, step: ItemStep) -> bool {
        self.done.contains(&step) || self.open.contains(&step)
    }

    /// True when the intent of `step` was recorded and its result was not.
    pub fn is_open(&self, step: ItemStep) -> bool {
        self.open.contains(&step)
    }

    /// True when it is on the target as it should be for good.
    pub fn is_there(&self) -> bool {
        self.matched || (self.has(ItemStep::Create) && (!self.held || self.has(ItemStep::Release)))
    }

    /// True when it was changed at the source, or may have been.
    pub fn source_changed(&self) -> bool {
        [ItemStep::Redirect, ItemStep::PauseSource, ItemStep::DeleteSource]
            .iter()
            .any(|step| self.touched(*step))
    }

    /// What the clear has made of it at the source: `paused`, `deleted`, or nothing.
    pub fn at_source(&self) -> &'static str {
        match () {
            () if self.has(ItemStep::DeleteSource) => "deleted",
            () if self.has(ItemStep::PauseSource) => "paused",
            () => "",
        }
    }

    /// Steps by which something of ours is, or may be, on the target.
    pub fn made(&self) -> impl Iterator<Item = ItemStep> + '_ {
        let key = (self.key.is_some() || self.is_open(ItemStep::Key)).then_some(ItemStep::Key);
        [ItemStep::Create].into_iter().filter(|step| self.touched(*step)).chain(key)
    }

    /// The word for where it stands.
    pub fn name(&self) -> &'static str {
        match () {
            () if self.is_there() => "done",
            () if self.has(ItemStep::Create) => "waiting to be released",
            () if self.touched(ItemStep::Create) || self.made().next().is_some() => "creating",
            () => "sealed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> ItemKey {
        ItemKey { target: "acme".into(), sort: "webhook".into(), device: String::new(), id: "hook-1".into() }
    }

    fn after(events: &[ItemEvent]) -> Result<ItemState, Illegal> {
        events.iter().try_fold(ItemState::default(), |state, event| state.apply(event))
    }

    fn decided(key: bool, held: bool) -> ItemEvent {
        ItemEvent::Decided { item: item(), seal: 7, key, held }
    }

    fn intent(step: ItemStep) -> ItemEvent {
        ItemEvent::ItemIntent { item: item(), step }
    }

    fn done(step: ItemStep) -> ItemEvent {
        ItemEvent::ItemDone { item: item(), step }
    }

    #[test]
    fn what_would_break_a_promise_is_refused() {
        use ItemStep as S;
        let illegal: &[&[ItemEvent]] = &[
            &[intent(S::Create)],
            &[decided(true, false), intent(S::Create)],
            &[decided(false, false), intent(S::Key)],
            &[decided(false, false), intent(S::DeleteSource)],
            &[decided(false, false), intent(S::Create), intent(S::PauseSource)],
            &[decided(false, false), intent(S::Create), ItemEvent::ItemUndone { item: item() }],
            &[decided(false, true), intent(S::Release)],
            &[decided(false, true), done(S::Create), intent(S::Redirect)],
            &[
                decided(false, false),
                done(S::Create),
                intent(S::Redirect),
                done(S::Remove),
                ItemEvent::ItemUndone { item: item() },
            ],
            &[
                decided(false, false),
                done(S::Create),
                done(S::DeleteSource),
                done(S::Remove),
                ItemEvent::ItemUndone { item: item() },
            ],
        ];
        for events in illegal {
            assert!(after(events).is_err(), "{events:?}");
        }
    }

    #[test]
    fn a_key_that_is_gone_is_made_again() {
        use ItemStep as S;
        let keyed = |id: &str, seal| ItemEvent::Keyed { item: item(), id: id.into(), seal };
        let mut events = vec![decided(true, false), intent(S::Key), keyed("ONE", 8), intent(S::Create)];
        events.extend([intent(S::Remove), done(S::Remove), intent(S::RemoveKey), done(S::RemoveKey)]);
        assert_eq!(after(&events).expect("legal").key(), None);
        assert!(
            after(&[&events[..], &[intent(S::Create)]].concat()).is_err(),
            "without a key there is no copy"
        );
        events.extend([intent(S::Key), keyed("TWO", 9), intent(S::Create), done(S::Create)]);
        let state = after(&events).expect("legal");
        assert!(state.is_there() && state.key() == Some(&("TWO".into(), 9)));
    }

    #[test]
    fn it_goes_there_and_back_and_there_again() {
        use ItemStep as S;
        let keyed = ItemEvent::Keyed { item: item(), id: "KEY".into(), seal: 9 };
        let mut events = vec![decided(true, true), intent(S::Key), keyed, intent(S::Create), done(S::Create)];
        assert_eq!(after(&events).expect("legal").name(), "waiting to be released");
        events.extend([intent(S::Release), done(S::Release), intent(S::PauseSource), done(S::PauseSource)]);
        assert!(after(&events).expect("legal").is_there());
        events.extend([intent(S::RestoreSource), done(S::RestoreSource), intent(S::Remove), done(S::Remove)]);
        events.extend([intent(S::RemoveKey), done(S::RemoveKey), ItemEvent::ItemUndone { item: item() }]);
        assert_eq!(after(&events).expect("legal"), ItemState::default());
        events.push(decided(true, true));
        assert!(after(&events).is_ok());
    }
}
