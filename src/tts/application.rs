//! Applications, their link and the rights on them.

use std::{collections::BTreeSet, fmt};

use prost_reflect::{DynamicMessage, Value};

use super::{Stack, app_ids, set_app};
use crate::{
    map::{mask, path},
    model::ids::AppId,
    plan::transform::Write,
    proto,
    wire::{About, Call, Error, Kind, List},
};

/// Who owns a new application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A user, by ID.
    User(String),
    /// An organization, by ID.
    Organization(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {id}"),
            Self::Organization(id) => write!(f, "organization {id}"),
        }
    }
}

/// A path that anybody may ask for (`pkg/ttnpb/public.go`, `PublicApplicationFields`).
const PUBLIC: &str = "ids";
/// Applications in one page of a list.
const PAGE: u32 = 1000;

impl Stack {
    /// The application with the given paths; `None` when there is none.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn application(&self, app: &AppId, paths: &[String]) -> Result<Option<DynamicMessage>, Error> {
        match self.get_application(app, paths).await {
            // Rights are asked for before the application is looked up, and nobody but an administrator has any on one that is
            // not there (docs/servers.md, Rights): what is public tells whether there is one.
            Err(error) if matches!(error.kind(), Kind::Denied { .. }) => {
                let there = self.get_application(app, &[PUBLIC.to_owned()]).await?;
                if there.is_some() { Err(error) } else { Ok(None) }
            }
            found => found,
        }
    }

    async fn get_application(&self, app: &AppId, paths: &[String]) -> Result<Option<DynamicMessage>, Error> {
        let mut request = proto::message("GetApplicationRequest");
        set_app(&mut request, "application_ids", app);
        let method = "/ttn.lorawan.v3.ApplicationRegistry/Get";
        let call = Call::safe(About::application(app.as_str()));
        absent(self.is.unary_masked(method, request, paths, call).await.map(|(a, _)| a.message))
    }

    /// The IDs of all applications that the key can see: those of its user or organization, or its own.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn applications(&self) -> Result<Vec<AppId>, Error> {
        // The list is that of the account whose key it is, and empty for the key of an application (docs/servers.md, Rights).
        let request = proto::message("google.protobuf.Empty");
        let method = "/ttn.lorawan.v3.EntityAccess/AuthInfo";
        let me = self.is.unary(method, request, Call::safe(About::nothing())).await?.message;
        let own = "access_method.api_key.entity_ids.ids.application_ids.application_id";
        let own = path::string(&me, own);
        if !own.is_empty() {
            return Ok(vec![AppId::unchecked(own)]);
        }
        let mut request = proto::message("ListApplicationsRequest");
        path::set(&mut request, "order", Value::String("application_id".into()));
        let method = "/ttn.lorawan.v3.ApplicationRegistry/List";
        let paths = vec![PUBLIC.to_owned()];
        let list = List { method, request, items: "applications", page_size: PAGE, paths };
        let listed = self.is.pages(list, Call::safe(About::nothing())).await?.items;
        Ok(listed.iter().map(|a| AppId::unchecked(path::string(a, "ids.application_id"))).collect())
    }

    /// Creates an application.
    ///
    /// # Errors
    /// Those of the call; `id_taken` also for an ID that a deleted application still holds.
    pub async fn create_application(
        &self,
        app: &AppId,
        message: DynamicMessage,
        owner: &Owner,
    ) -> Result<(), Error> {
        let mut request = proto::message("CreateApplicationRequest");
        path::set(&mut request, "application", Value::Message(message));
        let (field, id) = match owner {
            Owner::User(id) => ("collaborator.user_ids.user_id", id),
            Owner::Organization(id) => ("collaborator.organization_ids.organization_id", id),
        };
        path::set(&mut request, field, Value::String(id.clone()));
        let call = Call::create(About::application(app.as_str()));
        self.is.unary("/ttn.lorawan.v3.ApplicationRegistry/Create", request, call).await.map(drop)
    }

    /// Writes these paths of an application that is there.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn update_application(&self, app: &AppId, write: &Write) -> Result<(), Error> {
        let mut message = write.message.clone();
        path::set(&mut message, "ids.application_id", Value::String(app.as_str().to_owned()));
        let mut request = proto::message("UpdateApplicationRequest");
        path::set(&mut request, "application", Value::Message(message));
        path::set(&mut request, "field_mask", Value::Message(mask::message(&write.paths)));
        let call = Call::safe(About::application(app.as_str()));
        self.is.unary("/ttn.lorawan.v3.ApplicationRegistry/Update", request, call).await.map(drop)
    }

    /// Deletes an application: its ID stays taken until it is restored, or purged by an administrator.
    ///
    /// # Errors
    /// Those of the call; `application_has_devices` while it has any.
    pub async fn delete_application(&self, app: &AppId) -> Result<(), Error> {
        let call = Call::safe(About::application(app.as_str()));
        let method = "/ttn.lorawan.v3.ApplicationRegistry/Delete";
        absent(self.is.unary(method, app_ids(app), call).await).map(drop)
    }

    /// Takes the deletion of an application back.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn restore_application(&self, app: &AppId) -> Result<(), Error> {
        let call = Call::safe(About::application(app.as_str()));
        let method = "/ttn.lorawan.v3.ApplicationRegistry/Restore";
        self.is.unary(method, app_ids(app), call).await.map(drop)
    }

    /// The application link with its default payload formatters; `None` when it was never set.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn link(&self, app: &AppId, paths: &[String]) -> Result<Option<DynamicMessage>, Error> {
        let mut request = proto::message("GetApplicationLinkRequest");
        set_app(&mut request, "application_ids", app);
        let call = Call::safe(About::application(app.as_str()));
        let method = "/ttn.lorawan.v3.As/GetLink";
        absent(self.as_.unary_masked(method, request, paths, call).await.map(|(a, _)| a.message))
    }

    /// The rights of our key on the application, as the names of the enum `Right`.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn rights(&self, app: &AppId) -> Result<BTreeSet<String>, Error> {
        let method = "/ttn.lorawan.v3.ApplicationAccess/ListRights";
        let answer =
            self.is.unary(method, app_ids(app), Call::safe(About::application(app.as_str()))).await?;
        let names = proto::enumeration("Right");
        let rights = path::get(&answer.message, "rights");
        let numbers = rights.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
        Ok(numbers
            .iter()
            .filter_map(Value::as_enum_number)
            .filter_map(|n| names.get_value(n))
            .map(|v| v.name().to_owned())
            .collect())
    }

    /// How many of each thing around the devices the application has, but of those that are `copied` (words of
    /// `application.copy`); `None` where the key may not look.
    ///
    /// # Errors
    /// Those of the calls, but for missing rights.
    pub async fn surroundings(
        &self,
        app: &AppId,
        copied: &BTreeSet<&'static str>,
    ) -> Result<Vec<(&'static str, Option<usize>)>, Error> {
        let mut counts = Vec::new();
        for list in SURROUNDINGS.iter().filter(|list| !copied.contains(list.copy)) {
            let mut request = proto::message(list.request);
            set_app(&mut request, list.ids, app);
            let client = if list.at_is { &self.is } else { &self.as_ };
            let about = About::application(app.as_str());
            let count = match client.unary(list.method, request, Call::safe(about)).await {
                Ok(answer) => Some(
                    path::get(&answer.message, list.items)
                        .and_then(|v| v.as_list().map(<[_]>::len))
                        .unwrap_or(0),
                ),
                Err(error) if matches!(error.kind(), Kind::Denied { .. }) => None,
                // A deployment without this service has none of it.
                Err(error) if *error.kind() == Kind::Unimplemented => Some(0),
                Err(error) => return Err(error),
            };
            counts.push((list.what, count));
        }
        Ok(counts)
    }
}

