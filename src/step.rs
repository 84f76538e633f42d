//! The life of one device in a migration: one pure transition function, used live and on replay.
//!
//! A run asks [`State::next`] what to do, writes the intent into the journal, does it, and writes the result. Both pass
//! through [`State::apply`], which refuses what would break a promise: a call that is not legal here is never made,
//! because its intent cannot be recorded.

mod back;
pub mod belonging;
mod event;

use std::collections::BTreeSet;

use back::Undo;
pub use event::{Event, Illegal, Mute, Recipe, Step, Strategy};

use crate::model::device::Component;

/// Where a device stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    recipe: Option<Recipe>,
    snapshot: Option<u64>,
    reread: Option<(u64, u64)>,
    /// Seal of the source as it was seen last before the clear.
    last_look: Option<u64>,
    /// Steps whose intent is recorded and whose result is not.
    open: BTreeSet<Step>,
    done: BTreeSet<Step>,
    /// Components whose record was read back equal in this or an earlier run.
    equal_once: BTreeSet<Component>,
    /// Components whose record on the target was there before.
    adopted: BTreeSet<Component>,
    undo: Option<Undo>,
    finished: bool,
}

impl State {
    /// The state after all of `events`.
    ///
    /// # Errors
    /// The first event that is not legal.
    pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, Illegal> {
        events.into_iter().try_fold(Self::default(), |state, event| state.apply(event))
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// When the event is not legal in this state; the error names the rule.
    pub fn apply(&self, event: &Event) -> Result<Self, Illegal> {
        self.check(event).map_err(|why| Illegal { event: format!("{event:?}"), why })?;
        let mut next = self.clone();
        match event {
            Event::Snapshot { seal, recipe } => {
                next.snapshot = Some(*seal);
                next.recipe = Some(recipe.clone());
                next.done.insert(Step::Snapshot);
            }
            Event::Reread { seal, copy, recipe } => {
                next.reread = Some((*seal, *copy));
                next.recipe = Some(recipe.clone());
                next.done.insert(Step::Reread);
            }
            Event::Checked { seal } => {
                next.last_look = Some(*seal);
                next.done.insert(Step::CheckSnapshot);
            }
            Event::Counted { copy } => {
                next.reread = self.reread.map(|(seal, _)| (seal, *copy));
                next.done.insert(Step::Count);
            }
            Event::Intent { step } => {
                next.open.insert(*step);
            }
            Event::Done { step } => {
                next.open.remove(step);
                next.done.insert(*step);
                if let Step::Verify(c) = step {
                    next.equal_once.insert(*c);
                }
                next.forget_opposite(*step);
            }
            Event::Failed { step, maybe_applied, .. } => {
                if !maybe_applied {
                    next.open.remove(step);
                }
            }
            Event::Adopted { component } => {
                next.done.insert(Step::Create(*component));
                next.adopted.insert(*component);
            }
            Event::Undo { kind, why } => next.undo = Some(Undo::before_clear(kind, why)),
            Event::Rollback { kind, why } => {
                next.undo = Some(Undo::rollback(self, kind, why));
                next.finished = false;
            }
            Event::ReadBack { seal, back, restore } => {
                if let Some(undo) = &mut next.undo {
                    undo.read_back = Some((*seal, *back, restore.clone()));
                }
                // What was written of an earlier reading is ours, and written anew.
                for component in Component::ALL {
                    if next.done.remove(&Step::Restore(component)) {
                        next.open.insert(Step::Restore(component));
                    }
                    next.done.remove(&Step::VerifyBack(component));
                }
                next.done.insert(Step::ReadBack);
            }
            Event::Kept => {
                next.undo = None;
                for step in [Step::MuteTarget, Step::UnmuteTarget, Step::ReadBack] {
                    next.done.remove(&step);
                    next.open.remove(&step);
                }
                if self.lived_before() {
                    next.done.insert(Step::UnmuteTarget);
                }
            }
            Event::Undone => next = Self::default(),
            Event::Finished => next.finished = true,
        }
        Ok(next)
    }

    /// The state for a new run: what was seen of both sides before a clear counts only for the run that saw it.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        let untouched = self.cleared().next().is_none();
        let clears = self.recipe.as_ref().is_some_and(|r| r.clear.iter().any(|c| !self.has(Step::Clear(*c))));
        if !self.finished && (untouched || clears) {
            self.done.retain(|step| !matches!(step, Step::Verify(_)));
        }
        // Of what is perhaps cleared the last seal stays the one that counts.
        if !self.finished && untouched {
            self.done.remove(&Step::CheckSnapshot);
        }
        if !self.removes() {
            self.done.retain(|step| !matches!(step, Step::CheckBack | Step::VerifyBack(_)));
        }
        self
    }

