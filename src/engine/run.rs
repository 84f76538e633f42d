//! The dispatcher: plans all applications, then moves their devices, a bounded number at a time.

use std::{cmp::Reverse, collections::BTreeSet, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    application::ApplicationError,
    belongings::Keeper,
    course::Work,
    event::{DeviceName, Event, Outcome, Sink, Summary},
    gateways::{self, GatewayJob},
    gather::{self, Prepared},
    keys_file::KeysFile,
    lock::{Lock, Terms},
    log::LogError,
    radio_path,
};
use crate::{
    config::{ClearApiKeys, ClearGateways, ClearIntegrations, ClearMode, ClearWhen, Selection},
    journal::{self, JournalHandle},
    model::ids::{AppId, DeviceId},
    plan::{
        ApplicationPlan, DevicePlan, Plan, Verdict, belongings,
        facts::Wishes,
        failed::FailedApplication,
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
    /// The shape of IDs by which it was found.
    pub shape: Option<String>,
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

    /// As one that failed.
    pub fn failed(&self, error: &RunError) -> FailedApplication {
        FailedApplication::new(self.source.app(), self.target.app(), error, error.hint())
    }
}

/// How a run goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Devices in hand at once.
    pub in_flight: usize,
    /// After so many failures no new devices of the application are begun.
    pub max_failures: usize,
    /// True: once an application failed no other is begun.
    pub stop: bool,
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

impl RunError {
    /// True when it stops one application and tells nothing of others: not the journal, nor a deployment that cannot be
    /// reached. Of V2 each application has a handler and a key of its own.
    pub fn is_of_one(&self, job: &Job) -> bool {
        let (Self::Call(error) | Self::Application(ApplicationError::Call(error))) = self else {
            return matches!(self, Self::Application(_));
        };
        let whole = matches!(error.kind(), wire::Kind::Unreachable | wire::Kind::Tls(_));
        !whole || (error.side() == wire::Side::Source && job.source.tts().is_none())
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Call(e) | Self::Application(ApplicationError::Call(e)) => return e.hint(),
            Self::Journal(e) | Self::Log(LogError::Journal(e)) => return Some(e.hint()),
            Self::Application(_) => "check application.source and the API key",
            Self::Log(LogError::Event { .. }) => "a newer version of stackferry may have written it: update",
            Self::Log(_) => "nothing more is done without a sound journal",
            Self::Embedded(_) => return None,
            Self::KeysFile { .. } => "the keys are sealed in the journal: run again once it can be written",
            Self::TooManyGateways { .. } => "raise gateways.max-gateways, or choose fewer",
            Self::TooMany { .. } => "raise clear.max-devices, or move fewer devices at a time",
        };
        Some(hint.to_owned())
    }
}

/// The applications of a command.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Those that can be looked at.
    pub ready: Vec<Job>,
    /// Those that cannot: they were to be listed, or have no place on the target.
    pub failed: Vec<FailedApplication>,
    /// Those that the command leaves alone, since no earlier run has begun them.
    pub left: Vec<AppId>,
}

/// Reads both sides of every application and makes the plan. Changes nothing. An application that cannot be read stops no
/// other, unless the configuration says so.
///
/// # Errors
/// When the journal or a whole side cannot be read, or no application can be.
pub async fn plan(
    jobs: Jobs,
    gateways: Option<&GatewayJob>,
    journal: Option<&JournalHandle>,
    pace: &Pace,
    events: &Sink,
) -> Result<(Arc<Plan>, Ready), RunError> {
    let delete = pace.gateways == ClearGateways::Delete;
    let mut plan = Plan { failed: jobs.failed, ..Plan::default() };
    let mut prepared: Vec<(Job, Prepared)> = Vec::new();
    let mut first = None;
    for job in jobs.ready {
        match gather::application(&job, journal, pace).await {
            Ok((mut application, mut ready)) => {
                if pace.only_begun {
                    application.devices.retain(|d| d.was_begun);
                    ready.belongings.only_begun();
                    application.belongings.clone_from(&ready.belongings.plans);
                }
                plan.applications.push(application);
                prepared.push((job, ready));
            }
            Err(error) if pace.stop || !error.is_of_one(&job) => return Err(error),
            Err(error) => {
                let failed = job.failed(&error);
                events.send(Event::Note(failed.to_string()));
                plan.failed.push(failed);
                first.get_or_insert(error);
            }
        }
    }
    // All of them: then it is the side, the key or the network.
    if let (true, Some(error)) = (prepared.is_empty(), first) {
        return Err(error);
    }
    let mut fresh = Vec::new();
    if let (Some(job), Some(journal), true) = (gateways, journal, pace.only_begun && delete) {
        plan.gateways = gateways::to_clear(job, journal).await?;
    }
    if let Some(job) = gateways.filter(|_| !pace.only_begun) {
        let one_deployment = prepared.iter().any(|(_, ready)| ready.one_deployment);
        (plan.gateways, fresh) = gateways::read(job, journal, one_deployment, delete).await?;
    }
    if !pace.only_begun {
        radio_path::look(&mut plan, &prepared, pace.in_flight).await?;
    }
    let plan = Arc::new(plan);
    events.send(Event::Planned(Arc::clone(&plan)));
    Ok((plan, Ready { applications: prepared, gateways: fresh, left: jobs.left }))
}

