//! The way back: the target is muted, read and sealed, the source gets its records back with what the device has become
//! since, and the target's are removed.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::{
    device::{Mover, Trouble, changed, retry},
    event::Outcome,
    log::LogError,
};
use crate::{
    map::{owner, path},
    model::{
        device::{Component, Record, Records},
        ids::DeviceId,
    },
    plan::{
        MUTE,
        back::{self, Back, Sides},
        compare,
        finding::{Finding, Kind, Severity},
        transform::{Copy, Found, STARTED_AT, Write},
    },
    source::Source,
    step::{Event as Logged, Step},
    target::Target,
};

/// How often a record is written before it must hold what it was given: the start time of a session needs a second write.
const ATTEMPTS: u32 = 4;
/// How often the target is read anew because it went on since it was sealed.
const READINGS: u32 = 3;

impl<S: Source, T: Target> Mover<'_, S, T> {
    /// Brings the device back to the source, whatever was done before, or goes on with that.
    ///
    /// # Errors
    /// Only when the journal fails: then the run must end.
    pub async fn roll_back(mut self) -> Result<Outcome, LogError> {
        let state = self.log.state();
        if state.snapshot().is_none() {
            return Ok(Outcome::Already);
        }
        if !state.goes_back() {
            let what = "brought back to the source, as asked";
            let rollback = Logged::Rollback { kind: Kind::RolledBack.name().into(), why: what.into() };
            if let Err(illegal) = state.apply(&rollback) {
                let finding = Finding::new(Kind::LiveOnTarget, illegal.why)
                    .fix("it stays on the target: remove it there by hand if the source is to have it");
                return Ok(Outcome::Blocked(finding));
            }
            // Looked at before anything is changed: what cannot return stays as it is.
            match self.look_back().await {
                Ok(_) => self.log.record(&rollback).await?,
                Err(trouble) => return trouble.outcome(),
            }
        }
        self.run().await
    }

    /// What would not come back, or why the device would stay. Changes nothing.
    ///
    /// # Errors
    /// Only when the journal fails.
    pub async fn outlook(mut self) -> Result<Result<Vec<Finding>, Outcome>, LogError> {
        if self.log.state().back_is_underway() {
            return Ok(Ok(Vec::new()));
        }
        match self.look_back().await {
            Ok(findings) => Ok(Ok(findings)),
            Err(trouble) => trouble.outcome().map(Err),
        }
    }

    /// Could it return now, and with what losses?
    async fn look_back(&mut self) -> Result<Vec<Finding>, Trouble> {
        let state = self.log.state();
        if !state.touched(Step::Create(Component::Ns)) && state.cleared().next().is_none() {
            return Ok(Vec::new());
        }
        if self.is_mute_target() {
            return if state.cleared().next().is_none() {
                Ok(Vec::new())
            } else {
                self.look_back_whole().await
            };
        }
        let back = self.decide_back().await?.1;
        self.nobody_has_the_euis(&back).await?;
        Ok(back.findings)
    }

    /// A device that was deleted at the source comes back only if nobody has taken its EUIs there.
    async fn nobody_has_the_euis(&self, back: &Back) -> Result<(), Trouble> {
        let state = self.log.state();
        let deleted = state.has(Step::Clear(Component::Is));
        let one_deployment = state.recipe().is_some_and(|r| r.strategy.clears_first() && r.mute.is_some());
        let Some(write) = back.copy.is.as_ref().filter(|_| deleted && !one_deployment) else { return Ok(()) };
        let record = Record(write.message.clone());
        let (Some(join_eui), Some(dev_eui)) = (record.join_eui(), record.dev_eui()) else { return Ok(()) };
        match self.ctx.source.holder(join_eui, dev_eui).await.map_err(retry)? {
            None => Ok(()),
            Some((app, device)) => {
                let text = format!("its EUIs are registered at the source as {device} of application {app}");
                let finding = Finding::new(Kind::EuisTaken, text)
                    .at(Component::Is)
                    .paths(["ids.join_eui", "ids.dev_eui"])
                    .fix("remove that device from the source, then run again");
                Err(Trouble::Refuse(finding))
            }
        }
    }

    /// Reads both sides and decides what the source gets.
    async fn decide_back(&mut self) -> Result<(Found, Back), Trouble> {
        let there = self.target_records().await?;
        let (known, lost) = self.as_last_known(&there).await?;
        let sealed = self.log.last_seen().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        let written =
            if self.log.state().reread().is_some() { self.log.copy().await? } else { Default::default() };
        let state = self.log.state();
        let found_muted = state.recipe().and_then(|r| r.mute).is_some_and(|m| m.was == Some(false));
        let cleared = state.cleared().collect();
        let gone = state
            .cleared()
            .filter(|c| state.has(Step::Clear(*c)) && !state.touched(Step::Restore(*c)))
            .collect();
        let sides = Sides {
            written: &written,
            sealed: &sealed,
            now: &now,
            there: &known,
            cleared: &cleared,
            gone: &gone,
        };
        let facts = self.ctx.source_facts().await.map_err(retry)?;
        let app = self.name.app.clone();
        let back = back::decide(&sides, facts, &app, &self.name.device).map_err(|finding| {
            if finding.severity == Severity::Wait {
                Trouble::Wait(finding.text)
            } else {
                Trouble::Refuse(*finding)
            }
        })?;
        let mut back = back;
        back.findings.extend(lost);
        back.findings.extend(edits(&written, &there));
        back.findings.extend(found_muted.then(comes_back_muted));
        Ok((Found { records: there, hosts: facts.hosts.clone(), ..Found::default() }, back))
    }

    /// The target's records, or what was written where somebody has removed them: nothing is live there then, and what was sealed
    /// is all that is left of the device.
    pub(super) async fn as_last_known(&self, there: &Records) -> Result<(Records, Option<Finding>), Trouble> {
        let state = self.log.state();
        let made = state.has(Step::Create(Component::Ns)) && state.made().any(|c| c == Component::Ns);
        let mut known = there.clone();
        if !made || state.removes() {
            return Ok((known, None));
        }
        let lost = back::as_written(&self.log.copy().await?, &mut known);
        Ok((known, lost))
    }

    /// The whole records of ours on the target.
    pub(super) async fn target_records(&self) -> Result<Records, Trouble> {
        let mut there = Records::default();
        // NS before AS: what an uplink makes of a pending session reaches the AS last.
        let made: Vec<_> = self.log.state().made().collect();
        for component in made.into_iter().rev() {
            let record = self.target_record(component).await?;
            if let (Some(record), Some(write)) = (&record, self.log.copy().await?.get(component)) {
                let others = compare::other_device(write, record);
                if !others.is_empty() {
                    let text = "another device has its ID on the target";
                    return Err(Trouble::Refuse(changed(text, component).paths(others)));
                }
            }
            *there.slot(component) = record;
        }
        Ok(there)
    }

    async fn target_record(&self, component: Component) -> Result<Option<Record>, Trouble> {
        self.ctx.target.read(&self.target_id(), component, &owner::whole(component)).await.map_err(retry)
    }

    /// Stops the target from sending downlinks: from now on its downlink counters stand still.
    pub(super) async fn mute_target(&mut self) -> Result<(), Trouble> {
        self.set_target_mute(Step::MuteTarget, Some(false)).await
    }

    /// Gives the target its downlinks back, as they were written.
    pub(super) async fn unmute_target(&mut self) -> Result<(), Trouble> {
        let was = path::wrapped_flag(&self.written_mute().await?, MUTE);
        self.set_target_mute(Step::UnmuteTarget, was).await
    }

    async fn set_target_mute(&mut self, step: Step, on: Option<bool>) -> Result<(), Trouble> {
        let write = self.write(Component::Ns).await?;
        self.intent(step).await?;
        let done = match self.target_record(Component::Ns).await? {
            Some(record) if path::wrapped_flag(&record.0, MUTE) != on => {
                let mut message = DynamicMessage::new(write.message.descriptor());
                if let Some(on) = on {
                    path::set_wrapped(&mut message, MUTE, Value::Bool(on));
                }
                self.update_ns(message, MUTE).await
            }
            _ => Ok(()),
        };
        self.done(step, done).await
    }

    /// Reads the muted target, and seals it with what follows for the source.
    pub(super) async fn read_back(&mut self) -> Result<(), Trouble> {
        let (there, back) = self.decide_back().await?;
        let seal = self.log.seal_found("target", &there).await?;
        let sealed = self.log.seal_copy("back", &back.copy).await?;
        Ok(self.log.record(&Logged::ReadBack { seal, back: sealed, restore: back.restore }).await?)
    }

    /// Writes to the source until it holds what it gets: a record is made where it was cleared, else only what it lacks.
    pub(super) async fn restore(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Restore(component);
        let write = self.back_write(component).await?;
        // A record that was there when the target was read, or that an interrupted attempt has made.
        let mut ours = self.log.state().is_open(step) || !self.log.state().has(Step::Clear(component));
        for attempt in 0..ATTEMPTS {
            // The intent says that what is found there may be ours: not before somebody else's was ruled out.
            let done = match self.source_record(component).await.map_err(|t| unsure(t, attempt > 0))? {
                None => {
                    self.intent(step).await?;
                    self.ctx.source.recreate(&self.name.device, component, &write).await
                }
                Some(now) => {
                    let other = compare::settings_that_differ(component, &write, &now.0);
                    if !other.is_empty() || !ours {
                        let text = "somebody has registered it at the source anew";
                        return Err(Trouble::Block(changed(text, component).paths(other)));
                    }
                    self.intent(step).await?;
                    let Some(lacks) = lacking(component, &write, &now, attempt > 0) else {
                        return self.done(step, Ok(())).await;
                    };
                    self.ctx.source.update(&self.name.device, component, &lacks).await
                }
            };
            if done.is_err() {
                return self.done(step, done).await;
            }
            ours = true;
        }
        let why = format!("the {component} record of the source does not take what it is given");
        Err(Trouble::Retry { why, maybe_applied: true })
    }

    /// Reads a record of the source back and compares it with what it was given.
    pub(super) async fn verify_back(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::VerifyBack(component);
        let write = self.back_write(component).await?;
        let now = self.source_record(component).await?;
        let Some(now) = now else {
            return Err(Trouble::Block(changed("the restored record of the source is gone", component)));
        };
        if lacking(component, &write, &now, true).is_some() {
            let paths = compare::settings_that_differ(component, &write, &now.0);
            let text = "the restored record of the source was edited: nothing is removed from the target";
            return Err(Trouble::Block(changed(text, component).paths(paths)));
        }
        self.looked_and_done(step).await
    }

    /// What was sealed is read from disk and held against the target: muted, in the same session, with the same downlink
    /// counters. A target that went on between its mute and its seal is read once more.
    pub(super) async fn check_back(&mut self) -> Result<(), Trouble> {
        let first = self.log.state().recipe().is_some_and(|r| r.strategy.clears_first());
        for _ in 0..READINGS {
            let sealed = self.log.sealed_target().await?;
            if self.is_mute_target() {
                self.given_back().await?;
            } else {
                self.log.back().await?;
            }
            let now = match &sealed.records.ns {
                Some(_) => self.target_record(Component::Ns).await?,
                None => None,
            };
            let went_on = match (&sealed.records.ns, &now) {
                (Some(sealed), Some(now)) => compare::still_as_sealed(sealed, now),
                (Some(_), None) => vec!["the record is gone".to_owned()],
                (None, _) => Vec::new(),
            };
            if went_on.is_empty() {
                return self.looked_and_done(Step::CheckBack).await;
            }
            if now.is_none() || went_on.iter().any(|p| p == MUTE) {
                let text = "the target was unmuted or removed after it was sealed";
                return Err(Trouble::Block(changed(text, Component::Ns).paths(went_on)));
            }
            if self.is_mute_target() {
                self.read_back_whole().await?;
            } else {
                self.read_back().await?;
            }
            if !first && !self.log.state().restored() {
                // The source gets what is newer first.
                return Ok(());
            }
        }
        let why = "the muted target goes on sending".to_owned();
        Err(Trouble::Retry { why, maybe_applied: false })
    }

    /// What is removed from the target is what was sealed of it, but for traffic.
    pub(super) async fn nobody_edited_the_target(
        &self,
        component: Component,
        now: &Record,
    ) -> Result<(), Trouble> {
        let sealed = self.log.sealed_target().await?;
        let now = self.target_record(component).await?.unwrap_or_else(|| now.clone());
        let paths = compare::changed_while_muted(component, sealed.records.get(component), Some(&now));
        if paths.is_empty() {
            return Ok(());
        }
        let text = "the target was edited after it was sealed for the way back: it is not removed";
        Err(Trouble::Block(changed(text, component).paths(paths)))
    }

    /// A rollback that cannot be is given up as long as nothing but the target's mute was changed.
    pub(super) async fn keep(&mut self, finding: Finding) -> Result<Outcome, LogError> {
        let state = self.log.state();
        if state.back_is_underway() || state.cleared().next().is_some() && state.made().next().is_none() {
            return Ok(Outcome::Blocked(finding));
        }
        if self.log.state().touched(Step::MuteTarget)
            && let Err(trouble) = self.unmute_target().await
        {
            return match trouble {
                Trouble::Fatal(error) => Err(error),
                _ => Ok(Outcome::Stopped(format!("the target is still muted: {finding}"))),
            };
        }
        self.log.record(&Logged::Kept).await?;
        Ok(Outcome::Refused(vec![finding]))
    }

    async fn back_write(&mut self, component: Component) -> Result<Write, Trouble> {
        let back = self.log.back().await?;
        let write = back.get(component).cloned();
        write.ok_or_else(|| {
            Trouble::Block(changed("the seal of what the source gets back lacks a record", component))
        })
    }

    async fn source_record(&self, component: Component) -> Result<Option<Record>, Trouble> {
        let device: &DeviceId = &self.name.device;
        let found = self.ctx.source.read(device, Found::default()).await.map_err(retry)?;
        Ok(found.records.get(component).cloned())
    }
}

