//! What a run does about gateways, before the first device and after the last.

use std::collections::BTreeSet;

use super::{
    event::{DeviceName, Event, Outcome, Summary},
    gateways::{GatewayKeeper, Registration, wait},
    gather::Prepared,
    lock::Lock,
    log::DeviceLog,
    run::{Dispatcher, Job, Ready, RunError},
};
use crate::{
    config::ClearGateways,
    journal::DeviceKey,
    model::ids::AppId,
    plan::{
        ApplicationPlan, DevicePlan, Plan, Verdict,
        finding::{Finding, Kind, Severity},
        gateways::hearing,
    },
    wire,
};

/// What the clear of gateways needs of jobs that are used up by then.
#[derive(Debug)]
pub(super) struct Last {
    /// The job whose applications have the lock.
    first: Option<Job>,
    /// All devices of the run.
    devices: Vec<DeviceKey>,
    /// An application that failed in the plan, or that no run has begun.
    unmoved: Option<AppId>,
}

/// True when the target has the application of a job.
///
/// # Errors
/// Those of the call.
pub(super) async fn is_there(job: &Job) -> Result<bool, wire::Error> {
    match job.target.stack().application(job.target.app(), &["ids".to_owned()]).await {
        Ok(found) => Ok(found.is_some()),
        Err(error) if matches!(error.kind(), wire::Kind::Denied { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Dispatcher<'_> {
    /// Registers the gateways.
    pub(super) async fn register(
        &self,
        plan: &Plan,
        ready: &Ready,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let (Some(job), false) = (self.gateways, self.pace.only_begun) else { return Ok(()) };
        let Some((first, prepared)) = ready.applications.first() else { return Ok(()) };
        let first = (first, !prepared.state.is_new());
        let registration = Registration { job, plan: &plan.gateways, fresh: &ready.gateways };
        let done = registration.carry_out(first, self.journal, &self.lock, self.events, self.stop).await?;
        summary.gateways = done;
        Ok(())
    }

    /// The applications, with the devices that begin with their session held back where the target does not have the
    /// gateways after the wait. Devices that were begun go on, and so do those that join again: they are heard wherever they
    /// are.
    pub(super) async fn after_the_wait(&self, plan: &Plan, summary: &Summary) -> Vec<ApplicationPlan> {
        let mut applications = plan.applications.clone();
        let Some(job) = self.gateways.filter(|_| applications.iter().flat_map(|a| &a.devices).any(waits))
        else {
            return applications;
        };
        let lacking = match wait::in_vain(job, &plan.gateways, &summary.gateways.outcomes) {
            Some(lacking) => lacking,
            None => {
                let missing = wait::missing(job, &plan.gateways, self.events, self.stop).await;
                if missing.is_empty() {
                    return applications;
                }
                let missing = wait::some(&missing);
                format!("the target has not connected all gateways (gateways.wait): {missing}")
            }
        };
        if self.stop.drain.is_cancelled() {
            return applications;
        }
        let why = format!("it goes on with its session, and {lacking}");
        for application in &mut applications {
            let app = application.source.clone();
            for device in application.devices.iter_mut().filter(|device| waits(device)) {
                let finding = Finding::new(Kind::RadioPath, why.clone());
                device.findings.insert(0, Finding { severity: Severity::Wait, ..finding });
                device.verdict = Verdict::Wait;
                let device = DeviceName { app: app.clone(), device: device.id.clone() };
                self.events.send(Event::Ended { device, outcome: Outcome::Waiting(why.clone()) });
            }
        }
        applications
    }

    /// What is kept for [`Self::clear_gateways`]; nothing when they stay.
    pub(super) fn last(&self, plan: &Plan, ready: &Ready) -> Option<Last> {
        let wanted =
            self.pace.gateways == ClearGateways::Delete && !self.pace.hold && self.gateways.is_some();
        if !wanted {
            return None;
        }
        let of = |(job, ready): &(Job, Prepared)| {
            let application = job.source.app().clone();
            let devices = job.select(&ready.belongings.devices).into_iter();
            devices
                .map(move |device| DeviceKey { application: application.clone(), device })
                .collect::<Vec<_>>()
        };
        let devices: BTreeSet<_> = ready.applications.iter().flat_map(of).collect();
        let failed = plan.failed.iter().map(|failed| &failed.source);
        Some(Last {
            first: ready.applications.first().map(|(job, _)| job.clone()),
            devices: devices.into_iter().collect(),
            unmoved: failed.chain(&ready.left).next().cloned(),
        })
    }

    /// Deletes gateways at the source, once all devices of all applications of the run are done.
    pub(super) async fn clear_gateways(&self, last: Last, summary: &mut Summary) -> Result<(), RunError> {
        let Some(gateways) = self.gateways.filter(|_| !self.stop.drain.is_cancelled()) else { return Ok(()) };
        let abort = self.stop.abort.child_token();
        let first = match &last.first {
            Some(job) => Some((job, is_there(job).await?)),
            None => None,
        };
        let lock = Lock::for_gateways(first, &self.lock, self.events, &abort);
        let keeper = GatewayKeeper::of(gateways, self.journal, &lock, self.events).await?;
        if !keeper.has_to_clear() {
            return Ok(());
        }
        let unfinished = match &last.unmoved {
            Some(app) => Some(format!("all applications of the run have moved: {app} has not")),
            None => {
                let device = self.unfinished(&last.devices).await?;
                device.map(|device| format!("all devices of the run are done: {device} is not"))
            }
        };
        tokio::select! {
            biased;
            done = keeper.clear(unfinished) => done?,
            () = abort.cancelled() => if let Some(trouble) = lock.trouble() {
                summary.locked |= trouble.is_refusal();
                self.events.send(Event::Note(format!("gateways stay at the source: {trouble}")));
            },
        }
        lock.give_back(self.stop).await;
        summary.gateways.cleared = keeper.outcomes();
        Ok(())
    }

    /// A device that is not done.
    async fn unfinished(&self, devices: &[DeviceKey]) -> Result<Option<String>, RunError> {
        for key in devices {
            if !DeviceLog::open(self.journal.clone(), key.clone()).await?.state().is_finished() {
                return Ok(Some(key.to_string()));
            }
        }
        Ok(None)
    }
}

/// True for a device that is begun in this run and is heard by the target only once gateways around it are connected there.
fn waits(device: &DevicePlan) -> bool {
    device.verdict == Verdict::Move && hearing::keeps(device)
}
