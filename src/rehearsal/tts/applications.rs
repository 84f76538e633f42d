//! Applications of the Identity Server (`pkg/identityserver/application_registry.go`,
//! `pkg/identityserver/bunstore/application_store.go`).

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx,
    auth::{Caller, EntityKind, Rights, right, rights_value},
    failure::{Failure, Kind},
    fields,
    methods::{empty, unimplemented},
    stored::{self, APPLICATION_NOT_FOUND, ENTITY_NOT_FOUND, is_deleted},
};
use crate::{
    map::{mask, path},
    proto,
    rehearsal::store::Table,
};

const HAS_DEVICES: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/identityserver",
    "application_has_devices",
    "application still has `{count}` devices",
);
const ADMINS_PURGE: Kind = Kind::new(
    Code::PermissionDenied,
    "pkg/identityserver",
    "admins_purge_applications",
    "applications may only be purged by admins",
);
const CONTACT_NO_COLLABORATOR: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/identityserver",
    "contact_no_collaborator",
    "contact `{contact}` is not a collaborator",
);
const NO_DEV_EUI_BLOCK: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/identityserver",
    "dev_eui_issuing_not_enabled",
    "DevEUI issuing not configured",
);

/// What the database has columns for, beside identifiers and times.
const COLUMNS: &[&str] = &[
    "name",
    "description",
    "attributes",
    "administrative_contact",
    "technical_contact",
    "network_server_address",
    "application_server_address",
    "join_server_address",
];

/// Fields that anybody may read (`PublicApplicationFields`).
const PUBLIC: &[&str] =
    &["ids", "created_at", "updated_at", "deleted_at", "administrative_contact", "technical_contact"];

const IMPLICIT: &[&str] = &["ids", "created_at", "updated_at", "deleted_at"];

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    name: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    match name {
        "Create" => create(ctx, &request),
        "Get" => get(ctx, &request),
        "List" => list(ctx, &request),
        "Update" => update(ctx, &request),
        "Delete" => delete(ctx, &id_of(&request)),
        "Restore" => restore(ctx, &id_of(&request)),
        "Purge" => purge(ctx, &id_of(&request)),
        "IssueDevEUI" => {
            ctx.require_application(&id_of(&request), &["APPLICATION_DEVICES_WRITE"])?;
            Err(NO_DEV_EUI_BLOCK.failure())
        }
        _ => Err(unimplemented()),
    }
}

fn id_of(ids: &DynamicMessage) -> String {
    path::string(ids, "application_id")
}

fn not_found(id: &str) -> Failure {
    APPLICATION_NOT_FOUND.with(json!({"application_id": id}))
}

/// Contacts are the collaborator itself, or left out.
pub(super) fn set_contacts(
    entity: &mut DynamicMessage,
    collaborator: &(EntityKind, String),
) -> Result<(), Failure> {
    for contact in ["administrative_contact", "technical_contact"] {
        match stored::account_in(entity, contact) {
            Some(other) if other != *collaborator => {
                return Err(CONTACT_NO_COLLABORATOR.with(json!({"contact": other.1})));
            }
            _ => {
                let ids = stored::account_ids(collaborator.0, &collaborator.1);
                path::set(entity, contact, Value::Message(ids));
            }
        }
    }
    Ok(())
}

fn create(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let id = path::string(request, "application.ids.application_id");
    stored::check_id(&id)?;
    let Some(owner) = stored::account_in(request, "collaborator") else { return Err(not_found(&id)) };
    let needed = match owner.0 {
        EntityKind::Organization => "ORGANIZATION_APPLICATIONS_CREATE",
        _ => "USER_APPLICATIONS_CREATE",
    };
    ctx.require(owner.0, &owner.1, &[needed])?;
    let sent = path::child(request, "application").unwrap_or_else(|| proto::message("Application"));
    let mut application = path::project(&sent, &[&["ids"], COLUMNS].concat());
    set_contacts(&mut application, &owner)?;
    ctx.account_exists(&owner)?;
    if ctx.store.get(Table::Applications, &id).is_some() {
        return Err(stored::id_taken());
    }
    path::set(&mut application, "created_at", ctx.now.micros());
    path::set(&mut application, "updated_at", ctx.now.micros());
    ctx.store.put(Table::Applications, &id, application.clone())?;
    add_owner(ctx, EntityKind::Application, &id, &owner)?;
    Ok(application)
}

/// Makes the creator a collaborator with all rights.
pub(super) fn add_owner(
    ctx: &mut Ctx<'_>,
    kind: EntityKind,
    id: &str,
    owner: &(EntityKind, String),
) -> Result<(), Failure> {
    let mut member = proto::message("Collaborator");
    path::set(&mut member, "ids", Value::Message(stored::account_ids(owner.0, &owner.1)));
    path::set(&mut member, "rights", rights_value([right("ALL")]));
    let key = stored::collaborator_key(kind, id, owner.0, &owner.1);
    Ok(ctx.store.put(Table::Collaborators, &key, member)?)
}

