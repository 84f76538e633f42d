//! The steps on the target: create, verify, see, and the undo of a create; and the last look before the clear.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::device::{Mover, Trouble, changed, retry};
use crate::{
    map::path,
    model::{
        device::{Component, Record},
        ids::DeviceId,
    },
    plan::{
        MUTE,
        compare::{self, Standing},
        finding::{Finding, Kind},
        transform::{Found, STARTED_AT, Write},
    },
    source::Source,
    step::{Event as Logged, Step},
    target::Target,
    wire,
};

impl<S: Source, T: Target> Mover<'_, S, T> {
    /// Creates a record, or takes the one that is there when it is what we would write.
    pub(super) async fn create(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Create(component);
        let write = self.write(component).await?;
        let id = self.target_id();
        let ours = self.log.state().is_open(step);
        if let Some(record) = self.on_target(component, &write).await? {
            return match compare::standing(component, &write, &record, false) {
                // An earlier attempt of ours, of which we did not hear whether it succeeded.
                Standing::Equal | Standing::MovedOn if ours => self.done(step, Ok(())).await,
                Standing::Equal => Ok(self.log.record(&Logged::Adopted { component }).await?),
                Standing::MovedOn => Err(Trouble::Refuse(taken(&id, component, vec!["session".into()]))),
                Standing::Different(paths) => Err(Trouble::Refuse(taken(&id, component, paths))),
            };
        }
        let gone = self.log.state().cleared().any(|c| c == Component::Ns);
        if component == Component::Ns && !gone && !self.is_mute_target() {
            self.source_is_still_muted().await?;
        }
        self.intent(step).await?;
        let done = self.ctx.target.create(&id, component, &write).await;
        self.done(step, done).await
    }

    /// Right before the target goes live: nobody may have unmuted or used the source since it was sealed (S2, S4).
    async fn source_is_still_muted(&self) -> Result<(), Trouble> {
        let sealed = self.log.second_snapshot().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        let (Some(sealed), Some(now)) = (&sealed.records.ns, &now.records.ns) else {
            return Err(Trouble::Refuse(changed("its record at the source is gone", Component::Ns)));
        };
        let paths = compare::still_as_sealed(sealed, now);
        if paths.is_empty() {
            return Ok(());
        }
        let text = "the source was unmuted or used after it was sealed: the target does not go live";
        Err(Trouble::Refuse(changed(text, Component::Ns).paths(paths)))
    }

    /// One record of the target, with everything that a comparison needs.
    pub(super) async fn on_target(
        &self,
        component: Component,
        write: &Write,
    ) -> Result<Option<Record>, Trouble> {
        let paths = compare::paths(component, write);
        self.ctx.target.read(&self.target_id(), component, &paths).await.map_err(retry)
    }

    /// True when the target was muted since it was made: what it has heard, the source has heard too.
    fn never_lived(&self) -> bool {
        self.is_mute_target() && !self.log.state().touched(Step::UnmuteTarget)
    }

    /// True when the device has joined, sent or been sent to on the target since we made it live there.
    pub(super) async fn lives_on_target(&mut self) -> Result<bool, Trouble> {
        if !self.log.state().touched(Step::Create(Component::Ns)) || self.never_lived() {
            return Ok(false);
        }
        let write = self.write(Component::Ns).await?;
        let record = self.on_target(Component::Ns, &write).await?;
        let made = self.log.state().has(Step::Create(Component::Ns));
        // A record that we made and that is gone: nobody knows what the device did in between.
        Ok(record.map_or(made, |r| compare::lives(&write, &r)))
    }

    /// Creation sets the start of the session to now. A device that has joined since has a start of its own.
    pub(super) async fn started_at(&mut self) -> Result<(), Trouble> {
        let write = self.write(Component::Ns).await?;
        let mut wanted = write.clone();
        wanted.paths.push(STARTED_AT.to_owned());
        let Some(record) = self.on_target(Component::Ns, &wanted).await? else {
            return Err(Trouble::Refuse(not_equal(Component::Ns, vec!["the record is gone".into()])));
        };
        self.intent(Step::StartedAt).await?;
        let same = |p: &str| path::bytes(&record.0, p) == path::bytes(&write.message, p);
        let same_session = same("session.keys.session_key_id") && same("session.dev_addr");
        let as_wanted = path::get(&record.0, STARTED_AT) == path::get(&write.message, STARTED_AT);
        let done = if same_session && !as_wanted {
            self.update_ns(path::project(&write.message, &[STARTED_AT]), STARTED_AT).await
        } else {
            Ok(())
        };
        self.done(Step::StartedAt, done).await
    }

    /// Sets one path of the target's NS record.
    pub(super) async fn update_ns(&mut self, message: DynamicMessage, path: &str) -> Result<(), wire::Error> {
        let only = Write { message, paths: vec![path.to_owned()] };
        let written = self.copy.as_ref().and_then(|c| c.get(Component::Ns));
        self.update_target(Component::Ns, only, written).await
    }

    /// Sets some paths of one of the target's records; `written` has the identifiers of the device there.
    pub(super) async fn update_target(
        &self,
        component: Component,
        mut only: Write,
        written: Option<&Write>,
    ) -> Result<(), wire::Error> {
        let ids = ["ids.device_id", "ids.application_ids", "ids.dev_eui", "ids.join_eui"];
        if let Some(written) = written {
            path::apply(&mut only.message, &written.message, &ids);
        }
        self.ctx.target.update(&self.target_id(), component, &only).await
    }

    /// Reads a record back and compares it with what was written.
    pub(super) async fn verify(&mut self, component: Component) -> Result<(), Trouble> {
        let mut write = self.write(component).await?;
        if component == Component::Ns && path::has(&write.message, STARTED_AT) {
            write.paths.push(STARTED_AT.to_owned());
        }
        let state = self.log.state();
        let loud = self.is_loud() && state.has(Step::Create(Component::Js));
        // Also when the answer of its create was lost: then nobody knows since when it is live.
        let live = state.touched(Step::Create(Component::Ns)) || loud;
        let read = self.on_target(component, &write).await?;
        // The session's own start time is not compared once the device has another session.
        match read.map(|r| compare::standing(component, &write, &r, live && component != Component::Ns)) {
            Some(Standing::Equal | Standing::MovedOn) => {
                let step = Step::Verify(component);
                self.looked_and_done(step).await
            }
            // It was equal once: this is somebody's edit, which an undo would take away.
            Some(Standing::Different(paths)) if self.log.state().was_equal(component) => {
                Err(Trouble::Block(edited(component, paths)))
            }
            Some(Standing::Different(paths)) => Err(Trouble::Refuse(not_equal(component, paths))),
            None if self.log.state().was_equal(component) => {
                Err(Trouble::Block(edited(component, vec!["the record is gone".into()])))
            }
            None => Err(Trouble::Refuse(not_equal(component, vec!["the record is gone".into()]))),
        }
    }

    /// True when the source could not be muted: its Join Server may have gone on.
    fn is_loud(&self) -> bool {
        self.log.state().recipe().is_some_and(|r| r.strategy.clears_first() && r.mute.is_none())
    }

    /// A dropped session comes back as a new one with the first uplink after the join; a kept one goes on.
    pub(super) async fn await_seen(&mut self) -> Result<(), Trouble> {
        let write = self.write(Component::Ns).await?;
        let record = self.on_target(Component::Ns, &write).await?;
        let heard = if self.is_mute_target() { compare::was_heard_since } else { compare::was_heard };
        if !record.is_some_and(|r| heard(&write, &r)) {
            return Err(Trouble::Wait("on the target; not seen there yet".into()));
        }
        self.looked_and_done(Step::AwaitSeen).await
    }

    /// The seal is read from disk and held against the source as it is now: equal but for what traffic changes.
    pub(super) async fn check_snapshot(&mut self) -> Result<(), Trouble> {
        let sealed = self.log.second_snapshot().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        if self.is_loud() {
            let paths = compare::changed_while_loud(sealed.records.js.as_ref(), now.records.js.as_ref());
            if !paths.is_empty() && self.log.state().cleared().next().is_none() {
                let text = "the Join Server went on since it was sealed: it is read anew in the next run";
                return Err(Trouble::Refuse(changed(text, Component::Js).paths(paths)));
            }
        }
        self.nobody_edited_the_source(&sealed, &now)?;
        let queue = "session.queued_application_downlinks";
        let queued = now.records.ns.as_ref().is_some_and(|r| path::has(&r.0, queue));
        if queued && !self.ctx.wishes.allowed.contains(&Kind::QueuedDownlinks) {
            return Err(Trouble::Wait(
                "downlinks wait in the queue of the muted source (queued-downlinks)".into(),
            ));
        }
        let seal = self.log.seal_found("source-3", &now).await?;
        self.looked = true;
        Ok(self.log.record(&Logged::Checked { seal }).await?)
    }

    /// What is there of a muted source is what was sealed of it, but for traffic. What is perhaps cleared may be gone.
    fn nobody_edited_the_source(&self, sealed: &Found, now: &Found) -> Result<(), Trouble> {
        for component in Component::ALL {
            let now = now.records.get(component);
            if now.is_none() && self.log.state().touched(Step::Clear(component)) {
                continue;
            }
            let paths = compare::changed_while_muted(component, sealed.records.get(component), now);
            if !paths.is_empty() {
                let text = "the source was edited while the device was moved: nothing is cleared";
                return Err(Trouble::Block(changed(text, component).paths(paths)));
            }
        }
        Ok(())
    }

    /// Removes a record at the source. In `clear-first` the target is looked at once more: nothing may be in the way.
    pub(super) async fn clear(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Clear(component);
        let first = self.is_loud();
        let unmade = component == Component::Js && !self.log.state().touched(Step::Create(Component::Js));
        if first && unmade && !self.log.state().is_open(step) {
            let write = self.write(component).await?;
            if let Some(record) = self.on_target(component, &write).await?
                && compare::standing(component, &write, &record, false) != Standing::Equal
            {
                return Err(Trouble::Refuse(taken(&self.target_id(), component, vec!["root_keys".into()])));
            }
        }
        if !self.looked && !first {
            // An earlier run has looked, and was interrupted since.
            let sealed = self.log.second_snapshot().await?;
            let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
            self.nobody_edited_the_source(&sealed, &now)?;
            self.looked = true;
        }
        self.intent(step).await?;
        let done = self.ctx.source.clear(&self.name.device, component).await;
        self.done(step, done).await
    }

    /// Undo of a create. A record that is not ours, or whose device has joined or sent since, stays.
    pub(super) async fn remove(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Remove(component);
        let write = self.write(component).await?;
        let made = self.log.state().has(Step::Create(component));
        self.intent(step).await?;
        let there = self.on_target(component, &write).await?;
        let Some(record) = there else { return self.done(step, Ok(())).await };
        let others = compare::other_device(&write, &record);
        if !others.is_empty() {
            return Err(Trouble::Block(not_equal(component, others)));
        }
        if self.is_mute_target() && !self.log.state().goes_back() && component == Component::Ns {
            self.source_has_its_keys().await?;
        }
        if self.log.state().goes_back() {
            self.nobody_edited_the_target(component, &record).await?;
            let done = self.ctx.target.remove(&self.target_id(), component).await;
            return self.done(step, done).await;
        }
        // The mute of an undo that was interrupted is ours.
        let mut written = write.clone();
        written.paths.retain(|p| !path::covers(MUTE, p));
        let edited_since = !made || self.log.state().was_equal(component);
        if edited_since
            && let Standing::Different(paths) = compare::standing(component, &written, &record, true)
        {
            return Err(Trouble::Block(not_equal(component, paths)));
        }
        if component == Component::Ns && !self.never_lived() {
            self.silence(step, &write, &record).await?;
        }
        let done = self.ctx.target.remove(&self.target_id(), component).await;
        self.done(step, done).await
    }

    /// Mutes the target's NS record, so that no join is accepted between the look at it and its removal. A device that
    /// lives there keeps its downlinks, and its record.
    async fn silence(&mut self, step: Step, write: &Write, record: &Record) -> Result<(), Trouble> {
        if compare::lives(write, record) {
            // Muted by an undo that was interrupted.
            if path::wrapped_flag(&record.0, MUTE) == Some(false) {
                self.update_ns(path::project(&write.message, &[MUTE]), MUTE).await.map_err(retry)?;
            }
            return Err(Trouble::Block(alive(&self.target_id())));
        }
        let mut muted = DynamicMessage::new(write.message.descriptor());
        path::set_wrapped(&mut muted, MUTE, Value::Bool(false));
        if let Err(error) = self.update_ns(muted, MUTE).await {
            return self.done(step, Err(error)).await;
        }
        let record = self.on_target(Component::Ns, write).await?;
        if record.is_some_and(|r| compare::lives(write, &r)) {
            self.update_ns(path::project(&write.message, &[MUTE]), MUTE).await.map_err(retry)?;
            return Err(Trouble::Block(alive(&self.target_id())));
        }
        Ok(())
    }
}

fn taken(id: &DeviceId, component: Component, paths: Vec<String>) -> Finding {
    Finding::new(Kind::IdTaken, format!("{id} is on the target already and differs"))
        .at(component)
        .paths(paths)
        .fix("remove it there, or move this device under another ID")
}

fn alive(id: &DeviceId) -> Finding {
    Finding::new(Kind::LiveOnTarget, format!("{id} has joined or sent on the target since"))
        .at(Component::Ns)
        .fix("leave it there: see what differs, set it right by hand, then run again")
}

fn edited(component: Component, paths: Vec<String>) -> Finding {
    Finding::new(Kind::ChangedMeanwhile, "the target was edited after it was written: nothing is cleared")
        .at(component)
        .paths(paths)
        .fix("set these back to what was written, then run again")
}

fn not_equal(component: Component, paths: Vec<String>) -> Finding {
    Finding::new(Kind::NotEqual, "the target holds something else than what was written")
        .at(component)
        .paths(paths)
        .fix("see who else writes to the target, then run again")
}
