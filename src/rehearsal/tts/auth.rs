//! API keys and rights (`pkg/auth`, `pkg/auth/rights`, `pkg/identityserver/{rights,entity_access}.go`).

use std::{collections::BTreeSet, sync::LazyLock};

use prost_reflect::{DynamicMessage, Value};
use serde_json::json;
use tonic::Code;

use super::{
    Ctx,
    failure::{Failure, Kind},
    stored,
};
use crate::{map::path, proto, rehearsal::store::Table};

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

const INVALID_TOKEN: Kind = Kind::new(Code::InvalidArgument, "pkg/auth", "token", "invalid token");
const UNSUPPORTED: Kind = Kind::new(
    Code::Unauthenticated,
    "pkg/identityserver",
    "unsupported_authorization",
    "unsupported authorization method",
);
const KEY_NOT_FOUND: Kind =
    Kind::new(Code::Unauthenticated, "pkg/identityserver", "api_key_not_found", "API key not found");
const STORE_KEY_NOT_FOUND: Kind = Kind::new(
    Code::NotFound,
    "pkg/identityserver/store",
    "api_key_not_found",
    "api key with id `{api_key_id}` not found",
);
const INVALID_AUTHORIZATION: Kind =
    Kind::new(Code::Unauthenticated, "pkg/identityserver", "invalid_authorization", "invalid authorization");
const TOKEN_NOT_FOUND: Kind =
    Kind::new(Code::Unauthenticated, "pkg/identityserver", "token_not_found", "token not found");
const KEY_EXPIRED: Kind =
    Kind::new(Code::Unauthenticated, "pkg/identityserver", "api_key_expired", "api key expired");
const UNAUTHENTICATED: Kind =
    Kind::new(Code::Unauthenticated, "pkg/identityserver", "unauthenticated", "unauthenticated");

/// Rights by their numbers.
pub(super) type Rights = BTreeSet<i32>;

/// What a key or a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntityKind {
    /// An application.
    Application,
    /// A gateway.
    Gateway,
    /// An organization.
    Organization,
    /// A user.
    User,
}

impl EntityKind {
    /// Prefix of its keys in [`Table::ApiKeys`] and [`Table::Collaborators`].
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Application => "app",
            Self::Gateway => "gtw",
            Self::Organization => "org",
            Self::User => "usr",
        }
    }

    /// As errors write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Gateway => "gateway",
            Self::Organization => "organization",
            Self::User => "user",
        }
    }

    fn of_prefix(prefix: &str) -> Option<Self> {
        [Self::Application, Self::Gateway, Self::Organization, Self::User]
            .into_iter()
            .find(|kind| kind.prefix() == prefix)
    }

    /// The name of an identifiers message's field: `application_id`.
    pub(super) fn id_field(self) -> String {
        format!("{}_id", self.name())
    }

    /// Every right of this kind, with those that a caller may have on it through other entities.
    fn rights(self) -> Rights {
        let prefixes: &[&str] = match self {
            Self::Application => &["RIGHT_APPLICATION_"],
            Self::Gateway => &["RIGHT_GATEWAY_"],
            Self::Organization => {
                &["RIGHT_APPLICATION_", "RIGHT_CLIENT_", "RIGHT_GATEWAY_", "RIGHT_ORGANIZATION_"]
            }
            Self::User => &[
                "RIGHT_APPLICATION_",
                "RIGHT_CLIENT_",
                "RIGHT_GATEWAY_",
                "RIGHT_ORGANIZATION_",
                "RIGHT_USER_",
            ],
        };
        all_rights()
            .filter(|(name, _)| prefixes.iter().any(|p| name.starts_with(p)))
            .map(|(_, n)| n)
            .collect()
    }
}

/// Every right by name and number; every call asks for them several times.
fn all_rights() -> impl Iterator<Item = (&'static str, i32)> {
    static ALL: LazyLock<Vec<(String, i32)>> = LazyLock::new(|| {
        let values = proto::enumeration("Right");
        let values = values.values().filter(|v| v.number() != 0);
        values.map(|v| (v.name().to_owned(), v.number())).collect()
    });
    ALL.iter().map(|(name, number)| (name.as_str(), *number))
}

