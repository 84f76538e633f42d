//! API keys and collaborators of applications and gateways (`pkg/identityserver/{application,gateway}_access.go`).

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx, applications,
    auth::{self, Caller, EntityKind, Rights, implied, right, rights_in, rights_value},
    failure::{Failure, Kind},
    methods::{empty, unimplemented},
    stored::{self, ENTITY_NOT_FOUND},
};
use crate::{
    map::{mask, path},
    proto,
    rehearsal::store::Table,
};

const API_KEY_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "api_key_not_found",
    "api key with id `{api_key_id}` not found",
);
const MEMBERSHIP_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "membership_not_found",
    "membership of {account_type} account with id `{account_id}` on {entity_type} entity with id `{entity_id}` not found",
);
const COLLABORATOR_IS_CONTACT: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/identityserver",
    "collaborator_is_contact",
    "collaborator `{collaborator_id}` is used as a contact",
);
const APPLICATION_NEEDS: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/identityserver",
    "application_needs_collaborator",
    "every application needs at least one collaborator with all rights",
);
const GATEWAY_NEEDS: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/identityserver",
    "gateway_needs_collaborator",
    "every gateway needs at least one collaborator with all rights",
);
const ORGANIZATION_NEEDS: Kind = Kind::new(
    Code::FailedPrecondition,
    "pkg/identityserver",
    "organization_needs_collaborator",
    "every organization needs at least one collaborator with all rights",
);

/// What a request is about: an application or a gateway.
struct Owner {
    kind: EntityKind,
    id: String,
}

impl Owner {
    fn of(kind: EntityKind, request: &DynamicMessage) -> Self {
        let at = format!("{}_ids.{}", kind.name(), kind.id_field());
        Self { kind, id: path::string(request, &at) }
    }

    fn require(&self, ctx: &Ctx<'_>, name: &str) -> Result<(), Failure> {
        let name = format!("{}_{name}", self.kind.name().to_uppercase());
        ctx.require(self.kind, &self.id, &[&name])
    }

    /// The caller must have the rights that it gives or takes.
    fn require_all(&self, ctx: &Ctx<'_>, rights: &Rights) -> Result<(), Failure> {
        ctx.require_numbers(self.kind, &self.id, &rights.iter().copied().collect::<Vec<_>>(), false)
    }

    fn key(&self, key_id: &str) -> String {
        stored::api_key_key(self.kind, &self.id, key_id)
    }

    fn table(&self) -> Table {
        if self.kind == EntityKind::Gateway { Table::Gateways } else { Table::Applications }
    }

    fn key_not_found(&self, key_id: &str) -> Failure {
        let attributes = json!({"api_key_id": key_id, "entity_type": self.kind.name(), "entity_id": self.id});
        API_KEY_NOT_FOUND.with(attributes)
    }
}

/// `EntityAccess/AuthInfo`.
pub(super) fn auth_info(ctx: &mut Ctx<'_>) -> Result<DynamicMessage, Failure> {
    let mut answer = proto::message("AuthInfoResponse");
    let Caller::Key { entity, key, admin, .. } = ctx.caller()? else { return Ok(answer) };
    path::set(&mut answer, "api_key.api_key", Value::Message(key));
    let (kind, id) = entity;
    let at = format!("api_key.entity_ids.{}_ids.{}", kind.name(), kind.id_field());
    path::set(&mut answer, &at, Value::String(id));
    if admin {
        path::set(&mut answer, "is_admin", Value::Bool(true));
        let rights = rights_value(ctx.universal_rights());
        path::set(&mut answer, "universal_rights.rights", rights);
    }
    Ok(answer)
}

pub(super) fn call(
    ctx: &mut Ctx<'_>,
    service: &str,
    name: &str,
    request: DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    let kind = if service == "GatewayAccess" { EntityKind::Gateway } else { EntityKind::Application };
    if name == "ListRights" {
        return applications::list_rights(ctx, kind, &path::string(&request, &kind.id_field()));
    }
    let owner = Owner::of(kind, &request);
    match name {
        "CreateAPIKey" => create_key(ctx, &owner, &request),
        "ListAPIKeys" => list_keys(ctx, &owner, &request),
        "GetAPIKey" => get_key(ctx, &owner, &request),
        "UpdateAPIKey" => update_key(ctx, &owner, &request),
        "DeleteAPIKey" => delete_key(ctx, &owner, &request),
        "GetCollaborator" => get_collaborator(ctx, &owner, &request),
        "SetCollaborator" => set_collaborator(ctx, &owner, &request),
        "ListCollaborators" => list_collaborators(ctx, &owner, &request),
        "DeleteCollaborator" => delete_collaborator(ctx, &owner, &request),
        _ => Err(unimplemented()),
    }
}

fn without_secret(key: &DynamicMessage) -> DynamicMessage {
    let mut shown = key.clone();
    path::clear(&mut shown, "key");
    shown
}

