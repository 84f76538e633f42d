//! What becomes of a device's session, its root keys and a join that is under way.

use serde::{Deserialize, Serialize};

use super::{
    facts::{SessionMode, TargetFacts, Wishes},
    finding::{Finding, Kind},
    transform::Found,
};
use crate::{
    map::path,
    model::{
        device::{Component, Record},
        ids::{DevAddr, Eui64},
    },
};

/// How a device is activated, as its NS record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// Over the air: `supports_join`.
    Otaa,
    /// By personalization.
    Abp,
    /// A multicast group.
    Multicast,
    /// No NS record says so; OTAA if there is a JS record.
    Unknown,
}

impl Activation {
    /// Reads it from the records.
    pub fn of(found: &Found) -> Self {
        match &found.records.ns {
            Some(ns) if path::flag(&ns.0, "multicast") => Self::Multicast,
            Some(ns) if path::flag(&ns.0, "supports_join") => Self::Otaa,
            Some(_) => Self::Abp,
            None => Self::Unknown,
        }
    }

    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Otaa => "OTAA",
            Self::Abp => "ABP",
            Self::Multicast => "multicast",
            Self::Unknown => "-",
        }
    }
}

/// What is done with the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carry {
    /// There is none.
    Nothing,
    /// It goes along with MAC state and counters.
    Keep,
    /// It goes along with counters at zero, and the target accepts a reset (`abp-reset`).
    Reset,
    /// It stays behind; the device joins again.
    Drop,
}

/// The path that ties the sessions of NS, AS and JS together.
pub(super) const KEY_ID: &str = "session.keys.session_key_id";

/// Decides on the session and says why.
pub fn decide(found: &Found, facts: &TargetFacts, wishes: &Wishes) -> (Carry, Vec<Finding>) {
    let mut findings = Vec::new();
    let activation = Activation::of(found);
    let ns = found.records.ns.as_ref();
    let session = ns.filter(|ns| path::has(&ns.0, "session"));
    let carry = match (activation, session) {
        (_, None) => {
            let (carry, stays) = lone_session(found, activation, facts, wishes);
            findings.extend(stays);
            carry
        }
        (Activation::Otaa, Some(ns)) => joined(ns, facts, wishes),
        (_, Some(ns)) if wishes.abp_reset.contains(&ns.device_id()) => Carry::Reset,
        _ => Carry::Keep,
    };
    if let (Some(ns), true) = (session, matches!(carry, Carry::Keep | Carry::Reset)) {
        findings.extend(network_session(ns, facts));
        findings.extend(application_session(found, ns, activation));
    }
    if let Some(ns) = session {
        match carry {
            Carry::Drop if found.v2.is_some() && wishes.session == SessionMode::Auto => {
                findings.push(must_rejoin(ns, facts));
            }
            Carry::Drop => findings.push(dropped(ns)),
            Carry::Reset => findings.push(reset()),
            Carry::Keep | Carry::Nothing => {}
        }
    }
    findings.extend(ns.and_then(pending));
    findings.extend(root_keys(found, activation, carry, facts));
    (carry, findings)
}

/// What the wishes say of the session of a device that can join again.
fn joined(record: &Record, facts: &TargetFacts, wishes: &Wishes) -> Carry {
    match wishes.session {
        SessionMode::Keep => Carry::Keep,
        SessionMode::Drop => Carry::Drop,
        SessionMode::Auto if record.session_addr().is_some_and(|a| facts.owns(a)) => Carry::Keep,
        SessionMode::Auto => Carry::Drop,
    }
}

/// A session at the AS alone. Without NS record it goes along as it makes nothing live, unless the device joins and the
/// wishes say that such sessions stay. Where the NS has a record without session, it is what an earlier join left.
fn lone_session(
    found: &Found,
    activation: Activation,
    facts: &TargetFacts,
    wishes: &Wishes,
) -> (Carry, Option<Finding>) {
    let Some(as_) = found.records.as_.as_ref().filter(|r| path::has(&r.0, "session")) else {
        return (Carry::Nothing, None);
    };
    let joins = activation == Activation::Otaa || found.records.js.is_some();
    let keeps = found.records.ns.is_none() && (!joins || joined(as_, facts, wishes) == Carry::Keep);
    if keeps {
        return (Carry::Keep, app_key(as_));
    }
    let text = "the Application Server's session, which the Network Server does not have, stays behind";
    (Carry::Nothing, Some(Finding::new(Kind::SessionDropped, text).at(Component::As).paths(["session"])))
}

