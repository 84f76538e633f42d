//! Downlinks: upstream `pkg/networkserver/downlink.go` (`generateDataDownlink`, `recordDataDownlink`), the queue rules
//! of `grpc_asns.go`, and how the AS counts (`pkg/applicationserver/payload.go`, `encryptDownlinks`).
//!
//! The AS draws the counter: `last_a_f_cnt_down + 1`, when the downlink is *queued*. In 1.0.x it shares the counter
//! with the network's own downlinks, so the Network Server refuses one that is not above `last_n_f_cnt_down`, tells
//! the AS the counter to go on from, and each network downlink sends the whole queue back to be counted anew.

use jiff::{Timestamp, ToSpan as _};
use lrwn::FCtrl;
use prost_reflect::{DynamicMessage, Value};

use super::{
    Dropped,
    fields::{
        JOIN_ACCEPT, counter, key, last, length, list, may_send, push_downlink, put, record, set_bytes,
        set_counter, set_list, stamp, time, version,
    },
};
use crate::{
    map::path,
    model::{device::Component, ids::DevAddr},
    proto,
    rehearsal::{
        lorawan::{DataFrame, MacVersion, REKEY},
        store::{Store, Table, device_key},
    },
};

/// An application downlink.
#[derive(Clone, Copy)]
pub struct Downlink<'a> {
    /// FPort, 1 to 223.
    pub f_port: u8,
    /// The payload in the clear.
    pub payload: &'a [u8],
    /// Wants an acknowledgement.
    pub confirmed: bool,
}

impl std::fmt::Debug for Downlink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Downlink(f_port={} confirmed={})", self.f_port, self.confirmed)
    }
}

/// Pushes a downlink to the queue of a device, as an application does, and sends what can be sent now: in the receive
/// windows of the last uplink, or at any time to class B and C and to a multicast group.
///
/// `None` when nothing was sent: it waits in the Network Server's queue, also while the device is muted.
///
/// # Errors
/// When the device has no session that the AS and the Network Server share.
pub fn downlink(
    store: &mut Store,
    now: Timestamp,
    application_id: &str,
    device_id: &str,
    down: Downlink<'_>,
) -> Result<Option<Vec<u8>>, Dropped> {
    let device = device_key(application_id, device_id);
    let rule = Dropped::Rule;
    if down.f_port == 0 {
        return Err(rule("a downlink needs an FPort"));
    }
    let mut ns = record(store, Component::Ns, &device).ok_or(rule("no Network Server record"))?;
    let mut as_ = record(store, Component::As, &device).ok_or(rule("no Application Server record"))?;
    let mut queued = false;
    for (session, state) in [("session", "mac_state"), ("pending_session", "pending_mac_state")] {
        let shared = path::has(&ns, session)
            && path::has(&as_, session)
            && session_key_id(&ns, session) == session_key_id(&as_, session);
        if shared {
            push(&mut ns, &mut as_, session, state, down)?;
            queued = true;
        }
    }
    if !queued {
        return Err(rule("the Application Server and the Network Server share no session"));
    }
    put(store, Component::As, &device, as_, now)?;
    put(store, Component::Ns, &device, ns.clone(), now)?;
    let at_once = window_is_open(&ns, now) || path::number(&ns, "mac_state.device_class") > 0;
    if at_once { send(store, now, &device) } else { Ok(None) }
}

/// What the network sends in the receive windows of an uplink that it has just stored.
pub fn after_uplink(store: &mut Store, now: Timestamp, device: &str) -> Result<Vec<Vec<u8>>, Dropped> {
    Ok(send(store, now, device)?.into_iter().collect())
}

fn session_key_id(record: &DynamicMessage, session: &str) -> Vec<u8> {
    path::bytes(record, &format!("{session}.keys.session_key_id"))
}

