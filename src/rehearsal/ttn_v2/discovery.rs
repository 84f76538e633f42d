//! Discovery: one handler, with the applications that are registered at it. It asks nobody who they are.

use prost_reflect::{DynamicMessage, Value};
use tonic::Status;

use super::settings::V2Settings;
use crate::{
    map::path,
    proto,
    rehearsal::{
        calls::Reply,
        store::{Store, Table},
    },
};

/// The announcement of the handler before it is served: without address and certificate.
pub(super) fn announcement(settings: &V2Settings) -> DynamicMessage {
    let mut announcement = proto::message("discovery.Announcement");
    let texts = [
        ("id", settings.handler_id.as_str()),
        ("service_name", "handler"),
        ("service_version", "2.x.x-rehearsal"),
        ("description", "an embedded handler"),
    ];
    for (field, text) in texts {
        path::set(&mut announcement, field, Value::String(text.to_owned()));
    }
    announcement
}

/// Calls a method.
pub(super) fn call(
    store: &Store,
    announcement: &DynamicMessage,
    method: &str,
    request: &DynamicMessage,
) -> Result<Reply, Status> {
    let message = match method {
        "GetByAppID" => {
            let application = path::string(request, "app_id");
            store
                .get(Table::V2Applications, &application)
                .map(|_| announcement.clone())
                .ok_or_else(|| Status::not_found(format!("discovery:app_id:{application} not found")))
        }
        "Get" => {
            let (id, service) = (path::string(request, "id"), path::string(request, "service_name"));
            let is_ours = id == path::string(announcement, "id")
                && service == path::string(announcement, "service_name");
            is_ours
                .then(|| with_applications(store, announcement))
                .ok_or_else(|| Status::not_found(format!("discovery:announcement:{service}:{id} not found")))
        }
        _ => Err(Status::unimplemented(format!("unknown method {method} for service discovery.Discovery"))),
    };
    message.map(|message| Reply { message, headers: Vec::new() })
}

fn with_applications(store: &Store, announcement: &DynamicMessage) -> DynamicMessage {
    let applications = store.iter(Table::V2Applications).map(|(id, _)| {
        let mut metadata = proto::message("discovery.Metadata");
        path::set(&mut metadata, "app_id", Value::String(id.to_owned()));
        Value::Message(metadata)
    });
    let mut announcement = announcement.clone();
    path::set(&mut announcement, "metadata", Value::List(applications.collect()));
    announcement
}
