//! Devices of The Things Network Stack V2: what the planner adds for them, and how two readings of one compare.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{
    Input,
    facts::{TargetFacts, Versions, Wishes},
    finding::{Finding, Kind},
    session::Carry,
    transform::Found,
};
use crate::{
    map::{
        path,
        ttn_v2::{
            Attributes, LOCAL, MAC_VERSION, PHY_VERSION, V2Device, formatter::Formatters, mac_state,
            same_standing,
        },
    },
    model::{
        device::Component,
        ids::{DeviceId, Eui64},
    },
    proto,
};

/// The attribute in which the ID at V2 is kept when the device gets another.
pub const OLD_ID: &str = "old-id";
/// The most characters of a description, and the most attributes (`end_device.proto`).
const MAX_DESCRIPTION: usize = 2000;
const MAX_ATTRIBUTES: usize = 10;

/// What changed between two readings of one device. Counters, and when it was last heard, are no change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// DevAddr, NwkSKey or AppSKey: the device joined again, or somebody gave it another session.
    pub session: bool,
    /// The AppKey.
    pub root_key: bool,
    /// AppEUI or DevEUI: it is another device.
    pub euis: bool,
    /// Anything else: flags, description, location, attributes, unknown fields.
    pub other: bool,
    /// One of the two is no device of V2.
    pub missing: bool,
}

impl Changes {
    /// True when nothing changed.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What changed, in words.
    pub fn words(self) -> Vec<&'static str> {
        let all = [
            (self.session, "session"),
            (self.root_key, "root key"),
            (self.euis, "EUIs"),
            (self.other, "other fields"),
            (self.missing, "the device came or went"),
        ];
        all.into_iter().filter(|(changed, _)| *changed).map(|(_, words)| words).collect()
    }
}

/// Compares two readings of one device. The session key IDs of their records are drawn, and do not count.
pub fn same_device(before: &Found, now: &Found) -> Changes {
    let (Some(before), Some(now)) = (&before.v2, &now.v2) else {
        let missing = before.v2.is_some() || now.v2.is_some();
        return Changes { missing, ..Changes::default() };
    };
    let session = |d: &V2Device| (d.dev_addr(), d.nwk_s_key(), d.app_s_key());
    let euis = |d: &V2Device| (d.app_id(), d.dev_id(), d.app_eui(), d.dev_eui());
    Changes {
        session: session(before) != session(now),
        root_key: before.app_key() != now.app_key(),
        euis: euis(before) != euis(now),
        other: !same_standing(before, now),
        missing: false,
    }
}

/// What is worth saying of one device besides what its records tell.
pub fn findings(device: &V2Device, wishes: &Wishes) -> Vec<Finding> {
    let mut findings = keys(device);
    findings.extend(description(device));
    findings.extend(place(device));
    findings.extend(attributes(device));
    findings.extend(left_behind(device));
    let unknown = device.unknown_fields();
    if !unknown.is_empty() {
        let text = "the handler's answer holds fields that this build does not know";
        findings.push(
            Finding::new(Kind::UnknownFields, text)
                .paths(unknown.iter().map(ToString::to_string))
                .fix("use a newer stackferry, or allow the loss \"unknown-fields\""),
        );
    }
    let (mac, _) = versions(device, &wishes.versions);
    if mac == number("MACVersion", "MAC_V1_1") {
        findings.push(
            Finding::new(Kind::MacVersion, "transform.mac-version says LoRaWAN 1.1, which V2 never spoke")
                .at(Component::Ns)
                .paths(["lorawan_version"])
                .fix("choose a version of LoRaWAN 1.0 for it in transform.mac-version"),
        );
    }
    findings
}