fn push(
    ns: &mut DynamicMessage,
    as_: &mut DynamicMessage,
    session: &str,
    state: &str,
    down: Downlink<'_>,
) -> Result<(), Dropped> {
    let at = |name: &str| format!("{session}.{name}");
    let last = counter(as_, &at("last_a_f_cnt_down"));
    let minimum = minimum_f_cnt(ns, session, state);
    let f_cnt = if last.saturating_add(1) < minimum { minimum } else { last.saturating_add(1) };
    let mut item = proto::message("ApplicationDownlink");
    set_bytes(&mut item, "session_key_id", &session_key_id(as_, session));
    set_counter(&mut item, "f_port", down.f_port.into());
    set_counter(&mut item, "f_cnt", f_cnt);
    set_bytes(&mut item, "frm_payload", &crypt(as_, session, f_cnt, down.payload)?);
    path::set(&mut item, "confirmed", Value::Bool(down.confirmed));
    if path::flag(ns, "multicast") {
        let mut gateway = proto::message("ClassBCGatewayIdentifiers");
        path::set(&mut gateway, "gateway_ids.gateway_id", Value::String("simulated-gateway".into()));
        set_list(&mut item, "class_b_c.gateways", vec![gateway]);
    }
    let mut queue = list(ns, &at("queued_application_downlinks"));
    queue.push(item);
    set_list(ns, &at("queued_application_downlinks"), queue);
    set_counter(as_, &at("last_a_f_cnt_down"), f_cnt);
    Ok(())
}

/// Encrypts or decrypts a downlink payload as the AS does: with the address of *its* session.
fn crypt(as_: &DynamicMessage, session: &str, f_cnt: u32, payload: &[u8]) -> Result<Vec<u8>, Dropped> {
    let app_s = key(as_, &format!("{session}.keys.app_s_key"))
        .ok_or(Dropped::Rule("the Application Server has no AppSKey"))?;
    let addr = path::bytes(as_, &format!("{session}.dev_addr"));
    let mut frame = empty(DevAddr::from_bytes(&addr).unwrap_or(DevAddr([0; 4])), f_cnt);
    frame.payload = payload.to_vec();
    frame.crypt_payload(&app_s)?;
    Ok(frame.payload)
}

fn empty(dev_addr: DevAddr, f_cnt: u32) -> DataFrame {
    DataFrame {
        uplink: false,
        confirmed: false,
        f_ctrl: FCtrl::default(),
        dev_addr,
        f_cnt,
        f_opts: Vec::new(),
        f_port: None,
        payload: Vec::new(),
    }
}

/// The lowest counter that the Network Server takes for an application downlink (`minAFCntDown`).
fn minimum_f_cnt(ns: &DynamicMessage, session: &str, state: &str) -> u32 {
    let recent = list(ns, &format!("{state}.recent_downlinks"));
    let separate = version(ns, &format!("{state}.lorawan_version")).is_some_and(MacVersion::is_1_1);
    let last_n = counter(ns, &format!("{session}.last_n_f_cnt_down"));
    let mut minimum = if separate {
        let since_join = recent.iter().rev().take_while(|d| m_type(d) != JOIN_ACCEPT);
        let mut applications = since_join.filter(|d| counter(d, "payload.mac_payload.f_port") > 0);
        applications.next().map_or(0, |d| counter(d, "payload.mac_payload.full_f_cnt").saturating_add(1))
    } else if last_n > 0 || !recent.is_empty() {
        last_n.saturating_add(1)
    } else {
        0
    };
    if let Some(queued) = last(ns, &format!("{session}.queued_application_downlinks")) {
        minimum = minimum.max(counter(&queued, "f_cnt").saturating_add(1));
    }
    minimum
}

fn m_type(downlink: &DynamicMessage) -> i32 {
    i32::try_from(path::number(downlink, "payload.m_hdr.m_type")).unwrap_or_default()
}

/// Both receive windows of the last uplink: until one second after RX1 opened.
fn window_is_open(ns: &DynamicMessage, now: Timestamp) -> bool {
    let heard = last(ns, "mac_state.recent_uplinks").and_then(|up| time(&up, "received_at"));
    let delay = i64::try_from(path::number(ns, "mac_state.current_parameters.rx1_delay").max(1)).unwrap_or(1);
    path::flag(ns, "mac_state.rx_windows_available")
        && !path::flag(ns, "multicast")
        && heard.is_some_and(|at| now <= at.saturating_add((delay + 1).seconds()).unwrap_or(at))
}

