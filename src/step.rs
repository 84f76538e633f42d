//! The life of one device in a migration: one pure transition function, used live and on replay.
//!
//! A run asks [`State::next`] what to do, writes the intent into the journal, does it, and writes the result. Both pass
//! through [`State::apply`], which refuses what would break a promise: a call that is not legal here is never made,
//! because its intent cannot be recorded.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::model::device::Component;

/// The order of steps for an application (`docs/strategies.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Mute the source, copy, verify, clear the source.
    MuteSource,
    /// The record cannot be muted: clear its keys from a snapshot that was read twice, then copy.
    ClearFirst,
}

/// What was decided for one device when its move began; later runs keep to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The order of steps.
    pub strategy: Strategy,
    /// The device's ID on the target.
    pub target_id: String,
    /// What the source's `schedule_downlinks` was before we muted it; `None` inside when it was not set.
    pub mute: Option<Mute>,
    /// Components that get a record on the target.
    pub create: BTreeSet<Component>,
    /// Components whose record is removed at the source; empty when nothing is cleared.
    pub clear: BTreeSet<Component>,
    /// True when the clear waits until the device was seen on the target.
    pub wait_seen: bool,
    /// True when `session.started_at` is set once more after the NS record was created.
    pub started_at: bool,
}

/// How the source is muted, and what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mute {
    /// `mac_settings.schedule_downlinks` as it was found.
    pub was: Option<bool>,
}

/// One thing that is done to one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Read the source whole and seal it.
    Snapshot,
    /// Stop the source from sending downlinks.
    Mute,
    /// Read NS, AS and JS again and seal them with the copy that follows from them.
    Reread,
    /// Create a record on the target.
    Create(Component),
    /// Give the session its start time back, which creation resets.
    StartedAt,
    /// Read a record of the target back and compare.
    Verify(Component),
    /// Wait until the device was seen on the target.
    AwaitSeen,
    /// Read the sealed snapshot from disk and compare it with the source.
    CheckSnapshot,
    /// Remove a record at the source.
    Clear(Component),
    /// Undo: remove a record on the target.
    Remove(Component),
    /// Undo: give the source its downlinks back.
    Unmute,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot => f.write_str("read the source"),
            Self::Mute => f.write_str("mute the source"),
            Self::Reread => f.write_str("read the source again"),
            Self::Create(c) => write!(f, "create the {c} record on the target"),
            Self::StartedAt => f.write_str("restore the session's start time"),
            Self::Verify(c) => write!(f, "verify the {c} record on the target"),
            Self::AwaitSeen => f.write_str("wait until it is seen on the target"),
            Self::CheckSnapshot => f.write_str("check the sealed snapshot"),
            Self::Clear(c) => write!(f, "clear the {c} record at the source"),
            Self::Remove(c) => write!(f, "remove the {c} record from the target"),
            Self::Unmute => f.write_str("unmute the source"),
        }
    }
}

/// What the journal records of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The source was read whole and sealed as `seal`.
    Snapshot {
        /// Seal of the source's records.
        seal: u64,
        /// What was decided from it.
        recipe: Recipe,
    },
    /// NS, AS and JS were read again after the mute.
    Reread {
        /// Seal of the source's records as of now.
        seal: u64,
        /// Seal of the copy that is to be written.
        copy: u64,
        /// What was decided from it: the device may have joined since the first snapshot.
        recipe: Recipe,
    },
    /// The call for this step is about to be made.
    Intent {
        /// Which.
        step: Step,
    },
    /// The step was done.
    Done {
        /// Which.
        step: Step,
    },
    /// A record that is not of this run's making is on the target as it should be: an undo leaves it there.
    Adopted {
        /// Whose.
        component: Component,
    },
    /// The step failed; the next run goes on from here.
    Failed {
        /// Which.
        step: Step,
        /// False when it surely did not take effect: its intent is void, and there is nothing of ours to undo.
        maybe_applied: bool,
        /// Why; no secrets.
        why: String,
    },
    /// The move is given up: what was made on the target is removed, then the source is unmuted.
    Undo {
        /// Name of the finding.
        kind: String,
        /// Why; no secrets.
        why: String,
    },
    /// Everything that the move did was undone; it can start again.
    Undone,
    /// The device is on the target and everything wanted at the source is done.
    Finished,
}

/// An event that is not legal in a state: a bug of this program or a damaged journal, never something to go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not legal here: {why}")]
pub struct Illegal {
    /// The event.
    pub event: String,
    /// The rule that forbids it.
    pub why: &'static str,
}

