//! The handler's ApplicationManager (`core/handler/manager_server.go`).

use prost_reflect::{DynamicMessage, Value};
use tonic::{Code, Status, metadata::MetadataMap};

use super::{access::Access, set_device, stored};
use crate::{
    map::path,
    proto,
    rehearsal::{
        calls::Reply,
        store::{Store, Table, device_key},
    },
};

/// Calls a method for somebody who has shown an access key.
pub(super) fn call(
    store: &mut Store,
    access: &Access,
    method: &str,
    request: DynamicMessage,
    metadata: &MetadataMap,
) -> Result<Reply, Status> {
    if method == "GetApplication" {
        return application(store, access).map(plain);
    }
    access.need("devices")?;
    registered(store, &access.application)
        .map_err(|e| wrap(&e, "Application not registered to this Handler"))?;
    match method {
        "GetDevice" => device(store, access, &path::string(&request, "dev_id")).map(plain),
        "SetDevice" => set_device::call(store, access, request).map(|()| plain(empty())),
        "DeleteDevice" => delete(store, access, &path::string(&request, "dev_id")).map(|()| plain(empty())),
        "GetDevicesForApplication" => list(store, access, metadata),
        _ => Err(Status::unimplemented(format!("unknown method {method} for service ApplicationManager"))),
    }
}

fn plain(message: DynamicMessage) -> Reply {
    Reply { message, headers: Vec::new() }
}

fn empty() -> DynamicMessage {
    proto::message("google.protobuf.Empty")
}

/// What went wrong, with where (`errors.Wrap`): the code stays.
pub(super) fn wrap(status: &Status, context: &str) -> Status {
    Status::new(status.code(), format!("{context}: {}", status.message()))
}

/// The state file cannot be written: the real one would have lost its database.
pub(super) fn failed(error: std::io::Error) -> Status {
    Status::new(Code::Unknown, format!("state file cannot be written: {error}"))
}

fn registered(store: &Store, application: &str) -> Result<DynamicMessage, Status> {
    store
        .get(Table::V2Applications, application)
        .cloned()
        .ok_or_else(|| Status::not_found(format!("handler:application:{application} not found")))
}

fn application(store: &Store, access: &Access) -> Result<DynamicMessage, Status> {
    access.need("settings")?;
    let mut application = registered(store, &access.application)?;
    let key = path::string(&application, "register_on_join_access_key");
    if !access.has("devices") && !key.is_empty() {
        // As upstream, which shows the secret half by mistake.
        let hidden = match key.split('.').collect::<Vec<_>>().as_slice() {
            [_, secret] => format!("{secret}.<...>"),
            _ => "...".to_owned(),
        };
        path::set(&mut application, "register_on_join_access_key", Value::String(hidden));
    }
    Ok(application)
}

/// A device as the handler keeps it.
pub(super) fn stored_device(store: &Store, application: &str, id: &str) -> Result<DynamicMessage, Status> {
    store
        .get(Table::V2Devices, &device_key(application, id))
        .cloned()
        .ok_or_else(|| Status::not_found(format!("handler:device:{application}:{id} not found")))
}

/// The Network Server's half of a device. EUIs are unique there, so that it may be another application's.
pub(super) fn network_half(
    store: &Store,
    access: &Access,
    lorawan: &DynamicMessage,
) -> Result<Option<DynamicMessage>, Status> {
    let half = store.get(Table::V2Network, &stored::network_key(lorawan));
    let owner = half.map(|half| path::string(half, "app_id"));
    match owner.filter(|owner| *owner != access.application) {
        Some(owner) => Err(Status::permission_denied(format!(
            "permission denied: No \"devices\" rights to Application \"{owner}\""
        ))),
        None => Ok(half.cloned()),
    }
}

fn device(store: &mut Store, access: &Access, id: &str) -> Result<DynamicMessage, Status> {
    let device = stored_device(store, &access.application, id)?;
    let lorawan = stored::lorawan(&device);
    let half = network_half(store, access, &lorawan).map_err(|e| wrap(&e, "Broker did not return device"))?;
    let half = match half {
        Some(half) => half,
        None => {
            // It is registered there again, with counters that begin anew.
            let fresh = set_device::network_half_of(&lorawan, None, 0, 0);
            store.put(Table::V2Network, &stored::network_key(&lorawan), fresh.clone()).map_err(failed)?;
            fresh
        }
    };
    let mut answer = stored::listed(&device);
    for counter in ["f_cnt_up", "f_cnt_down", "last_seen"] {
        if let Some(value) = path::get(&half, counter) {
            path::set(&mut answer, &format!("lorawan_device.{counter}"), value.into_owned());
        }
    }
    Ok(answer)
}

fn delete(store: &mut Store, access: &Access, id: &str) -> Result<(), Status> {
    let lorawan = stored::lorawan(&stored_device(store, &access.application, id)?);
    network_half(store, access, &lorawan).map_err(|e| wrap(&e, "Broker did not delete device"))?;
    store.remove(Table::V2Network, &stored::network_key(&lorawan)).map_err(failed)?;
    store.remove(Table::V2Devices, &device_key(&access.application, id)).map_err(failed)?;
    Ok(())
}

/// Sorted by device ID, bytewise. `limit` and `offset` are metadata; `total` and `selected` headers.
fn list(store: &Store, access: &Access, metadata: &MetadataMap) -> Result<Reply, Status> {
    let limit = number(metadata, "limit")?;
    let offset = number(metadata, "offset")?.unwrap_or(0);
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let prefix = device_key(&access.application, "");
    let all: Vec<_> = store.starting(Table::V2Devices, &prefix).map(|(_, device)| device).collect();
    let selected = all.iter().skip(offset).take(limit);
    let devices: Vec<_> = selected.map(|device| Value::Message(stored::listed(device))).collect();
    let headers = [("total", all.len()), ("selected", devices.len())];
    let mut message = proto::message("handler.DeviceList");
    path::set(&mut message, "devices", Value::List(devices));
    Ok(Reply { message, headers: headers.map(|(name, n)| (name.to_owned(), n.to_string())).into() })
}

/// A number in the metadata, as Go's `strconv.ParseUint` reads it.
fn number(metadata: &MetadataMap, name: &str) -> Result<Option<usize>, Status> {
    let Some(text) = metadata.get(name).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(Some(number)),
        _ => {
            let why = if digits { "value out of range" } else { "invalid syntax" };
            Err(Status::new(Code::Unknown, format!("strconv.ParseUint: parsing \"{text}\": {why}")))
        }
    }
}
