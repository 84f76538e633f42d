//! The way back: what may be done, and in which order, when a device returns to the source.
//!
//! Before anything was cleared and while nothing has happened on the target, the source's own records are the newest: the
//! target's are removed and the source is unmuted. Otherwise the device may have gone on over there, and the source gets
//! back what it lacks of that from a seal of the target.

use std::collections::BTreeSet;

use super::{Event, Next, Recipe, State, Step};
use crate::model::device::Component;

/// A move on its way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undo {
    /// Name of the finding.
    pub kind: String,
    /// Why.
    pub why: String,
    /// True when the source gets back what the device has become on the target.
    goes_back: bool,
    /// True when the target has to be muted first.
    mutes_target: bool,
    /// True when the target had been unmuted by this move (mute-target).
    was_live: bool,
    /// Records of ours that were on the target when it began.
    made: BTreeSet<Component>,
    /// Seals of the target's records and of what the source gets; the components to which something is written.
    pub read_back: Option<(u64, u64, BTreeSet<Component>)>,
}

impl Undo {
    /// Given up before anything was cleared.
    pub fn before_clear(kind: &str, why: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            why: why.to_owned(),
            goes_back: false,
            mutes_target: false,
            was_live: false,
            made: BTreeSet::new(),
            read_back: None,
        }
    }

    /// Whatever was done.
    pub fn rollback(state: &State, kind: &str, why: &str) -> Self {
        let cleared = state.cleared().next().is_some();
        // Muted since it was made, it has sent nothing that the source has to know of.
        let never_live = state.is_mute_target() && !cleared;
        let mutes_target = state.touched(Step::Create(Component::Ns)) && !never_live;
        Self {
            goes_back: mutes_target || cleared,
            mutes_target,
            was_live: state.touched(Step::UnmuteTarget),
            made: state.made().collect(),
            ..Self::before_clear(kind, why)
        }
    }
}

/// The order in which records are removed from the target: NS first, which makes the device live.
const REMOVAL: [Component; 4] = [Component::Ns, Component::As, Component::Js, Component::Is];

impl State {
    /// True when the device returns with what it has become on the target.
    pub fn goes_back(&self) -> bool {
        self.undo.as_ref().is_some_and(|u| u.goes_back)
    }

    /// True when the target is live again once a rollback is given up.
    pub(super) fn lived_before(&self) -> bool {
        self.undo.as_ref().is_some_and(|u| u.was_live)
    }

    /// Seals of the target's records and of what the source gets.
    pub fn read_back(&self) -> Option<(u64, u64)> {
        self.undo.as_ref()?.read_back.as_ref().map(|(seal, back, _)| (*seal, *back))
    }

    /// True once a rollback has changed more than the mute of the target: it can only go on.
    pub fn back_is_underway(&self) -> bool {
        let restores = Component::ALL.into_iter().any(|c| self.touched(Step::Restore(c)));
        restores || self.removes()
    }

    /// True when the target is touched by a removal.
    pub fn removes(&self) -> bool {
        Component::ALL.into_iter().any(|c| self.touched(Step::Remove(c)))
    }

    /// True when the source has everything back that was cleared, and that was read back equal.
    pub fn restored(&self) -> bool {
        let Some(undo) = &self.undo else { return false };
        match (&undo.read_back, undo.goes_back) {
            (_, false) => true,
            (None, true) => false,
            (Some((_, _, restore)), true) => restore.iter().all(|c| self.has(Step::VerifyBack(*c))),
        }
    }

