//! Brings devices back: looks at all of them first and says what does not come back, then moves them, a bounded number at
//! a time, and removes the target's application if a run of this journal has made it.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{
    application,
    belongings::Keeper,
    device::{Context, Mover},
    event::{DeviceName, Event, Outcome, Sink, Summary},
    gateways::{GatewayJob, GatewayKeeper, GatewayReturn, wait},
    guarded::Guarded,
    lock::{Lock, Terms},
    log::{DeviceLog, LogError},
    run::{Failures, Job, Pace, RunError, Stop},
    run_gateways::is_there,
};
use crate::{
    journal::{DeviceKey, JournalHandle},
    model::ids::{AppId, DeviceId},
    plan::{
        facts::TargetFacts,
        finding::{Finding, Kind},
    },
    source::any::AnySource,
    target::tts::TtsTarget,
};

/// What is to come back.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Source applications; empty for all of the configuration.
    pub applications: BTreeSet<AppId>,
    /// Device IDs at the source; empty for all that the journal knows.
    pub devices: BTreeSet<DeviceId>,
}

impl Chosen {
    /// True when no device of this application is left out.
    fn takes_all_of(&self, app: &AppId) -> bool {
        (self.applications.is_empty() || self.applications.contains(app)) && self.devices.is_empty()
    }

    /// True when nothing is left out.
    fn takes_everything(&self) -> bool {
        self.applications.is_empty() && self.devices.is_empty()
    }

    fn takes(&self, app: &AppId, device: &DeviceId) -> bool {
        (self.applications.is_empty() || self.applications.contains(app))
            && (self.devices.is_empty() || self.devices.contains(device))
    }
}

/// What a rollback will do to one device.
#[derive(Debug, Clone)]
pub struct Return {
    /// Which device.
    pub device: DeviceName,
    /// The word for where it stands.
    pub state: &'static str,
    /// What does not come back or has to be looked at; or why it stays.
    pub outlook: Result<Vec<Finding>, Outcome>,
}

/// Everything that a rollback needs, made ready.
#[derive(Debug)]
pub struct Rollback<'a> {
    /// Where intents and results go.
    pub journal: &'a JournalHandle,
    /// How to go about it.
    pub pace: Pace,
    /// Everybody who watches.
    pub events: &'a Sink,
    /// How it is stopped.
    pub stop: &'a Stop,
    /// Who wants the applications, and how.
    pub lock: Terms,
    /// Where gateways were registered.
    pub gateways: Option<&'a GatewayJob>,
}