/// What is to be written to a record that is there; `None` when it holds everything. `written`: it was written before.
fn lacking(component: Component, write: &Write, now: &Record, written: bool) -> Option<Write> {
    let started = component == Component::Ns
        && path::has(&write.message, STARTED_AT)
        && compare::session_of(&write.message) == compare::session_of(&now.0)
        && path::get(&write.message, STARTED_AT) != path::get(&now.0, STARTED_AT);
    if !started && !compare::is_behind(component, write, now, written) {
        return None;
    }
    // A muted source still hears uplinks and join-requests: what it has counted since the target was read stays.
    let counted = |p: &str| compare::has_counted(component, p, &write.message, &now.0);
    let moving = write.paths.iter().filter(|p| compare::is_moving(component, p) && !counted(p));
    let mut paths: Vec<_> = moving.cloned().collect();
    if started && !compare::is_behind(component, write, now, written) {
        paths.clear();
    }
    if component == Component::Ns && path::has(&write.message, STARTED_AT) {
        paths.push(STARTED_AT.to_owned());
    }
    let mut message = write.message.clone();
    if component == Component::Js {
        back::add_used_nonces(&mut message, &now.0);
    }
    Some(Write { message, paths })
}

/// The mute of somebody else, which `allow-loss` let pass, is theirs to end.
fn comes_back_muted() -> Finding {
    let text = "it was found muted at the source and comes back so: until somebody unmutes it there, no network sends to it or \
                answers its joins";
    let mut finding = Finding::new(Kind::MutedSource, text).at(Component::Ns).paths([MUTE]);
    finding.severity = Severity::Warning;
    finding
}

/// What somebody has edited on the target since it was written goes with the record there.
fn edits(written: &Copy, there: &Records) -> Vec<Finding> {
    let edited = |(component, record): (Component, &Record)| {
        let write = written.get(component)?;
        let paths = compare::settings_that_differ(component, write, &record.0);
        // The mute is ours, and who mutes it by hand has no other value to lose.
        let paths: Vec<_> = paths.into_iter().filter(|p| !path::covers(MUTE, p)).collect();
        let text = "edited on the target since it was moved: the source gets its own value back";
        (!paths.is_empty()).then(|| Finding::new(Kind::Replaced, text).at(component).paths(paths))
    };
    there.present().filter_map(edited).collect()
}

/// A read that failed after a write of the same step: the write stands.
pub(super) fn unsure(trouble: Trouble, written: bool) -> Trouble {
    match trouble {
        Trouble::Retry { why, maybe_applied } => {
            Trouble::Retry { why, maybe_applied: maybe_applied || written }
        }
        trouble => trouble,
    }
}
