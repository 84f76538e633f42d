//! End devices of the Identity Server (`pkg/identityserver/end_device_registry.go`,
//! `pkg/identityserver/bunstore/end_device_store.go`).

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, MapKey, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx,
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    stored,
};
use crate::{
    map::{mask, path},
    model::ids::Eui64,
    proto,
    rehearsal::store::{Table, device_key},
};

const DEVICE_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "end_device_not_found",
    "end device with id `{device_id}` not found in application with id `{application_id}`",
);
const EUIS_TAKEN: Kind = Kind::new(
    Code::AlreadyExists,
    "pkg/identityserver",
    "end_device_euis_taken",
    "an end device with JoinEUI `{join_eui}` and DevEUI `{dev_eui}` is already registered as `{device_id}` in application `{application_id}`",
);
const CLAIM_CODE: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/identityserver",
    "claim_authentication_code",
    "invalid claim authentication code",
);
const PICTURE_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/picture",
    "original_not_found",
    "original picture not found",
);
const CLUSTER_ONLY: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/auth/cluster",
    "auth_type",
    "cluster auth type `{auth_type}` is not supported",
);

/// The three addresses that must agree with the application's.
const ADDRESSES: [(&str, Kind); 3] = [
    (
        "network_server_address",
        mismatch(
            "network_server_address_mismatch",
            "network server address `{address}` does not match `{expected}`",
        ),
    ),
    (
        "application_server_address",
        mismatch(
            "application_server_address_mismatch",
            "application server address `{address}` does not match `{expected}`",
        ),
    ),
    (
        "join_server_address",
        mismatch(
            "join_server_address_mismatch",
            "join server address `{address}` does not match `{expected}`",
        ),
    ),
];

const fn mismatch(name: &'static str, format: &'static str) -> Kind {
    Kind::new(Code::InvalidArgument, "pkg/identityserver", name, format)
}

/// What the database has columns for, beside identifiers and times.
const COLUMNS: &[&str] = &[
    "name",
    "description",
    "attributes",
    "version_ids.brand_id",
    "version_ids.model_id",
    "version_ids.hardware_version",
    "version_ids.firmware_version",
    "version_ids.band_id",
    "network_server_address",
    "application_server_address",
    "join_server_address",
    "claim_authentication_code",
    "serial_number",
    "service_profile_id",
    "lora_alliance_profile_ids.vendor_id",
    "lora_alliance_profile_ids.vendor_profile_id",
    "locations",
    "picture",
    "activated_at",
    "last_seen_at",
];

const IDS: &[&str] = &["ids.application_ids.application_id", "ids.device_id", "ids.join_eui", "ids.dev_eui"];
const IMPLICIT: &[&str] = &["ids", "created_at", "updated_at"];

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    method: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match method {
        "EndDeviceRegistry/Create" => create(ctx, &request),
        "EndDeviceRegistry/Get" => get(ctx, &request),
        "EndDeviceRegistry/GetIdentifiersForEUIs" => identifiers(ctx, &request),
        "EndDeviceRegistry/List" => list(ctx, &request),
        "EndDeviceRegistry/Update" => update(ctx, &request),
        "EndDeviceRegistry/Delete" => delete(ctx, &request),
        "EndDeviceRegistry/BatchUpdateLastSeen" => Err(CLUSTER_ONLY.with(json!({"auth_type": "Bearer"}))),
        "EndDeviceBatchRegistry/Get" => batch_get(ctx, &request),
        "EndDeviceBatchRegistry/Delete" => batch_delete(ctx, &request),
        _ => Err(unimplemented()),
    }
}

/// Application and device ID of a request, below `at`.
pub(super) fn ids_at(request: &DynamicMessage, at: &str) -> (String, String) {
    let prefix = if at.is_empty() { String::new() } else { format!("{at}.") };
    (
        path::string(request, &format!("{prefix}application_ids.application_id")),
        path::string(request, &format!("{prefix}device_id")),
    )
}

fn not_found(application: &str, device: &str) -> Failure {
    DEVICE_NOT_FOUND.with(json!({"application_id": application, "device_id": device}))
}

