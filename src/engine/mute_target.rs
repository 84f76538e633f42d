//! The steps of mute-target, for a source that cannot be muted (V2): the copy is made muted, and once the source is cleared
//! (`clear_whole`) the target goes on with the larger counters (docs/strategies.md).

use prost_reflect::{DynamicMessage, Value};

use super::device::{Mover, Trouble, changed};
use crate::{
    config::{ClearMode, ClearWhen},
    map::path,
    model::device::{Component, Record},
    plan::{
        MUTE, compare,
        handover::{self, MARGIN},
        session::{Activation, Carry},
        transform::{self, STARTED_AT, Transformed, Write},
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
