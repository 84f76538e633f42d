//! Webhooks (`applicationserver_web.proto`; docs/servers.md, Integrations).

use super::{Cleared, Ids, Method, Pause, Sort};
use crate::model::device::Component;

/// A webhook. Its health is the server's own, and its API key for downlinks is one of the source.
pub static WEBHOOK: Sort = Sort {
    name: "webhook",
    plural: "webhooks",
    copy: "webhooks",
    server: Component::As,
    message: "ApplicationWebhook",
    ids: Ids::Named("webhook_id"),
    list: Some(Method {
        rpc: "/ttn.lorawan.v3.ApplicationWebhookRegistry/List",
        request: "ListApplicationWebhooksRequest",
        at: "",
        field: "webhooks",
    }),
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationWebhookRegistry/Get",
        request: "GetApplicationWebhookRequest",
        at: "ids.",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationWebhookRegistry/Set",
        request: "SetApplicationWebhookRequest",
        at: "webhook.ids.",
        field: "webhook",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationWebhookRegistry/Delete",
        request: "ApplicationWebhookIdentifiers",
        at: "",
        field: "",
    },
    left: &["ids", "created_at", "updated_at", "health_status"],
    fields: &[],
    newer: &["queue", "custom_ca"],
    pause: Some(Pause::Flag("paused")),
    defers: false,
    key: Some("downlink_api_key"),
    rights: &[
        "RIGHT_APPLICATION_SETTINGS_BASIC",
        "RIGHT_APPLICATION_TRAFFIC_READ",
        "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE",
    ],
    cleared: Cleared::Integrations,
    look: |_, _| Vec::new(),
};
