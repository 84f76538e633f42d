//! The dispatcher: plans all applications, then moves their devices, a bounded number at a time.

use std::{cmp::Reverse, collections::BTreeSet, path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{
    application::{ApplicationError, CarryError},
    belongings::{Belongings, Keeper},
    device::{Context, Mover},
    event::{DeviceName, Event, Outcome, Sink, Summary},
    gateways::{self, GatewayJob},
    gather::{self, Prepared},
    guarded::Guarded,
    keys_file::KeysFile,
    lock::{Lock, LockError, Terms},
    log::{DeviceLog, LogError},
    radio_path,
};
use crate::{
    config::{ClearApiKeys, ClearGateways, ClearIntegrations, ClearMode, ClearWhen, Selection},
    journal::{self, DeviceKey, JournalHandle},
    model::ids::DeviceId,
    plan::{
        ApplicationPlan, DevicePlan, Plan, Verdict, belongings,
        facts::Wishes,
        finding::{Finding, Kind},
    },
    source::any::AnySource,
    target::tts::TtsTarget,
    tts::application::Owner,
    wire,
};

/// One application to move.
#[derive(Debug, Clone)]
pub struct Job {
    /// Where from.
    pub source: AnySource,
    /// Where to.
    pub target: TtsTarget,
    /// Who owns it on the target, when it must be created.
    pub owner: Option<Owner>,
    /// What the user wants.
    pub wishes: Wishes,
    /// Which devices.
    pub devices: Selection,
    /// IDs of the API keys with which this program works, here and for other applications.
    pub keys_in_use: BTreeSet<String>,
}

impl Job {
    /// The IDs to move, in order.
    pub fn select(&self, listed: &[DeviceId]) -> Vec<DeviceId> {
        match &self.devices {
            Selection::All => listed.to_vec(),
            Selection::Ids(ids) => ids.iter().cloned().collect(),
            chosen @ Selection::Glob(_) => listed.iter().filter(|id| chosen.contains(id)).cloned().collect(),
        }
    }
}

/// How a run goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Devices in hand at once.
    pub in_flight: usize,
    /// After so many failures no new devices are begun.
    pub max_failures: usize,
    /// How the source is cleared.
    pub clear: ClearMode,
    /// When an OTAA device with a dropped session is cleared.
    pub clear_when: Option<ClearWhen>,
    /// True: nothing is cleared in this run.
    pub hold: bool,
    /// No more devices than this are cleared.
    pub max_devices: u64,
    /// What becomes of the source's integrations once all devices are cleared.
    pub integrations: ClearIntegrations,
    /// What becomes of the source's API keys then.
    pub api_keys: ClearApiKeys,
    /// What becomes of the source's gateways after that.
    pub gateways: ClearGateways,
    /// True: only devices that an earlier run began are gone on with.
    pub only_begun: bool,
}

/// How a run is stopped from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new devices are begun.
    pub drain: CancellationToken,
    /// Nothing more is done.
    pub abort: CancellationToken,
}

/// Why a run could not go on as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A call that everything depends on failed.
    #[error(transparent)]
    Call(#[from] wire::Error),
    /// The source application cannot be read.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// The journal failed or holds what it should not.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The file of new API keys cannot be written; they are in the journal, and the next run writes it.
    #[error("cannot write the new API keys to {path}: {source}", path = path.display())]
    KeysFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: std::io::Error,
    },
    /// More gateways than `gateways.max-gateways`.
    #[error("{gateways} gateways would be registered, gateways.max-gateways is {max}: nothing was done")]
    TooManyGateways {
        /// Gateways that were chosen.
        gateways: usize,
        /// The limit.
        max: u64,
    },
    /// The embedded stack of a rehearsal cannot store something.
    #[error("the embedded stack: {0}")]
    Embedded(#[from] std::io::Error),
    /// More devices than `clear.max-devices`.
    #[error("{devices} devices would be cleared, clear.max-devices is {max}: nothing was done")]
    TooMany {
        /// Devices of the plan.
        devices: usize,
        /// The limit.
        max: u64,
    },
}

