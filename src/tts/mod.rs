//! The API of The Things Stack as calls: what a source and a target share. No decisions are made here.

pub mod application;
pub mod belongings;
pub mod facts;
pub mod gateways;
pub mod keys;
pub mod marker;
pub mod registry;

use prost_reflect::{DynamicMessage, Value};

use crate::{
    map::path,
    model::{device::Component, ids::AppId},
    plan::facts::Hosts,
    proto,
    wire::Client,
};

/// A deployment: one client per component (they may share one address).
#[derive(Debug, Clone)]
pub struct Stack {
    /// Identity Server.
    pub is: Client,
    /// Network Server.
    pub ns: Client,
    /// Application Server.
    pub as_: Client,
    /// Join Server.
    pub js: Client,
    /// Gateway Server.
    pub gs: Client,
    /// The host by which records call the Gateway Server.
    pub gateway_server: String,
    /// The hosts that stand in the records of this deployment.
    pub hosts: Hosts,
}

impl Stack {
    /// The client of one component.
    pub fn client(&self, component: Component) -> &Client {
        match component {
            Component::Is => &self.is,
            Component::Js => &self.js,
            Component::As => &self.as_,
            Component::Ns => &self.ns,
        }
    }
}

/// `ApplicationIdentifiers` in field `field` of a request.
fn set_app(request: &mut DynamicMessage, field: &str, app: &AppId) {
    path::set(request, &format!("{field}.application_id"), Value::String(app.as_str().to_owned()));
}

/// `ApplicationIdentifiers` themselves, which some calls take as their request.
fn app_ids(app: &AppId) -> DynamicMessage {
    let mut ids = proto::message("ApplicationIdentifiers");
    path::set(&mut ids, "application_id", Value::String(app.as_str().to_owned()));
    ids
}
