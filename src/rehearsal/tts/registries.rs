//! Device registries of the Join Server and the Application Server (`pkg/joinserver`, `pkg/applicationserver`:
//! `grpc_deviceregistry.go` and `redis/registry.go`).

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, devices,
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    stored::REDIS_NOT_FOUND,
};
use crate::{
    map::{mask, path, rules},
    model::ids::{DevAddr, Eui64},
    proto,
    rehearsal::store::{Table, device_key},
};

const JS: &str = "pkg/joinserver";
const AS: &str = "pkg/applicationserver";
const JS_NOT_FOUND: Kind = Kind::new(Code::NotFound, JS, "device_not_found", "device not found");
const AS_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, AS, "device_not_found", "device `{device_uid}` not found");
const NO_JOIN_EUI: Kind = Kind::new(Code::InvalidArgument, JS, "no_join_eui", "no JoinEUI specified");
const NO_DEV_EUI: Kind = Kind::new(Code::InvalidArgument, JS, "no_dev_eui", "no DevEUI specified");
const EUIS_TAKEN: Kind = Kind::new(
    Code::AlreadyExists,
    "pkg/internal/registry",
    "end_device_euis_taken",
    "an end device with JoinEUI `{join_eui}` and DevEUI `{dev_eui}` is already registered as `{device_id}` in application `{application_id}`",
);
const PROHIBITED: Kind =
    Kind::new(Code::Unknown, "pkg/ttnpb", "prohibited_field", "field `{field}` is prohibited");
const SCRIPT_TOO_LARGE: Kind = Kind::new(
    Code::InvalidArgument,
    AS,
    "formatter_script_too_large",
    "formatter script size exceeds maximum allowed size",
);
/// Largest formatter script in bytes (`cmd/internal/shared/applicationserver/config.go`).
const MAX_SCRIPT: usize = 40960;

const CLAIM_CODE_WARNING: &str = "Storage of claim authentication code in the Join Server registry is deprecated. Use the Identity Server registry instead";

/// What one of the registries calls its errors.
const fn field_value(namespace: &'static str) -> Kind {
    Kind::new(Code::InvalidArgument, namespace, "field_value", "invalid value of field `{field}`")
}

const fn field_mask(namespace: &'static str) -> Kind {
    Kind::new(Code::InvalidArgument, namespace, "field_mask", "invalid field mask")
}

const fn read_only(namespace: &'static str) -> Kind {
    Kind::new(Code::InvalidArgument, namespace, "read_only_field", "read-only field `{field}`")
}

/// The error of a pair of EUIs that is registered already, or `Ok`.
pub(super) fn check_euis_free(ctx: &Ctx<'_>, table: Table, device: &DynamicMessage) -> Result<(), Failure> {
    let eui = |at: &str| Eui64::from_bytes(&path::bytes(device, at));
    let (Some(join_eui), Some(dev_eui)) = (eui("ids.join_eui"), eui("ids.dev_eui")) else { return Ok(()) };
    match devices::by_euis(ctx, table, join_eui, dev_eui) {
        Some(other) => Err(EUIS_TAKEN.with(devices::taken_by(join_eui, dev_eui, other))),
        None => Ok(()),
    }
}

/// Identifiers cannot change: an error names the first that a mask tries to.
pub(super) fn check_same_ids(
    sets: &[String],
    sent: &DynamicMessage,
    stored: &DynamicMessage,
    namespace: &'static str,
) -> Result<(), Failure> {
    for at in ["ids.application_ids.application_id", "ids.device_id", "ids.join_eui", "ids.dev_eui"] {
        if fields::has(sets, at) && path::get(sent, at) != path::get(stored, at) {
            return Err(read_only(namespace).with(json!({"field": at})));
        }
    }
    Ok(())
}

/// Every registry validates the record once more before it is written.
pub(super) fn check_record(device: &DynamicMessage) -> Result<(), Failure> {
    rules::violation(device).map_or(Ok(()), |broken| Err(Failure::invalid(&broken)))
}

