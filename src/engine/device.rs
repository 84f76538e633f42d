//! Moves one device: asks its state what to do, records the intent, does it, records the result.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{
    event::{DeviceName, Event, Outcome, Sink},
    log::{DeviceLog, LogError},
};
use crate::{
    config::{ClearMode, ClearWhen},
    map::path,
    model::{device::Component, ids::DeviceId},
    plan::{
        self, MUTE,
        facts::{TargetFacts, Wishes},
        finding::{Finding, Kind, Severity},
        session::{Activation, Carry},
        transform::{self, Copy, Found, STARTED_AT, Transformed},
    },
    source::{Source, Turn},
    step::{Event as Logged, Mute, Next, Recipe, Step, Strategy},
    target::Target,
    wire,
};

/// How often a lost answer to a create is looked up on the target in one run.
const LOOKS: u32 = 2;
/// How often a device that changed at a source that cannot be muted is copied anew in one run.
const ANEW: u32 = 3;
/// How often a clear is tried in one run at a source that cannot be muted, each time from a new look.
const CLEARS: u32 = 10;
/// What a server may still be doing with a call whose answer was lost is over by then.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// What all devices of one application share.
#[derive(Debug)]
pub struct Context<S, T> {
    /// Where from.
    pub source: S,
    /// Where to.
    pub target: T,
    /// What the target said of itself.
    pub facts: Arc<TargetFacts>,
    /// What the user wants.
    pub wishes: Wishes,
    /// How the source is cleared.
    pub clear: ClearMode,
    /// When an OTAA device with a dropped session is cleared: once seen on the target unless told otherwise.
    pub clear_when: Option<ClearWhen>,
    /// True: nothing is cleared in this run.
    pub hold: bool,
    /// Source and target are one deployment.
    pub one_deployment: bool,
    /// False: the target is muted in its place (V2).
    pub source_can_be_muted: bool,
    /// What the source said of itself as a place to bring devices back to: asked when the first one returns.
    pub source_facts: OnceCell<TargetFacts>,
    /// Everybody who watches.
    pub events: Sink,
    /// Stop at once, between two calls.
    pub abort: CancellationToken,
}

impl<S: Source, T> Context<S, T> {
    /// What the source says of itself.
    pub(super) async fn source_facts(&self) -> Result<&TargetFacts, wire::Error> {
        self.source_facts.get_or_try_init(|| self.source.facts()).await
    }
}

/// Why a step did not succeed.
pub(super) enum Trouble {
    /// The device cannot be moved: undo what was done. The step itself surely did nothing.
    Refuse(Finding),
    /// Nothing is wrong with the device; the next run goes on.
    Retry { why: String, maybe_applied: bool },
    /// A person must look at it; nothing more is done to it.
    Block(Finding),
    /// It has to wait.
    Wait(String),
    /// The journal failed: the run ends.
    Fatal(LogError),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Self::Fatal(error)
    }
}

impl Trouble {
    /// What becomes of a thing with which nothing more is done in this run.
    ///
    /// # Errors
    /// Only when the journal failed: then the run must end.
    pub(super) fn outcome(self) -> Result<Outcome, LogError> {
        Ok(match self {
            Self::Refuse(finding) => Outcome::Refused(vec![finding]),
            Self::Block(finding) => Outcome::Blocked(finding),
            Self::Retry { why, .. } => Outcome::Stopped(why),
            Self::Wait(what) => Outcome::Waiting(what),
            Self::Fatal(error) => return Err(error),
        })
    }
}

/// One device on its way.
#[derive(Debug)]
pub struct Mover<'a, S, T> {
    pub(super) ctx: &'a Context<S, T>,
    pub(super) name: DeviceName,
    pub(super) log: DeviceLog,
    pub(super) copy: Option<Copy>,
    /// Held between the last look at a source that cannot be muted and its clear.
    pub(super) turn: Option<Turn>,
    /// True once this run has looked at a source that cannot be muted right before its clear.
    pub(super) looked: bool,
}

impl<'a, S: Source, T: Target> Mover<'a, S, T> {
    /// `log` is what earlier runs recorded.
    pub fn new(ctx: &'a Context<S, T>, name: DeviceName, log: DeviceLog) -> Self {
        Self { ctx, name, log, copy: None, turn: None, looked: false }
    }