/// The mask of a read: `contact_info` stands for the two contacts (which are then answered as they are).
fn read_mask(request: &DynamicMessage) -> Vec<String> {
    let mut paths = mask::of(request);
    if fields::has(&paths, "contact_info") {
        paths.retain(|p| p != "contact_info");
        paths = fields::with(&paths, &["administrative_contact", "technical_contact"]);
    }
    fields::with(&paths, IMPLICIT)
}

fn get(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    ctx.require_authenticated()?;
    let id = path::string(request, "application_ids.application_id");
    let paths = read_mask(request);
    let denied = ctx.require_application(&id, &["APPLICATION_INFO"]).err();
    if let Some(denied) = denied.clone().filter(|_| !only_public(&mask::of(request), PUBLIC)) {
        return Err(denied);
    }
    let found = ctx.store.get(Table::Applications, &id).filter(|a| !is_deleted(a));
    let shown = fields::filter(found.ok_or_else(|| not_found(&id))?, &paths)?;
    if denied.is_some() { fields::filter(&shown, PUBLIC) } else { Ok(shown) }
}

/// True when the mask names nothing but these fields and what is below them.
pub(super) fn only_public(paths: &[String], public: &[&str]) -> bool {
    paths.iter().all(|path| public.iter().any(|open| fields::covers(open, path)))
}

/// Who a listing is for: the collaborator of the request, or the caller itself. `None` when nobody is.
pub(super) fn listed_for(
    ctx: &Ctx<'_>,
    request: &DynamicMessage,
    what: &str,
) -> Result<Option<(EntityKind, String)>, Failure> {
    let caller = match ctx.caller()? {
        Caller::Key { entity, .. } if matches!(entity.0, EntityKind::User | EntityKind::Organization) => {
            Some(entity)
        }
        _ => None,
    };
    let Some(account) = stored::account_in(request, "collaborator").or(caller) else { return Ok(None) };
    let needed = format!("{}_{what}_LIST", account.0.name().to_uppercase());
    ctx.require(account.0, &account.1, &[&needed])?;
    Ok(Some(account))
}

/// IDs of the entities of which an account is a direct collaborator, those of its organizations included if the
/// request names no collaborator.
pub(super) fn memberships(
    ctx: &Ctx<'_>,
    account: &(EntityKind, String),
    kind: EntityKind,
    indirect: bool,
) -> Vec<String> {
    let mut accounts = vec![account.clone()];
    if indirect && account.0 == EntityKind::User && account.1 == ctx.settings.admin {
        let organizations = ctx.settings.organizations.iter();
        accounts.extend(organizations.map(|o| (EntityKind::Organization, o.clone())));
    }
    let prefix = format!("{}:", kind.prefix());
    let mut ids: Vec<_> = ctx
        .owned_keys(Table::Collaborators, &prefix)
        .into_iter()
        .filter_map(|key| {
            let (id, member) = key.strip_prefix(&prefix)?.split_once('/')?;
            let (kind, account_id) = member.split_once(':')?;
            accounts.iter().any(|(k, a)| k.prefix() == kind && a == account_id).then(|| id.to_owned())
        })
        .collect();
    ids.dedup();
    ids
}

fn list(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let paths = read_mask(request);
    let Some(account) = listed_for(ctx, request, "APPLICATIONS")? else {
        return Ok(proto::message("Applications"));
    };
    let deleted = path::flag(request, "deleted");
    let indirect = !path::has(request, "collaborator");
    let ids = memberships(ctx, &account, EntityKind::Application, indirect);
    let found = ids.iter().filter_map(|id| ctx.store.get(Table::Applications, id));
    let found = found.filter(|a| is_deleted(a) == deleted).cloned().collect();
    let fields = [("application_id", "ids.application_id"), ("name", "name"), ("created_at", "created_at")];
    let page = ctx.page(request, found, &fields);
    let mut shown = Vec::new();
    for application in page {
        let id = path::string(&application, "ids.application_id");
        let rights = ctx.rights_on(EntityKind::Application, &id, true).unwrap_or_default();
        let whole = fields::filter(&application, &paths)?;
        let readable = rights.contains(&right("APPLICATION_INFO"));
        shown.push(Value::Message(if readable { whole } else { fields::filter(&whole, PUBLIC)? }));
    }
    let mut answer = proto::message("Applications");
    path::set(&mut answer, "applications", Value::List(shown));
    Ok(answer)
}

