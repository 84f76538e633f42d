//! Pub/subs (`applicationserver_pubsub.proto`; docs/servers.md, Integrations).

use prost_reflect::DynamicMessage;

use super::{Cleared, Facts, Ids, Method, Sort};
use crate::{
    map::path,
    model::device::Component,
    plan::finding::{Finding, Kind},
};

/// A pub/sub. There is no way to pause one: it connects to its broker when it is set.
pub static PUBSUB: Sort = Sort {
    name: "pubsub",
    plural: "pub/subs",
    copy: "pubsubs",
    server: Component::As,
    message: "ApplicationPubSub",
    ids: Ids::Named("pub_sub_id"),
    list: Some(Method {
        rpc: "/ttn.lorawan.v3.ApplicationPubSubRegistry/List",
        request: "ListApplicationPubSubsRequest",
        at: "",
        field: "pubsubs",
    }),
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPubSubRegistry/Get",
        request: "GetApplicationPubSubRequest",
        at: "ids.",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPubSubRegistry/Set",
        request: "SetApplicationPubSubRequest",
        at: "pubsub.ids.",
        field: "pubsub",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPubSubRegistry/Delete",
        request: "ApplicationPubSubIdentifiers",
        at: "",
        field: "",
    },
    left: &["ids", "created_at", "updated_at"],
    fields: &[],
    newer: &[],
    pause: None,
    defers: true,
    key: None,
    rights: &[
        "RIGHT_APPLICATION_SETTINGS_BASIC",
        "RIGHT_APPLICATION_TRAFFIC_READ",
        "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE",
    ],
    cleared: Cleared::Integrations,
    look,
};

fn look(message: &DynamicMessage, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if path::has(message, "provider.mqtt.client_id") {
        // MQTT 3.1.1, 3.1.4: a server disconnects the older client of two with one ID.
        let text = "source and target would use the same MQTT client ID: the broker cuts the connection of the one when the \
                    other connects";
        findings.push(Finding::new(Kind::SharedClientId, text).fix(
            "take the client ID out at the source, or leave pubsubs out of application.copy until the source's is gone",
        ));
    }
    for provider in &facts.disabled {
        if path::has(message, &format!("provider.{provider}")) {
            let text = format!("the target has pub/subs over {} switched off", provider.to_uppercase());
            findings.push(
                Finding::new(Kind::UnsupportedProvider, text)
                    .paths([format!("provider.{provider}")])
                    .fix("ask the operator of the target, or leave pubsubs out of application.copy"),
            );
        }
    }
    let aws = "provider.aws_iot.access_key";
    if path::has(message, &format!("{aws}.access_key_id"))
        && !path::has(message, &format!("{aws}.secret_access_key"))
    {
        findings.push(super::unreadable("the source does not tell the secret access key", &[aws]));
    }
    if path::has(message, "provider.mqtt.tls_client_cert")
        && !path::has(message, "provider.mqtt.tls_client_key")
    {
        let both = ["provider.mqtt.tls_client_cert"];
        findings.push(super::unreadable("the source does not tell the key of its TLS certificate", &both));
    }
    findings
}