/// Reads both sides of every application and makes the plan. Changes nothing.
///
/// # Errors
/// When a side cannot be read as a whole.
pub async fn plan(
    jobs: &[Job],
    gateways: Option<&GatewayJob>,
    journal: Option<&JournalHandle>,
    pace: &Pace,
    events: &Sink,
) -> Result<(Arc<Plan>, Ready), RunError> {
    let delete = pace.gateways == ClearGateways::Delete;
    let mut plan = Plan::default();
    let mut prepared = Vec::new();
    for job in jobs {
        let (mut application, mut ready) = gather::application(job, journal, pace).await?;
        if pace.only_begun {
            application.devices.retain(|d| d.was_begun);
            ready.belongings.only_begun();
            application.belongings.clone_from(&ready.belongings.plans);
        }
        plan.applications.push(application);
        prepared.push(ready);
    }
    let mut fresh = Vec::new();
    if let (Some(job), Some(journal), true) = (gateways, journal, pace.only_begun && delete) {
        plan.gateways = gateways::to_clear(job, journal).await?;
    }
    if let Some(job) = gateways.filter(|_| !pace.only_begun) {
        let one_deployment = prepared.iter().any(|ready| ready.one_deployment);
        (plan.gateways, fresh) = gateways::read(job, journal, one_deployment, delete).await?;
    }
    if !pace.only_begun {
        radio_path::look(jobs, &mut plan, &prepared, pace.in_flight).await?;
    }
    let plan = Arc::new(plan);
    events.send(Event::Planned(Arc::clone(&plan)));
    Ok((plan, Ready { applications: prepared, gateways: fresh }))
}

/// What was read for a plan, and is needed to carry it out.
#[derive(Debug)]
pub struct Ready {
    /// By application.
    pub applications: Vec<Prepared>,
    /// Gateways that no earlier run has begun.
    pub gateways: Vec<gateways::Fresh>,
}

/// Carries a plan out.
#[derive(Debug)]
pub struct Dispatcher<'a> {
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
    /// The gateways to register.
    pub gateways: Option<&'a GatewayJob>,
    /// Where the new API keys of applications go.
    pub keys_file: Option<&'a KeysFile>,
}