fn sent_device(request: &DynamicMessage) -> DynamicMessage {
    path::child(request, "end_device").unwrap_or_else(|| proto::message("EndDevice"))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// `ids.dev_addr` may not be written to a record that exists.
fn check_no_dev_addr(sets: &[String], namespace: &'static str) -> Result<(), Failure> {
    if fields::has(sets, "ids.dev_addr") {
        let cause = PROHIBITED.with(json!({"field": "ids.dev_addr"}));
        return Err(field_mask(namespace).failure().because(cause));
    }
    Ok(())
}

/// A mask with what every record is answered with.
pub(super) fn implicit(paths: &[String]) -> Vec<String> {
    fields::with(paths, &["created_at", "ids", "updated_at"])
}

// ---- Join Server

pub(super) fn join(
    ctx: &mut Ctx<'_>,
    name: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match name {
        "Get" => join_get(ctx, &request),
        "Set" => join_set(ctx, &request),
        "Delete" if path::has(&request, "device_ids") => devices::remove_batch(ctx, Table::Js, &request),
        "Delete" => {
            let (application, device) = devices::ids_at(&request, "");
            ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE"])?;
            let removed = ctx.store.remove(Table::Js, &device_key(&application, &device))?;
            removed.map(|_| empty()).ok_or_else(|| JS_NOT_FOUND.failure())
        }
        _ => Err(unimplemented()),
    }
}

fn warn_of_claim_code(ctx: &mut Ctx<'_>, paths: &[String]) {
    // The third of these does not exist (`valid_to` was meant): a quirk that makes no difference but for its parent.
    let parts = [
        "claim_authentication_code.value",
        "claim_authentication_code.valid_from",
        "claim_authentication_code.value_to",
    ];
    if fields::has_any(paths, &parts) {
        ctx.warn(CLAIM_CODE_WARNING);
    }
}

fn join_get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "end_device_ids");
    ctx.require_application(&application, &["APPLICATION_DEVICES_READ"])?;
    let paths = mask::of(request);
    let keys = ["root_keys.app_key.key", "root_keys.nwk_key.key"];
    let asks_keys = fields::has_any(&paths, &keys);
    if asks_keys {
        ctx.require_application(&application, &["APPLICATION_DEVICES_READ_KEYS"])?;
    }
    warn_of_claim_code(ctx, &paths);
    let stored = ctx.store.get(Table::Js, &device_key(&application, &device));
    let mut record = stored.cloned().ok_or_else(|| JS_NOT_FOUND.failure())?;
    if asks_keys {
        // The message is made anew with what was asked, so it is there even when no key is.
        path::touch(&mut record, "root_keys");
    }
    fields::filter(&record, &implicit(&paths))
}

fn join_set(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut sent = sent_device(request);
    let paths = mask::of(request);
    if !path::has(&sent, "ids.join_eui") {
        return Err(NO_JOIN_EUI.failure());
    }
    if is_zero(&path::bytes(&sent, "ids.dev_eui")) {
        return Err(NO_DEV_EUI.failure());
    }
    warn_of_claim_code(ctx, &paths);
    let sets_app_key = fields::has(&paths, "root_keys.app_key.key");
    if sets_app_key && is_zero(&path::bytes(&sent, "root_keys.app_key.key")) {
        return Err(field_value(JS).with(json!({"field": "root_keys.app_key.key"})));
    }
    let (application, device) = devices::ids_at(&sent, "ids");
    ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE"])?;
    if fields::has_any(&paths, &["root_keys.app_key.key", "root_keys.nwk_key.key", "root_keys.root_key_id"]) {
        ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE_KEYS"])?;
    }
    let mut sets = paths.clone();
    if sets_app_key {
        plain_key(&mut sent, "root_keys.app_key");
        sets = fields::with(&sets, &["root_keys.app_key.encrypted_key", "root_keys.app_key.kek_label"]);
    }
    if fields::has(&paths, "root_keys.nwk_key.key") {
        if is_zero(&path::bytes(&sent, "root_keys.nwk_key.key")) {
            path::clear(&mut sent, "root_keys.nwk_key");
        } else {
            plain_key(&mut sent, "root_keys.nwk_key");
        }
        sets = fields::with(&sets, &["root_keys.nwk_key.encrypted_key", "root_keys.nwk_key.kek_label"]);
    }
    let key = device_key(&application, &device);
    let stored = ctx.store.get(Table::Js, &key).cloned();
    match &stored {
        Some(_) => check_no_dev_addr(&sets, JS)?,
        None => {
            if !is_zero(&path::bytes(&sent, "ids.dev_addr")) {
                return Err(field_value(JS).with(json!({"field": "ids.dev_addr"})));
            }
            let ids = ["ids.application_ids", "ids.dev_eui", "ids.device_id", "ids.join_eui"];
            sets = fields::with(&sets, &ids);
        }
    }
    let record = write(ctx, Table::Js, &key, stored, &sent, &sets, "pkg/joinserver/redis")?;
    fields::filter(&record, &implicit(&paths))
}

/// Without a key vault, a key is stored as it is: whatever else the envelope held is gone (`WrapAES128Key`).
pub(super) fn plain_key(device: &mut DynamicMessage, at: &str) {
    if let Some(key) = path::get(device, &format!("{at}.key")).map(std::borrow::Cow::into_owned) {
        path::clear(device, at);
        path::set(device, &format!("{at}.key"), key);
    }
}

/// Writes what `sets` name into a record, new or stored, and answers it whole.
fn write(
    ctx: &mut Ctx<'_>,
    table: Table,
    key: &str,
    stored: Option<DynamicMessage>,
    sent: &DynamicMessage,
    sets: &[String],
    namespace: &'static str,
) -> Result<DynamicMessage, Failure> {
    if let Some(stored) = &stored {
        if sets.is_empty() {
            return Ok(stored.clone());
        }
        check_same_ids(sets, sent, stored, namespace)?;
        if table == Table::Js {
            for at in ["provisioner_id", "provisioning_data"] {
                if fields::has(sets, at) && path::get(sent, at) != path::get(stored, at) {
                    return Err(read_only(namespace).with(json!({"field": at})));
                }
            }
        }
    }
    let new = stored.is_none();
    let mut record = stored.unwrap_or_else(|| proto::message("EndDevice"));
    fields::set(&mut record, Some(sent), sets)?;
    path::set(&mut record, "updated_at", ctx.now.timestamp());
    if new {
        path::set(&mut record, "created_at", ctx.now.timestamp());
    }
    check_record(&record)?;
    if new {
        check_euis_free(ctx, table, &record)?;
    }
    ctx.store.put(table, key, record.clone())?;
    Ok(record)
}

