//! Brings what a real source holds into an embedded stack. The real side is only read.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost_reflect::DynamicMessage;

use super::{
    gather,
    run::{Job, Jobs, Pace, RunError},
};
use crate::{
    config::Rehearsal,
    map::{path, ttn_v2::V2Device},
    model::ids::DeviceId,
    plan::{
        belongings::{Ids, Sort, link::LINK},
        contacts,
        failed::FailedApplication,
        gateways,
        transform::{Found, device_id},
    },
    rehearsal::{
        TtnV2, Tts,
        store::{Table, device_key},
    },
    source::{Source as _, any::AnySource, ttn_v2::TtnV2Source, tts::TtsSource},
    tts::belongings::chosen,
    wire,
};

/// Takes address blocks of the real sides over, so that the rehearsal decides as the run will.
///
/// # Errors
/// When a side cannot be asked.
pub async fn mirror_facts(
    jobs: &[Job],
    source: &mut Rehearsal,
    target: &mut Rehearsal,
) -> Result<(), RunError> {
    let Some(job) = jobs.first() else { return Ok(()) };
    if let Some(tts) = job.source.tts() {
        source.dev_addr_prefixes = tts.stack().dev_addr_prefixes().await?;
    }
    target.dev_addr_prefixes = job.target.stack().dev_addr_prefixes().await?;
    Ok(())
}

/// True when the real sides are one deployment: then the rehearsal needs one, too.
///
/// # Errors
/// When a side cannot be asked.
pub async fn one_deployment(jobs: &[Job]) -> Result<bool, RunError> {
    match jobs.first().and_then(|job| Some((job, job.source.tts()?))) {
        Some((job, source)) => gather::one_deployment(source.stack(), job.target.stack(), source.app()).await,
        None => Ok(false),
    }
}