/// A contact must be a collaborator of the entity already.
pub(super) fn check_contacts(
    ctx: &Ctx<'_>,
    kind: EntityKind,
    id: &str,
    entity: &DynamicMessage,
) -> Result<(), Failure> {
    for contact in ["administrative_contact", "technical_contact"] {
        let Some(account) = stored::account_in(entity, contact) else { continue };
        let key = stored::collaborator_key(kind, id, account.0, &account.1);
        if ctx.store.get(Table::Collaborators, &key).is_none() {
            return Err(CONTACT_NO_COLLABORATOR.with(json!({"contact": account.1})));
        }
    }
    Ok(())
}

fn update(ctx: &mut Ctx<'_>, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    let sent = path::child(request, "application").unwrap_or_else(|| proto::message("Application"));
    let id = path::string(&sent, "ids.application_id");
    ctx.require_application(&id, &["APPLICATION_SETTINGS_BASIC"])?;
    let paths = mask::of(request);
    check_contacts(ctx, EntityKind::Application, &id, &sent)?;
    let found = ctx.store.get(Table::Applications, &id).filter(|a| !is_deleted(a));
    let mut application = found.cloned().ok_or_else(|| not_found(&id))?;
    let settable: Vec<_> =
        fields::top_level(&paths).into_iter().filter(|p| COLUMNS.contains(&p.as_str())).collect();
    path::apply(&mut application, &sent, &settable);
    path::set(&mut application, "updated_at", ctx.now.micros());
    ctx.store.put(Table::Applications, &id, application.clone())?;
    fields::filter(&application, &fields::with(&paths, IMPLICIT))
}

fn device_count(ctx: &Ctx<'_>, id: &str) -> Result<(), Failure> {
    match ctx.owned(Table::Is, id).len() {
        0 => Ok(()),
        count => Err(HAS_DEVICES.with(json!({"count": count}))),
    }
}

fn delete(ctx: &mut Ctx<'_>, id: &str) -> Result<DynamicMessage, Failure> {
    ctx.require_application(id, &["APPLICATION_DELETE"])?;
    device_count(ctx, id)?;
    soft_delete(ctx, Table::Applications, id)?;
    Ok(empty())
}

/// Marks an application or gateway as deleted.
pub(super) fn soft_delete(ctx: &mut Ctx<'_>, table: Table, id: &str) -> Result<(), Failure> {
    if let Some(mut entity) = ctx.store.get(table, id).cloned() {
        path::set(&mut entity, "deleted_at", ctx.now.micros());
        ctx.store.put(table, id, entity)?;
    }
    Ok(())
}

fn restore(ctx: &mut Ctx<'_>, id: &str) -> Result<DynamicMessage, Failure> {
    ctx.require_with_deleted(EntityKind::Application, id, &["APPLICATION_DELETE"], true)?;
    let found = ctx.store.get(Table::Applications, id).filter(|a| is_deleted(a));
    let mut application = found.cloned().ok_or_else(|| not_found(id))?;
    path::clear(&mut application, "deleted_at");
    ctx.store.put(Table::Applications, id, application)?;
    Ok(empty())
}

fn purge(ctx: &mut Ctx<'_>, id: &str) -> Result<DynamicMessage, Failure> {
    if !ctx.is_admin() {
        return Err(ADMINS_PURGE.failure());
    }
    device_count(ctx, id)?;
    purge_entity(ctx, EntityKind::Application, Table::Applications, id)?;
    Ok(empty())
}

/// Removes an application or gateway with its API keys and collaborators.
pub(super) fn purge_entity(
    ctx: &mut Ctx<'_>,
    kind: EntityKind,
    table: Table,
    id: &str,
) -> Result<(), Failure> {
    if ctx.store.get(table, id).is_none() {
        return Err(ENTITY_NOT_FOUND.with(json!({"entity_type": kind.name(), "entity_id": id})));
    }
    let prefix = format!("{}:{id}/", kind.prefix());
    for attached in [Table::ApiKeys, Table::Collaborators] {
        for key in ctx.owned_keys(attached, &prefix) {
            ctx.store.remove(attached, &key)?;
        }
    }
    ctx.store.remove(table, id)?;
    Ok(())
}

/// The rights of the caller on an application or gateway, as a `Rights` message.
pub(super) fn list_rights(ctx: &Ctx<'_>, kind: EntityKind, id: &str) -> Result<DynamicMessage, Failure> {
    let prefix = format!("RIGHT_{}_", kind.name().to_uppercase());
    let all: Rights = proto::enumeration("Right")
        .values()
        .filter(|v| v.name().starts_with(&prefix))
        .map(|v| v.number())
        .collect();
    let rights = ctx.rights_on(kind, id, false)?;
    let mut answer = proto::message("Rights");
    path::set(&mut answer, "rights", rights_value(rights.intersection(&all).copied()));
    Ok(answer)
}