/// One downlink to a device, when it may be sent to, has a session, and something is to be sent.
fn send(store: &mut Store, now: Timestamp, device: &str) -> Result<Option<Vec<u8>>, Dropped> {
    let nothing_to_send = |ns: &DynamicMessage| {
        let state = path::get(ns, "mac_state");
        let state = state.as_ref().and_then(|state| state.as_message());
        length(ns, "session.queued_application_downlinks") == 0
            && state.is_some_and(|state| {
                let class_a = window_is_open(ns, now);
                acknowledged(state, class_a).is_none() && !(class_a && length(state, "queued_responses") > 0)
            })
    };
    if store.get(Table::Ns, device).is_none_or(nothing_to_send) {
        return Ok(None);
    }
    let Some(mut ns) = record(store, Component::Ns, device) else { return Ok(None) };
    let (Some(mut state), true, true) =
        (path::child(&ns, "mac_state"), may_send(&ns), path::has(&ns, "session"))
    else {
        return Ok(None);
    };
    let class_a = window_is_open(&ns, now);
    let reachable = path::flag(&ns, "multicast") || path::has(&state, "recent_uplinks");
    let version = version(&state, "lorawan_version").ok_or(Dropped::Rule("unknown LoRaWAN version"))?;
    if !class_a && !reachable {
        return Ok(None);
    }
    let queued_before = length(&ns, "session.queued_application_downlinks");
    let picked = pick(store, now, device, &mut ns, version, class_a)?;
    let rekey_conf = class_a && length(&state, "queued_responses") > 0;
    let acknowledged = acknowledged(&state, class_a);
    if picked.is_none() && !rekey_conf && acknowledged.is_none() {
        if queued_before != length(&ns, "session.queued_application_downlinks") {
            put(store, Component::Ns, device, ns, now)?;
        }
        return Ok(None);
    }
    let frame = build(&ns, &state, picked.as_ref(), rekey_conf, acknowledged.is_some());
    let phy = seal(&ns, version, frame.clone(), acknowledged.unwrap_or(0))?;

    if picked.is_none() || (!version.is_1_1() && frame.f_cnt > counter(&ns, "session.last_n_f_cnt_down")) {
        set_counter(&mut ns, "session.last_n_f_cnt_down", frame.f_cnt);
    }
    if let Some(item) = picked.filter(|_| frame.confirmed) {
        set_counter(&mut ns, "session.last_conf_f_cnt_down", frame.f_cnt);
        path::set(&mut state, "pending_application_downlink", Value::Message(item));
        stamp(&mut state, "last_confirmed_downlink_at", now);
    }
    stamp(&mut state, "last_downlink_at", now);
    if !class_a {
        stamp(&mut state, "last_network_initiated_downlink_at", now);
    } else {
        path::clear(&mut state, "queued_responses");
    }
    path::clear(&mut state, "rx_windows_available");
    push_downlink(&mut state, if frame.confirmed { 5 } else { 3 }, frame.f_port.unwrap_or(0), frame.f_cnt);
    path::set(&mut ns, "mac_state", Value::Message(state));
    let invalidated = frame.f_port.is_none() && !version.is_1_1();
    if invalidated {
        recount(store, now, device, &mut ns, frame.f_cnt)?;
    }
    put(store, Component::Ns, device, ns, now)?;
    Ok(Some(phy))
}

/// FCntUp of the last uplink, when it wants an acknowledgement and its windows are open.
fn acknowledged(state: &DynamicMessage, class_a: bool) -> Option<u32> {
    let last = last(state, "recent_uplinks").filter(|_| class_a)?;
    let confirmed = path::number(&last, "payload.m_hdr.m_type") == 4;
    confirmed.then(|| counter(&last, "payload.mac_payload.full_f_cnt"))
}

