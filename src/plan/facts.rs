//! What the planner knows of the two sides and what the user wants: plain data, gathered before planning.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use glob::Pattern;
use prost_reflect::DynamicMessage;
use serde::{Deserialize, Serialize};

use super::{belongings::collaborator::People, finding::Kind};
use crate::model::{
    device::Component,
    ids::{AppId, DevAddr, DevAddrPrefix, Eui64},
};

/// What happens to the session of an OTAA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionMode {
    /// Session, MAC state and counters go along.
    Keep,
    /// Keys and nonces go along; the device joins again.
    Drop,
    /// Keep when the DevAddr lies in the target's prefixes, drop otherwise.
    Auto,
}

/// Where the ID of the copy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdFrom {
    /// The ID at the source, underscores replaced by dashes.
    Id,
    /// `eui-` and the DevEUI in lower-case hexadecimal.
    Eui,
}

/// What the user wants done to the devices of one application.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// The application on the target.
    pub target_app: AppId,
    /// OTAA sessions.
    pub session: SessionMode,
    /// Device IDs of ABP and multicast devices that will be reset by hand.
    pub abp_reset: BTreeSet<String>,
    /// Frequency plan at the source → plan on the target.
    pub frequency_plans: BTreeMap<String, String>,
    /// Plan for devices that have none.
    pub default_frequency_plan: Option<String>,
    /// Put before every device ID.
    pub id_prefix: String,
    /// Where device IDs come from.
    pub id_from: IdFrom,
    /// An ID that is refused or clashes makes way for the one that is proposed.
    pub id_rename: bool,
    /// LoRaWAN and regional parameters versions of devices whose source does not say them.
    pub versions: Versions,
    /// Attributes that every copy gets.
    pub attributes: BTreeMap<String, String>,
    /// Losses that the user accepts.
    pub allowed: Vec<Kind>,
    /// What is copied besides the devices, by the words of `application.copy`.
    pub copy: BTreeSet<&'static str>,
    /// Who is who on both sides.
    pub people: People,
    /// Integrations begin once the first device is live.
    pub paused: bool,
}

/// Versions by the shape of a device ID, or of `application/device`: the first that fits counts. Numbers of the enums
/// `MACVersion` and `PHYVersion`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// LoRaWAN.
    pub mac: Vec<(Pattern, i32)>,
    /// Regional parameters.
    pub phy: Vec<(Pattern, i32)>,
}

impl Versions {
    /// The LoRaWAN version that the user wants for a device.
    pub fn mac_of(&self, application: &str, device: &str) -> Option<i32> {
        first(&self.mac, application, device)
    }

    /// The version of the regional parameters that the user wants for a device.
    pub fn phy_of(&self, application: &str, device: &str) -> Option<i32> {
        first(&self.phy, application, device)
    }
}

fn first(versions: &[(Pattern, i32)], application: &str, device: &str) -> Option<i32> {
    let whole = format!("{application}/{device}");
    let fits = |shape: &Pattern| shape.matches(if shape.as_str().contains('/') { &whole } else { device });
    versions.iter().find(|(shape, _)| fits(shape)).map(|(_, version)| *version)
}

/// The hosts that stand in `*_server_address` of a deployment's records, without port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Network Server.
    pub ns: String,
    /// Application Server.
    pub as_: String,
    /// Join Server.
    pub js: String,
    /// Other names by which records call the deployment.
    pub known_as: Vec<String>,
}

impl Hosts {
    /// True when an address in a record means this deployment's component.
    pub fn mean(&self, component: Component, address: &str) -> bool {
        let named = host(address);
        named == host(self.of(component)) || self.known_as.iter().any(|k| host(k) == named)
    }

    /// The host of one component; the Identity Server has none in the records.
    pub fn of(&self, component: Component) -> &str {
        match component {
            Component::Is => "",
            Component::Js => &self.js,
            Component::As => &self.as_,
            Component::Ns => &self.ns,
        }
    }
}

/// What the target said of itself.
#[derive(Debug, Clone, Default)]
pub struct TargetFacts {
    /// Its own hosts.
    pub hosts: Hosts,
    /// `Ns.GetDeviceAddressPrefixes`.
    pub dev_addr_prefixes: Vec<DevAddrPrefix>,
    /// `Js.GetJoinEUIPrefixes`: EUI and number of leading bits.
    pub join_eui_prefixes: Vec<(Eui64, u32)>,
    /// `Configuration.ListFrequencyPlans`: plan → band.
    pub frequency_plans: BTreeMap<String, String>,
    /// `Configuration.GetPhyVersions`: band → PHY version numbers.
    pub phy_versions: HashMap<String, BTreeSet<i32>>,
    /// `Ns.GetDefaultMACSettings` of both sides where they were asked: (plan, PHY) → (source, target). Of a source that has
    /// none, such as V2, the target's stand on both sides.
    pub mac_defaults: HashMap<(String, i32), (DynamicMessage, DynamicMessage)>,
    /// Mask paths that the target does not know, by component.
    pub refused_paths: HashMap<Component, Vec<String>>,
    /// IDs at the source → IDs on the target where `id_rename` lets them differ from the rule ([`super::identity::renames`]).
    pub renames: BTreeMap<String, String>,
    /// IDs at the source → IDs on the target of all devices that move along ([`super::relay::along`]).
    pub along: BTreeMap<String, String>,
}

impl TargetFacts {
    /// True when `addr` is in one of the target's blocks.
    pub fn owns(&self, addr: DevAddr) -> bool {
        self.dev_addr_prefixes.iter().any(|p| p.contains(addr))
    }

    /// True when the target's Join Server serves `join_eui`.
    pub fn serves(&self, join_eui: Eui64) -> bool {
        let value = |eui: Eui64| u64::from_be_bytes(eui.0);
        self.join_eui_prefixes.iter().any(|&(prefix, bits)| {
            let mask = u64::MAX.checked_shl(64 - bits.min(64)).unwrap_or(0);
            value(join_eui) & mask == value(prefix) & mask
        })
    }

    /// The prefixes in one line.
    pub fn prefixes(&self) -> String {
        self.dev_addr_prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// The host of `host[:port]`, lower case: addresses are compared without their port (upstream compares hosts alike).
pub fn host(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => address,
    }
    .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_eui_is_served_by_its_prefix_only() {
        let facts = TargetFacts {
            join_eui_prefixes: vec![("70B3D57ED0000000".parse().expect("valid"), 40)],
            ..TargetFacts::default()
        };
        assert!(facts.serves("70B3D57ED0FFFFFF".parse().expect("valid")));
        assert!(!facts.serves("0000000000000001".parse().expect("valid")));
        let all = TargetFacts { join_eui_prefixes: vec![(Eui64([0; 8]), 0)], ..TargetFacts::default() };
        assert!(all.serves(Eui64([0xff; 8])));
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        assert_eq!(host("EU1.cloud.thethings.network:8884"), "eu1.cloud.thethings.network");
        assert_eq!(host("127.0.0.1"), "127.0.0.1");
        assert_eq!(host("::1"), "::1");
    }
}