fn keys(device: &V2Device) -> Vec<Finding> {
    let mut findings = Vec::new();
    if device.is_template() {
        let text = format!(
            "it has no DevEUI: a template of the devices that register on join under AppEUI {}",
            device.app_eui()
        );
        findings.push(Finding::new(Kind::JoinTemplate, text).paths(["lorawan_device.dev_eui"]).fix(
            "leave it out (application.devices), and register the devices on the target that are yet to join",
        ));
    }
    if !device.is_otaa() && !device.has_session() {
        findings.push(
            Finding::new(Kind::NoKeys, "it has neither an AppKey nor a session")
                .paths(["lorawan_device.app_key", "lorawan_device.nwk_s_key", "lorawan_device.dev_addr"])
                .fix("leave it out (application.devices), or give it keys at the source"),
        );
    } else if device.has_broken_session() {
        findings.push(
            Finding::new(
                Kind::SessionIncomplete,
                "its session lacks DevAddr or NwkSKey, and is left behind: it joins again",
            )
            .paths([
                "lorawan_device.dev_addr",
                "lorawan_device.nwk_s_key",
                "lorawan_device.app_s_key",
            ]),
        );
    }
    findings
}

fn description(device: &V2Device) -> Option<Finding> {
    let characters = device.description().chars().count();
    (characters > MAX_DESCRIPTION).then(|| {
        let text = format!("its description has {characters} characters, the target takes {MAX_DESCRIPTION}");
        Finding::new(Kind::LongDescription, text)
            .at(Component::Is)
            .paths(["description"])
            .fix("shorten it at the source, or allow the loss \"long-description\"")
    })
}

fn place(device: &V2Device) -> Option<Finding> {
    let (latitude, longitude, _) = device.location()?;
    (!latitude.is_finite() || !longitude.is_finite()).then(|| {
        Finding::new(Kind::InvalidField, "its place is no number of degrees")
            .at(Component::Is)
            .paths(["latitude", "longitude"])
            .fix("set or remove its location at the source")
    })
}

fn attributes(device: &V2Device) -> Vec<Finding> {
    let attributes = Attributes::of(&device.attributes());
    let arrows = |pairs: &[(String, String)]| {
        pairs.iter().map(|(from, to)| format!("attributes.{from} → {to}")).collect::<Vec<_>>()
    };
    let mut findings = Vec::new();
    if !attributes.renamed.is_empty() {
        findings.push(
            Finding::new(Kind::Replaced, "names of attributes that the target does not take are changed")
                .at(Component::Is)
                .paths(arrows(&attributes.renamed)),
        );
    }
    if !attributes.clashes.is_empty() {
        findings.push(
            Finding::new(
                Kind::AttributeClash,
                "another attribute of it has, or gets, the same name on the target",
            )
            .at(Component::Is)
            .paths(arrows(&attributes.clashes))
            .fix("rename them at the source, or allow the loss \"attribute-clash\""),
        );
    }
    findings
}

/// What The Things Stack has no place for.
fn left_behind(device: &V2Device) -> Vec<Finding> {
    let mut findings = Vec::new();
    let constraints = device.activation_constraints();
    if !constraints.is_empty() && constraints != LOCAL {
        let text = format!(
            "activation constraints `{constraints}` are V2's own: the target gives addresses by its own rules"
        );
        findings.push(Finding::new(Kind::LeftBehind, text).paths(["lorawan_device.activation_constraints"]));
    }
    let nonces: Vec<_> = ["lorawan_device.used_dev_nonces", "lorawan_device.used_app_nonces"]
        .into_iter()
        .filter(|p| path::has(device.message(), p))
        .collect();
    if !nonces.is_empty() {
        let text = "join nonces: the target accepts a DevNonce once more that was used at V2";
        findings.push(Finding::new(Kind::LeftBehind, text).paths(nonces));
    }
    let counters: Vec<_> = ["lorawan_device.f_cnt_up", "lorawan_device.f_cnt_down"]
        .into_iter()
        .filter(|p| !device.has_session() && path::has(device.message(), p))
        .collect();
    if !counters.is_empty() {
        let text = "counters of a session that V2 no longer has";
        findings.push(Finding::new(Kind::LeftBehind, text).paths(counters));
    }
    let broken: Vec<_> = ["app_id", "dev_id"]
        .into_iter()
        .filter(|id| {
            let inner = path::string(device.message(), &format!("lorawan_device.{id}"));
            !inner.is_empty() && inner != path::string(device.message(), id)
        })
        .map(|id| format!("lorawan_device.{id}"))
        .collect();
    if !broken.is_empty() {
        let text = "the LoRaWAN half of the device has other IDs than the device; V2 passes them over";
        findings.push(Finding::new(Kind::LeftBehind, text).paths(broken));
    }
    findings
}

