//! The way back to a source that takes a device as a whole (V2).

use super::device::{Mover, Trouble, changed, retry};
use crate::{
    map::{
        path,
        ttn_v2::{V2Device, is_cleared, with_keys_of},
    },
    model::device::{Component, Records},
    plan::{
        MUTE,
        finding::{Finding, Kind, Severity},
        handover::{self, Return},
        transform::Found,
    },
    source::Source,
    step::{Event as Logged, Step},
    target::Target,
};

impl<S: Source, T: Target> Mover<'_, S, T> {
    /// Reads both sides and decides what the source gets.
    pub(super) async fn decide_return(&mut self) -> Result<(Records, Return), Trouble> {
        let there = self.target_records().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        self.nobody_has_given_it_keys(now.v2.as_ref()).await?;
        let back = self.what_returns(&there).await?;
        Ok((there, back))
    }

    async fn what_returns(&self, there: &Records) -> Result<Return, Trouble> {
        let sealed = self.sealed_source().await?;
        let (known, lost) = self.as_last_known(there).await?;
        let mut back = handover::back(&sealed, &known).map_err(|finding| match finding.severity {
            Severity::Wait => Trouble::Wait(finding.text),
            _ => Trouble::Refuse(*finding),
        })?;
        back.findings.extend(lost);
        Ok(back)
    }

    /// The last that was seen of the source before the clear.
    async fn sealed_source(&self) -> Result<V2Device, Trouble> {
        let sealed = self.log.last_seen().await?;
        let none = || Trouble::Block(changed("the sealed snapshot holds no V2 device", Component::Ns));
        sealed.v2.ok_or_else(none)
    }

    /// What somebody else has done to the source since is not overwritten.
    async fn nobody_has_given_it_keys(&self, now: Option<&V2Device>) -> Result<(), Trouble> {
        let (state, sealed) = (self.log.state(), self.sealed_source().await?);
        let restores = [Component::Ns, Component::Is].into_iter().any(|c| state.touched(Step::Restore(c)));
        match now {
            Some(now) if state.has(Step::Clear(Component::Ns)) && !restores => {
                // One that joins may have joined in the moment of the clear.
                if is_cleared(now.message(), !sealed.is_otaa()) {
                    Ok(())
                } else {
                    Err(Trouble::Refuse(someone_has_registered_it_anew()))
                }
            }
            None if !state.touched(Step::Clear(Component::Is)) => {
                let text = "the source's device is gone, and not by us";
                Err(Trouble::Refuse(changed(text, Component::Is)))
            }
            _ => Ok(()),
        }
    }

    /// Reads the muted target, and seals it with what follows for the source.
    pub(super) async fn read_back_whole(&mut self) -> Result<(), Trouble> {
        let (records, back) = self.decide_return().await?;
        let seal = self.log.seal_found("target", &Found { records, ..Found::default() }).await?;
        let given = Found { v2: Some(back.device), ..Found::default() };
        let sealed = self.log.seal_found("back", &given).await?;
        let restore = self.log.state().cleared().collect();
        Ok(self.log.record(&Logged::ReadBack { seal, back: sealed, restore }).await?)
    }

    /// What the source gets back, read from disk.
    pub(super) async fn given_back(&self) -> Result<V2Device, Trouble> {
        let given = self.log.back_whole().await?;
        let none = || {
            Trouble::Block(changed("the seal of what the source gets back holds no V2 device", Component::Ns))
        };
        given.v2.ok_or_else(none)
    }

    /// Gives the source its device back as a whole.
    pub(super) async fn restore_whole(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::Restore(component);
        // Before the turn: what is read in it must not grow old.
        let given = self.as_it_went_on().await?;
        let turn = self.ctx.source.turn().await;
        let now = self.ctx.source.read_in(&turn, &self.name.device).await.map_err(retry)?;
        // An attempt of ours. Without one the keys may be there and gone from V2's Network Server: a clear that was half done.
        let ours = self.log.state().is_open(step);
        if ours && now.v2.as_ref().is_some_and(|now| handover::has_returned(&given, now)) {
            return self.done(step, Ok(())).await;
        }
        self.nobody_has_given_it_keys(now.v2.as_ref()).await?;
        let given = match &now.v2 {
            // What people have changed there since stays.
            Some(now) => {
                let given = handover::with_counts_of(&given, now, &self.sealed_source().await?);
                V2Device::new(with_keys_of(now, &given))
            }
            None => given,
        };
        self.intent(step).await?;
        let done = self.ctx.source.write_whole(&turn, &self.name.device, &given).await;
        drop(turn);
        self.done(step, done).await
    }

    /// What the source is given, with what the muted target has heard since that was sealed. It is muted still: V2 is live with
    /// the write.
    async fn as_it_went_on(&mut self) -> Result<V2Device, Trouble> {
        let given = self.given_back().await?;
        if self.log.state().removes() {
            return Ok(given);
        }
        let there = self.target_records().await?;
        if there.ns.as_ref().is_some_and(|ns| path::wrapped_flag(&ns.0, MUTE) != Some(false)) {
            let text = "the target was unmuted after we muted it: the source does not get its keys back";
            return Err(Trouble::Refuse(changed(text, Component::Ns).paths([MUTE])));
        }
        let fresh = self.what_returns(&there).await?.device;
        if handover::has_joined(&given, &fresh) {
            // What was decided is not what it has any more.
            self.read_back_whole().await?;
            return self.given_back().await;
        }
        Ok(fresh)
    }

    /// Reads the source back.
    pub(super) async fn verify_whole(&mut self, component: Component) -> Result<(), Trouble> {
        let step = Step::VerifyBack(component);
        let given = self.given_back().await?;
        let now = self.ctx.source.read(&self.name.device, Found::default()).await.map_err(retry)?;
        if !now.v2.as_ref().is_some_and(|now| handover::has_returned(&given, now)) {
            let text = "the source does not hold what it was given back: nothing is removed from the target";
            return Err(Trouble::Block(changed(text, component)));
        }
        self.looked_and_done(step).await
    }

    /// What would not come back.
    pub(super) async fn look_back_whole(&mut self) -> Result<Vec<Finding>, Trouble> {
        Ok(self.decide_return().await?.1.findings)
    }
}

/// Why a device cannot come back now.
fn someone_has_registered_it_anew() -> Finding {
    Finding::new(Kind::ChangedMeanwhile, "somebody has given it keys at the source since it was cleared")
        .at(Component::Ns)
        .fix("see who works on this device, then run again")
}
