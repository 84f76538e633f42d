//! API keys of applications and gateways, as calls.

use prost_reflect::{DynamicMessage, Value};

use super::Stack;
use crate::{
    map::path,
    model::{ids::AppId, secret::Secret},
    plan::belongings::rights,
    proto,
    wire::{About, Call, Error, Kind, List},
};

/// Items in one page of a list.
const PAGE: u32 = 1000;

/// What API keys are on.
#[derive(Debug, Clone, Copy)]
pub enum KeyOwner<'a> {
    /// An application.
    Application(&'a AppId),
    /// A gateway, by its ID.
    Gateway(&'a str),
}

/// The calls about them.
#[derive(Debug, Clone, Copy)]
enum Verb {
    List,
    Create,
    Delete,
}

impl KeyOwner<'_> {
    fn about(self) -> About {
        match self {
            Self::Application(app) => About::application(app.as_str()),
            Self::Gateway(id) => About::gateway(id),
        }
    }

    /// A method, and its request about this owner.
    fn call(self, verb: Verb) -> (&'static str, DynamicMessage) {
        let (rpc, request) = match (self, verb) {
            (Self::Application(_), Verb::List) => {
                ("/ttn.lorawan.v3.ApplicationAccess/ListAPIKeys", "ListApplicationAPIKeysRequest")
            }
            (Self::Application(_), Verb::Create) => {
                ("/ttn.lorawan.v3.ApplicationAccess/CreateAPIKey", "CreateApplicationAPIKeyRequest")
            }
            (Self::Application(_), Verb::Delete) => {
                ("/ttn.lorawan.v3.ApplicationAccess/DeleteAPIKey", "DeleteApplicationAPIKeyRequest")
            }
            (Self::Gateway(_), Verb::List) => {
                ("/ttn.lorawan.v3.GatewayAccess/ListAPIKeys", "ListGatewayAPIKeysRequest")
            }
            (Self::Gateway(_), Verb::Create) => {
                ("/ttn.lorawan.v3.GatewayAccess/CreateAPIKey", "CreateGatewayAPIKeyRequest")
            }
            (Self::Gateway(_), Verb::Delete) => {
                ("/ttn.lorawan.v3.GatewayAccess/DeleteAPIKey", "DeleteGatewayAPIKeyRequest")
            }
        };
        let mut request = proto::message(request);
        let (at, id) = match self {
            Self::Application(app) => ("application_ids.application_id", app.as_str()),
            Self::Gateway(id) => ("gateway_ids.gateway_id", id),
        };
        path::set(&mut request, at, Value::String(id.to_owned()));
        (rpc, request)
    }
}

/// An API key to be made.
#[derive(Debug, Clone)]
pub struct KeyOrder<'a> {
    /// What it is on.
    pub owner: KeyOwner<'a>,
    /// What it is called: unique among those of its owner, so that one that was made and not recorded is found.
    pub name: String,
    /// What it may do: a list of the enum `Right`.
    pub rights: Value,
    /// When it expires, as a `google.protobuf.Timestamp`.
    pub expires_at: Option<Value>,
}

/// An API key that was just made.
#[derive(Debug)]
pub struct NewKey {
    /// Its ID.
    pub id: String,
    /// The key itself, told this once.
    pub secret: Secret,
}

impl Stack {
    /// The IDs of API keys that an order may have made: those of its name with its rights. None when the owner is gone.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn keys_of_order(&self, order: &KeyOrder<'_>) -> Result<Vec<String>, Error> {
        let (method, request) = order.owner.call(Verb::List);
        let list = List { method, request, items: "api_keys", page_size: PAGE, paths: Vec::new() };
        let keys = match self.is.pages(list, Call::safe(order.owner.about())).await {
            Ok(listing) => listing.items,
            Err(error) if *error.kind() == Kind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut wanted = proto::message("APIKey");
        path::set(&mut wanted, "rights", order.rights.clone());
        rights::in_order(&mut wanted);
        let ours =
            keys.into_iter().filter(|key| path::string(key, "name") == order.name).filter_map(|mut key| {
                rights::in_order(&mut key);
                (path::get(&key, "rights") == path::get(&wanted, "rights")).then(|| path::string(&key, "id"))
            });
        Ok(ours.collect())
    }

    /// Makes an API key. The call is never repeated: each would make one more.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn create_key(&self, order: &KeyOrder<'_>) -> Result<NewKey, Error> {
        let (method, mut request) = order.owner.call(Verb::Create);
        path::set(&mut request, "name", Value::String(order.name.clone()));
        path::set(&mut request, "rights", order.rights.clone());
        if let Some(time) = &order.expires_at {
            path::set(&mut request, "expires_at", time.clone());
        }
        let answer = self.is.unary(method, request, Call::create(order.owner.about())).await?.message;
        Ok(NewKey { id: path::string(&answer, "id"), secret: Secret::new(path::string(&answer, "key")) })
    }

    /// Deletes an API key; that there is none is fine.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_key(&self, owner: KeyOwner<'_>, id: &str) -> Result<(), Error> {
        let (method, mut request) = owner.call(Verb::Delete);
        path::set(&mut request, "key_id", Value::String(id.to_owned()));
        match self.is.unary(method, request, Call::safe(owner.about())).await {
            Err(error) if *error.kind() == Kind::NotFound => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}