fn create_key(ctx: &mut Ctx<'_>, owner: &Owner, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_API_KEYS")?;
    owner.require_all(ctx, &rights_in(request, "rights"))?;
    let (token, id) = auth::generate_token();
    let mut key = proto::message("APIKey");
    path::set(&mut key, "id", Value::String(id.clone()));
    path::set(&mut key, "key", Value::String(token));
    for field in ["name", "rights", "expires_at"] {
        if let Some(value) = path::get(request, field) {
            path::set(&mut key, field, value.into_owned());
        }
    }
    stored::cut_to_micros(&mut key, "expires_at");
    path::set(&mut key, "created_at", ctx.now.micros());
    path::set(&mut key, "updated_at", ctx.now.micros());
    ctx.store.put(Table::ApiKeys, &owner.key(&id), key.clone())?;
    Ok(key)
}

fn list_keys(ctx: &mut Ctx<'_>, owner: &Owner, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_API_KEYS")?;
    let prefix = owner.key("");
    let keys = ctx.store.iter(Table::ApiKeys).filter(|(key, _)| key.starts_with(&prefix));
    let keys = keys.map(|(_, key)| without_secret(key)).collect();
    let fields =
        [("api_key_id", "id"), ("name", "name"), ("created_at", "created_at"), ("expires_at", "expires_at")];
    let page = ctx.page(request, keys, &fields);
    let mut answer = proto::message("APIKeys");
    path::set(&mut answer, "api_keys", Value::List(page.into_iter().map(Value::Message).collect()));
    Ok(answer)
}

fn get_key(ctx: &mut Ctx<'_>, owner: &Owner, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_API_KEYS")?;
    let id = path::string(request, "key_id");
    let key = ctx.store.get(Table::ApiKeys, &owner.key(&id));
    key.map(without_secret).ok_or_else(|| owner.key_not_found(&id))
}

fn update_key(ctx: &mut Ctx<'_>, owner: &Owner, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_API_KEYS")?;
    let mut paths = mask::of(request);
    if paths.is_empty() {
        paths = vec!["rights".to_owned(), "name".to_owned()];
    }
    let sent = path::child(request, "api_key").unwrap_or_else(|| proto::message("APIKey"));
    let id = path::string(&sent, "id");
    let found = ctx.store.get(Table::ApiKeys, &owner.key(&id)).cloned();
    let mut key = found.ok_or_else(|| owner.key_not_found(&id))?;
    let (new, old) = (rights_in(&sent, "rights"), rights_in(&key, "rights"));
    if !new.is_empty() {
        owner.require_all(ctx, &new.difference(&old).copied().collect())?;
        owner.require_all(ctx, &old.difference(&new).copied().collect())?;
    } else if paths.iter().any(|p| p == "rights") {
        // A key without rights is deleted: the way before there was a method for it.
        ctx.store.remove(Table::ApiKeys, &owner.key(&id))?;
        return Ok(proto::message("APIKey"));
    }
    paths.retain(|p| ["rights", "name", "expires_at"].contains(&p.as_str()));
    path::apply(&mut key, &sent, &paths);
    stored::cut_to_micros(&mut key, "expires_at");
    path::set(&mut key, "updated_at", ctx.now.micros());
    ctx.store.put(Table::ApiKeys, &owner.key(&id), key.clone())?;
    Ok(without_secret(&key))
}

fn delete_key(ctx: &mut Ctx<'_>, owner: &Owner, request: &DynamicMessage) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_API_KEYS")?;
    let id = path::string(request, "key_id");
    match ctx.store.remove(Table::ApiKeys, &owner.key(&id))? {
        Some(_) => Ok(empty()),
        None => Err(owner.key_not_found(&id)),
    }
}

impl Owner {
    fn member_key(&self, account: &(EntityKind, String)) -> String {
        stored::collaborator_key(self.kind, &self.id, account.0, &account.1)
    }

    /// The rights of a collaborator as they were given (`GetMember`).
    fn member(&self, ctx: &Ctx<'_>, account: &(EntityKind, String)) -> Result<Rights, Failure> {
        ctx.account_exists(account)?;
        let member = ctx.store.get(Table::Collaborators, &self.member_key(account));
        member.map(|m| rights_in(m, "rights")).ok_or_else(|| {
            MEMBERSHIP_NOT_FOUND.with(json!({
                "account_type": account.0.name(), "account_id": account.1,
                "entity_type": self.kind.name(), "entity_id": self.id,
            }))
        })
    }

    /// True when somebody else has all rights.
    fn has_other_owner(&self, ctx: &Ctx<'_>, account: &(EntityKind, String)) -> bool {
        let (prefix, own) = (format!("{}:{}/", self.kind.prefix(), self.id), self.member_key(account));
        let all = right(&format!("{}_ALL", self.kind.name().to_uppercase()));
        let members = ctx.store.iter(Table::Collaborators);
        members
            .filter(|(key, _)| key.starts_with(&prefix) && *key != own)
            .any(|(_, member)| implied(&rights_in(member, "rights")).contains(&all))
    }
}