/// As the database gives the device back: what it has no columns for is gone, and two messages are always there.
fn normalized(sent: &DynamicMessage) -> DynamicMessage {
    let mut device = path::project(sent, &[IDS, COLUMNS, &["created_at", "updated_at"]].concat());
    for always in ["version_ids", "lora_alliance_profile_ids"] {
        path::touch(&mut device, always);
    }
    if path::string(&device, "claim_authentication_code.value").is_empty() {
        path::clear(&mut device, "claim_authentication_code");
    }
    for time in [
        "activated_at",
        "last_seen_at",
        "claim_authentication_code.valid_from",
        "claim_authentication_code.valid_to",
    ] {
        stored::cut_to_micros(&mut device, time);
    }
    device
}

fn eui(message: &DynamicMessage, at: &str) -> Option<Eui64> {
    Eui64::from_bytes(&path::bytes(message, at))
}

/// The device with these EUIs in any application, as the unique index finds it.
pub(super) fn by_euis<'s>(
    ctx: &'s Ctx<'_>,
    table: Table,
    join_eui: Eui64,
    dev_eui: Eui64,
) -> Option<&'s DynamicMessage> {
    ctx.store.get(table, &ctx.index.find(table, join_eui, dev_eui)?)
}

/// The attributes of the errors about taken EUIs.
pub(super) fn taken_by(join_eui: Eui64, dev_eui: Eui64, device: &DynamicMessage) -> serde_json::Value {
    json!({
        "join_eui": join_eui.to_string(),
        "dev_eui": dev_eui.to_string(),
        "device_id": path::string(device, "ids.device_id"),
        "application_id": path::string(device, "ids.application_ids.application_id"),
    })
}

/// Host of an address with or without scheme and port (`getHost`).
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = if address.contains("://") { rest.split('/').next().unwrap_or(rest) } else { rest };
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => rest,
    }
}

fn check_addresses(ctx: &Ctx<'_>, device: &DynamicMessage, application_id: &str) -> Result<(), Failure> {
    let Some(application) = ctx.store.get(Table::Applications, application_id) else { return Ok(()) };
    for (at, kind) in ADDRESSES {
        let (own, expected) = (path::string(device, at), path::string(application, at));
        if !own.is_empty() && !expected.is_empty() && host(&own) != host(&expected) {
            return Err(kind.with(json!({"address": own, "expected": expected})));
        }
    }
    Ok(())
}

/// An uploaded picture is kept as a file, and the device refers to it; a reference to a file of another deployment is an
/// error of the blob store, which the server answers as `UNKNOWN`.
fn keep_picture(device: &mut DynamicMessage, uid: &str) -> Result<(), Failure> {
    if !path::has(device, "picture") {
        return Ok(());
    }
    if path::bytes(device, "picture.embedded.data").is_empty() {
        let sizes = path::get(device, "picture.sizes");
        let first = sizes.as_ref().and_then(|s| s.as_map()?.values().next()?.as_str().map(str::to_owned));
        return Err(match first {
            Some(file) => {
                Failure::plain(format!("blob (key \"{file}\") (code=NotFound): no such file or directory"))
            }
            None => PICTURE_NOT_FOUND.failure(),
        });
    }
    let mime = path::string(device, "picture.embedded.mime_type");
    let extension = mime.rsplit('/').next().filter(|e| !e.is_empty()).unwrap_or("png");
    let name = hex::encode_upper(super::random::<13>());
    let file = format!("/assets/blob/end_device_pictures/{uid}.{name}/original.{extension}");
    path::clear(device, "picture");
    let sizes = HashMap::from([(MapKey::U32(0), Value::String(file))]);
    path::set(device, "picture.sizes", Value::Map(sizes));
    Ok(())
}

fn check_claim_code(device: &DynamicMessage) -> Result<(), Failure> {
    let at = |name: &str| path::child(device, &format!("claim_authentication_code.{name}"));
    let (Some(from), Some(to)) = (at("valid_from"), at("valid_to")) else { return Ok(()) };
    let empty = path::string(device, "claim_authentication_code.value").is_empty();
    if stored::nanos(&to) < stored::nanos(&from) || empty { Err(CLAIM_CODE.failure()) } else { Ok(()) }
}