impl Dispatcher<'_> {
    /// Moves what the plan lets go.
    ///
    /// # Errors
    /// When the journal fails, an application cannot be created, or the plan clears more than is allowed. What happens
    /// to single devices is in the summary.
    pub async fn carry_out(&self, jobs: Vec<Job>, plan: &Plan, ready: Ready) -> Result<Summary, RunError> {
        let going = plan.count(goes);
        let clears = self.clears(plan);
        let max = self.pace.max_devices;
        if clears as u64 > max {
            return Err(RunError::TooMany { devices: clears, max });
        }
        self.events.send(Event::Started { devices: going });
        let mut summary = Summary::default();
        self.register(&jobs, plan, &ready, &mut summary).await?;
        let applications = self.after_the_wait(plan).await;
        let prepared = ready.applications;
        let last = self.last(&jobs, &prepared);
        let mut failures = Failures { count: 0, max: self.pace.max_failures };
        for ((job, application), ready) in jobs.into_iter().zip(&applications).zip(prepared) {
            settle(application, &mut summary);
            let devices = going_in(application).count();
            let abort = self.stop.abort.child_token();
            let lock = Lock::of(&job, !ready.state.is_new(), &self.lock, self.events, &abort);
            let keeper = Keeper::of(&job, self.journal, &lock, self.events).await?;
            if devices > 0 && (self.stop.drain.is_cancelled() || failures.exceeded()) {
                summary.not_begun += devices;
                continue;
            }
            let around = ready.belongings.have_work();
            let blocked = application.findings.iter().any(Finding::blocks);
            let moved = if devices > 0 || (around && !blocked) {
                let work = Work { job, application, ready, lock: &lock, keeper: keeper.as_ref(), abort };
                self.application(work, &mut summary, &mut failures).await
            } else {
                Ok(())
            };
            summary.around(keeper.iter().flat_map(Keeper::outcomes).collect());
            // Also when nothing was to be done: an earlier run may have been killed right before its end.
            lock.give_back(self.stop).await;
            moved?;
        }
        summary.new_keys = self.write_keys().await?;
        if let Some(last) = last {
            self.clear_gateways(last, &mut summary).await?;
        }
        summary.devices.sort_by(|a, b| a.0.cmp(&b.0));
        summary.interrupted = self.stop.drain.is_cancelled();
        summary.tally = self.events.tally();
        Ok(summary)
    }

    /// Writes the file of new API keys; answers which, and how many are in it.
    async fn write_keys(&self) -> Result<Option<(PathBuf, usize)>, RunError> {
        let Some(file) = self.keys_file else { return Ok(None) };
        let keys = file.write(self.journal).await?;
        Ok((keys > 0).then(|| (file.path.clone(), keys)))
    }

    /// How many devices this run may clear at the source.
    fn clears(&self, plan: &Plan) -> usize {
        if self.pace.hold {
            return 0;
        }
        let all = !matches!(self.pace.clear, ClearMode::Nothing | ClearMode::Mute);
        // A device that cannot be muted is cleared in every mode.
        let first = |d: &DevicePlan| d.findings.iter().any(|f| f.kind == Kind::ClearWithoutMute);
        plan.devices().filter(|(_, d)| goes(&d.verdict) && (all || first(d))).count()
    }

    /// Creates the application where it is not there and sets its link, under the lock; takes the lock for devices that are
    /// begun in this run.
    async fn carry_over(&self, work: &Work<'_>) -> Result<(), CarryError> {
        let (state, target) = (&work.ready.state, work.job.target.stack());
        if state.is_new() {
            work.lock.take(wire::Side::Source).await?;
            state.create(target, work.job.owner.as_ref(), self.journal).await?;
        }
        // Devices of earlier runs may wait for something, which takes no call that changes anything.
        let around = work.ready.belongings.create();
        if state.is_new() || state.sets_link() || around || work.application.devices.iter().any(begins) {
            work.lock.take_all().await?;
        }
        Ok(state.set_link(target).await?)
    }

    async fn application(
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
                if let Some(lost) = work.lock.trouble() {
                    self.application_failed(application, &lost, summary, failures);
                    return Ok(());
                }
                summary.not_begun += going_in(application).count();
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
        if let Some(keeper) = keeper {
            tokio::select! {
                biased;
                done = before(keeper, &ready.belongings) => done?,
                () = abort.cancelled() => {
                    summary.not_begun += going_in(application).count();
                    return Ok(());
                }
            }
            // At once: whoever has to be given a new key has the time until the devices have moved.
            self.write_keys().await?;
        }
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
        if let Some(keeper) = keeper.filter(|_| !ctx.abort.is_cancelled()) {
            tokio::select! {
                biased;
                done = self.after(keeper, application, &ready.belongings) => done?,
                () = ctx.abort.cancelled() => {}
            }
        }
        Ok(())
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
        let hint = error.hint().map(|h| format!("; {h}")).unwrap_or_default();
        let why = format!("application {} cannot be made ready: {error}{hint}", application.target);
        self.events.send(Event::Note(why.clone()));
        failures.counts(&Outcome::Stopped(String::new()));
        summary.locked |= error.is_refusal();
        for device in going_in(application) {
            summary.devices.push((name(application, device), Outcome::Stopped(why.clone())));
        }
    }

    async fn device(
        &self,
        ctx: &Context<Guarded<AnySource>, Guarded<TtsTarget>>,
        keeper: Option<&Keeper>,
        name: DeviceName,
    ) -> Result<(DeviceName, Outcome), RunError> {
        let key = DeviceKey { application: name.app.clone(), device: name.device.clone() };
        let log = DeviceLog::open(self.journal.clone(), key).await?;
        let mover = Mover::new(ctx, name.clone(), log);
        let moved = async {
            let outcome = mover.run().await?;
            if let (Some(keeper), Outcome::Done | Outcome::Waiting(_)) = (keeper, &outcome) {
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
struct Work<'a> {
    job: Job,
    application: &'a ApplicationPlan,
    ready: Prepared,
    lock: &'a Lock,
    keeper: Option<&'a Keeper>,
    /// Ctrl-C twice, or the lock is lost.
    abort: CancellationToken,
}

/// What is done around the devices before the first of them.
async fn before(keeper: &Keeper, belongings: &Belongings) -> Result<(), LogError> {
    keeper.decide(belongings).await?;
    keeper.before_devices().await
}

pub(super) struct Failures {
    pub count: usize,
    pub max: usize,
}

impl Failures {
    /// Counts an outcome if it is a failure.
    pub fn counts(&mut self, outcome: &Outcome) -> bool {
        let failed = matches!(outcome, Outcome::Refused(_) | Outcome::Stopped(_) | Outcome::Blocked(_));
        self.count += usize::from(failed);
        failed
    }

    pub fn exceeded(&self) -> bool {
        self.count >= self.max
    }
}

fn goes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Move | Verdict::Resume(_))
}