fn dropped(ns: &Record) -> Finding {
    let addr = ns.session_addr().map(|a| a.to_string()).unwrap_or_default();
    let text = format!("the session of DevAddr {addr} stays behind: the device joins the target by itself");
    Finding::new(Kind::SessionDropped, text).at(Component::Ns).paths(["session", "mac_state"])
}

/// V2's own network, or a private one, gave the address: the session cannot go along as the wishes have it.
fn must_rejoin(ns: &Record, facts: &TargetFacts) -> Finding {
    let addr = ns.session_addr().map(|a| a.to_string()).unwrap_or_default();
    let text = format!("must rejoin: DevAddr {addr} is not in the target's {}", facts.prefixes());
    Finding::new(Kind::MustRejoin, text)
        .at(Component::Ns)
        .paths(["session", "mac_state"])
        .fix("make the device join again, or keep its session (session = \"keep\") where its gateways are connected to the target")
}

fn reset() -> Finding {
    Finding::new(Kind::CountersReset, "counters start at zero and the MAC state anew, as abp-reset asks")
        .at(Component::Ns)
        .paths(["session", "mac_state", "mac_settings.resets_f_cnt"])
        .fix("reset the device by hand once it is on the target")
}

/// The network session keys must be readable: all three for LoRaWAN 1.1, else FNwkSIntKey, which stands for all.
fn network_session(ns: &Record, facts: &TargetFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for key in ["f_nwk_s_int_key", "s_nwk_s_int_key", "nwk_s_enc_key"] {
        let at = format!("session.keys.{key}");
        let needed = key == "f_nwk_s_int_key" || is_1_1(ns);
        findings.extend(unreadable(ns, Component::Ns, &at).or_else(|| {
            let missing = needed && !path::has(&ns.0, &format!("{at}.key"));
            missing.then(|| no_key(Component::Ns, &at))
        }));
    }
    if let Some(addr) = ns.session_addr().filter(|a| !facts.owns(*a)) {
        findings.push(outside(addr, facts));
    }
    findings
}

fn application_session(found: &Found, ns: &Record, activation: Activation) -> Vec<Finding> {
    let Some(as_) = found.records.as_.as_ref().filter(|r| path::has(&r.0, "session")) else {
        let text = "the Network Server holds a session that the Application Server does not";
        return vec![
            Finding::new(Kind::AppSessionMissing, text)
                .at(Component::As)
                .paths(["session"])
                .fix(without_session(activation)),
        ];
    };
    let mut findings: Vec<_> = app_key(as_).into_iter().collect();
    let key_ids = path::bytes(&as_.0, KEY_ID) != path::bytes(&ns.0, KEY_ID);
    if key_ids || as_.session_addr() != ns.session_addr() {
        let text = "Network Server and Application Server hold different sessions";
        findings.push(
            Finding::new(Kind::SessionMismatch, text)
                .paths([if key_ids { KEY_ID } else { "session.dev_addr" }])
                .fix(without_session(activation)),
        );
    }
    findings
}

/// What to do about a session that cannot go along: only a device that joins can do without.
fn without_session(activation: Activation) -> &'static str {
    match activation {
        Activation::Otaa => "wait for its next join and uplink, or drop its session (session = \"drop\")",
        _ => "repair it at the source: this device cannot join",
    }
}

fn app_key(as_: &Record) -> Option<Finding> {
    let at = "session.keys.app_s_key";
    unreadable(as_, Component::As, at)
        .or_else(|| (!path::has(&as_.0, &format!("{at}.key"))).then(|| no_key(Component::As, at)))
}

fn no_key(component: Component, at: &str) -> Finding {
    Finding::new(Kind::AppKeyUnreadable, "the session lacks a key that can be read")
        .at(component)
        .paths([at])
        .fix("move the device with an API key that may read keys, or drop its session if it can join again")
}

fn outside(addr: DevAddr, facts: &TargetFacts) -> Finding {
    Finding::new(
        Kind::OutsidePrefixes,
        format!(
            "DevAddr {addr} is not in the target's {}: reachable only through gateways connected to the target",
            facts.prefixes()
        ),
    )
    .at(Component::Ns)
    .fix("connect the gateways around this device to the target before it is moved")
}

