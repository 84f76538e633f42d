//! The device registry of the Network Server (`pkg/networkserver/grpc_deviceregistry.go`,
//! `pkg/networkserver/redis/registry.go`).

mod phy;
mod regional;
mod rules;
mod set;
mod state;

use prost_reflect::{DynamicMessage, Value};
use tonic::Code;

use super::{
    Ctx, devices,
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    registries::implicit,
    stored::REDIS_NOT_FOUND,
};
use crate::{
    map::{mask, path},
    proto,
    rehearsal::store::{Table, device_key},
};

pub(super) use regional::{Band, bands, plans};
pub(super) use state::default_settings;

const DEVICE_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, "pkg/networkserver", "device_not_found", "device not found");
const CORRUPTED: Kind =
    Kind::new(Code::DataLoss, "pkg/networkserver/internal", "corrupted_mac_state", "MAC state is corrupted");
const NO_SESSION: Kind =
    Kind::new(Code::DataLoss, "pkg/networkserver/internal", "session", "no device session");

/// Paths of the session keys that the Network Server holds, below a session or a queued join-accept.
const SESSION_KEYS: [&str; 3] = ["f_nwk_s_int_key", "nwk_s_enc_key", "s_nwk_s_int_key"];

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    name: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match name {
        "Get" => get(ctx, &request),
        "Set" => set::set(ctx, &request),
        "ResetFactoryDefaults" => reset(ctx, &request),
        "Delete" if path::has(&request, "device_ids") => devices::remove_batch(ctx, Table::Ns, &request),
        "Delete" => {
            let (application, device) = devices::ids_at(&request, "");
            ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE"])?;
            let removed = ctx.store.remove(Table::Ns, &device_key(&application, &device))?;
            removed.map(|_| empty()).ok_or_else(|| DEVICE_NOT_FOUND.failure())
        }
        _ => Err(unimplemented()),
    }
}

/// Rights that reading these paths needs.
fn read_rights(paths: &[String]) -> Vec<&'static str> {
    if paths.is_empty() {
        return Vec::new();
    }
    let mut rights = vec!["APPLICATION_DEVICES_READ"];
    let queues = [
        "pending_session.queued_application_downlinks",
        "queued_application_downlinks",
        "session.queued_application_downlinks",
    ];
    if fields::has_any(paths, &queues) {
        rights.push("APPLICATION_TRAFFIC_READ");
    }
    let owners = [
        "mac_state.queued_join_accept.keys",
        "pending_mac_state.queued_join_accept.keys",
        "pending_session.keys",
        "session.keys",
    ];
    let keys = owners.iter().flat_map(|owner| SESSION_KEYS.map(|key| format!("{owner}.{key}.key")));
    if fields::has_any(paths, &keys.collect::<Vec<_>>()) {
        rights.push("APPLICATION_DEVICES_READ_KEYS");
    }
    rights
}

fn get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "end_device_ids");
    let paths = mask::of(request);
    ctx.require_application(&application, &read_rights(&paths))?;
    let stored = ctx.store.get(Table::Ns, &device_key(&application, &device));
    fields::filter(stored.ok_or_else(|| REDIS_NOT_FOUND.failure())?, &implicit(&paths))
}

/// Forgets what was measured and negotiated: OTAA devices lose their session, others get a fresh state for it.
fn reset(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "end_device_ids");
    let paths = mask::of(request);
    let rights = [vec!["APPLICATION_DEVICES_WRITE"], read_rights(&paths)].concat();
    ctx.require_application(&application, &rights)?;
    let key = device_key(&application, &device);
    let stored = ctx.store.get(Table::Ns, &key).cloned();
    let mut record = stored.ok_or_else(|| DEVICE_NOT_FOUND.failure())?;
    for gone in [
        "battery_percentage",
        "downlink_margin",
        "last_dev_status_received_at",
        "mac_state",
        "pending_mac_state",
        "pending_session",
    ] {
        path::clear(&mut record, gone);
    }
    if path::flag(&record, "supports_join") {
        path::clear(&mut record, "session");
    } else {
        let old = path::child(&record, "session");
        let old = old.ok_or_else(|| CORRUPTED.failure().because(NO_SESSION.failure()))?;
        let state = state::new_state(&record)?;
        path::set(&mut record, "mac_state", Value::Message(state));
        let mut session = path::project(&old, &["dev_addr", "keys", "queued_application_downlinks"]);
        path::set(&mut session, "started_at", ctx.now.timestamp());
        path::set(&mut record, "session", Value::Message(session));
    }
    path::set(&mut record, "updated_at", ctx.now.timestamp());
    ctx.store.put(Table::Ns, &key, record.clone())?;
    fields::filter(&record, &implicit(&paths))
}

/// An empty device, for requests without one.
fn sent_device(request: &DynamicMessage) -> DynamicMessage {
    path::child(request, "end_device").unwrap_or_else(|| proto::message("EndDevice"))
}
