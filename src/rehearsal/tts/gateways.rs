//! Gateways of the Identity Server (`pkg/identityserver/gateway_registry.go`,
//! `pkg/identityserver/bunstore/gateway_store.go`).

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, applications,
    auth::{Caller, EntityKind, right},
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    stored::{self, GATEWAY_NOT_FOUND, is_deleted},
};
use crate::{
    map::{mask, path},
    model::ids::Eui64,
    proto,
    rehearsal::store::Table,
};

const NS: &str = "pkg/identityserver";
const EUI_TAKEN: Kind = Kind::new(
    Code::AlreadyExists,
    NS,
    "gateway_eui_taken",
    "a gateway with EUI `{gateway_eui}` is already registered (by you or someone else) as `{gateway_id}`",
);
const STORE_EUI_TAKEN: Kind =
    Kind::new(Code::AlreadyExists, "pkg/util/store", "eui_taken", "EUI already taken");
pub(super) const NOT_FOUND_BY_EUI: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "gateway_not_found_by_eui",
    "gateway with eui `{gateway_eui}` not found",
);
const ADMINS_PURGE: Kind =
    Kind::new(Code::PermissionDenied, NS, "admins_purge_gateways", "gateways may only be purged by admins");
const CLAIM_CODE: Kind =
    Kind::new(Code::InvalidArgument, NS, "claim_authentication_code", "invalid claim authentication code");
const INSUFFICIENT_RIGHTS: Kind =
    Kind::new(Code::PermissionDenied, NS, "insufficient_rights", "insufficient rights");
const NEITHER_USER: Kind = Kind::new(
    Code::PermissionDenied,
    NS,
    "neither_user_nor_organization",
    "caller is neither a user nor an organization",
);
const SOME_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, NS, "some_gateways_not_found", "some gateways not found");

const RESTORE_WINDOW_EXPIRED: Kind = Kind::new(
    Code::FailedPrecondition,
    NS,
    "restore_window_expired",
    "this entity can no longer be restored",
);

/// How long a deleted gateway can be restored, in nanoseconds (`is.delete.restore`, 24 hours by default).
const RESTORE_WINDOW: i128 = 24 * 3600 * 1_000_000_000;

/// What the database has columns for, beside identifiers and times.
const COLUMNS: &[&str] = &[
    "name",
    "description",
    "attributes",
    "administrative_contact",
    "technical_contact",
    "version_ids.brand_id",
    "version_ids.model_id",
    "version_ids.hardware_version",
    "version_ids.firmware_version",
    "gateway_server_address",
    "auto_update",
    "update_channel",
    "frequency_plan_ids",
    "antennas",
    "status_public",
    "location_public",
    "schedule_downlink_late",
    "enforce_duty_cycle",
    "downlink_path_constraint",
    "schedule_anytime_delay",
    "update_location_from_status",
    "lbs_lns_secret.value",
    "claim_authentication_code",
    "target_cups_uri",
    "target_cups_key.value",
    "require_authenticated_connection",
    "lrfhss.supported",
    "disable_packet_broker_forwarding",
];

const SECRETS: [&str; 3] = ["lbs_lns_secret", "claim_authentication_code", "target_cups_key"];

/// Fields that anybody may read (`PublicGatewayFields`).
const PUBLIC: &[&str] = &[
    "ids",
    "created_at",
    "updated_at",
    "deleted_at",
    "name",
    "description",
    "frequency_plan_id",
    "frequency_plan_ids",
    "status_public",
    "gateway_server_address",
    "location_public",
    "antennas",
    "lrfhss.supported",
    "administrative_contact",
    "technical_contact",
];

const IMPLICIT: &[&str] = &["ids", "created_at", "updated_at", "deleted_at"];

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    method: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    let id = path::string(&request, "gateway_id");
    match method {
        "GatewayRegistry/Create" => create(ctx, &request),
        "GatewayRegistry/Get" => get(ctx, &request),
        "GatewayRegistry/GetIdentifiersForEUI" => identifiers(ctx, &request),
        "GatewayRegistry/List" => list(ctx, &request),
        "GatewayRegistry/Update" => update(ctx, &request),
        "GatewayRegistry/Delete" => delete(ctx, &id),
        "GatewayRegistry/Restore" => restore(ctx, &id),
        "GatewayRegistry/Purge" => purge(ctx, &id),
        "GatewayBatchRegistry/Delete" => batch_delete(ctx, &request),
        _ => Err(unimplemented()),
    }
}

pub(super) fn not_found(id: &str) -> Failure {
    GATEWAY_NOT_FOUND.with(json!({"gateway_id": id}))
}

fn eui(message: &DynamicMessage, at: &str) -> Option<Eui64> {
    Eui64::from_bytes(&path::bytes(message, at))
}