/// Cuts a description to what the target takes, where that loss is allowed.
pub(super) fn shorten_description(message: &mut DynamicMessage) {
    let description = path::string(message, "description");
    let short: String = description.chars().take(MAX_DESCRIPTION).collect();
    path::set(message, "description", Value::String(short));
}

/// Keeps the ID at V2 in an attribute when the copy has another.
pub(super) fn old_id(message: &mut DynamicMessage, device: &V2Device) -> Option<Finding> {
    let old = device.dev_id();
    if old == path::string(message, "ids.device_id") {
        return None;
    }
    let field = proto::descriptor("EndDevice").get_field_by_name("attributes")?;
    let Value::Map(map) = message.get_field_mut(&field) else { return None };
    let key = MapKey::String(OLD_ID.to_owned());
    let problem = match map.get(&key) {
        Some(value) if value.as_str() == Some(&old) => return None,
        Some(_) => "it has an attribute of that name already",
        None if map.len() >= MAX_ATTRIBUTES => "the target takes no more than ten attributes",
        None => {
            map.insert(key, Value::String(old));
            return None;
        }
    };
    let text = format!("the old ID `{old}` is not kept in attribute {OLD_ID}: {problem}");
    Some(Finding::new(Kind::LeftBehind, text).at(Component::Is).paths(["dev_id"]))
}

/// LoRaWAN and regional parameters version of a device, as the enums number them.
pub fn versions(device: &V2Device, versions: &Versions) -> (i32, i32) {
    let (app, id) = (device.app_id(), device.dev_id());
    (
        versions.mac_of(&app, &id).unwrap_or_else(|| number("MACVersion", MAC_VERSION)),
        versions.phy_of(&app, &id).unwrap_or_else(|| number("PHYVersion", PHY_VERSION)),
    )
}

fn number(enumeration: &str, name: &str) -> i32 {
    proto::enumeration(enumeration).get_value_by_name(name).map_or(0, |v| v.number())
}

/// The pair of plan on the target and PHY version whose MAC defaults are needed: of devices with a session.
pub fn defaults_needed(found: &Found, wishes: &Wishes) -> Option<(String, i32)> {
    let device = found.v2.as_ref().filter(|device| device.has_session())?;
    let (_, phy) = versions(device, &wishes.versions);
    Some((wishes.default_frequency_plan.clone()?, phy))
}

/// What the NS record gets from the plan: the versions that the user wants, and the MAC state of a kept session.
pub(super) fn network(
    message: &mut DynamicMessage,
    device: &V2Device,
    carry: Carry,
    facts: &TargetFacts,
    wishes: &Wishes,
) -> Option<Finding> {
    let (mac, phy) = versions(device, &wishes.versions);
    path::set(message, "lorawan_version", Value::EnumNumber(mac));
    path::set(message, "lorawan_phy_version", Value::EnumNumber(phy));
    if carry != Carry::Keep || !path::has(message, "session") {
        return None;
    }
    let plan = path::string(message, "frequency_plan_id");
    let band = facts.frequency_plans.get(&plan)?;
    let defaults = facts.mac_defaults.get(&(plan.clone(), phy)).map(|(_, target)| target);
    if let Some(state) = defaults.and_then(|defaults| mac_state(&plan, band, defaults, mac)) {
        path::set(message, "mac_state", Value::Message(state));
        return None;
    }
    let text = if defaults.is_some() {
        format!("no MAC state for its session: V2 had no plan like {plan} of band {band}")
    } else {
        format!("no MAC state for its session: the target does not tell its MAC defaults for {plan}")
    };
    Some(
        Finding::new(Kind::MacState, text)
            .at(Component::Ns)
            .paths(["mac_state"])
            .fix("choose the plan that V2 used, drop the session, or allow the loss \"mac-state\""),
    )
}

