//! Associations with application packages, of an application and of its devices (`applicationserver_packages.proto`;
//! docs/servers.md, Integrations). Their data hold tokens, as that of LoRa Cloud.

use prost_reflect::DynamicMessage;

use super::{Cleared, Facts, Ids, Method, Sort};
use crate::{
    map::path,
    model::device::Component,
    plan::finding::{Finding, Kind},
};

/// An association for all devices of an application.
pub static DEFAULT: Sort = Sort {
    name: "default-package",
    plural: "packages",
    message: "ApplicationPackageDefaultAssociation",
    ids: Ids::Port,
    list: Some(Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/ListDefaultAssociations",
        request: "ListApplicationPackageDefaultAssociationRequest",
        at: "",
        field: "defaults",
    }),
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/GetDefaultAssociation",
        request: "GetApplicationPackageDefaultAssociationRequest",
        at: "ids.",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/SetDefaultAssociation",
        request: "SetApplicationPackageDefaultAssociationRequest",
        at: "default.ids.",
        field: "default",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/DeleteDefaultAssociation",
        request: "ApplicationPackageDefaultAssociationIdentifiers",
        at: "",
        field: "",
    },
    ..SHARED
};

/// An association of one device. It goes when the device's record at the Application Server does.
pub static DEVICE: Sort = Sort {
    name: "device-package",
    plural: "packages of devices",
    message: "ApplicationPackageAssociation",
    ids: Ids::PortOfDevice,
    list: Some(Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/ListAssociations",
        request: "ListApplicationPackageAssociationRequest",
        at: "ids.",
        field: "associations",
    }),
    get: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/GetAssociation",
        request: "GetApplicationPackageAssociationRequest",
        at: "ids.",
        field: "",
    },
    set: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/SetAssociation",
        request: "SetApplicationPackageAssociationRequest",
        at: "association.ids.",
        field: "association",
    },
    delete: Method {
        rpc: "/ttn.lorawan.v3.ApplicationPackageRegistry/DeleteAssociation",
        request: "ApplicationPackageAssociationIdentifiers",
        at: "",
        field: "",
    },
    ..SHARED
};

/// What both kinds share.
const SHARED: Sort = Sort {
    name: "",
    plural: "",
    copy: "packages",
    server: Component::As,
    message: "",
    ids: Ids::PortOfDevice,
    list: None,
    get: NONE,
    set: NONE,
    delete: NONE,
    left: &["ids", "created_at", "updated_at"],
    fields: &[],
    newer: &[],
    pause: None,
    defers: false,
    key: None,
    rights: &["RIGHT_APPLICATION_SETTINGS_PACKAGES"],
    cleared: Cleared::Integrations,
    look,
};

const NONE: Method = Method { rpc: "", request: "", at: "", field: "" };

fn look(message: &DynamicMessage, facts: &Facts) -> Vec<Finding> {
    let name = path::string(message, "package_name");
    unknown_package(&name, facts).into_iter().collect()
}

/// The finding for a package that the target does not have. It takes any name, and does nothing then.
pub fn unknown_package(name: &str, facts: &Facts) -> Option<Finding> {
    let has = facts.packages.as_ref()?;
    (!has.contains(name)).then(|| {
        let list: Vec<_> = has.iter().map(String::as_str).collect();
        let text = format!(
            "the target has no package {name}, only {}: the association would do nothing",
            list.join(", ")
        );
        Finding::new(Kind::UnknownPackage, text)
            .fix("leave packages out of application.copy, or allow it: allow-loss = [\"unknown-package\"]")
    })
}
