//! What the methods share about stored entities: their keys in the store, times, whether they exist, and paging.

use std::{
    cmp::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx,
    auth::EntityKind,
    failure::{Failure, Kind},
};
use crate::{map::path, proto, rehearsal::store::Table};

pub(super) const APPLICATION_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "application_not_found",
    "application with id `{application_id}` not found",
);
pub(super) const GATEWAY_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "gateway_not_found",
    "gateway with id `{gateway_id}` not found",
);
const USER_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "user_not_found",
    "user with id `{user_id}` not found",
);
const ORGANIZATION_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "organization_not_found",
    "organization with id `{organization_id}` not found",
);
pub(super) const ACCOUNT_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "account_not_found",
    "{account_type} account with id `{account_id}` not found",
);
pub(super) const ENTITY_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "entity_not_found",
    "{entity_type} entity with id `{entity_id}` not found",
);
const ID_TAKEN: Kind = Kind::new(
    Code::AlreadyExists,
    "pkg/util/store",
    "id_taken",
    "ID already taken, choose a different one and try again",
);
const ALREADY_EXISTS: Kind =
    Kind::new(Code::AlreadyExists, "pkg/util/store", "already_exists", "already exists");
const FORBIDDEN_ID: Kind = Kind::new(
    Code::InvalidArgument,
    "pkg/identityserver/blocklist",
    "forbidden_id",
    "the ID `{id}` can not be registered",
);
/// What the Redis registries answer for an entry that is not there.
pub(super) const REDIS_NOT_FOUND: Kind =
    Kind::new(Code::NotFound, "pkg/redis", "not_found", "entity not found");

/// A handful of the 731 words that the real server refuses as IDs (`pkg/identityserver/blocklist/builtin.go`).
const FORBIDDEN: &[&str] = &[
    "account",
    "admin",
    "administrator",
    "api",
    "app",
    "application",
    "applications",
    "console",
    "dev",
    "device",
    "devices",
    "fleet",
    "gateway",
    "gateways",
    "root",
    "test",
    "user",
    "users",
    "webhook",
    "webhooks",
];

/// Refuses reserved words.
pub(super) fn check_id(id: &str) -> Result<(), Failure> {
    if FORBIDDEN.contains(&id) { Err(FORBIDDEN_ID.with(json!({"id": id}))) } else { Ok(()) }
}

/// The error of a taken ID.
pub(super) fn id_taken() -> Failure {
    ID_TAKEN.failure().because(ALREADY_EXISTS.failure())
}

/// Key in [`Table::Collaborators`].
pub(super) fn collaborator_key(kind: EntityKind, id: &str, account: EntityKind, account_id: &str) -> String {
    format!("{}:{id}/{}:{account_id}", kind.prefix(), account.prefix())
}

/// Key in [`Table::ApiKeys`].
pub(super) fn api_key_key(kind: EntityKind, id: &str, key_id: &str) -> String {
    format!("{}:{id}/{key_id}", kind.prefix())
}

/// Key of a port: three digits, so that keys sort as numbers.
pub(super) fn port_key(owner: &str, port: u64) -> String {
    format!("{owner}.{port:03}")
}

/// The instant of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now(u128);

impl Now {
    pub fn read() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos()))
    }

    /// Nanoseconds since 1970.
    pub fn nanos(self) -> i128 {
        self.0 as i128
    }

    /// As the Redis registries store it.
    pub fn timestamp(self) -> Value {
        Value::Message(timestamp(self.nanos()))
    }

    /// As PostgreSQL stores it: microseconds.
    pub fn micros(self) -> Value {
        Value::Message(timestamp(self.nanos() / 1000 * 1000))
    }
}

/// A `google.protobuf.Timestamp` of nanoseconds since 1970.
pub(super) fn timestamp(nanos: i128) -> DynamicMessage {
    let mut message = proto::message("google.protobuf.Timestamp");
    path::set(&mut message, "seconds", Value::I64(nanos.div_euclid(1_000_000_000) as i64));
    path::set(&mut message, "nanos", Value::I32(nanos.rem_euclid(1_000_000_000) as i32));
    message
}