/// What was read for a plan, and is needed to carry it out.
#[derive(Debug)]
pub struct Ready {
    /// By application of the plan.
    pub applications: Vec<(Job, Prepared)>,
    /// Gateways that no earlier run has begun.
    pub gateways: Vec<gateways::Fresh>,
    /// Applications that the command leaves alone.
    pub left: Vec<AppId>,
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
    pub async fn carry_out(&self, plan: &Plan, ready: Ready) -> Result<Summary, RunError> {
        let going = plan.count(goes);
        let clears = self.clears(plan);
        let max = self.pace.max_devices;
        if clears as u64 > max {
            return Err(RunError::TooMany { devices: clears, max });
        }
        self.events.send(Event::Started { devices: going });
        let mut summary = Summary { failed: plan.failed.clone(), ..Summary::default() };
        self.register(plan, &ready, &mut summary).await?;
        let applications = self.after_the_wait(plan, &summary).await;
        let last = self.last(plan, &ready);
        for ((job, ready), application) in ready.applications.into_iter().zip(&applications) {
            settle(application, &mut summary);
            let devices = going_in(application).count();
            if summary.stopped_by.is_some() || (devices > 0 && self.stop.drain.is_cancelled()) {
                summary.not_begun += devices;
                continue;
            }
            let failures = self.one(job, ready, application, &mut summary).await?;
            if self.pace.stop && failures.stop_others() {
                summary.stopped_by = Some(application.source.clone());
            }
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

    async fn one(
        &self,
        job: Job,
        ready: Prepared,
        application: &ApplicationPlan,
        summary: &mut Summary,
    ) -> Result<Failures, RunError> {
        let mut failures = Failures::none(self.pace.max_failures);
        let abort = self.stop.abort.child_token();
        let exists = !ready.state.is_new();
        let of = if ready.state.source_is_gone() { Lock::of_target } else { Lock::of };
        let lock = of(&job, exists, &self.lock, self.events, &abort);
        let keeper = Keeper::of(&job, self.journal, &lock, self.events).await?;
        let around = ready.belongings.have_work();
        let blocked = application.findings.iter().any(Finding::blocks);
        let moved = if going_in(application).count() > 0 || (around && !blocked) {
            let work = Work { job, application, ready, lock: &lock, keeper: &keeper, abort };
            self.application(work, summary, &mut failures).await
        } else {
            Ok(())
        };
        summary.around(keeper.outcomes());
        // Also when nothing was to be done: an earlier run may have been killed right before its end.
        lock.give_back(self.stop).await;
        moved.map(|()| failures)
    }

    /// Writes the file of new API keys; answers which, and how many are in it.
    pub(super) async fn write_keys(&self) -> Result<Option<(PathBuf, usize)>, RunError> {
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
}

/// What failed of one application.
pub(super) struct Failures {
    pub count: usize,
    pub max: usize,
    /// It failed as a whole.
    pub application: bool,
}

impl Failures {
    pub fn none(max: usize) -> Self {
        Self { count: 0, max, application: false }
    }

    /// True when other applications are not begun after it, where the configuration says so.
    pub fn stop_others(&self) -> bool {
        self.application || self.exceeded()
    }

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

pub(super) fn going_in(application: &ApplicationPlan) -> impl Iterator<Item = &DevicePlan> {
    application.devices.iter().filter(|d| goes(&d.verdict))
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

pub(super) fn name(application: &ApplicationPlan, device: &DevicePlan) -> DeviceName {
    DeviceName { app: application.source.clone(), device: device.id.clone() }
}
