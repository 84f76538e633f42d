//! Collaborators: users and organizations with rights on an application (`application.proto`, `ApplicationAccess`;
//! docs/servers.md, Collaborators). Their IDs are those of one deployment, so that somebody has to say who is who.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, Value};

use super::{Cleared, Facts, Found, Ids, Method, Sort, rights};
use crate::{
    map::path,
    model::device::Component,
    plan::finding::{Finding, Kind},
    proto,
};

/// A collaborator. A Set has no field mask, and without rights it deletes.
pub static COLLABORATOR: Sort = Sort {
    name: "collaborator",
    plural: "collaborators",
    copy: "collaborators",
    server: Component::Is,
    message: "Collaborator",
    ids: Ids::Account,
    list: Some(Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/ListCollaborators",
        request: "ListApplicationCollaboratorsRequest",
        at: "",
        field: "collaborators",
    }),
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/GetCollaborator",
        request: "GetApplicationCollaboratorRequest",
        at: "collaborator.",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/SetCollaborator",
        request: "SetApplicationCollaboratorRequest",
        at: "collaborator.ids.",
        field: "collaborator",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationAccess/DeleteCollaborator",
        request: "DeleteApplicationCollaboratorRequest",
        at: "collaborator_ids.",
        field: "",
    },
    left: &["ids"],
    fields: &["rights"],
    newer: &[],
    pause: None,
    defers: false,
    key: None,
    rights: &["RIGHT_APPLICATION_SETTINGS_COLLABORATORS"],
    cleared: Cleared::Never,
    look,
};

const USER: &str = "user";
const ORGANIZATION: &str = "organization";

/// Who is who: IDs at the source and on the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People {
    /// Of users.
    pub users: BTreeMap<String, String>,
    /// Of organizations.
    pub organizations: BTreeMap<String, String>,
}

impl People {
    /// The name on the target of whom the source calls by this [`name`]; empty when nobody has said it.
    pub fn there(&self, name: &str) -> String {
        let (kind, id) = name.split_once(' ').unwrap_or((name, ""));
        let known = if kind == USER { self.users.get(id) } else { self.organizations.get(id) };
        known.map(|id| format!("{kind} {id}")).unwrap_or_default()
    }
}

/// What one is called: `user ID` or `organization ID`.
pub fn name(message: &DynamicMessage) -> String {
    let of = |kind: &str| path::string(message, &format!("ids.{}", field(kind)));
    match of(ORGANIZATION) {
        id if id.is_empty() => format!("{USER} {}", of(USER)),
        id => format!("{ORGANIZATION} {id}"),
    }
}

fn field(kind: &str) -> String {
    format!("{kind}_ids.{kind}_id")
}

/// Writes the IDs of whom is called by this [`name`] below `at`.
pub fn write(into: &mut DynamicMessage, at: &str, name: &str) {
    if let Some((kind, id)) = name.split_once(' ') {
        path::set(into, &format!("{at}{}", field(kind)), Value::String(id.to_owned()));
    }
}

/// The collaborator that an application gets when it is created for this account: with all rights
/// (`pkg/identityserver/application_registry.go`, `createApplication`).
pub fn owner(name: &str) -> DynamicMessage {
    let mut message = proto::message(COLLABORATOR.message);
    write(&mut message, "ids.", name);
    path::set(&mut message, "rights", rights::value([rights::ALL]));
    message
}

/// The finding for one of whom nobody has said who it is on the target.
pub fn unmapped(found: &Found) -> Option<Finding> {
    if found.sort.ids != Ids::Account || !found.target_name.is_empty() {
        return None;
    }
    let (kind, id) = found.key.id.split_once(' ')?;
    let text = format!("[people] does not say which {kind} of the target this is");
    Some(Finding::new(Kind::UnmappedPerson, text).fix(format!(
        "add {kind}s = {{ \"{id}\" = \"ID ON THE TARGET\" }} to [people], or leave them out: \
         allow-loss = [\"unmapped-person\"]"
    )))
}

/// Nobody can give a right that he does not have.
fn look(message: &DynamicMessage, facts: &Facts) -> Vec<Finding> {
    rights::not_to_give(&rights::names(message), facts).into_iter().collect()
}
