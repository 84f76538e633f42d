//! The steps of mute-target, for a source that cannot be muted (V2): the copy is made muted, the source is looked at once
//! more right before it is cleared, and the target goes on with the larger counters (docs/strategies.md).

use prost_reflect::{DynamicMessage, Value};

use super::{
    device::{Mover, Trouble, changed, retry},
    event::Event,
};
use crate::{
    config::{ClearMode, ClearWhen},
    map::{
        path,
        ttn_v2::{V2Device, cleared, is_cleared},
    },
    model::device::{Component, Record},
    plan::{
        MUTE, compare,
        handover::{self, MARGIN},
        session::{Activation, Carry},
        transform::{self, Found, STARTED_AT, Transformed, Write},
        ttn_v2,
    },
    source::Source,
    step::{Event as Logged, Recipe, Step, Strategy},
    target::Target,
    wire,
};

impl<S: Source, T: Target> Mover<'_, S, T> {
    pub(super) fn recipe_of_mute_target(&self, transformed: &Transformed) -> Recipe {
        let copy = &transformed.copy;
        let delete = self.ctx.clear == ClearMode::Delete;
        let seen = match self.ctx.clear_when {
            Some(when) => when == ClearWhen::Seen,
            None => transformed.carry == Carry::Drop,
        };
        let in_ns = |at: &str| copy.ns.as_ref().is_some_and(|write| path::has(&write.message, at));
        Recipe {
            strategy: Strategy::MuteTarget,
            target_id: copy.id.clone(),
            mute: None,
            create: copy.components().collect(),
            clear: if delete { [Component::Ns, Component::Is].into() } else { [Component::Ns].into() },
            wait_seen: delete && seen && transformed.activation != Activation::Multicast,
            started_at: in_ns(STARTED_AT),
            counters: in_ns("session"),
        }
    }

    /// The copy follows from the sealed snapshot, in which the session got its key ID. It is muted, so nothing has to be
    /// read again before it is made.
    pub(super) async fn decide_copy(&mut self) -> Result<(), Trouble> {
        let found = self.log.first_snapshot().await?;
        let seal = self.log.state().snapshot().unwrap_or_default();
        let transformed = transform::device(&found, &self.ctx.facts, &self.ctx.wishes);
        if let Some(finding) = transformed.weightiest() {
            return Err(Trouble::Refuse(finding.clone()));
        }
        let recipe = self.recipe(&found, &transformed, None);
        let copy = self.log.seal_copy("copy", &transformed.copy).await?;
        self.copy = Some(transformed.copy);
        Ok(self.log.record(&Logged::Reread { seal, copy, recipe }).await?)
    }

    /// The last look before the clear, against the seal as it is on disk. With a session the source is kept to ourselves
    /// until it is cleared, as its counters go on and a join would change it.
    pub(super) async fn look_once_more(&mut self) -> Result<(), Trouble> {
        let sealed = self.log.first_snapshot().await?;
        let has_session = sealed.v2.as_ref().is_some_and(V2Device::has_session);
        let now = if has_session {
            let turn = self.ctx.source.turn().await;
            let now = self.ctx.source.read_in(&turn, &self.name.device).await.map_err(retry)?;
            self.turn = Some(turn);
            now
        } else {
            self.ctx.source.look(&self.name.device).await.map_err(retry)?
        };
        let changes = ttn_v2::same_device(&sealed, &now);
        if !changes.is_none() {
            self.turn = None;
            let text = "the source changed while the device was copied: it is copied anew";
            return Err(Trouble::Refuse(changed(text, Component::Ns).paths(changes.words())));
        }
        let seal = self.log.seal_found("source-3", &now).await?;
        self.looked = true;
        Ok(self.log.record(&Logged::Checked { seal }).await?)
    }

    /// `Ns`: sets the keys at the source to zeros and reads that back. `Is`: removes the whole device there.
    pub(super) async fn clear_whole(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Clear(component);
        if component == Component::Is {
            self.intent(step).await?;
            let done = self.ctx.source.clear(&self.name.device, component).await;
            return self.done(step, done).await;
        }
        let session = self.log.state().recipe().is_some_and(|r| r.counters);
        if self.log.state().is_open(step) {
            let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
            match &now.v2 {
                Some(v2) if is_cleared(v2.message(), session) => return self.done(step, Ok(())).await,
                Some(_) => self.surely_not_cleared(step).await?,
                None => return Err(Trouble::Block(changed("the source's device is gone", component))),
            }
        }
        // Looked at by an earlier run; or with a session, when the look must be the call before this one.
        let talks = self.log.first_snapshot().await?.v2.is_some_and(|v2| v2.has_session());
        if !self.looked || (talks && self.turn.is_none()) {
            self.look_once_more().await?;
        }
        let seen = self.log.last_seen().await?;
        let Some(v2) = seen.v2 else {
            return Err(Trouble::Block(changed("the sealed snapshot holds no V2 device", component)));
        };
        let mut message = cleared(v2.message(), session);
        if !session && v2.has_session() {
            handover::skip_downlinks(&mut message);
        }
        let message = V2Device::new(message);
        let turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.ctx.source.turn().await,
        };
        self.intent(step).await?;
        let done = self.ctx.source.write_whole(&turn, &self.name.device, &message).await;
        drop(turn);
        if done.is_err() {
            return self.done(step, done).await;
        }
        self.is_cleared_at_the_source(session, &v2).await?;
        self.done(step, Ok(())).await
    }

    /// An attempt that was interrupted has changed nothing: the device is looked at from the start.
    async fn surely_not_cleared(&mut self, step: Step) -> Result<(), Trouble> {
        let why = "interrupted before it was done".to_owned();
        Ok(self.log.record(&Logged::Failed { step, maybe_applied: false, why }).await?)
    }

    /// Reads back that the keys are gone.
    async fn is_cleared_at_the_source(&mut self, session: bool, before: &V2Device) -> Result<(), Trouble> {
        let now = self.ctx.source.look(&self.name.device).await.map_err(retry)?;
        let Some(now) = &now.v2 else {
            return Err(Trouble::Block(changed("the source's device is gone", Component::Ns)));
        };
        if !is_cleared(now.message(), session) {
            let why = "the source still holds the keys that were cleared".to_owned();
            return Err(Trouble::Retry { why, maybe_applied: true });
        }
        if !session && handover::has_joined(before, now) {
            let text = format!(
                "{}: it joined the source in the moment in which it was cleared: it goes on there until it joins again",
                self.name
            );
            self.ctx.events.send(Event::Note(text));
            // The counters that were written are not those of its new session.
            let mut message = cleared(now.message(), false);
            handover::begin_session(&mut message);
            let turn = self.ctx.source.turn().await;
            let written =
                self.ctx.source.write_whole(&turn, &self.name.device, &V2Device::new(message)).await;
            written.map_err(retry)?;
        }
        Ok(())
    }

    /// The larger FCntUp of both sides, and the source's FCntDown with a margin for what it has sent since it was read.
    pub(super) async fn count(&mut self) -> Result<(), Trouble> {
        let source = self.log.last_seen().await?;
        let write = self.write(Component::Ns).await?;
        let there = self.session_on_target(&write).await?;
        let mut copy = self.log.copy().await?;
        let Some(source) = source.v2 else {
            return Err(Trouble::Block(changed("the sealed snapshot holds no V2 device", Component::Ns)));
        };
        // A device that is reset by hand begins anew, as it was written.
        if !self.ctx.wishes.abp_reset.contains(self.name.device.as_str()) {
            handover::count(&mut copy, &source, &there, MARGIN);
        }
        let seal = self.log.seal_copy("copy", &copy).await?;
        self.copy = Some(copy);
        Ok(self.log.record(&Logged::Counted { copy: seal }).await?)
    }

    /// The target's NS record, in the session that was written.
    async fn session_on_target(&mut self, write: &Write) -> Result<Record, Trouble> {
        let record = self.on_target(Component::Ns, write).await?;
        let ours = |r: &Record| compare::session_of(&r.0) == compare::session_of(&write.message);
        record.filter(ours).ok_or_else(|| {
            let text = "the target's session is not the one that was written: it stays muted";
            Trouble::Block(changed(text, Component::Ns).paths(["session"]))
        })
    }

    /// Raises what is lower on the muted target; what it has counted itself meanwhile stays.
    pub(super) async fn set_counters(&mut self) -> Result<(), Trouble> {
        self.intent(Step::SetCounters).await?;
        let done = self.raise_counters().await?;
        self.done(Step::SetCounters, done).await
    }

    async fn raise_counters(&mut self) -> Result<Result<(), wire::Error>, Trouble> {
        let ns = self.write(Component::Ns).await?;
        let there = self.session_on_target(&ns).await?;
        let done = self.raise(Component::Ns, &ns, &there, compare::COUNTERS).await;
        if done.is_err() || self.log.state().recipe().is_none_or(|r| !r.create.contains(&Component::As)) {
            return Ok(done);
        }
        let as_ = self.write(Component::As).await?;
        let Some(there) = self.on_target(Component::As, &as_).await? else {
            return Err(Trouble::Block(changed("the target's record is gone", Component::As)));
        };
        Ok(self.raise(Component::As, &as_, &there, &[compare::A_F_CNT_DOWN]).await)
    }

    async fn raise(
        &self,
        component: Component,
        write: &Write,
        there: &Record,
        counters: &[&str],
    ) -> Result<(), wire::Error> {
        let lower = |p: &&&str| path::number(&there.0, p) < path::number(&write.message, p);
        let paths: Vec<String> = counters.iter().filter(lower).map(|p| (*p).to_owned()).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let message = path::project(&write.message, &paths);
        self.update_target(component, Write { message, paths }, Some(write)).await
    }

    /// What the mute of the target is set back to: as it was written, or muted while the source may be live.
    pub(super) async fn written_mute(&mut self) -> Result<DynamicMessage, Trouble> {
        let state = self.log.state();
        let forward = state.undo().is_none();
        let mut write = self.live_write(Component::Ns).await?;
        if !forward && self.log.state().target_is_muted() {
            path::set_wrapped(&mut write.message, MUTE, Value::Bool(false));
        }
        Ok(write.message)
    }
}
