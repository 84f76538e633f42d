//! What a deployment says of itself: address blocks, bands, plans, settings (`pkg/networkserver/grpc_ns.go`,
//! `pkg/joinserver/grpc_js.go`, `pkg/band/grpc.go`, `pkg/frequencyplans/grpc.go`, `pkg/identityserver/configuration.go`).

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, MapKey, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, EntityKind,
    failure::{Failure, Kind},
    fields, gateways,
    methods::unimplemented,
    network::{Band, bands, default_settings, plans},
    random,
    stored::REDIS_NOT_FOUND,
};
use crate::{
    map::{mask, path},
    model::ids::DevAddrPrefix,
    proto,
    rehearsal::store::Table,
};

const BAND_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, "pkg/band", "band_not_found", "band `{id}@{version}` not found");
const NOT_CONNECTED: Kind =
    Kind::new(Code::NotFound, "pkg/gatewayserver", "not_connected", "gateway `{gateway_uid}` not connected");

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    method: &str,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match method {
        "Ns/GenerateDevAddr" => Ok(generate(ctx)),
        "Ns/GetDefaultMACSettings" => {
            let phy = i32::try_from(path::number(request, "lorawan_phy_version")).unwrap_or_default();
            default_settings(&path::string(request, "frequency_plan_id"), phy)
        }
        "Ns/GetNetID" => {
            Ok(with("GetNetIDResponse", "net_id", Value::Bytes(ctx.settings.net_id.0.to_vec().into())))
        }
        "Ns/GetDeviceAddressPrefixes" => {
            let prefixes = ctx.settings.dev_addr_prefixes.iter().map(prefix).collect();
            Ok(with("GetDeviceAdressPrefixesResponse", "dev_addr_prefixes", Value::List(prefixes)))
        }
        "Js/GetJoinEUIPrefixes" => Ok(join_eui_prefixes(ctx)),
        "Js/GetDefaultJoinEUI" => {
            let first = ctx.settings.join_eui_prefixes.first().map_or([0; 8], |(eui, _)| eui.0);
            Ok(with("GetDefaultJoinEUIResponse", "join_eui", Value::Bytes(first.to_vec().into())))
        }
        "Gs/GetGatewayConnectionStats" => {
            let id = path::string(request, "gateway_id");
            ctx.require(EntityKind::Gateway, &id, &["GATEWAY_STATUS_READ"])?;
            let stats = ctx.store.get(Table::Connections, &id).cloned();
            stats.ok_or_else(|| {
                NOT_CONNECTED.with(json!({"gateway_uid": id})).because(REDIS_NOT_FOUND.failure())
            })
        }
        "Gs/BatchGetGatewayConnectionStats" => {
            let ids = gateways::batch_ids(request);
            gateways::require_batch(ctx, &ids, "GATEWAY_STATUS_READ")?;
            batch_connections(ctx, request, &ids)
        }
        "Is/GetConfiguration" => Ok(identity_server(ctx)),
        "Configuration/ListFrequencyPlans" => Ok(frequency_plans(request)),
        "Configuration/GetPhyVersions" => phy_versions(request),
        "Configuration/ListBands" => list_bands(request),
        _ => Err(unimplemented()),
    }
}

/// The connections of those that are connected (`BatchGetGatewayConnectionStats`).
fn batch_connections(
    ctx: &Ctx<'_>,
    request: &DynamicMessage,
    ids: &[String],
) -> Result<DynamicMessage, Failure> {
    let paths = mask::of(request);
    let mut entries = HashMap::new();
    for id in ids {
        if let Some(stats) = ctx.store.get(Table::Connections, id) {
            let stats = if paths.is_empty() { stats.clone() } else { fields::filter(stats, &paths)? };
            entries.insert(MapKey::String(id.clone()), Value::Message(stats));
        }
    }
    Ok(with("BatchGetGatewayConnectionStatsResponse", "entries", Value::Map(entries)))
}

fn with(name: &str, at: &str, value: Value) -> DynamicMessage {
    let mut answer = proto::message(name);
    path::set(&mut answer, at, value);
    answer
}

/// The five bytes of the API: the address, then the number of bits.
fn prefix(prefix: &DevAddrPrefix) -> Value {
    let mut bytes = prefix.addr.0.to_vec();
    bytes.push(prefix.bits);
    Value::Bytes(bytes.into())
}

/// A random address of a random block (`(ns).newDevAddr`).
fn generate(ctx: &Ctx<'_>) -> DynamicMessage {
    let [pick, rest @ ..] = random::<5>();
    let prefixes = &ctx.settings.dev_addr_prefixes;
    let chosen = prefixes.get(usize::from(pick) % prefixes.len().max(1));
    let address = chosen.map_or(rest, |block| {
        let fixed = u32::MAX.checked_shl(32 - u32::from(block.bits)).unwrap_or(0);
        let address = u32::from_be_bytes(block.addr.0) & fixed | u32::from_be_bytes(rest) & !fixed;
        address.to_be_bytes()
    });
    with("GenerateDevAddrResponse", "dev_addr", Value::Bytes(address.to_vec().into()))
}

