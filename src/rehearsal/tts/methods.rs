//! Which method does what: the table of the services.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use tonic::Code;

use super::{
    Ctx, access, applications, claiming, configuration, devices,
    failure::{Failure, Kind},
    gateways, integrations, links, network, packages, registries,
};
use crate::{map::path, model::ids::Eui64, proto};

const UNIMPLEMENTED: Kind = Kind::new(
    Code::Unimplemented,
    "rehearsal",
    "not_rehearsed",
    "the embedded server does not have this method",
);

/// An empty answer.
pub(super) fn empty() -> DynamicMessage {
    proto::message("google.protobuf.Empty")
}

/// Calls the method, named without its package.
pub(super) fn dispatch(
    ctx: &mut Ctx<'_>,
    method: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    let (service, name) = method.split_once('/').unwrap_or((method, ""));
    match service {
        "EntityAccess" => access::auth_info(ctx),
        "ApplicationRegistry" => applications::call(ctx, name, request),
        "GatewayRegistry" | "GatewayBatchRegistry" => gateways::call(ctx, method, request),
        "ApplicationAccess" | "GatewayAccess" => access::call(ctx, service, name, request),
        "EndDeviceRegistry" | "EndDeviceBatchRegistry" => devices::call(ctx, method, request),
        "JsEndDeviceRegistry" | "JsEndDeviceBatchRegistry" => registries::join(ctx, name, request),
        "AsEndDeviceRegistry" | "AsEndDeviceBatchRegistry" => registries::application(ctx, name, request),
        "NsEndDeviceRegistry" | "NsEndDeviceBatchRegistry" => network::call(ctx, name, request),
        "As" | "AppAs" | "ApplicationActivationSettingRegistry" => links::call(ctx, method, request),
        "ApplicationWebhookRegistry" | "ApplicationPubSubRegistry" => {
            integrations::call(ctx, method, request)
        }
        "ApplicationPackageRegistry" => packages::call(ctx, name, request),
        "Ns" | "Js" | "Gs" | "Is" | "Configuration" => configuration::call(ctx, method, &request),
        "EndDeviceClaimingServer" => claiming::call(ctx, name, &request),
        _ => Err(unimplemented()),
    }
}

/// The error of methods that no migration calls.
pub(super) fn unimplemented() -> Failure {
    UNIMPLEMENTED.failure()
}

/// True for methods that may change something.
pub(super) fn is_write(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    let reads = [
        "Get",
        "List",
        "AuthInfo",
        "BatchGet",
        "GenerateDevAddr",
        "DownlinkQueueList",
        "FindRelated",
        "Stream",
    ];
    !reads.iter().any(|read| method.starts_with(read))
}

/// Requests that the rate limiter knows no entity of: they share a bucket per method and token.
const NO_ENTITY: &[&str] = &[
    "ListApplicationsRequest",
    "ListGatewaysRequest",
    "BatchGetEndDevicesRequest",
    "BatchDeleteEndDevicesRequest",
    "BatchDeleteGatewaysRequest",
    "BatchGetGatewayConnectionStatsRequest",
    "DeleteApplicationAPIKeyRequest",
    "DeleteGatewayAPIKeyRequest",
    "DeleteApplicationCollaboratorRequest",
    "DeleteGatewayCollaboratorRequest",
    "GetApplicationActivationSettingsRequest",
    "SetApplicationActivationSettingsRequest",
    "DeleteApplicationActivationSettingsRequest",
    "ClaimEndDeviceRequest",
];

/// What a request is about, as the rate limiter names it (`pkg/ratelimit/grpc.go`); empty for none.
pub(super) fn entity(request: &DynamicMessage) -> String {
    let descriptor = request.descriptor();
    if descriptor.name() == "GetGatewayIdentifiersForEUIRequest" {
        let eui = Eui64::from_bytes(&path::bytes(request, "eui"));
        return eui.map(|eui| eui.to_string()).unwrap_or_default();
    }
    if NO_ENTITY.contains(&descriptor.name()) {
        return String::new();
    }
    identifiers(request, 0).unwrap_or_default()
}

fn identifiers(message: &DynamicMessage, depth: usize) -> Option<String> {
    let text = |path: &str| path::string(message, path);
    let named = |kind: &str, id: String| Some(format!("{kind}:{}", if id.is_empty() { "_" } else { &id }));
    match message.descriptor().name() {
        "EndDeviceIdentifiers" => {
            let (application, device) = (text("application_ids.application_id"), text("device_id"));
            let id = if device.is_empty() { String::new() } else { format!("{application}.{device}") };
            return named("end device", id);
        }
        "ApplicationIdentifiers" => return named("application", text("application_id")),
        "GatewayIdentifiers" => return named("gateway", text("gateway_id")),
        _ => {}
    }
    if depth == 3 {
        return None;
    }
    message.descriptor().fields().filter(|f| message.has_field(f)).find_map(|field| {
        match message.get_field(&field).as_ref() {
            Value::Message(inner) if field.name() != "field_mask" => identifiers(inner, depth + 1),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entity_is_the_nearest_identifiers() {
        let mut get = proto::message("GetEndDeviceRequest");
        path::set(&mut get, "end_device_ids.device_id", Value::String("meter-1".into()));
        path::set(&mut get, "end_device_ids.application_ids.application_id", Value::String("meters".into()));
        assert_eq!(entity(&get), "end device:meters.meter-1");
        let mut batch = proto::message("BatchGetEndDevicesRequest");
        path::set(&mut batch, "application_ids.application_id", Value::String("meters".into()));
        assert_eq!(entity(&batch), "");
        assert_eq!(entity(&proto::message("google.protobuf.Empty")), "");
    }

    #[test]
    fn reads_and_writes_are_told_apart() {
        assert!(!is_write("/ttn.lorawan.v3.EndDeviceRegistry/List"));
        assert!(is_write("/ttn.lorawan.v3.NsEndDeviceRegistry/ResetFactoryDefaults"));
        assert!(is_write("/ttn.lorawan.v3.ApplicationRegistry/Purge"));
    }
}
