//! The Device Claiming Server of a deployment that no Join Server's claiming is configured for
//! (`pkg/deviceclaimingserver/grpc_end_devices.go`).

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, devices,
    failure::{Failure, Kind},
    methods::unimplemented,
};
use crate::{
    map::path,
    model::ids::Eui64,
    proto,
    rehearsal::store::{Table, device_key},
};

const NOT_SUPPORTED: Kind = Kind::new(
    Code::Aborted,
    "pkg/deviceclaimingserver",
    "claiming_not_supported",
    "claiming not supported for JoinEUI `{eui}`",
);
const DEVICE_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, "pkg/deviceclaimingserver", "device_not_found", "device not found");
const NO_EUIS: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/deviceclaimingserver",
    "no_euis",
    "DevEUI/JoinEUI not set for device",
);
const QR_CODE: Kind =
    Kind::new(Code::InvalidArgument, "pkg/deviceclaimingserver", "qr_code_data", "invalid QR code data");

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    name: &str,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match name {
        "GetInfoByJoinEUI" => {
            let mut answer = proto::message("GetInfoByJoinEUIResponse");
            path::set(&mut answer, "join_eui", Value::Bytes(path::bytes(request, "join_eui").into()));
            Ok(answer)
        }
        "Claim" => claim(ctx, request),
        "Unclaim" | "GetClaimStatus" => claimed(ctx, request),
        _ => Err(unimplemented()),
    }
}

fn not_supported(join_eui: &[u8]) -> Failure {
    let eui = Eui64::from_bytes(join_eui).map(|eui| eui.to_string()).unwrap_or_default();
    NOT_SUPPORTED.with(json!({"eui": eui}))
}

fn claim(ctx: &Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let application = path::string(request, "target_application_ids.application_id");
    ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE"])?;
    if path::child(request, "authenticated_identifiers").is_none() {
        return Err(QR_CODE.failure());
    }
    Err(not_supported(&path::bytes(request, "authenticated_identifiers.join_eui")))
}

fn claimed(ctx: &Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "");
    ctx.require_application(&application, &["APPLICATION_DEVICES_WRITE", "APPLICATION_DEVICES_READ"])?;
    let stored = ctx.store.get(Table::Is, &device_key(&application, &device));
    let stored = stored.ok_or_else(|| DEVICE_NOT_FOUND.failure())?;
    let join_eui = path::bytes(stored, "ids.join_eui");
    if join_eui.is_empty() || path::bytes(stored, "ids.dev_eui").is_empty() {
        return Err(NO_EUIS.failure());
    }
    Err(not_supported(&join_eui))
}