fn join_eui_prefixes(ctx: &Ctx<'_>) -> DynamicMessage {
    let prefixes = ctx.settings.join_eui_prefixes.iter().map(|(eui, length)| {
        let mut prefix = with("JoinEUIPrefix", "join_eui", Value::Bytes(eui.0.to_vec().into()));
        path::set(&mut prefix, "length", Value::U32(u32::from(*length)));
        Value::Message(prefix)
    });
    with("JoinEUIPrefixes", "prefixes", Value::List(prefixes.collect()))
}

/// The configuration of a default deployment.
fn identity_server(ctx: &Ctx<'_>) -> DynamicMessage {
    let (yes, no) = (Value::Bool(true), Value::Bool(false));
    let mut answer = proto::message("GetIsConfigurationResponse");
    let mut set =
        |at: &str, value: &Value| path::set(&mut answer, &format!("configuration.{at}"), value.clone());
    let registration = |at: &str| format!("user_registration.{at}");
    set(&registration("enabled"), &yes);
    for (at, value) in [
        ("invitation.required", &no),
        ("contact_info_validation.required", &no),
        ("admin_approval.required", &no),
    ] {
        set(&format!("{}.value", registration(at)), value);
    }
    let hour = 3600;
    for (at, seconds) in [
        ("invitation.token_ttl", 168 * hour),
        ("contact_info_validation.token_ttl", 48 * hour),
        ("contact_info_validation.retry_interval", hour),
    ] {
        set(&format!("{}.seconds", registration(at)), &Value::I64(seconds));
    }
    for (at, value) in
        [("min_length", 8), ("max_length", 1000), ("min_uppercase", 1), ("min_digits", 1), ("min_special", 0)]
    {
        set(&registration(&format!("password_requirements.{at}.value")), &Value::U32(value));
    }
    for (at, value) in [
        ("profile_picture.disable_upload", &no),
        ("profile_picture.use_gravatar", &yes),
        ("end_device_picture.disable_upload", &no),
        ("user_rights.create_applications", &yes),
        ("user_rights.create_clients", &yes),
        ("user_rights.create_gateways", &yes),
        ("user_rights.create_organizations", &yes),
        ("admin_rights.all", &Value::Bool(ctx.settings.admin_rights_all)),
        ("collaborator_rights.set_others_as_contacts", &yes),
    ] {
        set(&format!("{at}.value"), value);
    }
    answer
}

fn frequency_plans(request: &DynamicMessage) -> DynamicMessage {
    let base = path::number(request, "base_frequency");
    let band = path::string(request, "band_id");
    let gateways = path::flag(request, "gateways_only");
    let wanted = plans().iter().filter(|plan| {
        (base == 0 || u64::from(plan.base_frequency) == base)
            && (band.is_empty() || plan.band_id == band)
            && (!gateways || plan.gateways)
    });
    let described = wanted.map(|plan| {
        let mut out = proto::message("FrequencyPlanDescription");
        for (at, text) in
            [("id", &plan.id), ("base_id", &plan.base_id), ("name", &plan.name), ("band_id", &plan.band_id)]
        {
            path::set(&mut out, at, Value::String(text.clone()));
        }
        path::set(&mut out, "base_frequency", Value::U32(plan.base_frequency));
        Value::Message(out)
    });
    with("ListFrequencyPlansResponse", "frequency_plans", Value::List(described.collect()))
}

/// Bands of the request's `band_id`, or all, by their IDs in order.
fn wanted(request: &DynamicMessage) -> Result<Vec<(&'static str, Vec<&'static Band>)>, Failure> {
    let id = path::string(request, "band_id");
    let mut found: Vec<(&str, Vec<&Band>)> = Vec::new();
    for band in bands().iter().filter(|band| id.is_empty() || band.id == id) {
        match found.last_mut().filter(|(last, _)| *last == band.id) {
            Some((_, versions)) => versions.push(band),
            None => found.push((&band.id, vec![band])),
        }
    }
    if found.is_empty() { Err(BAND_NOT_FOUND.with(json!({"id": id}))) } else { Ok(found) }
}

fn phy_versions(request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let info = wanted(request)?.into_iter().map(|(id, bands)| {
        let mut info = proto::message("GetPhyVersionsResponse.VersionInfo");
        path::set(&mut info, "band_id", Value::String(id.to_owned()));
        let versions = bands.iter().flat_map(|band| &band.phy_versions);
        let numbers = versions.map(|(_, number)| Value::EnumNumber(*number)).collect();
        path::set(&mut info, "phy_versions", Value::List(numbers));
        Value::Message(info)
    });
    Ok(with("GetPhyVersionsResponse", "version_info", Value::List(info.collect())))
}

fn list_bands(request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let phy = i32::try_from(path::number(request, "phy_version")).unwrap_or_default();
    let mut descriptions = HashMap::new();
    for (id, bands) in wanted(request)? {
        let versions = bands.iter().flat_map(|band| {
            let named = band.phy_versions.iter().filter(|(_, number)| phy == 0 || *number == phy);
            named.map(|(name, _)| (MapKey::String(name.clone()), Value::Message(band.description.clone())))
        });
        let versions: HashMap<_, _> = versions.collect();
        if !versions.is_empty() {
            let described = with("ListBandsResponse.VersionedBandDescription", "band", Value::Map(versions));
            descriptions.insert(MapKey::String(id.to_owned()), Value::Message(described));
        }
    }
    Ok(with("ListBandsResponse", "descriptions", Value::Map(descriptions)))
}
