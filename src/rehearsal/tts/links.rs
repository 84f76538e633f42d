//! Application links of the Application Server, its downlink queue listing, and the Join Server's activation settings
//! (`pkg/applicationserver/grpc.go`, `pkg/joinserver/grpc_application_activation_settings_registry.go`).

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, devices,
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    registries,
    stored::REDIS_NOT_FOUND,
};
use crate::{
    map::{mask, path, rules},
    proto,
    rehearsal::store::{Table, device_key},
};

const SETTINGS_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/joinserver",
    "application_activation_settings_not_found",
    "application activation settings not found",
);
const FIELD_MASK: Kind =
    Kind::new(Code::InvalidArgument, "pkg/joinserver", "field_mask", "invalid field mask");
const FIELD_VALUE: Kind =
    Kind::new(Code::InvalidArgument, "pkg/joinserver", "field_value", "invalid value of field `{field}`");
const NO_PATHS: Kind = Kind::new(Code::InvalidArgument, "pkg/joinserver", "no_paths", "no paths specified");
const NO_KEK_LABEL: Kind =
    Kind::new(Code::InvalidArgument, "pkg/joinserver", "no_kek_label", "no KEK label specified");
const MISSING_FIELD: Kind =
    Kind::new(Code::Unknown, "pkg/ttnpb", "missing_field", "field `{field}` is missing");
const NO_STATS: Kind = Kind::new(
    Code::Unimplemented,
    "pkg/applicationserver",
    "linking_not_implemented",
    "linking is not implemented",
);
const NO_SESSION: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/applicationserver",
    "no_device_session",
    "no device session; check device activation",
);

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    method: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match method {
        "As/GetLink" => get(ctx, &request),
        "As/SetLink" => set(ctx, &request),
        "As/DeleteLink" => delete(ctx, &request),
        "As/GetLinkStats" => Err(NO_STATS.failure()),
        "As/GetConfiguration" => Ok(configuration()),
        "AppAs/DownlinkQueueList" => downlinks(ctx, &request),
        "ApplicationActivationSettingRegistry/Get" => get_settings(ctx, &request),
        "ApplicationActivationSettingRegistry/Set" => set_settings(ctx, &request),
        "ApplicationActivationSettingRegistry/Delete" => delete_settings(ctx, &request),
        _ => Err(unimplemented()),
    }
}

fn application_of(request: &DynamicMessage) -> String {
    path::string(request, "application_ids.application_id")
}

/// Paths of times past are allowed and ignored, with a warning each.
fn without_deprecated(ctx: &mut Ctx<'_>, mut paths: Vec<String>) -> Vec<String> {
    for deprecated in ["api_key", "network_server_address", "tls"] {
        if paths.iter().any(|p| p == deprecated) {
            ctx.warn(&format!("field {deprecated} is deprecated"));
            paths.retain(|p| p != deprecated);
        }
    }
    paths
}

fn get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let id = application_of(request);
    ctx.require_application(&id, &["APPLICATION_SETTINGS_BASIC"])?;
    let paths = without_deprecated(ctx, mask::of(request));
    let link = ctx.store.get(Table::Links, &id).ok_or_else(|| REDIS_NOT_FOUND.failure())?;
    fields::filter(link, &paths)
}

fn set(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let sent = path::child(request, "link");
    let paths = mask::of(request);
    registries::check_scripts(&paths, sent.as_ref(), "default_formatters")?;
    let id = application_of(request);
    ctx.require_application(&id, &["APPLICATION_SETTINGS_BASIC"])?;
    let paths = without_deprecated(ctx, paths);
    let stored = ctx.store.get(Table::Links, &id).cloned();
    if paths.is_empty() {
        return Ok(stored.unwrap_or_else(|| proto::message("ApplicationLink")));
    }
    let mut link = stored.unwrap_or_else(|| proto::message("ApplicationLink"));
    fields::set(&mut link, sent.as_ref(), &paths)?;
    if let Some(broken) = rules::violation(&link) {
        return Err(Failure::invalid(&broken));
    }
    ctx.store.put(Table::Links, &id, link.clone())?;
    // The answer holds all of the link, whatever the mask.
    Ok(link)
}

fn delete(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let id = path::string(request, "application_id");
    ctx.require_application(&id, &["APPLICATION_SETTINGS_BASIC"])?;
    ctx.store.remove(Table::Links, &id)?;
    for key in ctx.owned_keys(Table::PackageDefaults, &format!("{id}.")) {
        ctx.store.remove(Table::PackageDefaults, &key)?;
    }
    Ok(empty())
}

