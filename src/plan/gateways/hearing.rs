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

/// What the plan of one application says of it. `heard` is by device ID at the source, `moving` the IDs of gateways there.
pub fn findings(
    devices: &[DevicePlan],
    heard: &BTreeMap<String, Heard>,
    moving: &BTreeSet<String>,
) -> Vec<Finding> {
    let goes = |d: &&DevicePlan| matches!(d.verdict, Verdict::Move | Verdict::Resume(_));
    let of = |d: &DevicePlan| heard.get(d.id.as_str()).cloned().unwrap_or_default();
    let moves = |h: &Heard| h.gateways.intersection(moving).next().is_some();
    let known: Vec<_> =
        devices.iter().filter(goes).map(|d| (d, of(d))).filter(|(_, h)| !h.is_nobody()).collect();
    let mut findings = Vec::new();
    if !known.is_empty() {
        let (on_the_way, left): (Vec<_>, Vec<_>) = known.iter().partition(|(_, h)| moves(h));
        let broker = left.iter().filter(|(_, h)| h.broker).count();
        let text = format!(
            "of {} devices that were heard lately, {} are heard by gateways that move, {} by Packet Broker and none of these, {} by others alone",
            known.len(),
            on_the_way.len(),
            broker,
            left.len() - broker
        );
        findings.push(note(text));
    }
    let keeps = |d: &DevicePlan| d.carry == Carry::Keep;
    let deaf: Vec<_> = known.iter().filter(|(d, h)| keeps(d) && !moves(h)).collect();
    let outside: Vec<_> = deaf.iter().filter(|(d, _)| is_outside(d)).collect();
    // Those that no roaming brings in come first.
    let mut worst: Vec<_> =
        deaf.iter().map(|(d, h)| (!is_outside(d), d.activation == Activation::Otaa, d, h)).collect();
    worst.sort_by_key(|(inside, otaa, d, _)| (*inside, *otaa, d.id.clone()));
    if !deaf.is_empty() {
        let names = worst.iter().map(|(_, _, d, h)| {
            let by: Vec<_> = h.gateways.iter().take(2).map(String::as_str).collect();
            let by = if by.is_empty() { "Packet Broker".to_owned() } else { by.join(", ") };
            format!("{} ({by})", d.id)
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
    let stays = devices.iter().filter(|d| matches!(d.verdict, Verdict::Stop | Verdict::Wait));
    let served: Vec<_> = stays.filter(|d| moves(&of(d))).map(|d| d.id.to_string()).collect();
    if !served.is_empty() {
        let text = format!(
            "{} that do not move are heard by gateways that do: {}",
            served.len(),
            some(served.clone())
        );
        let fix = "leave a gateway near them at the source";
        findings.push(Finding::new(Kind::RadioPath, text).fix(fix));
    }
    findings
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