/// The number of a right by its name without `RIGHT_`; 0 when there is none.
pub(super) fn right(name: &str) -> i32 {
    proto::enumeration("Right").get_value_by_name(&format!("RIGHT_{name}")).map_or(0, |v| v.number())
}

fn right_name(number: i32) -> String {
    let name = all_rights().find(|(_, n)| *n == number).map(|(name, _)| name.to_owned());
    name.unwrap_or_default()
}

/// The rights with all that they imply (`pkg/ttnpb/rights.go`).
pub(super) fn implied(rights: &Rights) -> Rights {
    let mut out = rights.clone();
    for &number in rights {
        let name = right_name(number);
        let more: Vec<&str> = match name.as_str() {
            "RIGHT_ALL" => vec![""],
            "RIGHT_APPLICATION_ALL" => vec!["APPLICATION_"],
            "RIGHT_GATEWAY_ALL" => vec!["GATEWAY_"],
            "RIGHT_ORGANIZATION_ALL" => vec!["ORGANIZATION_"],
            "RIGHT_USER_ALL" => vec!["USER_"],
            "RIGHT_CLIENT_ALL" => {
                vec!["CLIENT_INFO", "CLIENT_SETTINGS_BASIC", "CLIENT_SETTINGS_COLLABORATORS", "CLIENT_DELETE"]
            }
            "RIGHT_APPLICATION_LINK" => {
                vec!["APPLICATION_INFO", "APPLICATION_TRAFFIC_READ", "APPLICATION_TRAFFIC_DOWN_WRITE"]
            }
            "RIGHT_GATEWAY_LINK" => vec!["GATEWAY_INFO"],
            _ => continue,
        };
        let starts = |name: &str| {
            name.strip_prefix("RIGHT_").is_some_and(|name| more.iter().any(|m| name.starts_with(m)))
        };
        out.extend(all_rights().filter(|(name, _)| starts(name)).map(|(_, n)| n));
    }
    out
}

/// The numbers in a list field of rights.
pub(super) fn rights_in(message: &DynamicMessage, field: &str) -> Rights {
    let list = path::get(message, field);
    list.iter().flat_map(|v| v.as_list().unwrap_or_default()).filter_map(Value::as_enum_number).collect()
}

/// A list value of rights.
pub(super) fn rights_value(rights: impl IntoIterator<Item = i32>) -> Value {
    Value::List(rights.into_iter().map(Value::EnumNumber).collect())
}

/// A new token and its ID: `NNSXS.<ID>.<secret>`.
pub fn generate_token() -> (String, String) {
    let text =
        |bytes: &[u8]| bytes.iter().map(|b| char::from(BASE32[usize::from(b % 32)])).collect::<String>();
    let id = text(&super::random::<39>());
    (format!("NNSXS.{id}.{}", text(&super::random::<52>())), id)
}

/// Type, ID and secret of a token (`auth.SplitToken`).
pub(super) fn split_token(token: &str) -> Result<(&str, &str, &str), Failure> {
    let parts: Vec<_> = token.split('.').collect();
    match parts[..] {
        [kind @ ("NNSXS" | "MFRWG" | "OJSWM" | "MF2XI" | "ONZW4"), id, secret] => Ok((kind, id, secret)),
        _ => Err(INVALID_TOKEN.failure()),
    }
}

/// Who asks.
#[derive(Clone)]
pub(super) enum Caller {
    Nobody,
    Key {
        /// Whose key it is.
        entity: (EntityKind, String),
        /// Rights of the key, with what they imply.
        rights: Rights,
        /// The key without its secret.
        key: DynamicMessage,
        admin: bool,
    },
}