// ---- Application Server

pub(super) fn application(
    ctx: &mut Ctx<'_>,
    name: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match name {
        "Get" => application_get(ctx, &request),
        "Set" => application_set(ctx, &request),
        "Delete" if path::has(&request, "device_ids") => devices::remove_batch(ctx, Table::As, &request),
        "Delete" => application_delete(ctx, &request),
        _ => Err(unimplemented()),
    }
}

fn application_get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "end_device_ids");
    ctx.require_application(&application, &["APPLICATION_DEVICES_READ"])?;
    let paths = mask::of(request);
    if fields::has_any(&paths, &["pending_session.keys.app_s_key.key", "session.keys.app_s_key.key"]) {
        ctx.require_application(&application, &["APPLICATION_DEVICES_READ_KEYS"])?;
    }
    let stored = ctx.store.get(Table::As, &device_key(&application, &device));
    fields::filter(stored.ok_or_else(|| REDIS_NOT_FOUND.failure())?, &implicit(&paths))
}

/// Formatter scripts have a size in bytes, besides the rule that counts code points.
pub(super) fn check_scripts(
    paths: &[String],
    sent: Option<&DynamicMessage>,
    at: &str,
) -> Result<(), Failure> {
    for direction in ["up", "down"] {
        let field = format!("{at}.{direction}_formatter_parameter");
        let size = sent.map_or(0, |sent| path::string(sent, &field).len());
        if fields::has(paths, &field) && size > MAX_SCRIPT {
            let cause = SCRIPT_TOO_LARGE.with(json!({"size": size, "max_size": MAX_SCRIPT}));
            return Err(field_value(AS).with(json!({"field": field})).because(cause));
        }
    }
    Ok(())
}

fn application_set(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut sent = sent_device(request);
    let paths = mask::of(request);
    for at in ["session.dev_addr", "session.keys.app_s_key.key"] {
        if fields::has(&paths, at) && is_zero(&path::bytes(&sent, at)) {
            return Err(field_value(AS).with(json!({"field": at})));
        }
    }
    check_scripts(&paths, Some(&sent), "formatters")?;
    let (application, device) = devices::ids_at(&sent, "ids");
    ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE"])?;
    if fields::has_any(&paths, &["session.keys.app_s_key.key", "session.keys.session_key_id"]) {
        ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE_KEYS"])?;
    }
    let mut sets = paths.clone();
    if fields::has(&paths, "session.keys.app_s_key.key") {
        plain_key(&mut sent, "session.keys.app_s_key");
        sets = fields::with(
            &sets,
            &["session.keys.app_s_key.encrypted_key", "session.keys.app_s_key.kek_label"],
        );
    }
    let key = device_key(&application, &device);
    let stored = ctx.store.get(Table::As, &key).cloned();
    if stored.is_some() {
        check_no_dev_addr(&sets, AS)?;
        if fields::has(&sets, "session.dev_addr") {
            let dev_addr = DevAddr::from_bytes(&path::bytes(&sent, "session.dev_addr"));
            let dev_addr = dev_addr.map(|a| Value::Bytes(a.0.to_vec().into()));
            dev_addr.into_iter().for_each(|value| path::set(&mut sent, "ids.dev_addr", value));
            sets = fields::with(&sets, &["ids.dev_addr"]);
        }
    } else {
        let claimed = path::get(&sent, "ids.dev_addr");
        let fits = fields::has(&sets, "session.dev_addr") && claimed == path::get(&sent, "session.dev_addr");
        if claimed.is_some() && !fits {
            return Err(field_value(AS).with(json!({"field": "ids.dev_addr"})));
        }
        sets = fields::with(&sets, &["ids.application_ids", "ids.device_id"]);
        if path::has(&sent, "ids.join_eui") {
            sets = fields::with(&sets, &["ids.join_eui"]);
        }
        if !is_zero(&path::bytes(&sent, "ids.dev_eui")) {
            sets = fields::with(&sets, &["ids.dev_eui"]);
        }
    }
    let record = write(ctx, Table::As, &key, stored, &sent, &sets, "pkg/applicationserver/redis")?;
    fields::filter(&record, &implicit(&paths))
}

fn application_delete(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "");
    ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE"])?;
    let key = device_key(&application, &device);
    if ctx.store.remove(Table::As, &key)?.is_none() {
        return Err(AS_NOT_FOUND.with(json!({"device_uid": key})));
    }
    for association in ctx.owned_keys(Table::Packages, &format!("{key}.")) {
        ctx.store.remove(Table::Packages, &association)?;
    }
    Ok(empty())
}
