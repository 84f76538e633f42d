//! The link of an application: default payload formatters and `skip_payload_crypto` (`applicationserver.proto`;
//! docs/servers.md, Integrations). Of V2 it is made from the payload functions.

use super::{Cleared, Ids, Method, Sort};
use crate::model::device::Component;

const SET: Method =
    Method { rpc: "/ttn.lorawan.v3.As/SetLink", request: "SetApplicationLinkRequest", at: "", field: "link" };

/// A link. An application has one, without an ID. It is not deleted but emptied: `DeleteLink` would take all associations of
/// packages along, whoever made them.
pub static LINK: Sort = Sort {
    name: "link",
    plural: "default payload formatters",
    copy: "formatters",
    server: Component::As,
    message: "ApplicationLink",
    ids: Ids::Application,
    list: None,
    get: Method {
        rpc: "/ttn.lorawan.v3.As/GetLink",
        request: "GetApplicationLinkRequest",
        at: "",
        field: "",
    },
    set: SET,
    delete: SET,
    left: &["api_key", "network_server_address", "tls"],
    fields: &[],
    newer: &[],
    pause: None,
    defers: false,
    key: None,
    rights: &["RIGHT_APPLICATION_SETTINGS_BASIC"],
    cleared: Cleared::Never,
    look: |_, _| Vec::new(),
};
