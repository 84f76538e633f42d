//! Cases next to those of the recordings, as the upstream source has them.

mod devices;
mod entities;
mod ttn_v2;

use std::sync::Arc;

use prost_reflect::{DynamicMessage, SerializeOptions, Value};
use serde_json::{Value as Json, json};

use super::{EntityKind, Failure, Settings, Tts};
use crate::{
    map::{mask, path},
    proto,
};

const EUI: &str = "ESIzRFVmdwE=";
const JOIN_EUI: &str = "ESIzRFVmdwI=";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// A server with the application `meters`.
struct Server(Arc<Tts>);

impl Server {
    fn new() -> Self {
        let settings = Settings { users: vec!["alice".to_owned()], ..Settings::default() };
        let server = Self(Tts::new(settings).expect("memory"));
        server.create_application("meters").expect("new");
        server
    }

    fn create_application(&self, id: &str) -> Result<Json, String> {
        let request = json!({"application": {"ids": {"application_id": id}}, "collaborator": {"user_ids": {"user_id": "admin"}}});
        self.call("ApplicationRegistry/Create", request, "")
    }

    /// Calls a method as the administrator: the answer as JSON, or the names of the error and its causes.
    fn call(&self, rpc: &str, request: Json, paths: &str) -> Result<Json, String> {
        let key = self.0.settings().api_key.clone();
        self.call_as(Some(&key), rpc, request, paths)
    }

    fn call_as(&self, key: Option<&str>, rpc: &str, request: Json, paths: &str) -> Result<Json, String> {
        let path = format!("/{}.{rpc}", proto::PACKAGE);
        let method = proto::method(&path).expect("a method");
        let mut message = DynamicMessage::deserialize(method.input(), request).expect("a request");
        if !paths.is_empty() {
            let paths: Vec<_> = paths.split(',').collect();
            path::set(&mut message, "field_mask", Value::Message(mask::message(&paths)));
        }
        let options = SerializeOptions::new().use_proto_field_name(true);
        match self.0.call(&path, message, key) {
            Ok(reply) => Ok(reply
                .message
                .serialize_with_options(serde_json::value::Serializer, &options)
                .expect("an answer has a JSON form")),
            Err(failure) => Err(names(&failure)),
        }
    }

    /// A key with these rights on `meters`.
    fn key(&self, rights: &[&str]) -> String {
        self.0.create_key(EntityKind::Application, "meters", rights, None).expect("memory")
    }
}

/// Status and names of an error and its causes, and what they are about.
fn names(failure: &Failure) -> String {
    let mut out = format!("{:?} {}", failure.code(), failure.message());
    let mut cause = failure.cause();
    while let Some(failure) = cause {
        out.push_str(&format!(" < {}", failure.message()));
        cause = failure.cause();
    }
    out.replace("error:", "")
}

fn ids(device: &str) -> Json {
    json!({"device_id": device, "application_ids": {"application_id": "meters"}})
}

fn otaa(device: &str) -> Json {
    json!({"device_id": device, "application_ids": {"application_id": "meters"}, "dev_eui": EUI, "join_eui": JOIN_EUI})
}