    pub(super) fn next_undo(&self, undo: &Undo, recipe: &Recipe) -> Next {
        // Without its NS record nothing is live on the target: the source need not wait for the others to be gone.
        let unmute = self.touched(Step::Mute).then_some(Next::Step(Step::Unmute));
        let serves = self.made().any(|c| c == Component::Ns);
        if !undo.goes_back {
            let left = REMOVAL.into_iter().find(|c| self.made().any(|made| made == *c));
            return match left.map(Step::Remove) {
                Some(step) if serves => Next::Step(step),
                Some(step) => unmute.unwrap_or(Next::Step(step)),
                None => unmute.unwrap_or(Next::Undone),
            };
        }
        let mut steps = Vec::new();
        if undo.mutes_target {
            steps.push(Step::MuteTarget);
        }
        steps.push(Step::ReadBack);
        let restore = undo.read_back.as_ref().map(|(_, _, restore)| restore);
        let restore = Component::ALL.into_iter().filter(|c| restore.is_some_and(|r| r.contains(c)));
        let restore = restore.flat_map(|c| [Step::Restore(c), Step::VerifyBack(c)]);
        let remove = REMOVAL.into_iter().filter(|c| undo.made.contains(c)).map(Step::Remove);
        if recipe.strategy.clears_first() {
            steps.push(Step::CheckBack);
            steps.extend(remove);
            steps.extend(restore);
        } else {
            steps.extend(restore);
            steps.push(Step::CheckBack);
            steps.extend(remove);
        }
        match steps.into_iter().find(|s| !self.has(*s)) {
            Some(Step::Remove(_)) if !serves && self.restored() && unmute.is_some() => {
                Next::Step(Step::Unmute)
            }
            Some(step) => Next::Step(step),
            None => unmute.unwrap_or(Next::Undone),
        }
    }

    /// The rules for the events of a rollback.
    pub(super) fn check_back(&self, event: &Event) -> Result<(), &'static str> {
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        match event {
            Event::Rollback { .. } => {
                rule(self.snapshot.is_some(), "nothing was begun")?;
                rule(!self.goes_back(), "it is being rolled back already")?;
                rule(
                    !self.adopted.contains(&Component::Ns),
                    "the device was live on the target before: the source stays muted (S2)",
                )
            }
            Event::ReadBack { restore, .. } => {
                let undo = self.undo.as_ref().filter(|u| u.goes_back).ok_or("no rollback was begun")?;
                rule(
                    !undo.mutes_target || self.has(Step::MuteTarget),
                    "the target is not muted yet (S2, S4)",
                )?;
                rule(!self.has(Step::CheckBack) && !self.removes(), "the target is being removed")?;
                rule(
                    self.cleared().all(|c| restore.contains(&c)),
                    "a record that was cleared is not restored (S3)",
                )
            }
            Event::Kept => {
                rule(self.goes_back(), "no rollback was begun")?;
                rule(!self.back_is_underway(), "the source or the target was changed already")?;
                rule(!self.touched(Step::MuteTarget), "the target is still muted")
            }
            _ => Err("it is no event of a rollback"),
        }
    }

    /// The rules for the steps of a rollback.
    pub(super) fn check_step_back(&self, step: Step, recipe: &Recipe) -> Result<(), &'static str> {
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        let undo = self.undo.as_ref().filter(|u| u.goes_back).ok_or("no rollback was begun")?;
        let first = recipe.strategy.clears_first();
        match step {
            Step::MuteTarget => {
                rule(undo.mutes_target && !self.removes(), "there is nothing to mute on the target")
            }
            Step::UnmuteTarget => {
                rule(undo.mutes_target, "the target was not muted")?;
                rule(!self.back_is_underway(), "the source or the target was changed already (S2)")
            }
            Step::Restore(c) => {
                let restore = undo.read_back.as_ref().map(|(_, _, restore)| restore);
                rule(restore.is_some_and(|r| r.contains(&c)), "nothing was decided for this record")?;
                rule(!first || self.has(Step::CheckBack), "the target's seal was not checked (S3)")?;
                let muted = !undo.mutes_target || self.has(Step::MuteTarget);
                let free = if first { self.made().next().is_none() } else { muted };
                rule(free, "the target has it still, or is not muted (S2)")
            }
            Step::VerifyBack(c) => rule(self.has(Step::Restore(c)), "it was not restored yet"),
            Step::CheckBack => {
                rule(undo.read_back.is_some(), "the target was not read yet")?;
                rule(first || self.restored(), "the source has not got its records back (S1)")
            }
            _ => Err("it is no step of a rollback"),
        }
    }
}
