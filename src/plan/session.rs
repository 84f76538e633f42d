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

/// Decides on the session and says why.
pub fn decide(found: &Found, facts: &TargetFacts, wishes: &Wishes) -> (Carry, Vec<Finding>) {
    let mut findings = Vec::new();
    let activation = Activation::of(found);
    let ns = found.records.ns.as_ref();
    let session = ns.filter(|ns| path::has(&ns.0, "session"));
    let carry = match (activation, session) {
        (_, None) => lone_session(found),
        (Activation::Otaa, Some(ns)) => match wishes.session {
            SessionMode::Keep => Carry::Keep,
            SessionMode::Drop => Carry::Drop,
            SessionMode::Auto if ns.session_addr().is_some_and(|a| facts.owns(a)) => Carry::Keep,
            SessionMode::Auto => Carry::Drop,
        },
        (_, Some(ns)) if wishes.abp_reset.contains(&ns.device_id()) => Carry::Reset,
        _ => Carry::Keep,
    };
    if let Some(ns) = session {
        findings.extend(session_findings(found, ns, carry, facts));
        if carry == Carry::Drop {
            let addr = ns.session_addr().map(|a| a.to_string()).unwrap_or_default();
            findings.push(Finding::new(
                Kind::SessionDropped,
                format!("the session of DevAddr {addr} stays behind: the device joins the target by itself"),
            ));
        }
    }
    if let Some(ns) = ns {
        findings.extend(pending(ns));
    }
    findings.extend(root_keys(found, activation, facts));
    (carry, findings)
}

/// Without a session at the NS, an AS session alone can still be carried: it makes nothing live.
fn lone_session(found: &Found) -> Carry {
    match &found.records.as_ {
        Some(as_) if found.records.ns.is_none() && path::has(&as_.0, "session") => Carry::Keep,
        _ => Carry::Nothing,
    }
}

fn session_findings(found: &Found, ns: &Record, carry: Carry, facts: &TargetFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !matches!(carry, Carry::Keep | Carry::Reset) {
        return findings;
    }
    for key in ["f_nwk_s_int_key", "s_nwk_s_int_key", "nwk_s_enc_key"] {
        findings.extend(unreadable(ns, Component::Ns, &format!("session.keys.{key}")));
    }
    match found.records.as_.as_ref().filter(|r| path::has(&r.0, "session")) {
        None => findings.push(
            Finding::new(
                Kind::AppSessionMissing,
                "the Network Server holds a session that the Application Server does not",
            )
            .at(Component::As)
            .fix("drop the session of this device (session = \"drop\"), or repair it at the source"),
        ),
        Some(as_) => {
            let app_key = "session.keys.app_s_key";
            match unreadable(as_, Component::As, app_key) {
                Some(finding) => findings.push(finding),
                None if !path::has(&as_.0, "session.keys.app_s_key.key") => findings.push(
                    Finding::new(Kind::AppKeyUnreadable, "the session has no AppSKey that can be read")
                        .at(Component::As)
                        .paths([app_key])
                        .fix(
                            "drop the session of this device, or move it with an API key that may read keys",
                        ),
                ),
                None => {}
            }
            let id = "session.keys.session_key_id";
            if path::bytes(&as_.0, id) != path::bytes(&ns.0, id) || as_.session_addr() != ns.session_addr() {
                findings.push(
                    Finding::new(
                        Kind::SessionMismatch,
                        "Network Server and Application Server hold different sessions",
                    )
                    .paths([id])
                    .fix("wait for the next uplink of the device, or drop its session"),
                );
            }
        }
    }
    if let Some(addr) = ns.session_addr().filter(|a| !facts.owns(*a)) {
        findings.push(outside(addr, facts));
    }
    findings
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

/// A join under way. The accept is sent when it left the queue of the pending MAC state (upstream
/// `pkg/networkserver/downlink.go`); from then on the device may already use the new session.
fn pending(ns: &Record) -> Option<Finding> {
    if !path::has(&ns.0, "pending_session") {
        return None;
    }
    let waits = path::has(&ns.0, "pending_mac_state.queued_join_accept");
    Some(if waits {
        Finding::new(
            Kind::PendingJoin,
            "a join whose accept was never sent is not carried: the device tries again",
        )
        .at(Component::Ns)
    } else {
        Finding::new(Kind::PendingSession, "the device has joined and not sent an uplink yet")
            .at(Component::Ns)
            .fix("run again after its next uplink, or allow the loss \"pending-session\"")
    })
}

/// OTAA needs root keys that can be read and a Join Server on the target that serves the JoinEUI.
fn root_keys(found: &Found, activation: Activation, facts: &TargetFacts) -> Vec<Finding> {
    let js = found.records.js.as_ref();
    let otaa = activation == Activation::Otaa || (activation == Activation::Unknown && js.is_some());
    if !otaa || found.external_js {
        return Vec::new();
    }
    let join_eui = [js, found.records.ns.as_ref(), found.records.is.as_ref()]
        .into_iter()
        .flatten()
        .find_map(Record::join_eui);
    let mut findings = Vec::new();
    if !readable_root_keys(js, found.records.ns.as_ref()) {
        let eui = join_eui.map_or_else(|| "none".to_owned(), |e| e.to_string());
        findings.push(
            Finding::new(Kind::RootKeys, format!("no root keys can be read (JoinEUI {eui}): external or claimed Join Server, or secure element"))
                .at(Component::Js)
                .fix("unclaim the device at the source and claim it on the target, or enter its keys at the source"),
        );
    }
    if let (Some(_), Some(eui)) = (js, join_eui) {
        findings.extend(not_served(eui, facts));
    }
    findings
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
    let v1_1 = ns.is_some_and(|ns| is_1_1(ns));
    path::has(&js.0, "root_keys.app_key.key") && (!v1_1 || path::has(&js.0, "root_keys.nwk_key.key"))
}

/// `MAC_V1_1` of the enum `MACVersion`.
pub fn is_1_1(ns: &Record) -> bool {
    path::number(&ns.0, "lorawan_version") == 4
}