fn configuration() -> DynamicMessage {
    let mut answer = proto::message("GetAsConfigurationResponse");
    path::touch(&mut answer, "configuration.pubsub.providers");
    let retry = "configuration.webhooks.unhealthy_retry_interval.seconds";
    path::set(&mut answer, "configuration.webhooks.unhealthy_attempts_threshold", Value::I64(4));
    path::set(&mut answer, retry, Value::I64(60));
    answer
}

/// Downlinks are queued at the Network Server; the embedded one holds those that were loaded with the session.
fn downlinks(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let (application, device) = devices::ids_at(request, "");
    ctx.require_application(&application, &["APPLICATION_TRAFFIC_READ"])?;
    let key = device_key(&application, &device);
    let record = ctx.store.get(Table::As, &key).ok_or_else(|| REDIS_NOT_FOUND.failure())?;
    let network = ctx.store.get(Table::Ns, &key).ok_or_else(|| REDIS_NOT_FOUND.failure())?;
    let mut answer = proto::message("ApplicationDownlinks");
    let queued = path::get(network, "session.queued_application_downlinks");
    let Some(queued) = queued.map(std::borrow::Cow::into_owned) else { return Ok(answer) };
    if !path::has(record, "session") && !path::has(record, "pending_session") {
        return Err(NO_SESSION.failure());
    }
    path::set(&mut answer, "downlinks", queued);
    Ok(answer)
}

fn get_settings(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let id = application_of(request);
    ctx.require_application(&id, &["APPLICATION_DEVICES_READ_KEYS"])?;
    let missing = || SETTINGS_NOT_FOUND.failure().because(REDIS_NOT_FOUND.failure());
    let settings = ctx.store.get(Table::ActivationSettings, &id).ok_or_else(missing)?;
    fields::filter(settings, &mask::of(request))
}

fn set_settings(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let paths = mask::of(request);
    if paths.is_empty() {
        return Err(FIELD_MASK.failure().because(NO_PATHS.failure()));
    }
    let mut sent =
        path::child(request, "settings").unwrap_or_else(|| proto::message("ApplicationActivationSettings"));
    let kek = path::child(&sent, "kek");
    let sets_kek = fields::has(&paths, "kek.key") && kek.is_some();
    if sets_kek {
        if path::bytes(&sent, "kek.key").iter().all(|b| *b == 0) {
            return Err(FIELD_VALUE.with(json!({"field": "kek.key"})));
        }
        if !fields::has(&paths, "kek_label") {
            let cause = MISSING_FIELD.with(json!({"field": "kek_label"}));
            return Err(FIELD_MASK.failure().because(cause));
        }
        if path::string(&sent, "kek_label").is_empty() {
            return Err(NO_KEK_LABEL.failure());
        }
    }
    let id = application_of(request);
    let rights = ["APPLICATION_DEVICES_READ_KEYS", "APPLICATION_DEVICES_WRITE_KEYS"];
    ctx.require_application(&id, &rights)?;
    let mut sets = paths.clone();
    if sets_kek {
        registries::plain_key(&mut sent, "kek");
        sets = fields::with(&sets, &["kek.encrypted_key", "kek.kek_label"]);
    }
    let stored = ctx.store.get(Table::ActivationSettings, &id).cloned();
    let mut settings = stored.unwrap_or_else(|| proto::message("ApplicationActivationSettings"));
    fields::set(&mut settings, Some(&sent), &sets)?;
    if let Some(broken) = rules::violation(&settings) {
        return Err(Failure::invalid(&broken));
    }
    ctx.store.put(Table::ActivationSettings, &id, settings.clone())?;
    let mut answer = fields::filter(&settings, &paths)?;
    // The key comes back as it was sent.
    match kek {
        Some(kek) => path::set(&mut answer, "kek", Value::Message(kek)),
        None => path::clear(&mut answer, "kek"),
    }
    Ok(answer)
}

fn delete_settings(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let id = application_of(request);
    let rights = ["APPLICATION_DEVICES_READ_KEYS", "APPLICATION_DEVICES_WRITE_KEYS"];
    ctx.require_application(&id, &rights)?;
    match ctx.store.remove(Table::ActivationSettings, &id)? {
        Some(_) => Ok(empty()),
        None => Err(SETTINGS_NOT_FOUND.failure()),
    }
}