/// Where a device stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    recipe: Option<Recipe>,
    snapshot: Option<u64>,
    reread: Option<(u64, u64)>,
    /// Steps whose intent is recorded and whose result is not.
    open: BTreeSet<Step>,
    done: BTreeSet<Step>,
    /// Components whose record on the target was there before.
    adopted: BTreeSet<Component>,
    undo: Option<(String, String)>,
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
            Event::Intent { step } => {
                next.open.insert(*step);
            }
            Event::Done { step } => {
                next.open.remove(step);
                next.done.insert(*step);
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
            Event::Undo { kind, why } => next.undo = Some((kind.clone(), why.clone())),
            Event::Undone => next = Self::default(),
            Event::Finished => next.finished = true,
        }
        Ok(next)
    }

    /// The state for a new run: what was seen of both sides before a clear counts only for the run that saw it.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        if !self.finished && self.cleared().next().is_none() {
            self.done.retain(|step| !matches!(step, Step::CheckSnapshot | Step::Verify(_)));
        }
        self
    }

    fn forget_opposite(&mut self, step: Step) {
        let opposites: &[Step] = match step {
            Step::Remove(c) => &[Step::Create(c), Step::Verify(c)],
            Step::Unmute => &[Step::Mute],
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
        rule(!self.finished, "the device is finished")?;
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
            Event::Undone => {
                rule(self.undo.is_some(), "no undo was begun")?;
                rule(self.made().next().is_none(), "records are left on the target (S2)")?;
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
            Step::Snapshot | Step::Reread => Err("it is an event of its own"),
            Step::Mute => rule(!undoing && recipe.mute.is_some(), "this device is not muted"),
            Step::Create(c) => {
                rule(!undoing, "the move is being undone")?;
                rule(recipe.create.contains(&c), "this record is not wanted")?;
                rule(self.reread.is_some(), "the source was not read after the mute (S4)")?;
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
                let first = recipe.strategy == Strategy::ClearFirst && c == Component::Js;
                rule(first || self.verified(), "the target is not verified (S1)")?;
                rule(
                    first || !recipe.wait_seen || self.has(Step::AwaitSeen),
                    "it was not seen on the target yet",
                )
            }
            Step::Remove(c) => {
                rule(undoing, "nothing is removed from the target unless the move is undone")?;
                rule(!self.adopted.contains(&c), "the record was there before")?;
                rule(
                    c == Component::Ns || !self.touched(Step::Create(Component::Ns)),
                    "the NS record goes first: it makes the device live (S2)",
                )
            }
            Step::Unmute => {
                rule(undoing, "the source stays muted (S2)")?;
                rule(!self.touched(Step::Create(Component::Ns)), "the device is live on the target (S2)")
            }
        }
    }

    /// What is to be done now.
    pub fn next(&self) -> Next {
        let Some(recipe) = &self.recipe else { return Next::Step(Step::Snapshot) };
        if self.undo.is_some() {
            return self.next_undo();
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
        steps.extend(early.clone().map(Step::Create));
        steps.extend(early.map(Step::Verify));
        if recipe.create.contains(&Component::Ns) {
            steps.push(Step::Create(Component::Ns));
            if recipe.started_at {
                steps.push(Step::StartedAt);
            }
            steps.push(Step::Verify(Component::Ns));
        }
        if !recipe.clear.is_empty() {
            if recipe.wait_seen {
                steps.push(Step::AwaitSeen);
            }
            steps.push(Step::CheckSnapshot);
            // IS last: it is what lists the device.
            let order = [Component::Js, Component::As, Component::Ns, Component::Is];
            steps.extend(order.into_iter().filter(|c| recipe.clear.contains(c)).map(Step::Clear));
        }
        steps
            .into_iter()
            .find(|s| !self.has(*s))
            .map_or(if self.finished { Next::Nothing } else { Next::Finish }, Next::Step)
    }

    fn next_undo(&self) -> Next {
        let order = [Component::Ns, Component::As, Component::Js, Component::Is];
        if let Some(c) = order.into_iter().find(|c| self.made().any(|made| made == *c)) {
            return Next::Step(Step::Remove(c));
        }
        if self.touched(Step::Mute) { Next::Step(Step::Unmute) } else { Next::Undone }
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

    /// True when the device is finished.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Why the move is being undone: kind and words.
    pub fn undo(&self) -> Option<(&str, &str)> {
        self.undo.as_ref().map(|(kind, why)| (kind.as_str(), why.as_str()))
    }

    /// True when every record that was written has been read back equal.
    pub fn verified(&self) -> bool {
        self.recipe.as_ref().is_some_and(|r| r.create.iter().all(|c| self.has(Step::Verify(*c))))
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
            return "undoing";
        }
        match self.next() {
            Next::Step(Step::Snapshot) => "new",
            Next::Step(Step::Mute | Step::Reread) => "sealed",
            Next::Step(Step::Create(_)) => "copying",
            Next::Step(Step::StartedAt | Step::Verify(_)) => "verifying",
            Next::Step(Step::AwaitSeen) => "waiting to be seen",
            Next::Step(Step::CheckSnapshot | Step::Clear(_)) => "clearing",
            Next::Step(Step::Remove(_) | Step::Unmute) | Next::Undone => "undoing",
            Next::Finish | Next::Nothing => "done",
        }
    }

    fn mutes(&self) -> bool {
        self.recipe.as_ref().is_some_and(|r| r.mute.is_some())
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