/// Takes the first downlink that can be sent from the queue. One whose counter is used up by now ends the search: the
/// AS counts the whole queue anew, and it goes out later.
fn pick(
    store: &mut Store,
    now: Timestamp,
    device: &str,
    ns: &mut DynamicMessage,
    version: MacVersion,
    class_a: bool,
) -> Result<Option<DynamicMessage>, Dropped> {
    let last_n = counter(ns, "session.last_n_f_cnt_down");
    let id = session_key_id(ns, "session");
    let mut queue = list(ns, "session.queued_application_downlinks");
    let mut picked = None;
    let mut used_up = false;
    while let Some(item) = queue.first() {
        let of_this_session = path::bytes(item, "session_key_id") == id;
        if of_this_session && !version.is_1_1() && counter(item, "f_cnt") <= last_n {
            used_up = true;
            break;
        }
        if of_this_session && class_a && path::has(item, "class_b_c") {
            break;
        }
        let item = queue.remove(0);
        if of_this_session && !(path::flag(&item, "confirmed") && path::flag(ns, "multicast")) {
            picked = Some(item);
            break;
        }
    }
    set_list(ns, "session.queued_application_downlinks", queue);
    if used_up {
        recount(store, now, device, ns, last_n)?;
        put(store, Component::Ns, device, ns.clone(), now)?;
    }
    Ok(picked)
}

/// The AS counts on from `last_f_cnt_down`, and encrypts what is still queued with the new counters.
fn recount(
    store: &mut Store,
    now: Timestamp,
    device: &str,
    ns: &mut DynamicMessage,
    last_f_cnt_down: u32,
) -> Result<(), Dropped> {
    let Some(mut as_) = record(store, Component::As, device) else { return Ok(()) };
    if session_key_id(&as_, "session") != session_key_id(ns, "session") || !path::has(&as_, "session") {
        return Ok(());
    }
    let mut f_cnt = last_f_cnt_down;
    let mut queue = list(ns, "session.queued_application_downlinks");
    for item in &mut queue {
        let payload = crypt(&as_, "session", counter(item, "f_cnt"), &path::bytes(item, "frm_payload"))?;
        f_cnt = f_cnt.saturating_add(1);
        set_counter(item, "f_cnt", f_cnt);
        set_bytes(item, "frm_payload", &crypt(&as_, "session", f_cnt, &payload)?);
    }
    set_list(ns, "session.queued_application_downlinks", queue);
    set_counter(&mut as_, "session.last_a_f_cnt_down", f_cnt);
    put(store, Component::As, device, as_, now)
}

fn build(
    ns: &DynamicMessage,
    state: &DynamicMessage,
    picked: Option<&DynamicMessage>,
    rekey_conf: bool,
    ack: bool,
) -> DataFrame {
    let addr = DevAddr::from_bytes(&path::bytes(ns, "session.dev_addr")).unwrap_or(DevAddr([0; 4]));
    let mut frame = empty(addr, network_f_cnt(ns, state));
    frame.f_ctrl.ack = ack;
    frame.f_opts = if rekey_conf { REKEY.to_vec() } else { Vec::new() };
    if let Some(item) = picked {
        frame.f_cnt = counter(item, "f_cnt");
        frame.f_port = u8::try_from(path::number(item, "f_port")).ok();
        frame.payload = path::bytes(item, "frm_payload");
        frame.confirmed = path::flag(item, "confirmed");
    }
    frame
}

/// The next counter of the network's own downlinks. A stored 0 means "0 was sent" only when a data downlink is among
/// the recent ones.
fn network_f_cnt(ns: &DynamicMessage, state: &DynamicMessage) -> u32 {
    let last_n = counter(ns, "session.last_n_f_cnt_down");
    match last(state, "recent_downlinks").as_ref().map(m_type) {
        Some(JOIN_ACCEPT) => 0,
        None if last_n == 0 => 0,
        _ => last_n.saturating_add(1),
    }
}

fn seal(
    ns: &DynamicMessage,
    version: MacVersion,
    mut frame: DataFrame,
    conf_f_cnt: u32,
) -> Result<Vec<u8>, Dropped> {
    let stored = |name: &str| key(ns, &format!("session.keys.{name}"));
    let fallback = || stored("f_nwk_s_int_key").filter(|_| !version.is_1_1());
    let missing = Dropped::Rule("the session lacks a network key");
    let (Some(enc), Some(int)) =
        (stored("nwk_s_enc_key").or_else(fallback), stored("s_nwk_s_int_key").or_else(fallback))
    else {
        return Err(missing);
    };
    if version.is_1_1() {
        frame.crypt_f_opts(&enc)?;
    }
    let mic = frame.downlink_mic(version, conf_f_cnt, &int)?;
    Ok(frame.encode(mic)?)
}