impl Rollback<'_> {
    /// What would come back, and what not. Changes nothing.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn survey(&self, jobs: &[Job], chosen: &Chosen) -> Result<Vec<Return>, RunError> {
        let mut returns = Vec::new();
        for job in jobs {
            // Looking takes no lock.
            let abort = self.stop.abort.child_token();
            let ctx = self.context(job, &Lock::of(job, true, &self.lock, self.events, &abort), abort);
            let keys = self.begun(job, chosen).await?;
            let looked: Vec<_> = stream::iter(keys)
                .map(|key| self.look(&ctx, key))
                .buffer_unordered(self.pace.in_flight.max(1))
                .try_collect()
                .await?;
            returns.extend(looked);
        }
        if let Some(finding) = self.gateways_that_stay_away(jobs, chosen).await? {
            returns
                .iter_mut()
                .filter_map(|r| r.outlook.as_mut().ok())
                .for_each(|all| all.push(finding.clone()));
        }
        returns.sort_by(|a, b| a.device.cmp(&b.device));
        Ok(returns)
    }

    async fn look(
        &self,
        ctx: &Context<Guarded<AnySource>, Guarded<TtsTarget>>,
        key: DeviceKey,
    ) -> Result<Return, RunError> {
        let device = DeviceName { app: key.application.clone(), device: key.device.clone() };
        let log = DeviceLog::open(self.journal.clone(), key).await?;
        let state = log.state().name();
        let outlook = Mover::new(ctx, device.clone(), log).outlook().await?;
        Ok(Return { device, state, outlook })
    }

    /// How many things around the devices a rollback of all of them would take back.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn around(&self, jobs: &[Job], chosen: &Chosen) -> Result<usize, RunError> {
        let mut count = 0;
        for job in jobs {
            let lock = Lock::of(job, true, &self.lock, self.events, &self.stop.abort.child_token());
            if chosen.takes_all_of(job.source.app()) {
                count += Keeper::of(job, self.journal, &lock, self.events).await?.begun();
            }
        }
        Ok(count)
    }

    /// The gateways that a rollback of everything would delete, and those that stay.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn gateways(&self, jobs: &[Job], chosen: &Chosen) -> Result<Vec<GatewayReturn>, RunError> {
        let Some(gateways) = self.gateways.filter(|_| chosen.takes_everything()) else {
            return Ok(Vec::new());
        };
        Ok(self.looker(gateways, jobs).await?.survey().await?)
    }

    /// Looks at gateways, which takes no lock.
    async fn looker<'g>(&self, job: &'g GatewayJob, jobs: &[Job]) -> Result<GatewayKeeper<'g>, RunError> {
        let abort = self.stop.abort.child_token();
        let first = jobs.first().map(|job| (job, false));
        let lock = Lock::for_gateways(first, &self.lock, self.events, &abort);
        Ok(GatewayKeeper::of(job, self.journal, &lock, self.events).await?)
    }

    /// What a rollback of some devices leaves as it is at the source: gateways that are deleted there, or sent to the target.
    async fn gateways_that_stay_away(
        &self,
        jobs: &[Job],
        chosen: &Chosen,
    ) -> Result<Option<Finding>, RunError> {
        let Some(gateways) = self.gateways.filter(|_| !chosen.takes_everything()) else { return Ok(None) };
        let away = self.looker(gateways, jobs).await?.changed_at_source();
        Ok((!away.is_empty()).then(|| {
            let text = format!(
                "gateways that the source has deleted, or sends to the target, are not put back there by a rollback of some \
                 devices: {}",
                wait::some(&away)
            );
            Finding::new(Kind::RadioPath, text).fix("roll back everything, or see that others hear these devices there")
        }))
    }

    /// Deletes the gateways that a run has made, once all else has come back.
    async fn take_gateways_back(
        &self,
        jobs: &[Job],
        chosen: &Chosen,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        if self.stop.drain.is_cancelled() || self.gateways(jobs, chosen).await?.is_empty() {
            return Ok(());
        }
        let Some((lock, keeper, abort)) = self.gateway_keeper(jobs).await? else { return Ok(()) };
        match self.still_begun().await? {
            // It may be heard by them alone.
            Some(device) => keeper.keep(&device),
            None => self.unless_stopped(&abort, keeper.take_back()).await?,
        }
        summary.gateways.outcomes = keeper.outcomes();
        lock.give_back(self.stop).await;
        Ok(())
    }

    /// Puts back what was done to gateways at the source, before the devices come back to it.
    async fn restore_gateways(&self, jobs: &[Job], chosen: &Chosen) -> Result<(), RunError> {
        let changed = |gateway: &GatewayReturn| gateway.restored || gateway.redirected;
        if !self.gateways(jobs, chosen).await?.iter().any(changed) {
            return Ok(());
        }
        let Some((lock, keeper, abort)) = self.gateway_keeper(jobs).await? else { return Ok(()) };
        self.unless_stopped(&abort, keeper.restore_source()).await?;
        lock.give_back(self.stop).await;
        Ok(())
    }

    /// Works on gateways under the lock of the applications of the first job that are there.
    async fn gateway_keeper(
        &self,
        jobs: &[Job],
    ) -> Result<Option<(Lock, GatewayKeeper<'_>, CancellationToken)>, RunError> {
        let Some(gateways) = self.gateways else { return Ok(None) };
        let first = match jobs.first() {
            Some(job) => Some((job, is_there(job).await?)),
            None => None,
        };
        let abort = self.stop.abort.child_token();
        let lock = Lock::for_gateways(first, &self.lock, self.events, &abort);
        let keeper = GatewayKeeper::of(gateways, self.journal, &lock, self.events).await?;
        Ok(Some((lock, keeper, abort)))
    }

    /// Takes away what an interrupted rollback may have left where no device is left to bring back: our markers, and an
    /// application that we made.
    ///
    /// # Errors
    /// When the journal fails.
    pub async fn tidy(&self, jobs: &[Job]) -> Result<Summary, RunError> {
        let mut summary = Summary::default();
        for job in jobs {
            if application::origin(self.journal, job.target.app()).await? == Some(application::Origin::Ours) {
                let abort = self.stop.abort.child_token();
                Lock::of(job, true, &self.lock, self.events, &abort).give_back(self.stop).await;
                self.remove_application(job, &mut summary).await?;
            }
        }
        Ok(summary)
    }

    /// Brings back what was chosen.
    ///
    /// # Errors
    /// When the journal fails. What happens to single devices is in the summary.
    pub async fn carry_out(&self, jobs: &[Job], chosen: &Chosen) -> Result<Summary, RunError> {
        let mut summary = Summary::default();
        self.restore_gateways(jobs, chosen).await?;
        for job in jobs {
            let keys = self.begun(job, chosen).await?;
            let mut failures = Failures::none(self.pace.max_failures);
            let abort = self.stop.abort.child_token();
            let lock = Lock::of(job, true, &self.lock, self.events, &abort);
            let keeper = Keeper::of(job, self.journal, &lock, self.events).await?;
            let whole = self.begun(job, &Chosen::default()).await?.len() == keys.len();
            let around = chosen.takes_all_of(job.source.app()) && keeper.begun() > 0;
            if keys.is_empty() && !(whole && around) {
                if whole && chosen.takes_all_of(job.source.app()) {
                    self.remove_application(job, &mut summary).await?;
                }
                continue;
            }
            if summary.stopped_by.is_some() {
                summary.not_begun += keys.len();
                continue;
            }
            self.events.send(Event::Started { devices: keys.len() });
            if whole {
                self.unless_stopped(&abort, keeper.restore_source()).await?;
            }
            let ctx = self.context(job, &lock, abort);
            let mut keys = keys.into_iter();
            let mut in_hand = stream::FuturesUnordered::new();
            loop {
                let open =
                    !self.stop.drain.is_cancelled() && !ctx.abort.is_cancelled() && !failures.exceeded();
                while open && in_hand.len() < self.pace.in_flight.max(1) {
                    let Some(key) = keys.next() else { break };
                    in_hand.push(self.device(&ctx, &keeper, key));
                }
                let Some(ended) = in_hand.next().await else { break };
                let (device, outcome) = ended?;
                let outcome = lock.outcome(outcome, &mut summary);
                failures.counts(&outcome);
                self.events.send(Event::Ended { device: device.clone(), outcome: outcome.clone() });
                summary.devices.push((device, outcome));
            }
            summary.not_begun += keys.count();
            // Whether devices were named or not: with the last of them goes what the application has.
            if !self.stop.drain.is_cancelled() && self.begun(job, &Chosen::default()).await?.is_empty() {
                self.unless_stopped(&ctx.abort, keeper.all_are_back()).await?;
            }
            summary.around(keeper.outcomes());
            lock.give_back(self.stop).await;
            self.remove_application(job, &mut summary).await?;
            if self.pace.stop && failures.stop_others() {
                summary.stopped_by = Some(job.source.app().clone());
            }
        }
        self.take_gateways_back(jobs, chosen, &mut summary).await?;
        summary.devices.sort_by(|a, b| a.0.cmp(&b.0));
        summary.interrupted = self.stop.drain.is_cancelled();
        summary.tally = self.events.tally();
        Ok(summary)
    }

    async fn device(
        &self,
        ctx: &Context<Guarded<AnySource>, Guarded<TtsTarget>>,
        keeper: &Keeper,
        key: DeviceKey,
    ) -> Result<(DeviceName, Outcome), RunError> {
        let name = DeviceName { app: key.application.clone(), device: key.device.clone() };
        let log = DeviceLog::open(self.journal.clone(), key).await?;
        let mover = Mover::new(ctx, name.clone(), log);
        let back = async {
            let outcome = mover.roll_back().await?;
            if outcome == Outcome::RolledBack {
                keeper.device_is_back(&name.device).await?;
            }
            Ok::<_, LogError>(outcome)
        };
        tokio::select! {
            biased;
            outcome = back => Ok((name, outcome?)),
            // A call in hand is dropped: its intent is recorded, the next run finds out what became of it.
            () = ctx.abort.cancelled() => Ok((name, Outcome::Stopped("interrupted".into()))),
        }
    }

    /// Does it, unless the user wants to be gone or the lock is lost: the same command goes on.
    async fn unless_stopped(
        &self,
        abort: &CancellationToken,
        work: impl Future<Output = Result<(), LogError>>,
    ) -> Result<(), LogError> {
        tokio::select! {
            biased;
            done = work => done,
            () = abort.cancelled() => Ok(()),
        }
    }

    /// An application that a run of this journal has made goes when none of its devices is left there. Its ID stays taken:
    /// the next run restores it.
    async fn remove_application(&self, job: &Job, summary: &mut Summary) -> Result<(), RunError> {
        let target = job.target.app();
        if self.stop.drain.is_cancelled() || !self.begun(job, &Chosen::default()).await?.is_empty() {
            return Ok(());
        }
        if application::origin(self.journal, target).await? != Some(application::Origin::Ours) {
            return Ok(());
        }
        match application::remove(job.target.stack(), target).await {
            Ok(true) => {
                application::set_origin(self.journal, target, application::Origin::Removed).await?;
                summary.removed.push(target.clone());
            }
            Ok(false) => self.events.send(Event::Note(format!(
                "application {target} stays on the target: it holds what was not made by this migration"
            ))),
            Err(error) => {
                let hint = error.hint().map(|h| format!("; {h}")).unwrap_or_default();
                let text = format!("application {target} stays on the target: {error}{hint}");
                self.events.send(Event::Note(text));
            }
        }
        Ok(())
    }

    /// The devices of an application that a run has begun and nothing has brought back.
    async fn begun(&self, job: &Job, chosen: &Chosen) -> Result<Vec<DeviceKey>, RunError> {
        let mut begun = Vec::new();
        let app = job.source.app();
        // Another application of the target may have others of this source's devices.
        let ours = |k: &DeviceKey| {
            k.application == *app && !k.device.as_str().is_empty() && job.devices.contains(&k.device)
        };
        for key in self.journal.read(|j| j.devices()).await?.into_iter().filter(ours) {
            if chosen.takes(app, &key.device) && is_begun(self.journal, &key).await? {
                begun.push(key);
            }
        }
        Ok(begun)
    }

    /// A device that a run has begun and nothing has brought back, of whatever application.
    async fn still_begun(&self) -> Result<Option<DeviceKey>, RunError> {
        for key in self.journal.read(|j| j.devices()).await? {
            if !key.device.as_str().is_empty() && is_begun(self.journal, &key).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    fn context(
        &self,
        job: &Job,
        lock: &Lock,
        abort: CancellationToken,
    ) -> Context<Guarded<AnySource>, Guarded<TtsTarget>> {
        Context {
            source: Guarded::new(job.source.clone(), lock.clone()),
            target: Guarded::new(job.target.clone(), lock.clone()),
            facts: Arc::new(TargetFacts::default()),
            wishes: job.wishes.clone(),
            clear: self.pace.clear,
            clear_when: self.pace.clear_when,
            hold: self.pace.hold,
            one_deployment: false,
            source_can_be_muted: job.source.can_be_muted(),
            source_facts: OnceCell::new(),
            events: self.events.clone(),
            abort,
        }
    }
}

async fn is_begun(journal: &JournalHandle, key: &DeviceKey) -> Result<bool, LogError> {
    let log = DeviceLog::open(journal.clone(), key.clone()).await?;
    Ok(log.state().snapshot().is_some())
}