/// The embedded stack that takes a real one's place.
#[derive(Debug, Clone, Copy)]
pub enum Mirror<'a> {
    /// The Things Stack.
    Tts(&'a Arc<Tts>),
    /// The Things Network Stack V2.
    TtnV2(&'a Arc<TtnV2>),
}

/// Copies all applications. Answers those that could not be read, with those that failed before.
///
/// # Errors
/// As [`run::plan`](super::run::plan) has it: when the source as a whole, or no application, can be read.
pub async fn mirror_all(
    jobs: &Jobs,
    into: Mirror<'_>,
    pace: &Pace,
) -> Result<Vec<FailedApplication>, RunError> {
    let mut failed = jobs.failed.clone();
    let mut first = None;
    for job in &jobs.ready {
        match mirror(job, into, pace.in_flight).await {
            Ok(()) => {}
            Err(error) if pace.stop || !error.is_of_one(job) => return Err(error),
            Err(error) => {
                failed.push(job.failed(&error));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) if failed.len() == jobs.failed.len() + jobs.ready.len() => Err(error),
        _ => Ok(failed),
    }
}

/// Copies the application and its selected devices into the store of an embedded stack.
async fn mirror(job: &Job, into: Mirror<'_>, in_flight: usize) -> Result<(), RunError> {
    match (&job.source, into) {
        (AnySource::Tts(source), Mirror::Tts(into)) => {
            application(source, into).await?;
            let ids = devices(job, into, in_flight).await?;
            belongings(job, source, into, &ids).await
        }
        (AnySource::TtnV2(source), Mirror::TtnV2(into)) => of_ttn_v2(job, source, into, in_flight).await,
        _ => Ok(()),
    }
}

/// Puts the gateways into an embedded stack, as the source has them.
///
/// # Errors
/// When the embedded stack cannot store them.
pub fn mirror_gateways(gateways: &[gateways::Found], into: &Arc<Tts>) -> Result<(), RunError> {
    let mut store = into.store();
    for gateway in gateways {
        store.put(Table::Gateways, &gateway.id, gateway.message.clone())?;
    }
    Ok(())
}

async fn application(source: &TtsSource, into: &Arc<Tts>) -> Result<(), RunError> {
    let (stack, app) = (source.stack(), source.app());
    let mut paths = ["name", "description", "attributes"].map(str::to_owned).to_vec();
    paths.extend(contacts::paths());
    let application = stack.application(app, &paths).await?;
    let mut store = into.store();
    if let Some(mut application) = application {
        path::set(
            &mut application,
            "ids.application_id",
            prost_reflect::Value::String(app.as_str().to_owned()),
        );
        store.put(Table::Applications, app.as_str(), application)?;
    }
    Ok(())
}

/// Every selected device as it is read.
async fn found(job: &Job, in_flight: usize) -> Result<Vec<(DeviceId, Found)>, RunError> {
    let listed = job.source.list().await?;
    let mut by_id: HashMap<_, _> =
        listed.into_iter().map(|f| (DeviceId::unchecked(device_id(&f)), f)).collect();
    let mut ids: Vec<_> = by_id.keys().cloned().collect();
    ids.sort();
    let selected = job.select(&ids);
    // Whole, with the counters that a list of V2 has not.
    let talks = |found: &Found| found.v2.as_ref().is_some_and(V2Device::has_session);
    let listed = |found: Found| if talks(&found) { Found::default() } else { found };
    let work: Vec<_> =
        selected.into_iter().map(|id| (listed(by_id.remove(&id).unwrap_or_default()), id)).collect();
    let read = stream::iter(work)
        .map(|(listed, id)| async move { job.source.read(&id, listed).await.map(|found| (id, found)) })
        .buffer_unordered(in_flight.max(1))
        .try_collect()
        .await?;
    Ok(read)
}

/// Answers the IDs of the devices.
async fn devices(job: &Job, into: &Arc<Tts>, in_flight: usize) -> Result<Vec<DeviceId>, RunError> {
    let app = job.source.app();
    let found = found(job, in_flight).await?;
    let mut store = into.store();
    let mut ids = Vec::new();
    for (id, found) in found {
        for (component, record) in found.records.present() {
            store.put(Table::of(component), &device_key(app.as_str(), id.as_str()), record.0.clone())?;
        }
        ids.push(id);
    }
    Ok(ids)
}

/// What is to be copied besides the devices. What the key may not read is not rehearsed: the plan of the run says so.
async fn belongings(
    job: &Job,
    source: &TtsSource,
    into: &Arc<Tts>,
    devices: &[DeviceId],
) -> Result<(), RunError> {
    let app = source.app();
    for sort in chosen(&job.wishes.copy) {
        let owners: Vec<_> =
            if sort.is_of_device() { devices.iter().map(|id| id.as_str()).collect() } else { vec![""] };
        for device in owners {
            for message in source.stack().belongings(sort, app, device).await?.unwrap_or_default() {
                let (table, key) = place(sort, app.as_str(), device, &message);
                into.store().put(table, &key, message)?;
            }
        }
    }
    Ok(())
}

/// Where an embedded stack keeps it ([`Table`]).
fn place(sort: &Sort, app: &str, device: &str, message: &DynamicMessage) -> (Table, String) {
    let id = sort.ids.of(message);
    let port = || format!("{:03}", id.parse::<u32>().unwrap_or_default());
    match sort.ids {
        Ids::Named("webhook_id") => (Table::Webhooks, format!("{app}.{id}")),
        Ids::Named(_) => (Table::PubSubs, format!("{app}.{id}")),
        Ids::Port => (Table::PackageDefaults, format!("{app}.{}", port())),
        Ids::PortOfDevice => (Table::Packages, format!("{}.{}", device_key(app, device), port())),
        Ids::Account => {
            let (kind, id) = id.split_once(' ').unwrap_or_default();
            let prefix = if kind == "user" { "usr" } else { "org" };
            (Table::Collaborators, format!("app:{app}/{prefix}:{id}"))
        }
        Ids::Key => (Table::ApiKeys, format!("app:{app}/{id}")),
        Ids::Application if sort.name == LINK.name => (Table::Links, app.to_owned()),
        Ids::Application => (Table::ActivationSettings, app.to_owned()),
    }
}

async fn of_ttn_v2(
    job: &Job,
    source: &TtnV2Source,
    into: &Arc<TtnV2>,
    in_flight: usize,
) -> Result<(), RunError> {
    let app = source.app();
    match source.application().await {
        Ok(application) => into.take_application(application, app.as_str())?,
        // Without the right to read them there are no payload functions to rehearse.
        Err(error) if matches!(error.kind(), wire::Kind::Denied { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let found = found(job, in_flight).await?;
    let devices = found.into_iter().filter_map(|(_, found)| Some(found.v2?.message().clone()));
    Ok(into.take_devices(devices.collect(), app.as_str())?)
}