struct Surrounding {
    what: &'static str,
    copy: &'static str,
    request: &'static str,
    method: &'static str,
    ids: &'static str,
    items: &'static str,
    at_is: bool,
}

const SURROUNDINGS: &[Surrounding] = &[
    Surrounding {
        what: "webhooks",
        copy: "webhooks",
        request: "ListApplicationWebhooksRequest",
        method: "/ttn.lorawan.v3.ApplicationWebhookRegistry/List",
        ids: "application_ids",
        items: "webhooks",
        at_is: false,
    },
    Surrounding {
        what: "pub/subs",
        copy: "pubsubs",
        request: "ListApplicationPubSubsRequest",
        method: "/ttn.lorawan.v3.ApplicationPubSubRegistry/List",
        ids: "application_ids",
        items: "pubsubs",
        at_is: false,
    },
    Surrounding {
        what: "package associations",
        copy: "packages",
        request: "ListApplicationPackageDefaultAssociationRequest",
        method: "/ttn.lorawan.v3.ApplicationPackageRegistry/ListDefaultAssociations",
        ids: "ids",
        items: "defaults",
        at_is: false,
    },
    Surrounding {
        what: "API keys",
        copy: "api-keys",
        request: "ListApplicationAPIKeysRequest",
        method: "/ttn.lorawan.v3.ApplicationAccess/ListAPIKeys",
        ids: "application_ids",
        items: "api_keys",
        at_is: true,
    },
    Surrounding {
        what: "collaborators",
        copy: "collaborators",
        request: "ListApplicationCollaboratorsRequest",
        method: "/ttn.lorawan.v3.ApplicationAccess/ListCollaborators",
        ids: "application_ids",
        items: "collaborators",
        at_is: true,
    },
];

fn absent<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if *error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