impl Ctx<'_> {
    /// Who asks (`authInfo`).
    pub(super) fn caller(&self) -> Result<Caller, Failure> {
        let Some(token) = self.bearer else { return Ok(Caller::Nobody) };
        let (kind, id, _) = split_token(token)?;
        match kind {
            "NNSXS" => {}
            "MFRWG" | "ONZW4" => return Err(TOKEN_NOT_FOUND.failure()),
            _ => return Err(UNSUPPORTED.failure()),
        }
        let admin_key = self.settings.api_key.as_str();
        if split_token(admin_key).is_ok_and(|(_, own, _)| own == id) {
            return if token == admin_key {
                Ok(self.admin(id))
            } else {
                Err(INVALID_AUTHORIZATION.failure())
            };
        }
        let suffix = format!("/{id}");
        let found = self.store.iter(Table::ApiKeys).find(|(key, _)| key.ends_with(&suffix));
        let Some((key, stored)) = found else {
            return Err(KEY_NOT_FOUND.failure().because(STORE_KEY_NOT_FOUND.with(json!({"api_key_id": id}))));
        };
        if path::string(stored, "key") != token {
            return Err(INVALID_AUTHORIZATION.failure());
        }
        if path::child(stored, "expires_at").is_some_and(|at| stored::nanos(&at) < self.now.nanos()) {
            return Err(KEY_EXPIRED.failure());
        }
        let entity = key.strip_suffix(&suffix).and_then(|rest| rest.split_once(':'));
        let entity = entity.and_then(|(prefix, id)| Some((EntityKind::of_prefix(prefix)?, id.to_owned())));
        let Some(entity) = entity else { return Err(KEY_NOT_FOUND.failure()) };
        let rights = implied(&rights_in(stored, "rights"));
        let mut shown = stored.clone();
        path::clear(&mut shown, "key");
        path::set(&mut shown, "rights", rights_value(rights.iter().copied()));
        Ok(Caller::Key { entity, rights, key: shown, admin: false })
    }

    fn admin(&self, id: &str) -> Caller {
        let rights = implied(&Rights::from([right("ALL")]));
        let mut key = proto::message("APIKey");
        path::set(&mut key, "id", Value::String(id.to_owned()));
        path::set(&mut key, "rights", rights_value(rights.iter().copied()));
        Caller::Key { entity: (EntityKind::User, self.settings.admin.clone()), rights, key, admin: true }
    }

    /// True when the caller is an administrator. Wrong credentials are nobody's.
    pub(super) fn is_admin(&self) -> bool {
        matches!(self.caller(), Ok(Caller::Key { admin: true, .. }))
    }

    /// Fails unless somebody asks (`RequireAuthenticated`).
    pub(super) fn require_authenticated(&self) -> Result<(), Failure> {
        match self.caller()? {
            Caller::Nobody => Err(UNAUTHENTICATED.failure()),
            Caller::Key { .. } => Ok(()),
        }
    }

    /// Universal rights of an administrator (`AllAdminRights`: without those on keys).
    pub(super) fn universal_rights(&self) -> Rights {
        if !self.is_admin() {
            return Rights::new();
        }
        let allowed = |name: &str| {
            self.settings.admin_rights_all || !(name.ends_with("_KEYS") || name.ends_with("_ALL"))
        };
        let rights = all_rights().filter(|(name, _)| allowed(name)).map(|(_, n)| n).collect();
        // `Implied()` of the stack: RIGHT_ALL is not among them, LINK rights are.
        implied(&rights)
    }

    /// The rights of the caller on an entity (`ListRights`); empty without any.
    pub(super) fn rights_on(&self, kind: EntityKind, id: &str, deleted_too: bool) -> Result<Rights, Failure> {
        let caller = self.caller()?;
        if let Err(missing) = self.entity_exists(kind, id, deleted_too) {
            return if self.is_admin() { Err(missing) } else { Ok(Rights::new()) };
        }
        let possible = kind.rights();
        let mut rights: Rights = self.universal_rights().intersection(&possible).copied().collect();
        let Caller::Key { entity, rights: of_key, .. } = caller else { return Ok(rights) };
        if entity.0 == kind && entity.1 == id {
            rights.extend(&of_key);
        } else if matches!(entity.0, EntityKind::User | EntityKind::Organization) {
            rights.extend(self.membership(&entity, kind, id).intersection(&of_key));
        }
        if kind == EntityKind::Gateway {
            let gateway = self.store.get(Table::Gateways, id);
            for (flag, name) in
                [("status_public", "GATEWAY_STATUS_READ"), ("location_public", "GATEWAY_LOCATION_READ")]
            {
                if gateway.is_some_and(|gateway| path::flag(gateway, flag)) {
                    rights.insert(right(name));
                }
            }
        }
        Ok(rights)
    }

    /// Rights of a user or organization as a collaborator, directly or through an organization.
    fn membership(&self, account: &(EntityKind, String), kind: EntityKind, id: &str) -> Rights {
        let of = |account: &(EntityKind, String)| {
            let key = stored::collaborator_key(kind, id, account.0, &account.1);
            let member = self.store.get(Table::Collaborators, &key);
            member.map_or_else(Rights::new, |member| implied(&rights_in(member, "rights")))
        };
        let mut rights = of(account);
        if account.0 == EntityKind::User && account.1 == self.settings.admin {
            if kind == EntityKind::Organization {
                return implied(&Rights::from([right("ALL")]));
            }
            for organization in &self.settings.organizations {
                rights.extend(of(&(EntityKind::Organization, organization.clone())));
            }
        }
        rights
    }

    /// Fails unless the caller has every one of these rights, named without `RIGHT_` (`rights.Require…`).
    pub(super) fn require(&self, kind: EntityKind, id: &str, names: &[&str]) -> Result<(), Failure> {
        self.require_with_deleted(kind, id, names, false)
    }

    /// [`Self::require`], also on an entity that is deleted but not purged.
    pub(super) fn require_with_deleted(
        &self,
        kind: EntityKind,
        id: &str,
        names: &[&str],
        deleted_too: bool,
    ) -> Result<(), Failure> {
        let needed: Vec<_> = names.iter().map(|name| right(name)).collect();
        self.require_numbers(kind, id, &needed, deleted_too)
    }

    /// [`Self::require`] for rights by number.
    pub(super) fn require_numbers(
        &self,
        kind: EntityKind,
        id: &str,
        needed: &[i32],
        deleted_too: bool,
    ) -> Result<(), Failure> {
        let rights = self.rights_on(kind, id, deleted_too)?;
        let (none, insufficient) = denials(kind);
        if rights.is_empty() {
            return Err(none.with(json!({"uid": id})));
        }
        let missing: Vec<_> = needed.iter().filter(|r| !rights.contains(r)).map(|r| right_name(*r)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(insufficient.with(json!({"uid": id, "missing": missing})))
        }
    }

    /// [`Self::require`] on an application.
    pub(super) fn require_application(&self, id: &str, names: &[&str]) -> Result<(), Failure> {
        self.require(EntityKind::Application, id, names)
    }
}

fn denials(kind: EntityKind) -> (Kind, Kind) {
    const NS: &str = "pkg/auth/rights";
    const fn denied(name: &'static str, format: &'static str) -> Kind {
        Kind::new(Code::PermissionDenied, NS, name, format)
    }
    match kind {
        EntityKind::Application => (
            denied("no_application_rights", "no rights for application `{uid}`"),
            denied("insufficient_application_rights", "insufficient rights for application `{uid}`"),
        ),
        EntityKind::Gateway => (
            denied("no_gateway_rights", "no rights for gateway `{uid}`"),
            denied("insufficient_gateway_rights", "insufficient rights for gateway `{uid}`"),
        ),
        EntityKind::Organization => (
            denied("no_organization_rights", "no rights for organization `{uid}`"),
            denied("insufficient_organization_rights", "insufficient rights for organization `{uid}`"),
        ),
        EntityKind::User => (
            denied("no_user_rights", "no rights for user `{uid}`"),
            denied("insufficient_user_rights", "insufficient rights for user `{uid}`"),
        ),
    }
}
