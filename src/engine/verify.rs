//! Reads moved devices back from the target and compares them with what was written. Changes nothing.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    belongings::{self, VerifiedItem},
    event::DeviceName,
    gateways::VerifiedGateway,
    log::DeviceLog,
    run::{Job, Jobs, Pace, RunError},
};
use crate::{
    journal::{DeviceKey, JournalHandle},
    model::{device::Component, ids::DeviceId},
    plan::{
        compare::{self, Standing},
        failed::FailedApplication,
    },
    step::Step,
    target::Target as _,
};

/// What was found of one device on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Which device, at the source.
    pub device: DeviceName,
    /// ID on the target.
    pub target_id: String,
    /// What is not as it was written, by component; empty when all is well.
    pub differences: Vec<(Component, Vec<String>)>,
    /// True when it has sent or joined on the target since.
    pub lives: bool,
}

/// What was found of everything.
#[derive(Debug, Default)]
pub struct All {
    /// Devices.
    pub devices: Vec<Verified>,
    /// What applications have besides their devices.
    pub around: Vec<VerifiedItem>,
    /// Gateways.
    pub gateways: Vec<VerifiedGateway>,
    /// Applications that could not be read.
    pub failed: Vec<FailedApplication>,
}

impl All {
    /// True when all of it is on the target as it was written.
    pub fn is_as_written(&self) -> bool {
        self.failed.is_empty()
            && self.devices.iter().all(|v| v.differences.is_empty())
            && self.around.iter().all(|v| v.differences.is_empty())
            && self.gateways.iter().all(|v| v.differences.is_empty())
    }
}

/// Compares the devices of all applications and what is around them; one that cannot be read stops no other.
///
/// # Errors
/// As [`run::plan`](super::run::plan) has it: when the journal, the target as a whole, or no application can be read.
pub async fn all(jobs: Jobs, journal: &JournalHandle, pace: &Pace) -> Result<All, RunError> {
    let mut all = All { failed: jobs.failed, ..All::default() };
    let (mut first, mut read) = (None, 0);
    for job in &jobs.ready {
        match application(job, journal, pace).await {
            Ok((devices, around)) => {
                read += 1;
                all.devices.extend(devices);
                all.around.extend(around);
            }
            Err(error) if !error.is_of_one(job) => return Err(error),
            Err(error) => {
                all.failed.push(job.failed(&error));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if read == 0 => Err(error),
        _ => Ok(all),
    }
}

async fn application(
    job: &Job,
    journal: &JournalHandle,
    pace: &Pace,
) -> Result<(Vec<Verified>, Vec<VerifiedItem>), RunError> {
    let around = belongings::verify(job, journal).await?;
    Ok((verify(job, journal, pace.in_flight).await?, around))
}

/// Compares every device of `job` that the journal has created on the target.
async fn verify(job: &Job, journal: &JournalHandle, in_flight: usize) -> Result<Vec<Verified>, RunError> {
    let keys = journal.read(|j| j.devices()).await?;
    let ours =
        keys.into_iter().filter(|k| k.application == *job.source.app() && !k.device.as_str().is_empty());
    let results: Vec<Option<Verified>> = stream::iter(ours.filter(|k| job.devices.contains(&k.device)))
        .map(|key| device(job, journal, key))
        .buffer_unordered(in_flight.max(1))
        .try_collect()
        .await?;
    let mut verified: Vec<_> = results.into_iter().flatten().collect();
    verified.sort_by(|a, b| a.device.cmp(&b.device));
    Ok(verified)
}

async fn device(job: &Job, journal: &JournalHandle, key: DeviceKey) -> Result<Option<Verified>, RunError> {
    let device = DeviceName { app: key.application.clone(), device: key.device.clone() };
    let log = DeviceLog::open(journal.clone(), key).await?;
    let Some(recipe) = log.state().recipe().filter(|_| log.state().reread().is_some()) else {
        return Ok(None);
    };
    let target_id = recipe.target_id.clone();
    let copy = log.copy().await?;
    let mut found = Verified { device, target_id: target_id.clone(), differences: Vec::new(), lives: false };
    for component in copy.components().filter(|c| log.state().has(Step::Create(*c))) {
        let Some(mut write) = copy.get(component).cloned() else { continue };
        if component == Component::Ns && log.state().target_is_muted() {
            write.mute();
        }
        let write = &write;
        let paths = compare::paths(component, write);
        let read = job.target.read(&DeviceId::unchecked(&target_id), component, &paths).await?;
        let Some(record) = read else {
            found.differences.push((component, vec!["the record is gone".to_owned()]));
            continue;
        };
        if component == Component::Ns {
            found.lives = compare::lives(write, &record);
        }
        if let Standing::Different(paths) = compare::standing(component, write, &record, true) {
            found.differences.push((component, paths));
        }
    }
    Ok(Some(found))
}