/// As the database gives the gateway back.
fn normalized(sent: &DynamicMessage) -> DynamicMessage {
    let kept = [&["ids.gateway_id", "ids.eui", "created_at", "updated_at", "deleted_at"], COLUMNS].concat();
    let mut gateway = path::project(sent, &kept);
    path::touch(&mut gateway, "version_ids");
    path::touch(&mut gateway, "schedule_anytime_delay");
    if !path::flag(&gateway, "lrfhss.supported") {
        path::clear(&mut gateway, "lrfhss");
    }
    if !path::has(&gateway, "frequency_plan_ids") {
        // The column is split at spaces, and nothing splits into one empty ID.
        path::set(&mut gateway, "frequency_plan_ids", Value::List(vec![Value::String(String::new())]));
    }
    if !path::has(&gateway, "claim_authentication_code.secret") {
        path::clear(&mut gateway, "claim_authentication_code");
    }
    gateway
}

/// The deprecated single frequency plan stands for a list of one.
fn plans_of(sent: &mut DynamicMessage) {
    let single = path::string(sent, "frequency_plan_id");
    if !path::has(sent, "frequency_plan_ids") && !single.is_empty() {
        path::set(sent, "frequency_plan_ids", Value::List(vec![Value::String(single)]));
    }
}

fn check_claim_code(gateway: &DynamicMessage) -> Result<(), Failure> {
    let Some(code) = path::child(gateway, "claim_authentication_code") else { return Ok(()) };
    let times = (path::child(&code, "valid_from"), path::child(&code, "valid_to"));
    let backwards = matches!(&times, (Some(from), Some(to)) if stored::nanos(to) < stored::nanos(from));
    if backwards || !path::has(&code, "secret") { Err(CLAIM_CODE.failure()) } else { Ok(()) }
}

pub(super) fn by_eui<'s>(ctx: &'s Ctx<'_>, eui64: Eui64) -> Option<&'s DynamicMessage> {
    let gateways = ctx.store.iter(Table::Gateways).map(|(_, gateway)| gateway);
    gateways.filter(|g| !is_deleted(g)).find(|g| eui(g, "ids.eui") == Some(eui64))
}

fn create(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut sent = path::child(request, "gateway").unwrap_or_else(|| proto::message("Gateway"));
    let id = path::string(&sent, "ids.gateway_id");
    stored::check_id(&id)?;
    let Some(owner) = stored::account_in(request, "collaborator") else { return Err(not_found(&id)) };
    let needed = match owner.0 {
        EntityKind::Organization => "ORGANIZATION_GATEWAYS_CREATE",
        _ => "USER_GATEWAYS_CREATE",
    };
    ctx.require(owner.0, &owner.1, &[needed])?;
    applications::set_contacts(&mut sent, &owner)?;
    plans_of(&mut sent);
    check_claim_code(&sent)?;
    ctx.account_exists(&owner)?;
    if ctx.store.get(Table::Gateways, &id).is_some() {
        return Err(stored::id_taken());
    }
    if let Some(wanted) = eui(&sent, "ids.eui")
        && let Some(other) = by_eui(ctx, wanted)
    {
        let mut attributes = json!({
            "gateway_eui": wanted.to_string(), "gateway_id": path::string(other, "ids.gateway_id"),
        });
        if let Some((_, contact)) = stored::account_in(other, "administrative_contact") {
            attributes["administrative_contact"] = json!(contact);
        }
        return Err(EUI_TAKEN.with(attributes));
    }
    let mut gateway = normalized(&sent);
    path::set(&mut gateway, "created_at", ctx.now.micros());
    path::set(&mut gateway, "updated_at", ctx.now.micros());
    ctx.store.put(Table::Gateways, &id, gateway.clone())?;
    applications::add_owner(ctx, EntityKind::Gateway, &id, &owner)?;
    Ok(gateway)
}

/// The mask of a read: the deprecated single frequency plan is answered from the list, contacts from themselves.
fn read_mask(request: &DynamicMessage) -> Vec<String> {
    let mut paths = mask::of(request);
    if fields::has(&paths, "frequency_plan_id") {
        paths = fields::with(&paths, &["frequency_plan_ids"]);
    }
    if fields::has(&paths, "contact_info") {
        paths.retain(|p| p != "contact_info");
        paths = fields::with(&paths, &["administrative_contact", "technical_contact"]);
    }
    paths.retain(|p| p != "frequency_plan_id");
    fields::with(&paths, IMPLICIT)
}

fn with_single_plan(gateway: &mut DynamicMessage) {
    let plans = path::get(gateway, "frequency_plan_ids");
    let first = plans.and_then(|p| p.as_list()?.first()?.as_str().map(str::to_owned));
    if let Some(first) = first {
        path::set(gateway, "frequency_plan_id", Value::String(first));
    }
}