/// A key that is there only wrapped (`encrypted_key` with a `kek_label`) cannot be carried.
fn unreadable(record: &Record, component: Component, key: &str) -> Option<Finding> {
    let wrapped = path::has(&record.0, &format!("{key}.encrypted_key"));
    (wrapped && !path::has(&record.0, &format!("{key}.key"))).then(|| {
        let label = path::string(&record.0, &format!("{key}.kek_label"));
        Finding::new(
            Kind::AppKeyUnreadable,
            format!("the key is wrapped with KEK `{label}`, which the API does not give"),
        )
        .at(component)
        .paths([key])
        .fix("ask the operator of the source for the unwrapped key, or drop the session of this device")
    })
}

/// A join under way. The accept is sent when it left the queue of the pending MAC state, and only then is there a pending
/// session (upstream `pkg/networkserver/downlink.go`); from then on the device may already use the new session.
fn pending(ns: &Record) -> Option<Finding> {
    let paths: Vec<_> =
        ["pending_session", "pending_mac_state"].into_iter().filter(|p| path::has(&ns.0, p)).collect();
    let waits = path::has(&ns.0, "pending_mac_state.queued_join_accept");
    if paths.is_empty() {
        return None;
    }
    let finding = if waits || !paths.contains(&"pending_session") {
        Finding::new(
            Kind::PendingJoin,
            "a join whose accept was never sent is not carried: the device tries again",
        )
    } else {
        Finding::new(Kind::PendingSession, "the device has joined and not sent an uplink yet")
            .fix("run again after its next uplink, or allow the loss \"pending-session\"")
    };
    Some(finding.at(Component::Ns).paths(paths))
}

/// OTAA needs root keys that can be read and a Join Server on the target that serves the JoinEUI.
fn root_keys(found: &Found, activation: Activation, carry: Carry, facts: &TargetFacts) -> Vec<Finding> {
    let records = &found.records;
    let join_eui = [&records.js, &records.ns, &records.is].into_iter().flatten().find_map(Record::join_eui);
    let mut findings = Vec::new();
    if lacks_root_keys(found) {
        let goes_on = carry == Carry::Keep && records.ns.is_some();
        findings.push(no_root_keys(join_eui, goes_on));
    }
    let joins = matches!(activation, Activation::Otaa | Activation::Unknown);
    if let (Some(_), Some(eui), true, false) = (&records.js, join_eui, joins, found.external_js) {
        findings.extend(not_served(eui, facts));
    }
    findings
}

/// Without a session the copy would never be heard again, which nobody can want: only with one can it be allowed.
fn no_root_keys(join_eui: Option<Eui64>, goes_on: bool) -> Finding {
    let kind = if goes_on { Kind::RootKeys } else { Kind::Unjoinable };
    let eui = join_eui.map_or_else(|| "none".to_owned(), |e| e.to_string());
    let text = format!(
        "no root keys can be read (JoinEUI {eui}): external or claimed Join Server, or secure element; no Join \
         Server record is written"
    );
    Finding::new(kind, text)
        .at(Component::Js)
        .paths(["root_keys"])
        .fix("unclaim the device at the source and claim it on the target, or enter its keys at the source")
}

/// True for a device that joins, by what its records say, and whose root keys are in no record that was read.
pub fn lacks_root_keys(found: &Found) -> bool {
    let (js, ns) = (found.records.js.as_ref(), found.records.ns.as_ref());
    match (Activation::of(found), js) {
        (Activation::Abp | Activation::Multicast, _) | (Activation::Unknown, None) => false,
        // An external Join Server may keep its keys to itself: it goes on serving the device.
        (_, Some(_)) if found.external_js => false,
        _ => !readable_root_keys(js, ns),
    }
}

fn not_served(eui: Eui64, facts: &TargetFacts) -> Option<Finding> {
    (!facts.serves(eui)).then(|| {
        Finding::new(Kind::JoinEuiNotServed, format!("the target's Join Server does not serve JoinEUI {eui}"))
            .at(Component::Js)
            .fix("ask the operator of the target to add the JoinEUI prefix to its Join Server")
    })
}

/// LoRaWAN 1.1 derives from NwkKey and AppKey, 1.0.x from AppKey alone.
fn readable_root_keys(js: Option<&Record>, ns: Option<&Record>) -> bool {
    let Some(js) = js else { return false };
    let v1_1 = ns.is_some_and(is_1_1);
    path::has(&js.0, "root_keys.app_key.key") && (!v1_1 || path::has(&js.0, "root_keys.nwk_key.key"))
}

/// `MAC_V1_1` of the enum `MACVersion`.
pub fn is_1_1(ns: &Record) -> bool {
    path::number(&ns.0, "lorawan_version") == 4
}