fn create(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut sent = path::child(request, "end_device").unwrap_or_else(|| proto::message("EndDevice"));
    let (application_id, device_id) = ids_at(&sent, "ids");
    let key = device_key(&application_id, &device_id);
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_WRITE"])?;
    stored::check_id(&device_id)?;
    check_addresses(ctx, &sent, &application_id)?;
    keep_picture(&mut sent, &key)?;
    if !path::string(&sent, "claim_authentication_code.value").is_empty() {
        check_claim_code(&sent)?;
    }
    if ctx.store.get(Table::Is, &key).is_some() {
        return Err(stored::id_taken());
    }
    if let (Some(join_eui), Some(dev_eui)) = (eui(&sent, "ids.join_eui"), eui(&sent, "ids.dev_eui"))
        && let Some(other) = by_euis(ctx, Table::Is, join_eui, dev_eui)
    {
        return Err(EUIS_TAKEN.with(taken_by(join_eui, dev_eui, other)));
    }
    let mut device = normalized(&sent);
    path::set(&mut device, "created_at", ctx.now.micros());
    path::set(&mut device, "updated_at", ctx.now.micros());
    ctx.store.put(Table::Is, &key, device.clone())?;
    Ok(device)
}

/// The mask with what is always answered; parts of a claim code take all of it along.
fn read_mask(paths: &[String]) -> Vec<String> {
    let mut paths = fields::with(paths, IMPLICIT);
    if fields::top_level(&paths).iter().any(|p| p == "claim_authentication_code") {
        paths = fields::with(&paths, &["claim_authentication_code"]);
    }
    paths
}

fn get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application_id, device_id) = ids_at(request, "end_device_ids");
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_READ"])?;
    let found = ctx.store.get(Table::Is, &device_key(&application_id, &device_id));
    // EUIs in the request narrow the search.
    let fits = |device: &&DynamicMessage| {
        ["join_eui", "dev_eui"].iter().all(|name| {
            let asked = eui(request, &format!("end_device_ids.{name}"));
            asked.is_none() || asked == eui(device, &format!("ids.{name}"))
        })
    };
    let device = found.filter(fits).ok_or_else(|| not_found(&application_id, &device_id))?;
    fields::filter(device, &read_mask(&mask::of(request)))
}

fn identifiers(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    ctx.require_authenticated()?;
    let (join_eui, dev_eui) = (eui(request, "join_eui"), eui(request, "dev_eui"));
    if let (Some(join_eui), Some(dev_eui)) = (join_eui, dev_eui) {
        let found = by_euis(ctx, Table::Is, join_eui, dev_eui);
        return found.and_then(|device| path::child(device, "ids")).ok_or_else(|| not_found("", ""));
    }
    let mut devices = ctx.store.iter(Table::Is).map(|(_, device)| device);
    let found = devices.find(|device| {
        (join_eui.is_none() || eui(device, "ids.join_eui") == join_eui)
            && (dev_eui.is_none() || eui(device, "ids.dev_eui") == dev_eui)
    });
    path::child(found.ok_or_else(|| not_found("", ""))?, "ids").ok_or_else(|| not_found("", ""))
}

fn list(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    if !path::has(request, "application_ids") {
        return Err(CLUSTER_ONLY.with(json!({"auth_type": "Bearer"})));
    }
    let application_id = path::string(request, "application_ids.application_id");
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_READ"])?;
    let since = path::get(request, "filters").and_then(|f| {
        let times = f.as_list()?.iter().filter_map(|f| path::child(f.as_message()?, "field.updated_since"));
        times.map(|t| stored::nanos(&t)).max()
    });
    let all: Vec<_> = ctx.owned(Table::Is, &application_id).into_iter().cloned().collect();
    let total = all.len();
    let recent = |d: &DynamicMessage| {
        since.is_none_or(|since| path::child(d, "updated_at").is_some_and(|t| stored::nanos(&t) >= since))
    };
    let devices = all.into_iter().filter(recent).collect();
    let order = [
        ("device_id", "ids.device_id"),
        ("name", "name"),
        ("created_at", "created_at"),
        ("last_seen_at", "last_seen_at"),
    ];
    let page = ctx.page(request, devices, &order);
    // The total is counted before the filters.
    ctx.headers.retain(|(name, _)| name != "x-total-count");
    ctx.header("x-total-count", &total.to_string());
    answer(page, &read_mask(&mask::of(request)))
}

