//! The clear of a source that takes a device as a whole (V2): the last look, the write, and what became of it.
//!
//! V2 has no compare-and-set: SetDevice writes what it is sent, whatever has happened since that was read (docs/servers.md,
//! V2 SetDevice). So no write is older than a moment, and each is judged by a reading.

use super::{
    back::unsure,
    device::{Mover, Trouble, changed, retry},
    event::Event,
};
use crate::{
    map::ttn_v2::{V2Device, cleared, is_cleared, same_standing},
    model::device::Component,
    plan::{
        compare,
        finding::Finding,
        handover::{self, AfterClear},
        transform::Found,
        ttn_v2,
    },
    source::{Source, Turn},
    step::{Event as Logged, Step},
    target::Target,
    wire,
};

impl<S: Source, T: Target> Mover<'_, S, T> {
    /// The last look before the clear, against the seal as it is on disk. With a session the source is kept to ourselves
    /// until it is cleared, as its counters go on and a join would change it.
    pub(super) async fn look_once_more(&mut self) -> Result<(), Trouble> {
        let sealed = self.log.first_snapshot().await?;
        self.turn = None;
        if sealed.v2.as_ref().is_some_and(V2Device::has_session) {
            let turn = self.ctx.source.turn().await;
            let now = self.ctx.source.read_in(&turn, &self.name.device).await.map_err(retry)?;
            return self.looked_at(&sealed, &now, Some(turn)).await;
        }
        let now = self.ctx.source.look(&self.name.device).await.map_err(retry)?;
        self.looked_at(&sealed, &now, None).await
    }

    /// Holds a look against the seal, and seals it.
    async fn looked_at(&mut self, sealed: &Found, now: &Found, turn: Option<Turn>) -> Result<(), Trouble> {
        if let (Some(sealed), Some(now)) = (&sealed.v2, &now.v2)
            && handover::lost_its_keys(sealed, now)
        {
            return Err(Trouble::Block(cleared_by_others()));
        }
        let changes = ttn_v2::same_device(sealed, now);
        if !changes.is_none() {
            let text = "the source changed while the device was copied: it is copied anew";
            return Err(Trouble::Refuse(changed(text, Component::Ns).paths(changes.words())));
        }
        let seal = self.log.seal_found("source-3", now).await?;
        (self.looked, self.turn) = (true, turn);
        Ok(self.log.record(&Logged::Checked { seal }).await?)
    }

    /// `Ns`: sets the keys at the source to zeros and reads that back. `Is`: removes the whole device there.
    pub(super) async fn clear_whole(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Clear(component);
        if component == Component::Is {
            self.nobody_uses_it_at_the_source().await?;
            self.intent(step).await?;
            let done = self.ctx.source.clear(&self.name.device, component).await;
            return self.done(step, done).await;
        }
        let session = self.log.state().recipe().is_some_and(|r| r.counters);
        if self.log.state().is_open(step) {
            let Some((turn, now)) = self.took_no_effect(session).await? else {
                return self.done(step, Ok(())).await;
            };
            let looked = self.looked_at(&self.log.first_snapshot().await?, &now, Some(turn)).await;
            if matches!(looked, Err(Trouble::Refuse(_))) {
                self.make_whole().await?;
                let why = "the source still had its keys".to_owned();
                self.log.record(&Logged::Failed { step, maybe_applied: false, why }).await?;
            }
            looked?;
        }
        // Looked at by an earlier run, or for an earlier attempt; or with a session, when the look must be the call before.
        let talks = self.log.first_snapshot().await?.v2.is_some_and(|v2| v2.has_session());
        if !self.looked || (talks && self.turn.is_none()) {
            self.look_once_more().await?;
        }
        // The next attempt looks again.
        self.looked = false;
        let before = self.seen_last().await?;
        let mut message = cleared(before.message(), session);
        if !session && before.has_session() {
            handover::skip_downlinks(&mut message);
        }
        let turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.ctx.source.turn().await,
        };
        self.intent(step).await?;
        let done = self.ctx.source.write_whole(&turn, &self.name.device, &V2Device::new(message)).await;
        drop(turn);
        if done.is_err() {
            return self.done(step, done).await;
        }
        self.is_cleared_at_the_source(session, &before).await?;
        self.done(step, Ok(())).await
    }

    /// A write of which one half may have been stored, and not the other, is followed by one of all that is there.
    async fn make_whole(&mut self) -> Result<(), Trouble> {
        let turn = self.ctx.source.turn().await;
        let now = self.ctx.source.read_in(&turn, &self.name.device).await.map_err(unheard)?;
        match &now.v2 {
            Some(v2) => self.ctx.source.write_whole(&turn, &self.name.device, v2).await.map_err(unheard),
            None => Ok(()),
        }
    }

    /// Before the device is deleted: it has no keys, nobody has edited it, and it does not go on there with a session of its own.
    async fn nobody_uses_it_at_the_source(&mut self) -> Result<(), Trouble> {
        let before = self.seen_last().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        let Some(now) = now.v2 else { return Ok(()) };
        if !is_cleared(now.message(), !before.is_otaa()) || !same_standing(&before, &now) {
            let text =
                "it was edited at the source, or got keys there, since it was cleared: it is not deleted";
            return Err(Trouble::Block(changed(text, Component::Is)));
        }
        let write = self.write(Component::Ns).await?;
        let there = self.on_target(Component::Ns, &write).await?;
        if handover::has_joined(&before, &now) && !there.is_some_and(|r| compare::was_heard_since(&write, &r))
        {
            let text =
                "at the source with a session that began while it was cleared; not seen on the target yet";
            return Err(Trouble::Wait(text.into()));
        }
        Ok(())
    }

    /// Before the copy goes: the source must not have lost its keys to somebody else.
    pub(super) async fn source_has_its_keys(&self) -> Result<(), Trouble> {
        let sealed = self.log.first_snapshot().await?;
        let now = self.ctx.source.look(&self.name.device).await.map_err(retry)?;
        match (&sealed.v2, &now.v2) {
            (Some(sealed), Some(now)) if handover::lost_its_keys(sealed, now) => {
                Err(Trouble::Block(cleared_by_others()))
            }
            _ => Ok(()),
        }
    }

    async fn seen_last(&self) -> Result<V2Device, Trouble> {
        let none = || Trouble::Block(changed("the sealed snapshot holds no V2 device", Component::Ns));
        self.log.last_seen().await?.v2.ok_or_else(none)
    }

    /// Reads back that the keys are gone. Whatever fails here, the write was made.
    async fn is_cleared_at_the_source(&mut self, session: bool, before: &V2Device) -> Result<(), Trouble> {
        let now = self.ctx.source.look(&self.name.device).await.map_err(unheard)?;
        let now = now.v2.ok_or_else(gone)?;
        let cleared = match handover::after_clear(before, &now, session) {
            AfterClear::Cleared => true,
            AfterClear::Joined(_) => self.took_no_effect(session).await?.is_none(),
            AfterClear::Live => false,
        };
        if cleared {
            return Ok(());
        }
        let why = "the source still holds the keys that were cleared".to_owned();
        Err(Trouble::Retry { why, maybe_applied: true })
    }

    /// What there is when a write took no effect of which that was not known; `None` when it did. A device that joined in that
    /// moment gets the counters of its new session.
    async fn took_no_effect(&mut self, session: bool) -> Result<Option<(Turn, Found)>, Trouble> {
        let before = self.seen_last().await?;
        let turn = self.ctx.source.turn().await;
        let found = self.ctx.source.read_in(&turn, &self.name.device).await.map_err(unheard)?;
        let counted = match handover::after_clear(&before, found.v2.as_ref().ok_or_else(gone)?, session) {
            AfterClear::Cleared => return Ok(None),
            AfterClear::Live => return Ok(Some((turn, found))),
            AfterClear::Joined(counted) => counted,
        };
        if let Some(counted) = counted {
            self.ctx.source.write_whole(&turn, &self.name.device, &counted).await.map_err(unheard)?;
        }
        let text = format!(
            "{}: it joined the source in the moment in which it was cleared: it goes on there until it joins again",
            self.name
        );
        self.ctx.events.send(Event::Note(text));
        Ok(None)
    }
}

fn gone() -> Trouble {
    Trouble::Block(changed("the source's device is gone", Component::Ns))
}

/// A call after the write that failed: the write stands.
fn unheard(error: wire::Error) -> Trouble {
    unsure(retry(error), true)
}

/// Its copy stays as it is, muted: that and the journal hold the only keys that are known of.
fn cleared_by_others() -> Finding {
    changed("its keys were cleared at the source, and not by us", Component::Ns).fix(
        "see whether another tool has moved it elsewhere; if not, unmute the copy on the target \
         (ttn-lw-cli end-devices set --mac-settings.schedule-downlinks=true)",
    )
}