fn account_of(request: &DynamicMessage, at: &str) -> (EntityKind, String) {
    // The rules of the request have asked for it already.
    stored::account_in(request, at).unwrap_or((EntityKind::User, String::new()))
}

fn get_collaborator(
    ctx: &mut Ctx<'_>,
    owner: &Owner,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_COLLABORATORS")?;
    let account = account_of(request, "collaborator");
    let rights = owner.member(ctx, &account)?;
    let mut answer = proto::message("GetCollaboratorResponse");
    path::set(&mut answer, "ids", Value::Message(stored::account_ids(account.0, &account.1)));
    path::set(&mut answer, "rights", rights_value(rights));
    Ok(answer)
}

fn set_collaborator(
    ctx: &mut Ctx<'_>,
    owner: &Owner,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_COLLABORATORS")?;
    let account = account_of(request, "collaborator.ids");
    let existing = match owner.member(ctx, &account) {
        Ok(rights) => Some(rights),
        Err(failure) if failure.code() == Code::NotFound => None,
        Err(failure) => return Err(failure),
    };
    let old = implied(&existing.clone().unwrap_or_default());
    let given = rights_in(request, "collaborator.rights");
    let new = implied(&given);
    let added: Rights = new.difference(&old).copied().collect();
    let removed: Rights = old.difference(&new).copied().collect();
    if !added.is_empty() {
        owner.require_all(ctx, &added)?;
    }
    if !new.is_empty() && !removed.is_empty() {
        owner.require_all(ctx, &removed)?;
    }
    let all = right(&format!("{}_ALL", owner.kind.name().to_uppercase()));
    if removed.contains(&all) && !owner.has_other_owner(ctx, &account) {
        let needs = if owner.kind == EntityKind::Gateway { GATEWAY_NEEDS } else { APPLICATION_NEEDS };
        return Err(needs.failure());
    }
    if given.is_empty() {
        owner.member(ctx, &account)?;
        ctx.store.remove(Table::Collaborators, &owner.member_key(&account))?;
        return Ok(empty());
    }
    ctx.account_exists(&account)?;
    let mut member = proto::message("Collaborator");
    path::set(&mut member, "ids", Value::Message(stored::account_ids(account.0, &account.1)));
    path::set(&mut member, "rights", rights_value(given));
    ctx.store.put(Table::Collaborators, &owner.member_key(&account), member)?;
    Ok(empty())
}

fn list_collaborators(
    ctx: &mut Ctx<'_>,
    owner: &Owner,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    ctx.require_authenticated()?;
    let public = owner.require(ctx, "SETTINGS_COLLABORATORS").is_err();
    if ctx.store.get(owner.table(), &owner.id).is_none_or(stored::is_deleted) {
        return Err(ENTITY_NOT_FOUND.with(json!({"entity_type": owner.kind.name(), "entity_id": owner.id})));
    }
    let prefix = format!("{}:{}/", owner.kind.prefix(), owner.id);
    let members = ctx.store.iter(Table::Collaborators).filter(|(key, _)| key.starts_with(&prefix));
    let mut members: Vec<_> = members.map(|(_, m)| m.clone()).collect();
    // The order is that of the accounts' IDs, whatever their kind.
    members.sort_by_key(|m| stored::account_in(m, "ids").map(|(_, id)| id));
    if path::string(request, "order") == "-id" {
        members.reverse();
    }
    let mut page = ctx.page(request, members, &[]);
    for member in &mut page {
        if public {
            path::clear(member, "rights");
        }
    }
    let mut answer = proto::message("Collaborators");
    path::set(&mut answer, "collaborators", Value::List(page.into_iter().map(Value::Message).collect()));
    Ok(answer)
}

fn delete_collaborator(
    ctx: &mut Ctx<'_>,
    owner: &Owner,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Failure> {
    owner.require(ctx, "SETTINGS_COLLABORATORS")?;
    let account = account_of(request, "collaborator_ids");
    let removed = implied(&owner.member(ctx, &account)?);
    let entity = ctx.store.get(owner.table(), &owner.id);
    let contact = |at: &str| entity.and_then(|e| stored::account_in(e, at)).as_ref() == Some(&account);
    if contact("administrative_contact") || contact("technical_contact") {
        return Err(COLLABORATOR_IS_CONTACT.with(json!({"collaborator_id": account.1})));
    }
    let all = right(&format!("{}_ALL", owner.kind.name().to_uppercase()));
    if removed.contains(&all) && !owner.has_other_owner(ctx, &account) {
        // The application's method answers the organization's error: a quirk that is kept.
        let needs = if owner.kind == EntityKind::Gateway { GATEWAY_NEEDS } else { ORGANIZATION_NEEDS };
        return Err(needs.failure());
    }
    ctx.store.remove(Table::Collaborators, &owner.member_key(&account))?;
    Ok(empty())
}
