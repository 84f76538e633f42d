//! Embedded stacks that listen on loopback for one command.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, sync::Arc};

use super::{Exit, Failure};
use crate::{
    config::Rehearsal,
    model::ids::AppId,
    rehearsal::{self, AccessKey, Served, ServedTtnV2, TtnV2, Tts, V2Application, V2Settings, serve_ttn_v2},
    wire::Side,
};

/// An embedded stack of either kind.
#[derive(Debug)]
pub enum Embedded {
    /// The Things Stack.
    Tts(EmbeddedTts),
    /// The Things Network Stack V2.
    TtnV2(EmbeddedTtnV2),
}

/// An embedded The Things Stack.
#[derive(Debug)]
pub struct EmbeddedTts {
    /// Its rules and its store.
    pub tts: Arc<Tts>,
    /// Its listener.
    pub served: Served,
}

/// An embedded The Things Network Stack V2.
#[derive(Debug)]
pub struct EmbeddedTtnV2 {
    /// Its rules and its store.
    pub v2: Arc<TtnV2>,
    /// Its listeners.
    pub served: ServedTtnV2,
}

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn failed(which: Side) -> impl Fn(&dyn std::fmt::Display) -> Failure {
    move |e| Failure::new(Exit::Failed, format!("the embedded {which}: {e}"), None)
}

/// Starts what a side of the configuration says. V2 knows the applications `of_v2`, and gives the devices to the first.
///
/// # Errors
/// Files that cannot be read, a port that cannot be had.
pub async fn start(rehearsal: &Rehearsal, which: Side, of_v2: &[AppId]) -> Result<Embedded, Failure> {
    if rehearsal.is_ttn_v2 {
        start_ttn_v2(rehearsal, which, of_v2).await.map(Embedded::TtnV2)
    } else {
        start_tts(rehearsal, which).await.map(Embedded::Tts)
    }
}

/// Starts a The Things Stack and loads its fleet, unless its state file has one.
///
/// # Errors
/// As [`start`].
pub async fn start_tts(rehearsal: &Rehearsal, which: Side) -> Result<EmbeddedTts, Failure> {
    let settings = rehearsal::Settings {
        name: which.to_string(),
        host: rehearsal.host.clone(),
        net_id: rehearsal.net_id,
        dev_addr_prefixes: rehearsal.dev_addr_prefixes.clone(),
        state: rehearsal.state.clone(),
        rate_limit: rehearsal.rate_limit.map(|r| rehearsal::RateLimit::per_entity(r.calls.get(), r.per)),
        users: both(&rehearsal.people.users),
        organizations: both(&rehearsal.people.organizations),
        ..rehearsal::Settings::default()
    };
    let tts = Tts::new(settings).map_err(|e| failed(which)(&e))?;
    if tts.store().is_empty() {
        rehearsal::load(&tts, rehearsal.devices.as_deref(), rehearsal.application.as_deref())
            .map_err(|e| failed(which)(&e))?;
    }
    serve(tts, which).await
}

/// IDs of both sides: a rehearsal inside one deployment has both.
fn both(ids: &BTreeMap<String, String>) -> Vec<String> {
    ids.iter().flat_map(|(from, to)| [from.clone(), to.clone()]).collect()
}

/// An embedded stack at another address: one deployment, seen from both sides.
///
/// # Errors
/// When it cannot listen.
pub async fn again(embedded: &EmbeddedTts, which: Side) -> Result<EmbeddedTts, Failure> {
    serve(Arc::clone(&embedded.tts), which).await
}

async fn serve(tts: Arc<Tts>, which: Side) -> Result<EmbeddedTts, Failure> {
    let served = rehearsal::serve(Arc::clone(&tts), LOOPBACK, None).await.map_err(|e| failed(which)(&e))?;
    Ok(EmbeddedTts { tts, served })
}

async fn start_ttn_v2(
    rehearsal: &Rehearsal,
    which: Side,
    applications: &[AppId],
) -> Result<EmbeddedTtnV2, Failure> {
    // A rate of V2 is in calls a second.
    let a_second = |r: crate::config::Rate| {
        let calls = f64::from(r.calls.get()) / r.per.as_secs_f64();
        // Saturates: no rate is negative or larger.
        (calls.round() as u32).max(1)
    };
    let known =
        |app: &AppId| V2Application::new(app.as_str(), vec![AccessKey::generate(&["devices", "settings"])]);
    let settings = V2Settings {
        name: which.to_string(),
        applications: applications.iter().map(known).collect(),
        rate_limit: rehearsal.rate_limit.map(a_second),
        state: rehearsal.state.clone(),
        ..V2Settings::default()
    };
    let v2 = TtnV2::new(settings).map_err(|e| failed(which)(&e))?;
    let is_empty = v2.store().iter(rehearsal::store::Table::V2Devices).next().is_none();
    if let (true, Some(app)) = (is_empty, applications.first()) {
        let load = |file: &Path, take: &dyn Fn(&[u8]) -> Result<(), rehearsal::V2LoadError>| {
            let at = |e: &dyn std::fmt::Display| failed(which)(&format!("{}: {e}", file.display()));
            take(&fs::read(file).map_err(|e| at(&e))?).map_err(|e| at(&e))
        };
        if let Some(file) = &rehearsal.devices {
            load(file, &|json| v2.load_devices(json, app.as_str()).map(drop))?;
        }
        if let Some(file) = &rehearsal.application {
            load(file, &|json| v2.load_application(json, app.as_str()))?;
        }
    }
    let served = serve_ttn_v2(Arc::clone(&v2), LOOPBACK, LOOPBACK, false).await;
    let served = served.map_err(|e| failed(which)(&e))?;
    Ok(EmbeddedTtnV2 { v2, served })
}