fn answer(devices: Vec<DynamicMessage>, paths: &[String]) -> Result<DynamicMessage, Failure> {
    let shown: Result<Vec<_>, _> =
        devices.iter().map(|device| fields::filter(device, paths).map(Value::Message)).collect();
    let mut answer = proto::message("EndDevices");
    path::set(&mut answer, "end_devices", Value::List(shown?));
    Ok(answer)
}

fn update(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut sent = path::child(request, "end_device").unwrap_or_else(|| proto::message("EndDevice"));
    let (application_id, device_id) = ids_at(&sent, "ids");
    let key = device_key(&application_id, &device_id);
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_WRITE"])?;
    let mut paths = mask::of(request);
    if !path::has(&sent, "activated_at") {
        // Once set, the activation cannot be unset.
        paths.retain(|p| p != "activated_at");
    }
    let tops = fields::top_level(&paths);
    let touches = |top: &str| tops.iter().any(|t| t == top);
    if touches("picture") {
        keep_picture(&mut sent, &key)?;
    }
    if touches("claim_authentication_code") {
        check_claim_code(&sent)?;
    }
    let found = ctx.store.get(Table::Is, &key).cloned();
    let mut device = found.ok_or_else(|| not_found(&application_id, &device_id))?;
    let merged = |path: &str| path.starts_with("claim_authentication_code");
    let plain: Vec<_> = paths.iter().filter(|p| !merged(p) && keeps_profiles(&sent, p)).collect();
    fields::set(&mut device, Some(&sent), &plain)?;
    if touches("claim_authentication_code") {
        merge_claim_code(&mut device, &sent);
    }
    let mut device = normalized(&device);
    path::set(&mut device, "updated_at", ctx.now.micros());
    ctx.store.put(Table::Is, &key, device.clone())?;
    fields::filter(&device, &read_mask(&paths))
}

/// Profile IDs are only written when the request has some.
fn keeps_profiles(sent: &DynamicMessage, path: &str) -> bool {
    !path.starts_with("lora_alliance_profile_ids") || path::has(sent, "lora_alliance_profile_ids")
}

/// Parts of a claim code that the request has are written, none of them clears it.
fn merge_claim_code(device: &mut DynamicMessage, sent: &DynamicMessage) {
    if !path::has(sent, "claim_authentication_code") {
        path::clear(device, "claim_authentication_code");
        return;
    }
    for part in ["value", "valid_from", "valid_to"] {
        let at = format!("claim_authentication_code.{part}");
        if let Some(value) = path::get(sent, &at) {
            path::set(device, &at, value.into_owned());
        }
    }
}

fn delete(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application_id, device_id) = ids_at(request, "");
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_WRITE"])?;
    match ctx.store.remove(Table::Is, &device_key(&application_id, &device_id))? {
        Some(_) => Ok(empty()),
        None => Err(not_found(&application_id, &device_id)),
    }
}

/// The device IDs of a batch request.
pub(super) fn batch_ids(request: &DynamicMessage) -> Vec<String> {
    let list = path::get(request, "device_ids");
    list.iter()
        .flat_map(|l| l.as_list().unwrap_or_default())
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn batch_get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let application_id = path::string(request, "application_ids.application_id");
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_READ"])?;
    let mut ids = batch_ids(request);
    ids.sort();
    ids.dedup();
    let devices = ids.iter().filter_map(|id| ctx.store.get(Table::Is, &device_key(&application_id, id)));
    answer(devices.cloned().collect(), &read_mask(&mask::of(request)))
}

/// Removes the devices of a batch request from a table; those that are not there are ignored.
pub(super) fn remove_batch(
    ctx: &mut Ctx<'_>,
    table: Table,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    let application_id = path::string(request, "application_ids.application_id");
    ctx.require_application(&application_id, &["APPLICATION_DEVICES_WRITE"])?;
    for id in batch_ids(request) {
        ctx.store.remove(table, &device_key(&application_id, &id))?;
    }
    Ok(empty())
}

fn batch_delete(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    remove_batch(ctx, Table::Is, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_scheme_and_port() {
        for address in ["example.com", "example.com:8884", "https://example.com", "http://example.com:80/x"] {
            assert_eq!(host(address), "example.com", "{address}");
        }
    }
}
