//! Brings what a real source holds into an embedded stack. The real side is only read.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    gather,
    run::{Job, RunError},
};
use crate::{
    config::Rehearsal,
    map::path,
    model::ids::DeviceId,
    plan::transform::device_id,
    rehearsal::{
        Tts,
        store::{Table, device_key},
    },
    source::Source as _,
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
    source.dev_addr_prefixes = job.source.stack().dev_addr_prefixes().await?;
    target.dev_addr_prefixes = job.target.stack().dev_addr_prefixes().await?;
    Ok(())
}

/// True when the real sides are one deployment: then the rehearsal needs one, too.
///
/// # Errors
/// When a side cannot be asked.
pub async fn one_deployment(jobs: &[Job]) -> Result<bool, RunError> {
    match jobs.first() {
        Some(job) => gather::one_deployment(job.source.stack(), job.target.stack(), job.source.app()).await,
        None => Ok(false),
    }
}

/// Copies the application and its selected devices, record by record, into the store of an embedded stack.
///
/// # Errors
/// When the source cannot be read.
pub async fn mirror(job: &Job, into: &Arc<Tts>, in_flight: usize) -> Result<(), RunError> {
    let app = job.source.app();
    let paths = ["name", "description", "attributes"].map(str::to_owned);
    let application = job.source.stack().application(app, &paths).await?;
    let link = crate::map::mask::leaves("As/GetLink").into_iter().map(str::to_owned).collect::<Vec<_>>();
    let link = job.source.stack().link(app, &link).await?;
    let listed = job.source.list().await?;
    let ids: Vec<_> = listed.iter().map(|f| DeviceId::unchecked(device_id(f))).collect();
    let selected = job.select(&ids);
    let found: Vec<_> = stream::iter(selected)
        .map(|id| async move {
            let listed = crate::plan::transform::Found::default();
            job.source.read(&id, listed).await.map(|found| (id, found))
        })
        .buffer_unordered(in_flight.max(1))
        .try_collect()
        .await?;
    let mut store = into.store();
    if let Some(mut application) = application {
        path::set(
            &mut application,
            "ids.application_id",
            prost_reflect::Value::String(app.as_str().to_owned()),
        );
        store.put(Table::Applications, app.as_str(), application)?;
    }
    if let Some(link) = link {
        store.put(Table::Links, app.as_str(), link)?;
    }
    for (id, found) in found {
        for (component, record) in found.records.present() {
            store.put(Table::of(component), &device_key(app.as_str(), id.as_str()), record.0.clone())?;
        }
    }
    Ok(())
}
