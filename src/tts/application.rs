//! Applications, their link and the rights on them.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, Value};

use super::{Stack, app_ids, set_app};
use crate::{
    map::{mask, path},
    model::ids::AppId,
    proto,
    wire::{About, Call, Error, Kind},
};

/// Who owns a new application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A user, by ID.
    User(String),
    /// An organization, by ID.
    Organization(String),
}

impl Stack {
    /// The application with the given paths; `None` when there is none.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn application(&self, app: &AppId, paths: &[String]) -> Result<Option<DynamicMessage>, Error> {
        let mut request = proto::message("GetApplicationRequest");
        set_app(&mut request, "application_ids", app);
        let method = "/ttn.lorawan.v3.ApplicationRegistry/Get";
        let call = Call::safe(About::application(app.as_str()));
        absent(self.is.unary_masked(method, request, paths, call).await.map(|(a, _)| a.message))
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

    /// Sets the application link.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn set_link(&self, app: &AppId, link: DynamicMessage, paths: &[String]) -> Result<(), Error> {
        let mut request = proto::message("SetApplicationLinkRequest");
        set_app(&mut request, "application_ids", app);
        path::set(&mut request, "link", Value::Message(link));
        path::set(&mut request, "field_mask", Value::Message(mask::message(paths)));
        let call = Call::safe(About::application(app.as_str()));
        self.as_.unary("/ttn.lorawan.v3.As/SetLink", request, call).await.map(drop)
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

    /// How many webhooks, pub/subs and package associations the application has.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn integrations(&self, app: &AppId) -> Result<Vec<(&'static str, usize)>, Error> {
        let lists = [
            (
                "webhooks",
                "ListApplicationWebhooksRequest",
                "/ttn.lorawan.v3.ApplicationWebhookRegistry/List",
                "application_ids",
            ),
            (
                "pubsubs",
                "ListApplicationPubSubsRequest",
                "/ttn.lorawan.v3.ApplicationPubSubRegistry/List",
                "application_ids",
            ),
            (
                "defaults",
                "ListApplicationPackageDefaultAssociationRequest",
                "/ttn.lorawan.v3.ApplicationPackageRegistry/ListDefaultAssociations",
                "ids",
            ),
        ];
        let mut counts = Vec::new();
        for (items, message, method, ids) in lists {
            let mut request = proto::message(message);
            set_app(&mut request, ids, app);
            let answer =
                self.as_.unary(method, request, Call::safe(About::application(app.as_str()))).await?;
            let count =
                path::get(&answer.message, items).and_then(|v| v.as_list().map(<[_]>::len)).unwrap_or(0);
            counts.push((items, count));
        }
        Ok(counts)
    }
}

fn absent<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if *error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