fn public_part(gateway: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut shown = fields::filter(gateway, PUBLIC)?;
    if !path::flag(&shown, "status_public") {
        path::clear(&mut shown, "gateway_server_address");
    }
    if !path::flag(&shown, "location_public")
        && let Some(mut antennas) = path::get(&shown, "antennas").map(std::borrow::Cow::into_owned)
    {
        for antenna in antennas.as_list_mut().into_iter().flatten() {
            if let Value::Message(antenna) = antenna {
                path::clear(antenna, "location");
            }
        }
        path::set(&mut shown, "antennas", antennas);
    }
    Ok(shown)
}

fn get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    ctx.require_authenticated()?;
    let id = path::string(request, "gateway_ids.gateway_id");
    let paths = read_mask(request);
    let denied = ctx.require(EntityKind::Gateway, &id, &["GATEWAY_INFO"]).err();
    if let Some(denied) = denied.clone().filter(|_| !applications::only_public(&paths, PUBLIC)) {
        return Err(denied);
    }
    if fields::has_any(&paths, &SECRETS) {
        ctx.require(EntityKind::Gateway, &id, &["GATEWAY_READ_SECRETS"])?;
    }
    let found = match eui(request, "gateway_ids.eui") {
        Some(wanted) => by_eui(ctx, wanted)
            .ok_or_else(|| NOT_FOUND_BY_EUI.with(json!({"gateway_eui": wanted.to_string()})))?,
        None => {
            let stored = ctx.store.get(Table::Gateways, &id).filter(|g| !is_deleted(g));
            stored.ok_or_else(|| not_found(&id))?
        }
    };
    let mut shown = fields::filter(found, &paths)?;
    with_single_plan(&mut shown);
    if denied.is_some() { public_part(&shown) } else { Ok(shown) }
}

fn identifiers(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    ctx.require_authenticated()?;
    let wanted = eui(request, "eui").unwrap_or(Eui64([0; 8]));
    let missing = || NOT_FOUND_BY_EUI.with(json!({"gateway_eui": wanted.to_string()}));
    by_eui(ctx, wanted).and_then(|gateway| path::child(gateway, "ids")).ok_or_else(missing)
}

fn list(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let paths = read_mask(request);
    let Some(account) = applications::listed_for(ctx, request, "GATEWAYS")? else {
        return Ok(proto::message("Gateways"));
    };
    let deleted = path::flag(request, "deleted");
    let indirect = !path::has(request, "collaborator");
    let ids = applications::memberships(ctx, &account, EntityKind::Gateway, indirect);
    let found = ids.iter().filter_map(|id| ctx.store.get(Table::Gateways, id));
    let found = found.filter(|g| is_deleted(g) == deleted).cloned().collect();
    let order = [("gateway_id", "ids.gateway_id"), ("name", "name"), ("created_at", "created_at")];
    let page = ctx.page(request, found, &order);
    let mut answer = Vec::new();
    for gateway in page {
        let id = path::string(&gateway, "ids.gateway_id");
        let rights = ctx.rights_on(EntityKind::Gateway, &id, true).unwrap_or_default();
        let mut shown = fields::filter(&gateway, &paths)?;
        with_single_plan(&mut shown);
        if !rights.contains(&right("GATEWAY_INFO")) {
            shown = public_part(&shown)?;
        }
        if !rights.contains(&right("GATEWAY_READ_SECRETS")) {
            SECRETS.iter().for_each(|secret| path::clear(&mut shown, secret));
        }
        answer.push(Value::Message(shown));
    }
    let mut gateways = proto::message("Gateways");
    path::set(&mut gateways, "gateways", Value::List(answer));
    Ok(gateways)
}

