//! The Join Server's activation settings of an application (`joinserver.proto`; docs/servers.md, Integrations).

use prost_reflect::DynamicMessage;

use super::{Cleared, Facts, Ids, Method, Sort};
use crate::{
    map::path,
    model::device::Component,
    plan::finding::{Finding, Kind},
};

/// Activation settings. An application has one, without an ID.
pub static SETTINGS: Sort = Sort {
    name: "activation-settings",
    plural: "activation settings",
    copy: "activation-settings",
    server: Component::Js,
    message: "ApplicationActivationSettings",
    ids: Ids::Application,
    list: None,
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationActivationSettingRegistry/Get",
        request: "GetApplicationActivationSettingsRequest",
        at: "",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationActivationSettingRegistry/Set",
        request: "SetApplicationActivationSettingsRequest",
        at: "",
        field: "settings",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationActivationSettingRegistry/Delete",
        request: "DeleteApplicationActivationSettingsRequest",
        at: "",
        field: "",
    },
    left: &[],
    fields: &[],
    newer: &[],
    pause: None,
    defers: false,
    key: None,
    rights: &["RIGHT_APPLICATION_DEVICES_READ_KEYS", "RIGHT_APPLICATION_DEVICES_WRITE_KEYS"],
    cleared: Cleared::Never,
    look,
};

/// A KEK can be set as a plain key with a label only.
fn look(message: &DynamicMessage, _: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wrapped: Vec<_> =
        ["kek.encrypted_key", "kek.kek_label"].into_iter().filter(|p| path::has(message, p)).collect();
    if path::has(message, "kek") && !path::has(message, "kek.key") {
        findings.push(super::unreadable(
            "the source does not tell its key encryption key",
            &["kek", "kek_label"],
        ));
    } else if !wrapped.is_empty() {
        findings.push(
            Finding::new(
                Kind::Replaced,
                "the key goes along in the clear; the target wraps it in its own way",
            )
            .paths(wrapped),
        );
    }
    if path::has(message, "kek.key") && !path::has(message, "kek_label") {
        let text = "it has a key encryption key without a label, which no server takes";
        findings.push(
            Finding::new(Kind::InvalidField, text).paths(["kek_label"]).fix("set a label at the source"),
        );
    }
    findings
}