/// Nanoseconds since 1970 of a `google.protobuf.Timestamp`.
pub(super) fn nanos(timestamp: &DynamicMessage) -> i128 {
    let seconds = timestamp.get_field_by_name("seconds").and_then(|v| v.as_i64()).unwrap_or_default();
    let nanos = timestamp.get_field_by_name("nanos").and_then(|v| v.as_i32()).unwrap_or_default();
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// Cuts the timestamp at `path` down to microseconds, as PostgreSQL does.
pub(super) fn cut_to_micros(message: &mut DynamicMessage, at: &str) {
    if let Some(time) = path::child(message, at) {
        path::set(message, at, Value::Message(timestamp(nanos(&time).div_euclid(1000) * 1000)));
    }
}

/// Who an `OrganizationOrUserIdentifiers` names.
pub(super) fn account_in(message: &DynamicMessage, at: &str) -> Option<(EntityKind, String)> {
    let ids = path::child(message, at)?;
    [EntityKind::User, EntityKind::Organization].into_iter().find_map(|kind| {
        let inner = path::child(&ids, &format!("ids.{}_ids", kind.name()))?;
        Some((kind, path::string(&inner, &kind.id_field())))
    })
}

/// The `OrganizationOrUserIdentifiers` of an account.
pub(super) fn account_ids(kind: EntityKind, id: &str) -> DynamicMessage {
    let mut ids = proto::message("OrganizationOrUserIdentifiers");
    let at = format!("{}_ids.{}", kind.name(), kind.id_field());
    path::set(&mut ids, &at, Value::String(id.to_owned()));
    ids
}

/// True for an application or gateway that is deleted but not purged.
pub(super) fn is_deleted(entity: &DynamicMessage) -> bool {
    path::has(entity, "deleted_at")
}

impl Ctx<'_> {
    /// The error for an entity that is not there, or `Ok`.
    pub(super) fn entity_exists(&self, kind: EntityKind, id: &str, deleted_too: bool) -> Result<(), Failure> {
        let stored = |table| self.store.get(table, id).is_some_and(|e| deleted_too || !is_deleted(e));
        let (there, missing) = match kind {
            EntityKind::Application => (stored(Table::Applications), APPLICATION_NOT_FOUND),
            EntityKind::Gateway => (stored(Table::Gateways), GATEWAY_NOT_FOUND),
            EntityKind::User => (self.settings.has_user(id), USER_NOT_FOUND),
            EntityKind::Organization => {
                (self.settings.organizations.iter().any(|o| o == id), ORGANIZATION_NOT_FOUND)
            }
        };
        if there { Ok(()) } else { Err(missing.with(json!({kind.id_field(): id}))) }
    }

    /// The error for an account (user or organization) that is not there, or `Ok` (`getAccountModel`).
    pub(super) fn account_exists(&self, (kind, id): &(EntityKind, String)) -> Result<(), Failure> {
        let missing = |_| ACCOUNT_NOT_FOUND.with(json!({"account_type": kind.name(), "account_id": id}));
        self.entity_exists(*kind, id, false).map_err(missing)
    }

    /// The entries of one owner in a table whose keys start with `owner.`.
    pub(super) fn owned(&self, table: Table, owner: &str) -> Vec<&DynamicMessage> {
        let prefix = format!("{owner}.");
        self.store.starting(table, &prefix).map(|(_, entry)| entry).collect()
    }

    /// Keys of the entries of one owner, see [`Self::owned`].
    pub(super) fn owned_keys(&self, table: Table, prefix: &str) -> Vec<String> {
        self.store.starting(table, prefix).map(|(key, _)| key.to_owned()).collect()
    }

    /// Sorts and cuts a listing as `order`, `limit` and `page` of the request say, and answers the total in
    /// `x-total-count`. `fields` are those that may be ordered by; the first is the default and breaks ties.
    pub(super) fn page(
        &mut self,
        request: &DynamicMessage,
        mut entries: Vec<DynamicMessage>,
        fields: &[(&str, &str)],
    ) -> Vec<DynamicMessage> {
        let order = path::string(request, "order");
        let (name, descending) = match order.strip_prefix('-') {
            Some(name) => (name, true),
            None => (order.as_str(), false),
        };
        let default = fields.first().map_or("", |(_, at)| at);
        let by = fields.iter().find(|(field, _)| *field == name).map(|(_, at)| *at);
        entries.sort_by(|a, b| {
            let ordering = match by {
                Some(at) => compare(a, b, at).then_with(|| compare(a, b, default)),
                None => compare(a, b, default),
            };
            if descending && by.is_some() { ordering.reverse() } else { ordering }
        });
        self.header("x-total-count", &entries.len().to_string());
        let limit = match path::number(request, "limit") {
            0 => 100,
            limit => limit,
        };
        let page = path::number(request, "page").max(1);
        let skip = usize::try_from((page - 1).saturating_mul(limit)).unwrap_or(usize::MAX);
        entries.into_iter().skip(skip).take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
    }
}

/// Order of two entries by a field, as PostgreSQL has it: absent values last.
fn compare(a: &DynamicMessage, b: &DynamicMessage, at: &str) -> Ordering {
    match (path::child(a, at), path::child(b, at)) {
        (Some(a), Some(b)) => nanos(&a).cmp(&nanos(&b)),
        (None, None) => {
            let (a, b) = (path::string(a, at), path::string(b, at));
            (a.is_empty(), a).cmp(&(b.is_empty(), b))
        }
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}