    /// Goes on until the device ends, waits, or cannot go on.
    ///
    /// # Errors
    /// Only when the journal fails: then the run must end.
    pub async fn run(mut self) -> Result<Outcome, LogError> {
        let mut refused = None;
        let mut looks = LOOKS;
        let mut anew = ANEW;
        let mut clears = CLEARS;
        loop {
            if self.ctx.abort.is_cancelled() {
                return Ok(Outcome::Stopped("interrupted".into()));
            }
            let step = match self.log.state().next() {
                Next::Nothing => return Ok(Outcome::Done),
                Next::Finish => {
                    self.log.record(&Logged::Finished).await?;
                    continue;
                }
                Next::Undone => {
                    let finding = self.reason(refused.take());
                    let again = self.log.state().is_mute_target() && finding.kind == Kind::ChangedMeanwhile;
                    self.log.record(&Logged::Undone).await?;
                    (self.copy, self.looked) = (None, false);
                    // What the source has become is copied from the start.
                    if again && anew > 0 {
                        anew -= 1;
                        continue;
                    }
                    return Ok(match finding.severity {
                        _ if finding.kind == Kind::RolledBack => Outcome::RolledBack,
                        Severity::Wait => Outcome::Waiting(finding.text),
                        _ => Outcome::Refused(vec![finding]),
                    });
                }
                Next::Step(step) => step,
            };
            if self.ctx.hold && matches!(step, Step::CheckSnapshot | Step::Clear(_)) {
                let why = if self.is_mute_target() {
                    "the copy stays muted until the source is cleared (clear.mode, clear.hold)"
                } else {
                    "the clear is on hold (clear.hold)"
                };
                return Ok(Outcome::Waiting(why.into()));
            }
            // An attempt of an earlier run whose end is not known stays open until it is known.
            let was_open = self.log.state().is_open(step);
            match self.step(step).await {
                Ok(()) => {
                    let adopted = matches!(step, Step::Create(c) if !self.log.state().made().any(|m| m == c));
                    if !adopted {
                        let what = self.log.state().words(step);
                        self.ctx.events.send(Event::Step { device: self.name.clone(), step, what });
                    }
                }
                Err(Trouble::Refuse(finding)) if step == Step::Snapshot => {
                    return Ok(Outcome::Refused(vec![finding]));
                }
                // Our own first attempt may be what is there already.
                Err(Trouble::Refuse(finding)) if was_open && finding.kind == Kind::IdTaken && looks > 0 => {
                    looks -= 1;
                    tokio::time::sleep(LOOK_AFTER).await;
                }
                Err(Trouble::Refuse(finding)) if self.log.state().goes_back() => {
                    self.did_nothing(step, was_open, &finding).await?;
                    return self.keep(finding).await;
                }
                Err(Trouble::Refuse(finding)) => {
                    if let Some(outcome) = self.give_up(step, was_open, &finding).await? {
                        return Ok(outcome);
                    }
                    refused = Some(finding);
                }
                Err(Trouble::Retry { why, maybe_applied }) => {
                    let maybe_applied = maybe_applied || was_open;
                    self.log.record(&Logged::Failed { step, maybe_applied, why: why.clone() }).await?;
                    // A create whose answer was lost: the record on the target tells, and reading it is safe.
                    if maybe_applied && matches!(step, Step::Create(_) | Step::Restore(_)) && looks > 0 {
                        looks -= 1;
                        tokio::time::sleep(LOOK_AFTER).await;
                        continue;
                    }
                    if self.is_mute_target() && step == Step::Clear(Component::Ns) && clears > 1 {
                        clears -= 1;
                        tokio::time::sleep(LOOK_AFTER).await;
                        continue;
                    }
                    let what = self.log.state().words(step);
                    return Ok(Outcome::Stopped(format!("could not {what}: {why}")));
                }
                Err(Trouble::Block(finding)) => return Ok(Outcome::Blocked(finding)),
                Err(Trouble::Wait(what)) => return Ok(Outcome::Waiting(what)),
                Err(Trouble::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Begins the undo. An outcome is returned when there can be none: then a person must look.
    async fn give_up(
        &mut self,
        step: Step,
        was_open: bool,
        finding: &Finding,
    ) -> Result<Option<Outcome>, LogError> {
        self.did_nothing(step, was_open, finding).await?;
        let (kind, why) = (finding.kind.name().to_owned(), finding.to_string());
        let first = self.log.state().recipe().is_some_and(|r| r.strategy.clears_first());
        let cleared = self.log.state().cleared().next().is_some();
        let undo = if first && cleared {
            // The source has nothing any more: it gets it back from the seal.
            Logged::Rollback { kind, why }
        } else {
            Logged::Undo { kind, why }
        };
        if self.log.state().apply(&undo).is_err() {
            return Ok(Some(Outcome::Blocked(finding.clone())));
        }
        match self.lives_on_target().await {
            Ok(false) => self.log.record(&undo).await.map(|()| None),
            Ok(true) => Ok(Some(Outcome::Blocked(finding.clone()))),
            Err(Trouble::Fatal(error)) => Err(error),
            Err(_) => Ok(Some(Outcome::Stopped(format!("could not see the target: {finding}")))),
        }
    }

    /// A first attempt that was refused has surely done nothing.
    async fn did_nothing(&mut self, step: Step, was_open: bool, finding: &Finding) -> Result<(), LogError> {
        if self.log.state().is_open(step) && !was_open {
            let why = finding.to_string();
            self.log.record(&Logged::Failed { step, maybe_applied: false, why }).await?;
        }
        Ok(())
    }

    /// Why the move was given up, also when an earlier run recorded it.
    fn reason(&self, refused: Option<Finding>) -> Finding {
        refused.unwrap_or_else(|| {
            let (kind, why) = self.log.state().undo().unwrap_or(("refused", "given up by an earlier run"));
            Finding::new(Kind::by_name(kind).unwrap_or(Kind::Refused), why)
        })
    }

    async fn step(&mut self, step: Step) -> Result<(), Trouble> {
        match step {
            Step::Snapshot => self.snapshot().await,
            Step::Reread if self.is_mute_target() => self.decide_copy().await,
            Step::Reread => self.reread().await,
            Step::Mute => self.mute().await,
            Step::Create(component) => self.create(component).await,
            Step::StartedAt => self.started_at().await,
            Step::Verify(component) => self.verify(component).await,
            Step::AwaitSeen => self.await_seen().await,
            Step::CheckSnapshot if self.is_mute_target() => self.look_once_more().await,
            Step::CheckSnapshot => self.check_snapshot().await,
            Step::Clear(component) if self.is_mute_target() => self.clear_whole(component).await,
            Step::Clear(component) => self.clear(component).await,
            Step::Count => self.count().await,
            Step::SetCounters => self.set_counters().await,
            Step::Remove(component) => self.remove(component).await,
            Step::Unmute => self.unmute().await,
            Step::MuteTarget => self.mute_target().await,
            Step::UnmuteTarget => self.unmute_target().await,
            Step::ReadBack if self.is_mute_target() => self.read_back_whole().await,
            Step::ReadBack => self.read_back().await,
            Step::Restore(component) if self.is_mute_target() => self.restore_whole(component).await,
            Step::Restore(component) => self.restore(component).await,
            Step::VerifyBack(component) if self.is_mute_target() => self.verify_whole(component).await,
            Step::VerifyBack(component) => self.verify_back(component).await,
            Step::CheckBack => self.check_back().await,
        }
    }

    async fn snapshot(&mut self) -> Result<(), Trouble> {
        // Read afresh: the plan may be old, and what is found here is what an undo restores.
        let found = self.look().await?;
        let transformed = transform::device(&found, &self.ctx.facts, &self.ctx.wishes);
        if let Some(finding) = transformed.weightiest() {
            return Err(Trouble::Refuse(finding.clone()));
        }
        let was = found.records.ns.as_ref().map(|ns| Mute { was: path::wrapped_flag(&ns.0, MUTE) });
        let recipe = self.recipe(&found, &transformed, was);
        let seal = self.log.seal_found("source-1", &found).await?;
        Ok(self.log.record(&Logged::Snapshot { seal, recipe }).await?)
    }

    /// The source as it is now.
    async fn look(&self) -> Result<Found, Trouble> {
        if self.ctx.source_can_be_muted {
            return self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry);
        }
        let found = self.ctx.source.first_look(&self.name.device).await.map_err(retry)?;
        match found.v2 {
            Some(_) => Ok(found),
            None => {
                Err(Trouble::Refuse(Finding::new(Kind::NotFound, "the source has no such device any more")))
            }
        }
    }

    pub(super) fn recipe(&self, found: &Found, transformed: &Transformed, mute: Option<Mute>) -> Recipe {
        if !self.ctx.source_can_be_muted {
            return self.recipe_of_mute_target(transformed);
        }
        let has = |c: Component| found.records.get(c).is_some();
        let first = has(Component::Js) && !has(Component::Ns) && !found.external_js;
        let mut clear: BTreeSet<_> = match self.ctx.clear {
            _ if self.ctx.one_deployment => Component::ALL.into(),
            ClearMode::Nothing | ClearMode::Mute => BTreeSet::new(),
            ClearMode::Keys => [Component::Js, Component::As, Component::Ns].into(),
            ClearMode::Delete => Component::ALL.into(),
        };
        clear.retain(|c| has(*c) && !transformed.keep_at_source.contains(c));
        if first {
            clear.insert(Component::Js);
        }
        let copy = &transformed.copy;
        Recipe {
            strategy: match (self.ctx.one_deployment, first) {
                (true, _) => Strategy::Swap,
                (false, true) => Strategy::ClearFirst,
                (false, false) => Strategy::MuteSource,
            },
            target_id: copy.id.clone(),
            mute,
            create: copy.components().collect(),
            clear,
            wait_seen: match self.ctx.clear_when {
                _ if self.ctx.one_deployment => false,
                Some(ClearWhen::Verified) => false,
                Some(ClearWhen::Seen) => copy.ns.is_some() && transformed.activation != Activation::Multicast,
                None => transformed.carry == Carry::Drop,
            },
            started_at: copy.ns.as_ref().is_some_and(|w| path::has(&w.message, STARTED_AT)),
            counters: false,
        }
    }

    async fn mute(&mut self) -> Result<(), Trouble> {
        self.intent(Step::Mute).await?;
        let already = self.log.state().recipe().and_then(|r| r.mute).is_some_and(|m| m.was == Some(false));
        let muted = if already {
            Ok(())
        } else {
            self.ctx.source.schedule_downlinks(&self.name.device, Some(false)).await
        };
        self.done(Step::Mute, muted).await
    }

    /// Sets the mute back to what it was. A device that was found muted, or whose record is gone, is left alone.
    async fn unmute(&mut self) -> Result<(), Trouble> {
        let was = self.log.state().recipe().and_then(|r| r.mute).and_then(|m| m.was);
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        self.intent(Step::Unmute).await?;
        let done = if was == Some(false) || now.records.ns.is_none() {
            Ok(())
        } else {
            self.ctx.source.schedule_downlinks(&self.name.device, was).await
        };
        self.done(Step::Unmute, done).await
    }

    /// Reads the muted source: from now on its downlink counters stand still, and the copy is made from this.
    async fn reread(&mut self) -> Result<(), Trouble> {
        let first = self.log.first_snapshot().await?;
        let found = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        let mute = self.log.state().recipe().and_then(|r| r.mute);
        if let (Some(_), Some(ns)) = (mute, &found.records.ns)
            && path::wrapped_flag(&ns.0, MUTE) != Some(false)
        {
            return Err(Trouble::Refuse(changed(
                "it was unmuted at the source after we muted it",
                Component::Ns,
            )));
        }
        for component in Component::ALL {
            if first.records.get(component).is_some() != found.records.get(component).is_some() {
                return Err(Trouble::Refuse(changed("a record appeared or went at the source", component)));
            }
        }
        let mut as_it_was = found.clone();
        if let (Some(mute), Some(ns)) = (mute, as_it_was.records.ns.as_mut()) {
            path::clear(&mut ns.0, MUTE);
            if let Some(was) = mute.was {
                path::set_wrapped(&mut ns.0, MUTE, prost_reflect::Value::Bool(was));
            }
        }
        let transformed = transform::device(&as_it_was, &self.ctx.facts, &self.ctx.wishes);
        if let Some(finding) = transformed.weightiest() {
            return Err(Trouble::Refuse(finding.clone()));
        }
        let recipe = self.recipe(&as_it_was, &transformed, mute);
        let seal = self.log.seal_found("source-2", &found).await?;
        let copy = self.log.seal_copy("copy", &transformed.copy).await?;
        self.copy = Some(transformed.copy);
        Ok(self.log.record(&Logged::Reread { seal, copy, recipe }).await?)
    }

    /// Records that a call for `step` is about to be made.
    pub(super) async fn intent(&mut self, step: Step) -> Result<(), Trouble> {
        Ok(self.log.record(&Logged::Intent { step }).await?)
    }

    /// Records that `step` was done, or makes trouble of its error.
    pub(super) async fn done(&mut self, step: Step, result: Result<(), wire::Error>) -> Result<(), Trouble> {
        match result {
            Ok(()) => Ok(self.log.record(&Logged::Done { step }).await?),
            Err(error) => Err(trouble(&error)),
        }
    }

    /// Records that `step` was done: a look that changes nothing, at the end of which it is known to be so.
    pub(super) async fn looked_and_done(&mut self, step: Step) -> Result<(), Trouble> {
        Ok(self.log.record_all(&[&Logged::Intent { step }, &Logged::Done { step }]).await?)
    }

    /// The device's ID on the target.
    pub(super) fn target_id(&self) -> DeviceId {
        DeviceId::unchecked(self.log.state().recipe().map(|r| r.target_id.clone()).unwrap_or_default())
    }

    pub(super) fn is_mute_target(&self) -> bool {
        self.log.state().is_mute_target()
    }

    /// What is written to a component: decided after the second read, and the same in every later run; muted as long as a
    /// source that cannot be muted may be live.
    pub(super) async fn write(&mut self, component: Component) -> Result<transform::Write, Trouble> {
        let mut write = self.live_write(component).await?;
        if component == Component::Ns && self.log.state().target_is_muted() {
            write.mute();
        }
        Ok(write)
    }

    /// As [`Self::write`], as it is once the device lives on the target.
    pub(super) async fn live_write(&mut self, component: Component) -> Result<transform::Write, Trouble> {
        if self.copy.is_none() {
            self.copy = Some(self.log.copy().await?);
        }
        let write = self.copy.as_ref().and_then(|c| c.get(component)).cloned();
        write.ok_or_else(|| Trouble::Block(changed("the sealed copy lacks a record", component)))
    }
}

pub(super) fn changed(text: &str, component: Component) -> Finding {
    Finding::new(Kind::ChangedMeanwhile, text)
        .at(component)
        .fix("see who works on this device, then run again")
}

/// A failed read: nothing was changed by it.
pub(super) fn retry(error: wire::Error) -> Trouble {
    Trouble::Retry { why: without_device(&error), maybe_applied: false }
}

/// A failed write: a refusal by the server is about this device, everything else is about the way there.
pub(super) fn trouble(error: &wire::Error) -> Trouble {
    use wire::Kind as K;
    let maybe_applied = error.outcome() == wire::Outcome::Unknown;
    match error.kind() {
        K::AlreadyExists if !maybe_applied => Trouble::Refuse(plan::refused(Kind::IdTaken, error)),
        K::Invalid { .. }
        | K::FailedPrecondition
        | K::NotFound
        | K::ForbiddenPaths(_)
        | K::TooLarge
        | K::Unimplemented
            if !maybe_applied =>
        {
            Trouble::Refuse(plan::refused(Kind::Refused, error))
        }
        _ => Trouble::Retry { why: without_device(error), maybe_applied },
    }
}

/// The words of an error without the device, so that what happens to many is told once.
fn without_device(error: &wire::Error) -> String {
    format!("{} {}: {}", error.side(), error.endpoint(), error.message())
}
