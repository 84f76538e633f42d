//! Gateways and their connections, as calls.

use std::{collections::BTreeSet, time::Duration};

use prost_reflect::{DynamicMessage, Value};

use super::{Stack, application::Owner};
use crate::{
    map::{mask, path},
    model::ids::Eui64,
    plan::transform::Write,
    proto,
    wire::{About, Call, Error, Kind, List},
};

/// Items in one page of a list.
const PAGE: u32 = 1000;

/// Who calls, and what he may do.
#[derive(Debug, Clone, Default)]
pub struct Me {
    /// The user or organization whose API key it is; nothing for other keys.
    pub account: Option<Owner>,
    /// The rights of the key, as the names of the enum `Right`.
    pub rights: BTreeSet<String>,
    /// May do anything.
    pub admin: bool,
}

fn owner_in(request: &mut DynamicMessage, field: &str, owner: &Owner) {
    let (ids, id) = match owner {
        Owner::User(id) => ("user_ids.user_id", id),
        Owner::Organization(id) => ("organization_ids.organization_id", id),
    };
    path::set(request, &format!("{field}.{ids}"), Value::String(id.clone()));
}

fn ids(id: &str) -> DynamicMessage {
    let mut ids = proto::message("GatewayIdentifiers");
    path::set(&mut ids, "gateway_id", Value::String(id.to_owned()));
    ids
}

fn about(id: &str) -> Call {
    Call::safe(About::gateway(id))
}

impl Stack {
    /// The gateways of a user or an organization; without one, those that the caller can list.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn gateways(
        &self,
        owner: Option<&Owner>,
        paths: &[String],
        deleted: bool,
    ) -> Result<Vec<DynamicMessage>, Error> {
        let mut request = proto::message("ListGatewaysRequest");
        if let Some(owner) = owner {
            owner_in(&mut request, "collaborator", owner);
        }
        path::set(&mut request, "order", Value::String("gateway_id".into()));
        path::set(&mut request, "deleted", Value::Bool(deleted));
        let method = "/ttn.lorawan.v3.GatewayRegistry/List";
        let list = List { method, request, items: "gateways", page_size: PAGE, paths: paths.to_vec() };
        Ok(self.is.pages(list, Call::safe(About::nothing())).await?.items)
    }

    /// A gateway with the given paths; `None` when there is none.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn gateway(&self, id: &str, paths: &[String]) -> Result<Option<DynamicMessage>, Error> {
        let mut request = proto::message("GetGatewayRequest");
        path::set(&mut request, "gateway_ids", Value::Message(ids(id)));
        let method = "/ttn.lorawan.v3.GatewayRegistry/Get";
        absent(
            self.is.unary_masked(method, request, paths, about(id)).await.map(|(answer, _)| answer.message),
        )
    }

    /// The ID of the gateway that has this EUI in the deployment.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn gateway_by_eui(&self, eui: Eui64) -> Result<Option<String>, Error> {
        let mut request = proto::message("GetGatewayIdentifiersForEUIRequest");
        path::set(&mut request, "eui", Value::Bytes(eui.0.to_vec().into()));
        let method = "/ttn.lorawan.v3.GatewayRegistry/GetIdentifiersForEUI";
        let answer = absent(self.is.unary(method, request, Call::safe(About::nothing())).await)?;
        Ok(answer.map(|answer| path::string(&answer.message, "gateway_id")))
    }

    /// Creates a gateway. It is sent again only when the first attempt surely did nothing.
    ///
    /// # Errors
    /// Those of the call; `id_taken` also for an ID that a deleted gateway still holds.
    pub async fn create_gateway(&self, id: &str, write: &Write, owner: &Owner) -> Result<(), Error> {
        let mut request = proto::message("CreateGatewayRequest");
        path::set(&mut request, "gateway", Value::Message(write.message.clone()));
        owner_in(&mut request, "collaborator", owner);
        let call = Call::create(About::gateway(id));
        self.is.unary("/ttn.lorawan.v3.GatewayRegistry/Create", request, call).await.map(drop)
    }

    /// Writes these paths of a gateway that is there.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn update_gateway(&self, id: &str, write: &Write) -> Result<(), Error> {
        let mut request = proto::message("UpdateGatewayRequest");
        path::set(&mut request, "gateway", Value::Message(write.message.clone()));
        path::set(&mut request, "field_mask", Value::Message(mask::message(&write.paths)));
        self.is.unary("/ttn.lorawan.v3.GatewayRegistry/Update", request, about(id)).await.map(drop)
    }

    /// Takes the deletion of a gateway back; that it is not deleted is fine.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn restore_gateway(&self, id: &str) -> Result<(), Error> {
        absent(self.is.unary("/ttn.lorawan.v3.GatewayRegistry/Restore", ids(id), about(id)).await).map(drop)
    }

    /// Deletes a gateway; that there is none is fine. Its ID stays taken.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn delete_gateway(&self, id: &str) -> Result<(), Error> {
        absent(self.is.unary("/ttn.lorawan.v3.GatewayRegistry/Delete", ids(id), about(id)).await).map(drop)
    }

    /// The connection of a gateway to the Gateway Server; `None` when it is not connected. `within`: time for all attempts.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn gateway_connection(
        &self,
        id: &str,
        within: Option<Duration>,
    ) -> Result<Option<DynamicMessage>, Error> {
        let method = "/ttn.lorawan.v3.Gs/GetGatewayConnectionStats";
        Ok(absent(self.gs.unary(method, ids(id), Call { within, ..about(id) }).await)?
            .map(|answer| answer.message))
    }

    /// Whose API key this is, and what it may do.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn me(&self) -> Result<Me, Error> {
        let request = proto::message("google.protobuf.Empty");
        let method = "/ttn.lorawan.v3.EntityAccess/AuthInfo";
        let answer = self.is.unary(method, request, Call::safe(About::nothing())).await?.message;
        let id = |of: &str| path::string(&answer, &format!("access_method.api_key.entity_ids.ids.{of}"));
        let (user, organization) = (id("user_ids.user_id"), id("organization_ids.organization_id"));
        let account = match (user.is_empty(), organization.is_empty()) {
            (false, _) => Some(Owner::User(user)),
            (true, false) => Some(Owner::Organization(organization)),
            (true, true) => None,
        };
        let names = proto::enumeration("Right");
        let list = path::get(&answer, "access_method.api_key.api_key.rights");
        let numbers = list.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
        let numbers = numbers.iter().filter_map(Value::as_enum_number);
        let rights = numbers.filter_map(|n| Some(names.get_value(n)?.name().to_owned())).collect();
        Ok(Me { account, rights, admin: path::flag(&answer, "is_admin") })
    }
}

fn absent<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if *error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