    fn forget_opposite(&mut self, step: Step) {
        let opposites: &[Step] = match step {
            Step::Remove(c) => &[Step::Create(c), Step::Verify(c)],
            Step::Unmute => &[Step::Mute],
            // Live, it is another record than the one that was verified.
            Step::UnmuteTarget if self.undo.is_none() => &[Step::MuteTarget, Step::Verify(Component::Ns)],
            Step::UnmuteTarget => &[Step::MuteTarget],
            _ => &[],
        };
        for opposite in opposites {
            self.done.remove(opposite);
            self.open.remove(opposite);
        }
    }

    /// The rules. Each names the promise of SAFETY.md that it serves.
    fn check(&self, event: &Event) -> Result<(), &'static str> {
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        rule(!self.finished || matches!(event, Event::Rollback { .. }), "the device is finished")?;
        match event {
            Event::Snapshot { .. } => rule(self.snapshot.is_none(), "it has a snapshot already"),
            Event::Reread { recipe, .. } => {
                let first = self.recipe.as_ref();
                rule(
                    first.is_some_and(|r| r.target_id == recipe.target_id && r.mute == recipe.mute),
                    "the second decision names another device or another mute",
                )?;
                rule(self.snapshot.is_some() && self.undo.is_none(), "there is no snapshot yet")?;
                rule(self.reread.is_none(), "it was read again already")?;
                rule(!self.mutes() || self.has(Step::Mute), "the source is not muted yet (S2, S4)")
            }
            Event::Checked { .. } => self.check_step(Step::CheckSnapshot),
            Event::Counted { .. } => self.check_forward(Step::Count),
            Event::Intent { step } | Event::Done { step } => self.check_step(*step),
            Event::Adopted { component } => {
                rule(!self.touched(Step::Create(*component)), "the record is ours")?;
                self.check_step(Step::Create(*component))
            }
            Event::Failed { .. } => Ok(()),
            Event::Undo { .. } => {
                rule(self.undo.is_none(), "it is being undone already")?;
                rule(self.snapshot.is_some(), "nothing was begun")?;
                rule(
                    !self.adopted.contains(&Component::Ns),
                    "the device was live on the target before: the source stays muted (S2)",
                )?;
                rule(
                    self.cleared().next().is_none(),
                    "the source was cleared: only a rollback from the journal goes back (S3)",
                )
            }
            Event::Rollback { .. } | Event::ReadBack { .. } | Event::Kept => self.check_back(event),
            Event::Undone => {
                rule(self.undo.is_some(), "no undo was begun")?;
                rule(self.made().next().is_none(), "records are left on the target (S2)")?;
                rule(self.restored(), "the source has not got its records back (S3)")?;
                rule(!self.touched(Step::Mute), "the source is still muted")
            }
            Event::Finished => rule(matches!(self.next(), Next::Finish), "steps are left to do"),
        }
    }

    fn check_step(&self, step: Step) -> Result<(), &'static str> {
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        let recipe = self.recipe.as_ref().ok_or("there is no snapshot yet (S3)")?;
        let undoing = self.undo.is_some();
        match step {
            Step::Snapshot | Step::Reread | Step::ReadBack | Step::Count => Err("it is an event of its own"),
            Step::Mute => rule(!undoing && recipe.mute.is_some(), "this device is not muted"),
            Step::Create(c) => {
                rule(!undoing, "the move is being undone")?;
                rule(recipe.create.contains(&c), "this record is not wanted")?;
                rule(self.reread.is_some(), "the source was not read after the mute (S4)")?;
                rule(
                    recipe.strategy != Strategy::Swap
                        || recipe.clear.iter().all(|c| self.has(Step::Clear(*c))),
                    "the source still has it: nothing can exist twice in one deployment",
                )?;
                rule(
                    !matches!(c, Component::Ns | Component::Js) || self.quiet(),
                    "the source may still send downlinks, or its keys cannot be muted (S2)",
                )
            }
            Step::StartedAt => {
                rule(!undoing && self.has(Step::Create(Component::Ns)), "there is no NS record yet")
            }
            Step::Verify(c) => rule(!undoing && self.has(Step::Create(c)), "there is no record to verify"),
            Step::AwaitSeen => rule(!undoing && self.verified(), "the copy is not verified yet"),
            Step::CheckSnapshot => rule(!undoing && self.reread.is_some(), "there is no second snapshot yet"),
            Step::Clear(c) => {
                rule(!undoing, "the move is being undone")?;
                rule(recipe.clear.contains(&c), "this record is not to be cleared")?;
                rule(self.has(Step::CheckSnapshot), "the sealed snapshot was not re-read from disk (S1)")?;
                rule(recipe.strategy != Strategy::Swap || self.quiet(), "the source is not muted (S2)")?;
                let first = self.is_cleared_first(c);
                rule(first || self.verified(), "the target is not verified (S1)")?;
                let keys = recipe.strategy == Strategy::MuteTarget && c == Component::Ns;
                rule(
                    first || keys || !recipe.wait_seen || self.has(Step::AwaitSeen),
                    "it was not seen on the target yet",
                )?;
                let whole = recipe.strategy == Strategy::MuteTarget && c == Component::Is;
                rule(!whole || self.has(Step::UnmuteTarget), "the target is not live yet (S3)")
            }
            Step::SetCounters => self.check_forward(step),
            Step::UnmuteTarget if !undoing => self.check_forward(step),
            Step::Remove(c) => {
                rule(undoing, "nothing is removed from the target unless the move is undone")?;
                rule(!self.adopted.contains(&c), "the record was there before")?;
                rule(
                    !self.goes_back() || self.has(Step::CheckBack),
                    "the target's seal was not checked (S1, S3)",
                )?;
                rule(
                    c == Component::Ns || !self.touched(Step::Create(Component::Ns)),
                    "the NS record goes first: it makes the device live (S2)",
                )
            }
            Step::Unmute => {
                rule(undoing && self.restored(), "the source stays muted (S2)")?;
                rule(!self.touched(Step::Create(Component::Ns)), "the device is live on the target (S2)")
            }
            Step::MuteTarget
            | Step::UnmuteTarget
            | Step::Restore(_)
            | Step::VerifyBack(_)
            | Step::CheckBack => self.check_step_back(step, recipe),
        }
    }

    /// Mute-target, after the clear: nothing of it while the source is live, and the counters before the target is.
    fn check_forward(&self, step: Step) -> Result<(), &'static str> {
        let rule = |ok: bool, why| if ok { Ok(()) } else { Err(why) };
        let recipe = self.recipe.as_ref().ok_or("there is no snapshot yet (S3)")?;
        rule(
            self.undo.is_none() && recipe.strategy == Strategy::MuteTarget,
            "it is no step of this strategy",
        )?;
        rule(self.has(Step::Clear(Component::Ns)), "the source is not cleared yet (S2)")?;
        let counted = match step {
            Step::Count => !self.touched(Step::UnmuteTarget),
            Step::SetCounters => self.has(Step::Count) && !self.touched(Step::UnmuteTarget),
            _ => !recipe.counters || self.has(Step::SetCounters),
        };
        rule(counted, "the counters are not set, or the target is live already (S4)")
    }

    /// The steps of mute-target once the copy is verified.
    fn mute_target_tail(recipe: &Recipe) -> Vec<Step> {
        let mut steps = Vec::new();
        if recipe.clear.contains(&Component::Ns) {
            steps.extend([Step::CheckSnapshot, Step::Clear(Component::Ns)]);
            if recipe.counters {
                steps.extend([Step::Count, Step::SetCounters]);
            }
            steps.extend([Step::UnmuteTarget, Step::Verify(Component::Ns)]);
        }
        if recipe.wait_seen {
            steps.push(Step::AwaitSeen);
        }
        if recipe.clear.contains(&Component::Is) {
            steps.push(Step::Clear(Component::Is));
        }
        steps
    }

    /// What is to be done now.
    pub fn next(&self) -> Next {
        let Some(recipe) = &self.recipe else { return Next::Step(Step::Snapshot) };
        if let Some(undo) = &self.undo {
            return self.next_undo(undo, recipe);
        }
        let mut steps = vec![];
        if recipe.mute.is_some() {
            steps.push(Step::Mute);
        }
        steps.push(Step::Reread);
        let early = Component::ALL.into_iter().filter(|c| *c != Component::Ns && recipe.create.contains(c));
        if recipe.strategy == Strategy::ClearFirst {
            // What the target may refuse comes before the keys leave the source.
            steps.extend(early.clone().filter(|c| *c != Component::Js).map(Step::Create));
            steps.extend([Step::CheckSnapshot, Step::Clear(Component::Js)]);
        }
        // IS last: it is what lists the device.
        let clears = [Component::Js, Component::As, Component::Ns, Component::Is];
        let clears = clears.into_iter().filter(|c| recipe.clear.contains(c)).map(Step::Clear);
        if recipe.strategy == Strategy::Swap {
            steps.push(Step::CheckSnapshot);
            steps.extend(clears.clone());
        }
        steps.extend(early.clone().map(Step::Create));
        steps.extend(early.map(Step::Verify));
        if recipe.create.contains(&Component::Ns) {
            steps.push(Step::Create(Component::Ns));
            if recipe.started_at {
                steps.push(Step::StartedAt);
            }
            steps.push(Step::Verify(Component::Ns));
        }
        if recipe.strategy == Strategy::MuteTarget {
            steps.extend(Self::mute_target_tail(recipe));
        } else if !recipe.clear.is_empty() {
            if recipe.wait_seen {
                steps.push(Step::AwaitSeen);
            }
            steps.push(Step::CheckSnapshot);
            steps.extend(clears);
        }
        steps
            .into_iter()
            .find(|s| !self.has(*s))
            .map_or(if self.finished { Next::Nothing } else { Next::Finish }, Next::Step)
    }

    /// True when `step` is done.
    pub fn has(&self, step: Step) -> bool {
        self.done.contains(&step)
    }

    /// True when `step` was done or may have been done.
    pub fn touched(&self, step: Step) -> bool {
        self.done.contains(&step) || self.open.contains(&step)
    }

    /// True when the intent of `step` was recorded and its result was not: an earlier run ended in the middle of it.
    pub fn is_open(&self, step: Step) -> bool {
        self.open.contains(&step)
    }

    /// What was decided, once the device was begun.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.recipe.as_ref()
    }

    /// Seal of the first snapshot.
    pub fn snapshot(&self) -> Option<u64> {
        self.snapshot
    }

    /// Seals of the second snapshot and of the copy.
    pub fn reread(&self) -> Option<(u64, u64)> {
        self.reread
    }

    /// Seal of the source as it was seen last: right before the clear, after the mute, or when the move began.
    pub fn last_seen(&self) -> Option<u64> {
        self.last_look.or(self.reread.map(|(seal, _)| seal)).or(self.snapshot)
    }

    /// True when the device is finished.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Why the move is being undone: kind and words.
    pub fn undo(&self) -> Option<(&str, &str)> {
        self.undo.as_ref().map(|undo| (undo.kind.as_str(), undo.why.as_str()))
    }

    /// True when every record that was written has been read back equal.
    pub fn verified(&self) -> bool {
        self.recipe.as_ref().is_some_and(|r| r.create.iter().all(|c| self.has(Step::Verify(*c))))
    }

    /// True when this record was read back equal in this or an earlier run: a difference now is somebody's edit.
    pub fn was_equal(&self, component: Component) -> bool {
        self.equal_once.contains(&component)
    }

    /// Components cleared at the source, also those that may have been.
    pub fn cleared(&self) -> impl Iterator<Item = Component> + '_ {
        Component::ALL.into_iter().filter(|c| self.touched(Step::Clear(*c)))
    }

    /// Components that have, or may have, a record of ours on the target.
    pub fn made(&self) -> impl Iterator<Item = Component> + '_ {
        Component::ALL.into_iter().filter(|c| self.touched(Step::Create(*c)) && !self.adopted.contains(c))
    }

    /// The word for this state in tables.
    pub fn name(&self) -> &'static str {
        if self.finished {
            return "done";
        }
        if self.undo.is_some() {
            return if self.goes_back() { "rolling back" } else { "undoing" };
        }
        match self.next() {
            Next::Step(Step::Snapshot) => "new",
            Next::Step(Step::Mute | Step::Reread) => "sealed",
            Next::Step(Step::Create(_)) => "copying",
            Next::Step(Step::StartedAt | Step::Verify(_)) => "verifying",
            Next::Step(Step::AwaitSeen) => "waiting to be seen",
            Next::Step(Step::CheckSnapshot | Step::Clear(_)) => "clearing",
            Next::Step(Step::Count | Step::SetCounters | Step::UnmuteTarget) => "going live",
            Next::Step(
                Step::Remove(_)
                | Step::Unmute
                | Step::MuteTarget
                | Step::ReadBack
                | Step::Restore(_)
                | Step::VerifyBack(_)
                | Step::CheckBack,
            )
            | Next::Undone => "undoing",
            Next::Finish | Next::Nothing => "done",
        }
    }

    /// True when the target is muted until the source is cleared.
    pub fn is_mute_target(&self) -> bool {
        self.recipe.as_ref().is_some_and(|r| r.strategy == Strategy::MuteTarget)
    }

    /// A step in the words of the source: V2 has devices as a whole, and no records.
    pub fn words(&self, step: Step) -> String {
        match step {
            Step::CheckSnapshot if self.is_mute_target() => "look at the source once more".to_owned(),
            Step::Clear(Component::Ns) if self.is_mute_target() => "clear the keys at the source".to_owned(),
            Step::Clear(_) if self.is_mute_target() => "delete the device at the source".to_owned(),
            Step::Restore(_) if self.is_mute_target() => "give the source the device back".to_owned(),
            Step::VerifyBack(_) if self.is_mute_target() => "verify the device at the source".to_owned(),
            step => step.to_string(),
        }
    }

    /// True while the target is, or should be, muted by this move.
    pub fn target_is_muted(&self) -> bool {
        self.is_mute_target() && !self.has(Step::UnmuteTarget) && !self.lived_before()
    }

    fn mutes(&self) -> bool {
        self.recipe.as_ref().is_some_and(|r| r.mute.is_some())
    }

    /// True for a record that goes from the source before the target has it.
    fn is_cleared_first(&self, component: Component) -> bool {
        match self.recipe.as_ref().map(|r| r.strategy) {
            Some(Strategy::Swap) => true,
            Some(Strategy::ClearFirst) => component == Component::Js,
            _ => false,
        }
    }

    /// True when the source cannot send downlinks: muted, or it has nothing to send them with.
    fn quiet(&self) -> bool {
        match &self.recipe {
            Some(r) if r.strategy == Strategy::ClearFirst => self.has(Step::Clear(Component::Js)),
            Some(r) => r.mute.is_none() || self.has(Step::Mute),
            None => false,
        }
    }
}

/// What a state asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Do this step.
    Step(Step),
    /// Record that the device is finished.
    Finish,
    /// Record that the undo is complete.
    Undone,
    /// Nothing is left.
    Nothing,
}

#[cfg(test)]
mod tests;