/// Findings that only the devices together show: one DevEUI under several AppEUIs. By the ID of the device.
pub fn across(inputs: &[Input]) -> Vec<(DeviceId, Finding)> {
    let mut by_eui: BTreeMap<Eui64, Vec<(&DeviceId, Eui64)>> = BTreeMap::new();
    for input in inputs {
        if let Some(device) = input.found.v2.as_ref().filter(|device| !device.is_template()) {
            by_eui.entry(device.dev_eui()).or_default().push((&input.id, device.app_eui()));
        }
    }
    let mut findings = Vec::new();
    for (eui, devices) in by_eui.into_iter().filter(|(_, devices)| devices.len() > 1) {
        let all: Vec<_> = devices.iter().map(|(id, app)| format!("{id} (AppEUI {app})")).collect();
        for (id, _) in devices {
            let text = format!("DevEUI {eui} is registered more than once: {}", all.join(", "));
            findings.push((
                id.clone(),
                Finding::new(Kind::DevEuiTwice, text).paths(["lorawan_device.dev_eui"]).fix(
                    "see with which AppEUI the device joins, and leave the other out (application.devices)",
                ),
            ));
        }
    }
    findings
}

/// The findings of an application's payload functions as formatters.
pub fn formatter_findings(application: &DynamicMessage, wishes: &Wishes) -> Vec<Finding> {
    let formatters = Formatters::of(application);
    let mut findings = Vec::new();
    for (formatter, what) in [(&formatters.up, "uplink"), (&formatters.down, "downlink")] {
        if let Some(bytes) = formatter.too_long() {
            let text = format!(
                "the {what} formatter has {bytes} bytes, the target takes {}",
                crate::map::ttn_v2::formatter::MAX_SCRIPT
            );
            findings.push(Finding::new(Kind::FormatterTooLong, text).fix(
                "shorten the payload functions at the source, or allow the loss \"formatter-too-long\"",
            ));
        }
    }
    if let Some(format) = Formatters::unknown_format(application) {
        let text = format!("the payload format `{format}` is not known: no payload formatter is set");
        findings.push(Finding::new(Kind::NotCopied, text));
    }
    findings.into_iter().map(|f| f.allow(&wishes.allowed)).collect()
}

/// What every application of V2 has to be told.
pub fn integrations() -> Finding {
    let text =
        "V2's integrations cannot be read by any API, and the format of the data changes from V2 to V3";
    Finding::new(Kind::NotCopied, text).fix(
        "look them up in the V2 Console (Applications, Integrations), recreate them on the target, and adapt what receives \
         the data",
    )
}

/// The access key may not read the payload functions; `hint` says which right it lacks and where to add it.
pub fn functions_not_read(hint: &str) -> Finding {
    let text = "the payload functions were not read: the access key lacks the right `settings`";
    Finding::new(Kind::NotCopied, text)
        .fix(format!("{hint}; or make the payload formatters on the target by hand"))
}

/// The link of an application of the target with the payload functions as formatters; none when there are none, or one is
/// too long.
pub fn link(application: &DynamicMessage) -> Option<DynamicMessage> {
    let formatters = Formatters::of(application);
    let fits = formatters.up.too_long().is_none() && formatters.down.too_long().is_none();
    (fits && !formatters.is_empty()).then(|| {
        let mut link = proto::message("ApplicationLink");
        path::set(&mut link, "default_formatters", Value::Message(formatters.message()));
        link
    })
}
