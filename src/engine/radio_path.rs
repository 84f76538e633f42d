//! The radio path of a plan: who hears the devices that move, and those of their applications that the run leaves alone.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};

use super::{
    gather::Prepared,
    run::{Job, RunError},
};
use crate::{
    model::{device::Component, ids::DeviceId},
    plan::{
        Plan,
        gateways::hearing::{self, Heard, LeftAlone},
    },
};

/// Devices of an application that the run leaves alone and that are asked for: each is a call.
const ASKED: usize = 200;

/// Adds to each application of the plan what its devices' uplinks tell.
///
/// # Errors
/// When the source cannot be asked.
pub(super) async fn look(
    plan: &mut Plan,
    prepared: &[(Job, Prepared)],
    in_flight: usize,
) -> Result<(), RunError> {
    // Inside one deployment all gateways stay where they are.
    if prepared.iter().any(|(_, ready)| ready.one_deployment) {
        return Ok(());
    }
    let moving = plan.gateways.moving();
    for ((job, ready), application) in prepared.iter().zip(&mut plan.applications) {
        let findings = if job.source.tts().is_some() {
            let left = left_alone(job, &ready.belongings.devices, &moving, in_flight).await;
            hearing::findings(&application.devices, &moving, &left)
        } else {
            hearing::of_ttn_v2(&application.devices, moving.len()).into_iter().collect()
        };
        application.findings.extend(findings);
    }
    Ok(())
}

/// Who hears the devices of the application that were not chosen. What cannot be read is not known, as what is not asked for.
async fn left_alone(job: &Job, all: &[DeviceId], moving: &BTreeSet<String>, in_flight: usize) -> LeftAlone {
    let chosen: BTreeSet<_> = job.select(all).into_iter().collect();
    let rest: Vec<_> = all.iter().filter(|id| !chosen.contains(id)).collect();
    let Some(source) = job.source.tts().filter(|_| !moving.is_empty()) else { return LeftAlone::default() };
    let paths = ["mac_state.recent_uplinks".to_owned()];
    let (stack, app, paths) = (source.stack(), source.app(), &paths);
    let heard: Vec<_> = stream::iter(rest.iter().take(ASKED))
        .map(|id| async move {
            let record = stack.device(Component::Ns, app, id, paths).await.ok()??;
            Some((id.to_string(), Heard::of(&record.0)))
        })
        .buffer_unordered(in_flight.max(1))
        .filter_map(std::future::ready)
        .collect()
        .await;
    LeftAlone { heard: heard.into_iter().collect(), devices: rest.len() }
}
