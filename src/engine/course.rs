//! The course of one application in a run: made ready on the target, then its devices, a bounded number at a time, then what
//! is around them. What stops one application stops no other.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{
    application::CarryError,
    belongings::{Belongings, Keeper},
    device::{Context, Mover},
    event::{DeviceName, Event, Outcome, Summary},
    gather::Prepared,
    guarded::Guarded,
    lock::{Lock, LockError},
    log::{DeviceLog, LogError},
    run::{Dispatcher, Failures, Job, Pace, RunError, going_in, name},
};
use crate::{
    config::ClearMode,
    journal::DeviceKey,
    plan::{ApplicationPlan, DevicePlan, Verdict, failed::FailedApplication},
    source::any::AnySource,
    target::tts::TtsTarget,
    wire,
};

impl Dispatcher<'_> {
    /// Creates the application where it is not there, under the lock; takes the lock for what is begun in this run.
    async fn carry_over(&self, work: &Work<'_>) -> Result<(), CarryError> {
        let (state, target) = (&work.ready.state, work.job.target.stack());
        if state.is_new() {
            work.lock.take(wire::Side::Source).await?;
            state.create(target, work.job.owner.as_ref(), self.journal).await?;
        }
        // Devices of earlier runs may wait for something, which takes no call that changes anything.
        let around = work.ready.belongings.create();
        if state.is_new() || around || work.application.devices.iter().any(begins) {
            work.lock.take_all().await?;
        }
        Ok(())
    }

    pub(super) async fn application(
        &self,
        work: Work<'_>,
        summary: &mut Summary,
        failures: &mut Failures,
    ) -> Result<(), RunError> {
        let application = work.application;
        let created = work.ready.state.is_new();
        let carried = tokio::select! {
            biased;
            carried = self.carry_over(&work) => carried,
            () = work.abort.cancelled() => {
                self.stopped(application, work.lock, summary, failures);
                return Ok(());
            }
        };
        match carried {
            Ok(()) => {}
            Err(CarryError::Journal(error)) => return Err(error.into()),
            Err(CarryError::Lock(error)) => {
                self.application_failed(application, &error, summary, failures);
                return Ok(());
            }
        }
        if created {
            summary.created.push(application.target.clone());
        }
        self.events.send(Event::Application { app: application.target.clone(), created });
        let Work { job, ready, lock, keeper, abort, .. } = work;
        tokio::select! {
            biased;
            done = before(keeper, &ready.belongings) => done?,
            () = abort.cancelled() => {
                self.stopped(application, lock, summary, failures);
                return Ok(());
            }
        }
        // At once: whoever has to be given a new key has the time until the devices have moved.
        self.write_keys().await?;
        let ctx = Context {
            source_can_be_muted: job.source.can_be_muted(),
            source: Guarded::new(job.source, lock.clone()),
            target: Guarded::new(job.target, lock.clone()),
            facts: ready.facts,
            wishes: job.wishes,
            clear: self.pace.clear,
            clear_when: self.pace.clear_when,
            hold: self.pace.hold || keeps_both_sides(&self.pace, ready.mutes_target),
            one_deployment: ready.one_deployment,
            source_facts: OnceCell::new(),
            events: self.events.clone(),
            abort,
        };
        let mut waiting = going_in(application).map(|d| name(application, d));
        let mut in_hand = FuturesUnordered::new();
        loop {
            let open = !self.stop.drain.is_cancelled() && !ctx.abort.is_cancelled() && !failures.exceeded();
            while open && in_hand.len() < self.pace.in_flight.max(1) {
                let Some(name) = waiting.next() else { break };
                in_hand.push(self.device(&ctx, keeper, name));
            }
            let Some(ended) = in_hand.next().await else { break };
            let (device, outcome) = ended?;
            let interrupted = ctx.abort.is_cancelled();
            let outcome = lock.outcome(outcome, summary);
            if !interrupted && failures.counts(&outcome) && failures.count == failures.max {
                self.events.send(Event::TooManyFailures(failures.count));
            }
            self.events.send(Event::Ended { device: device.clone(), outcome: outcome.clone() });
            summary.devices.push((device, outcome));
        }
        let not_begun = waiting.count();
        summary.not_begun += not_begun;
        if !ctx.abort.is_cancelled() {
            tokio::select! {
                biased;
                done = self.after(keeper, application, &ready.belongings) => done?,
                () = ctx.abort.cancelled() => {}
            }
        }
        // Where only the surroundings were left, nothing else tells of a lock that is another's.
        if let (None, Some(trouble)) = (going_in(application).next(), lock.trouble()) {
            self.application_failed(application, &trouble, summary, failures);
        }
        Ok(())
    }

    /// Nothing of an application was begun: the user wants to be gone, or the lock is lost.
    fn stopped(
        &self,
        application: &ApplicationPlan,
        lock: &Lock,
        summary: &mut Summary,
        failures: &mut Failures,
    ) {
        match lock.trouble() {
            Some(lost) => self.application_failed(application, &lost, summary, failures),
            None => summary.not_begun += going_in(application).count(),
        }
    }

    /// What is left to do around the devices once they are done.
    async fn after(
        &self,
        keeper: &Keeper,
        application: &ApplicationPlan,
        belongings: &Belongings,
    ) -> Result<(), LogError> {
        let done = application.devices.iter().filter(|d| d.verdict == Verdict::Done);
        keeper.after_devices(done.map(|d| name(application, d))).await?;
        if self.pace.hold || self.stop.drain.is_cancelled() {
            return Ok(());
        }
        keeper.clear(&self.pace, belongings).await
    }

    /// Without its application on the target no device is begun; those of other applications go on.
    fn application_failed(
        &self,
        application: &ApplicationPlan,
        error: &LockError,
        summary: &mut Summary,
        failures: &mut Failures,
    ) {
        let why = format!("it cannot be made ready: {error}");
        let failed = FailedApplication {
            devices: Some(going_in(application).count()),
            ..FailedApplication::new(&application.source, &application.target, why, error.hint())
        };
        self.events.send(Event::Note(failed.to_string()));
        failures.application = true;
        summary.locked |= error.is_refusal();
        summary.not_begun += failed.devices.unwrap_or(0);
        summary.failed.push(failed);
    }

    async fn device(
        &self,
        ctx: &Context<Guarded<AnySource>, Guarded<TtsTarget>>,
        keeper: &Keeper,
        name: DeviceName,
    ) -> Result<(DeviceName, Outcome), RunError> {
        let key = DeviceKey { application: name.app.clone(), device: name.device.clone() };
        let log = DeviceLog::open(self.journal.clone(), key).await?;
        let mover = Mover::new(ctx, name.clone(), log);
        let moved = async {
            let outcome = mover.run().await?;
            if let Outcome::Done | Outcome::Waiting(_) = &outcome {
                keeper.after_device(&name).await?;
            }
            Ok::<_, LogError>(outcome)
        };
        tokio::select! {
            biased;
            outcome = moved => Ok((name, outcome?)),
            // A call in hand is dropped: its intent is recorded, the next run finds out what became of it.
            () = ctx.abort.cancelled() => Ok((name, Outcome::Stopped("interrupted".into()))),
        }
    }
}

/// What moving one application takes.
pub(super) struct Work<'a> {
    pub job: Job,
    pub application: &'a ApplicationPlan,
    pub ready: Prepared,
    pub lock: &'a Lock,
    pub keeper: &'a Keeper,
    /// Ctrl-C twice, or the lock is lost.
    pub abort: CancellationToken,
}

/// What is done around the devices before the first of them.
async fn before(keeper: &Keeper, belongings: &Belongings) -> Result<(), LogError> {
    keeper.decide(belongings).await?;
    keeper.before_devices().await?;
    keeper.set_contacts(belongings).await
}

/// True for a device that is begun in this run. What is read of it then must be read under the lock.
fn begins(device: &DevicePlan) -> bool {
    device.verdict == Verdict::Move
}

/// A target that is muted until the source is cleared stays so when nothing is to be cleared.
fn keeps_both_sides(pace: &Pace, mutes_target: bool) -> bool {
    mutes_target && matches!(pace.clear, ClearMode::Nothing | ClearMode::Mute)
}