fn going_in(application: &ApplicationPlan) -> impl Iterator<Item = &DevicePlan> {
    application.devices.iter().filter(|d| goes(&d.verdict))
}

/// True for a device that is begun in this run. What is read of it then must be read under the lock.
fn begins(device: &DevicePlan) -> bool {
    device.verdict == Verdict::Move
}

/// A target that is muted until the source is cleared stays so when nothing is to be cleared.
fn keeps_both_sides(pace: &Pace, mutes_target: bool) -> bool {
    mutes_target && matches!(pace.clear, ClearMode::Nothing | ClearMode::Mute)
}

/// Devices that need no work go straight into the summary.
fn settle(application: &ApplicationPlan, summary: &mut Summary) {
    for item in &application.belongings {
        let outcome = match item.verdict {
            belongings::Verdict::Done => Outcome::Already,
            belongings::Verdict::Stop => {
                Outcome::Refused(item.findings.iter().filter(|f| f.blocks()).cloned().collect())
            }
            _ => continue,
        };
        summary.belongings.push((belongings::name(&application.target, &item.key), outcome));
    }
    for device in &application.devices {
        let outcome = match device.verdict {
            Verdict::Done => Outcome::Already,
            Verdict::Wait => Outcome::Waiting(first_block(device)),
            Verdict::Stop if device.was_begun => {
                let findings = blocking(application, device);
                Outcome::Stopped(findings.first().map(ToString::to_string).unwrap_or_default())
            }
            Verdict::Stop => Outcome::Refused(blocking(application, device)),
            Verdict::Move | Verdict::Resume(_) => continue,
        };
        summary.devices.push((name(application, device), outcome));
    }
}

fn blocking(application: &ApplicationPlan, device: &DevicePlan) -> Vec<Finding> {
    let all = device.findings.iter().chain(&application.findings);
    let mut blocking: Vec<_> = all.filter(|f| f.blocks()).cloned().collect();
    blocking.sort_by_key(|f| Reverse(f.severity));
    blocking
}

fn first_block(device: &DevicePlan) -> String {
    device.findings.iter().find(|f| f.blocks()).map(|f| f.text.clone()).unwrap_or_default()
}

fn name(application: &ApplicationPlan, device: &DevicePlan) -> DeviceName {
    DeviceName { app: application.source.clone(), device: device.id.clone() }
}
