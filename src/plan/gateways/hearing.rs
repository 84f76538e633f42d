//! The radio path: which gateways hear the devices of a run, from the uplinks that their Network Server records keep
//! (`mac_state.recent_uplinks`, the last twenty). What was not heard lately is not known.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DynamicMessage, Value};

use crate::{
    map::path as at,
    plan::{
        DevicePlan, Verdict,
        finding::{Finding, Kind, Severity},
        session::{Activation, Carry},
    },
};

/// Names in one finding.
const NAMES: usize = 4;

/// Who heard a device lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Gateways of the source, by ID.
    pub gateways: BTreeSet<String>,
    /// By Packet Broker, from another network.
    pub broker: bool,
}

impl Heard {
    /// From a Network Server record.
    pub fn of(ns: &DynamicMessage) -> Self {
        let mut heard = Self::default();
        for uplink in messages(ns, "mac_state.recent_uplinks") {
            for metadata in messages(&uplink, "rx_metadata") {
                // What Packet Broker brings in has a stand-in for a gateway (`packetbroker` in pkg/packetbrokeragent).
                let id = at::string(&metadata, "gateway_ids.gateway_id");
                if at::has(&metadata, "packet_broker") || id == "packetbroker" {
                    heard.broker = true;
                } else if !id.is_empty() {
                    heard.gateways.insert(id);
                }
            }
        }
        heard
    }

    /// True when nothing is known.
    pub fn is_nobody(&self) -> bool {
        self.gateways.is_empty() && !self.broker
    }
}

fn messages(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let list = at::get(message, field);
    let list = list.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    list.iter().filter_map(Value::as_message).cloned().collect()
}

/// Devices of the application that the run leaves alone.
#[derive(Debug, Clone, Default)]
pub struct LeftAlone {
    /// Who heard them, by device ID: of those that were asked for and could be read.
    pub heard: BTreeMap<String, Heard>,
    /// How many there are.
    pub devices: usize,
}

/// What the plan of one application says of it. `moving` are the IDs of gateways at the source.
pub fn findings(devices: &[DevicePlan], moving: &BTreeSet<String>, left: &LeftAlone) -> Vec<Finding> {
    let moves = |h: &Heard| h.gateways.intersection(moving).next().is_some();
    let known: Vec<_> =
        devices.iter().filter(goes).map(|d| (d, &d.heard)).filter(|(_, h)| !h.is_nobody()).collect();
    let mut findings = Vec::new();
    if !known.is_empty() {
        let (on_the_way, others): (Vec<_>, Vec<_>) = known.iter().partition(|(_, h)| moves(h));
        let broker = others.iter().filter(|(_, h)| h.broker).count();
        let text = format!(
            "of {} devices that were heard lately, {} are heard by gateways that move, {} by Packet Broker and none of these, {} by others alone",
            known.len(),
            on_the_way.len(),
            broker,
            others.len() - broker
        );
        findings.push(note(text));
    }
    let deaf: Vec<_> = known.iter().filter(|(d, h)| keeps(d) && !moves(h)).collect();
    let outside: Vec<_> = deaf.iter().filter(|(d, _)| is_outside(d)).collect();
    // Those that no roaming brings in come first.
    let mut worst: Vec<_> =
        deaf.iter().map(|(d, h)| (!is_outside(d), d.activation == Activation::Otaa, d, h)).collect();
    worst.sort_by_key(|(inside, otaa, d, _)| (*inside, *otaa, d.id.clone()));
    if !deaf.is_empty() {
        let names = worst.iter().map(|(_, _, d, h)| {
            let by = h.gateways.iter().take(2).map(String::as_str);
            let by: Vec<_> = by.chain(h.broker.then_some("Packet Broker")).collect();
            format!("{} ({})", d.id, by.join(", "))
        });
        let text = format!(
            "{} keep their session and are heard by no gateway that moves, of which {} have a DevAddr outside the target's blocks: {}",
            deaf.len(),
            outside.len(),
            some(names.collect())
        );
        let fix = "add the gateways around them to [gateways], or connect others there to the target before they move";
        findings.push(Finding::new(Kind::RadioPath, text).fix(fix));
    }
    findings.extend(served(devices, left, moves));
    findings
}

/// Devices that stay at the source, and are heard there by gateways that move.
fn served(devices: &[DevicePlan], left: &LeftAlone, moves: impl Fn(&Heard) -> bool) -> Vec<Finding> {
    let fix = "leave a gateway near them at the source";
    let mut findings = Vec::new();
    let stays = devices.iter().filter(|d| matches!(d.verdict, Verdict::Stop | Verdict::Wait));
    let stay: Vec<_> = stays.filter(|d| moves(&d.heard)).map(|d| d.id.to_string()).collect();
    if !stay.is_empty() {
        let text =
            format!("{} that do not move are heard by gateways that do: {}", stay.len(), some(stay.clone()));
        findings.push(Finding::new(Kind::RadioPath, text).fix(fix));
    }
    let alone: Vec<_> = left.heard.iter().filter(|(_, h)| moves(h)).map(|(id, _)| id.clone()).collect();
    if !alone.is_empty() {
        let asked = left.heard.len();
        let of =
            if asked < left.devices { format!("of {asked} that were looked at ") } else { String::new() };
        let text = format!(
            "of {} devices of the application that this run leaves alone, {of}{} are heard by gateways that move: {}",
            left.devices,
            alone.len(),
            some(alone.clone())
        );
        findings.push(Finding::new(Kind::RadioPath, text).fix(fix));
    }
    findings
}

/// What the plan of an application of V2 says, which does not tell who hears a device. `moving`: how many gateways go.
pub fn of_ttn_v2(devices: &[DevicePlan], moving: usize) -> Option<Finding> {
    let kept: Vec<_> = devices.iter().filter(goes).filter(|d| keeps(d)).collect();
    let outside = kept.iter().filter(|d| is_outside(d)).count();
    if kept.is_empty() {
        return None;
    }
    let text = format!(
        "{} devices keep their session, {outside} of them with a DevAddr outside the target's blocks, and V2 does not tell \
         which gateways hear them; gateways that go along (gateways.list): {moving}",
        kept.len()
    );
    if moving > 0 {
        return Some(note(text));
    }
    let fix = "name the gateways around them in gateways.list, or connect others there to the target before they move";
    Some(Finding::new(Kind::RadioPath, text).fix(fix))
}

fn goes(device: &&DevicePlan) -> bool {
    matches!(device.verdict, Verdict::Move | Verdict::Resume(_))
}

/// True for a device that goes on as it is, and so with the address that it has.
pub fn keeps(device: &DevicePlan) -> bool {
    matches!(device.carry, Carry::Keep | Carry::Reset)
}

/// The plan has warned of the address.
fn is_outside(device: &DevicePlan) -> bool {
    device.findings.iter().any(|f| f.kind == Kind::OutsidePrefixes)
}

fn note(text: String) -> Finding {
    Finding { severity: Severity::Note, ..Finding::new(Kind::RadioPath, text) }
}

fn some(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMES);
    let shown = names.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}