fn update(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let mut sent = path::child(request, "gateway").unwrap_or_else(|| proto::message("Gateway"));
    let id = path::string(&sent, "ids.gateway_id");
    let mut paths = mask::of(request);
    if let Err(denied) = ctx.require(EntityKind::Gateway, &id, &["GATEWAY_SETTINGS_BASIC"]) {
        // A gateway may write its own antennas and attributes.
        let own = applications::only_public(&paths, &["antennas", "attributes"]);
        if !own || ctx.require(EntityKind::Gateway, &id, &["GATEWAY_LINK"]).is_err() {
            return Err(denied);
        }
    }
    if fields::has(&paths, "frequency_plan_id") {
        paths = fields::with(&paths, &["frequency_plan_ids"]);
    }
    plans_of(&mut sent);
    if fields::has_any(&paths, &SECRETS) {
        ctx.require(EntityKind::Gateway, &id, &["GATEWAY_WRITE_SECRETS"])?;
    }
    if fields::has(&paths, "claim_authentication_code") {
        check_claim_code(&sent)?;
    }
    applications::check_contacts(ctx, EntityKind::Gateway, &id, &sent)?;
    let found = ctx.store.get(Table::Gateways, &id).filter(|g| !is_deleted(g)).cloned();
    let mut gateway = found.ok_or_else(|| not_found(&id))?;
    if fields::has(&paths, "ids.eui")
        && let Some(wanted) = eui(&sent, "ids.eui")
        && by_eui(ctx, wanted).is_some_and(|other| path::string(other, "ids.gateway_id") != id)
    {
        return Err(STORE_EUI_TAKEN.failure());
    }
    let settable = |path: &&String| {
        path.as_str() == "ids.eui"
            || COLUMNS.iter().any(|column| fields::covers(column, path) || fields::covers(path, column))
    };
    let writes: Vec<_> = paths.iter().filter(settable).collect();
    fields::set(&mut gateway, Some(&sent), &writes)?;
    let mut gateway = normalized(&gateway);
    path::set(&mut gateway, "updated_at", ctx.now.micros());
    ctx.store.put(Table::Gateways, &id, gateway.clone())?;
    paths.retain(|p| p != "frequency_plan_id");
    fields::filter(&gateway, &fields::with(&paths, IMPLICIT))
}

fn delete(ctx: &mut Ctx<'_>, id: &str) -> Result<DynamicMessage, Failure> {
    ctx.require(EntityKind::Gateway, id, &["GATEWAY_DELETE"])?;
    soft_delete(ctx, id)?;
    Ok(empty())
}

/// The ID stays taken and the EUI is free at once: a restore does not give it back.
fn soft_delete(ctx: &mut Ctx<'_>, id: &str) -> Result<(), Failure> {
    applications::soft_delete(ctx, Table::Gateways, id)?;
    if let Some(mut gateway) = ctx.store.get(Table::Gateways, id).cloned() {
        path::clear(&mut gateway, "ids.eui");
        ctx.store.put(Table::Gateways, id, gateway)?;
    }
    Ok(())
}

fn restore(ctx: &mut Ctx<'_>, id: &str) -> Result<DynamicMessage, Failure> {
    ctx.require_with_deleted(EntityKind::Gateway, id, &["GATEWAY_DELETE"], true)?;
    let found = ctx.store.get(Table::Gateways, id).filter(|g| is_deleted(g)).cloned();
    let mut gateway = found.ok_or_else(|| not_found(id))?;
    let deleted = path::child(&gateway, "deleted_at").as_ref().map(stored::nanos).unwrap_or_default();
    if ctx.now.nanos() - deleted > RESTORE_WINDOW {
        return Err(RESTORE_WINDOW_EXPIRED.failure());
    }
    path::clear(&mut gateway, "deleted_at");
    ctx.store.put(Table::Gateways, id, gateway)?;
    Ok(empty())
}

fn purge(ctx: &mut Ctx<'_>, id: &str) -> Result<DynamicMessage, Failure> {
    if !ctx.is_admin() {
        return Err(ADMINS_PURGE.failure());
    }
    applications::purge_entity(ctx, EntityKind::Gateway, Table::Gateways, id)?;
    Ok(empty())
}

/// Fails unless the caller, a user or organization, has a right on every gateway of a batch
/// (`assertGatewayRights`).
pub(super) fn require_batch(ctx: &Ctx<'_>, ids: &[String], name: &str) -> Result<(), Failure> {
    let Caller::Key { entity, rights, admin, .. } = ctx.caller()? else { return Err(NEITHER_USER.failure()) };
    if !matches!(entity.0, EntityKind::User | EntityKind::Organization) {
        return Err(NEITHER_USER.failure());
    }
    if !rights.contains(&right(name)) {
        return Err(INSUFFICIENT_RIGHTS.failure());
    }
    let there = |id: &String| ctx.store.get(Table::Gateways, id).is_some_and(|g| !is_deleted(g));
    if !ids.iter().all(there) {
        return Err(if admin { SOME_NOT_FOUND } else { INSUFFICIENT_RIGHTS }.failure());
    }
    for id in ids {
        if !ctx.rights_on(EntityKind::Gateway, id, false)?.contains(&right(name)) {
            return Err(INSUFFICIENT_RIGHTS.failure());
        }
    }
    Ok(())
}

/// Gateway IDs of a batch request.
pub(super) fn batch_ids(request: &DynamicMessage) -> Vec<String> {
    let list = path::get(request, "gateway_ids");
    let ids = list.iter().flat_map(|l| l.as_list().unwrap_or_default());
    ids.filter_map(|v| Some(path::string(v.as_message()?, "gateway_id"))).collect()
}

fn batch_delete(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let ids = batch_ids(request);
    require_batch(ctx, &ids, "GATEWAY_DELETE")?;
    for id in &ids {
        soft_delete(ctx, id)?;
    }
    Ok(empty())
}
