//! A data uplink: upstream `pkg/networkserver/grpc_gsns.go` (`handleDataUplink`, `matchAndHandleDataUplink`) and
//! `pkg/applicationserver/applicationserver.go` (`handleUplink`, `matchSession`).

use jiff::Timestamp;
use prost_reflect::{DynamicMessage, Value};

use super::{
    Dropped, Heard, Uplink, downlink,
    fields::{
        counter, data_message, fresh_mac_state, key, length, push_uplink, put, record, seen, set_bytes,
        set_counter, set_key, set_list, stamp, stored, take, version,
    },
    join,
};
use crate::{
    map::path,
    model::{device::Component, ids::DevAddr},
    proto,
    rehearsal::{
        lorawan::{DataFrame, Key, MacVersion, REKEY},
        store::{Store, Table},
    },
};

/// Before 1.0.4 a counter may jump by this much at most (`MAX_FCNT_GAP` of the regional parameters).
const MAX_F_CNT_GAP: u32 = 16_384;
/// `CID_REKEY` of the API.
const CID_REKEY: i32 = 11;

/// How a frame fits a device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// The session in use goes on.
    Current,
    /// The session in use, of a device that lost its counters (`mac_settings.resets_f_cnt`).
    Reset,
    /// The first uplink after a join.
    Pending,
}

pub fn handle(store: &mut Store, now: Timestamp, frame: DataFrame, mic: [u8; 4]) -> Result<Heard, Dropped> {
    let (ns_key, fit, frame) = find(store, &frame, mic)?;
    let mut ns = record(store, Component::Ns, &ns_key).ok_or(Dropped::Rule("no Network Server record"))?;
    note(&mut ns, fit, &frame, mic, now)?;
    put(store, Component::Ns, &ns_key, ns, now)?;
    let ns = stored(store, Component::Ns, &ns_key).ok_or(Dropped::Rule("no Network Server record"))?;
    let payload = deliver(store, &ns_key, &ns, frame.clone(), now)?;
    let downlinks = downlink::after_uplink(store, now, &ns_key)?;
    let (application_id, device_id) = ns_key.split_once('.').unwrap_or((&ns_key, ""));
    Ok(Heard {
        application_id: application_id.to_owned(),
        device_id: device_id.to_owned(),
        uplink: Uplink::Data { f_cnt: frame.f_cnt, payload },
        downlinks,
    })
}

/// The device whose session has this address and made this MIC, with the whole counter in the frame.
fn find(store: &Store, frame: &DataFrame, mic: [u8; 4]) -> Result<(String, Fit, DataFrame), Dropped> {
    let mut why = "no session has this DevAddr";
    for session in ["session", "pending_session"] {
        for (ns_key, ns) in store.iter(Table::Ns) {
            if path::bytes(ns, &format!("{session}.dev_addr")) != frame.dev_addr.0 {
                continue;
            }
            let fit = if session == "session" { current(ns, frame, mic) } else { pending(ns, frame, mic) };
            match fit {
                Ok((fit, frame)) => return Ok((ns_key.to_owned(), fit, frame)),
                Err(reason) => why = reason,
            }
        }
    }
    Err(Dropped::Rule(why))
}

fn current(ns: &DynamicMessage, frame: &DataFrame, mic: [u8; 4]) -> Result<(Fit, DataFrame), &'static str> {
    let version = version(ns, "mac_state.lorawan_version").ok_or("the session has no MAC state")?;
    let wrapped = |name: &str| path::wrapped_flag(ns, &format!("mac_settings.{name}"));
    let last = counter(ns, "session.last_f_cnt_up");
    let resets = wrapped("resets_f_cnt").unwrap_or(false);
    let mut frame = frame.clone();
    let sent = frame.f_cnt;
    frame.f_cnt = whole_counter(sent, last, wrapped("supports_32_bit_f_cnt").unwrap_or(true));
    if !has_mic(ns, "session", version, &frame, mic) {
        frame.f_cnt = sent;
        if !resets || frame.f_ctrl.ack || !has_mic(ns, "session", version, &frame, mic) {
            return Err("wrong MIC");
        }
    }
    if frame.f_cnt < last {
        return if resets && !frame.f_ctrl.ack {
            Ok((Fit::Reset, frame))
        } else {
            Err("FCntUp was seen before")
        };
    }
    // The first uplink of a session has FCntUp 0, and 0 is also what is stored before it.
    let heard = length(ns, "mac_state.recent_uplinks");
    let first = last == 0 && heard == usize::from(path::flag(ns, "supports_join"));
    if frame.f_cnt == last && !first {
        return Err("FCntUp was seen before");
    }
    if version < MacVersion::V1_0_4 && frame.f_cnt - last > MAX_F_CNT_GAP {
        return Err("FCntUp is too far ahead");
    }
    Ok((Fit::Current, frame))
}

fn pending(ns: &DynamicMessage, frame: &DataFrame, mic: [u8; 4]) -> Result<(Fit, DataFrame), &'static str> {
    if frame.f_ctrl.ack || !path::has(ns, "pending_mac_state.pending_join_request") {
        return Err("the pending session waits for its join-accept");
    }
    let version = version(ns, "pending_mac_state.lorawan_version").ok_or("unknown LoRaWAN version")?;
    if !has_mic(ns, "pending_session", version, frame, mic) {
        return Err("wrong MIC");
    }
    if version.is_1_1() && !rekeys(ns, frame) {
        return Err("a 1.1 device sent no RekeyInd after its join");
    }
    Ok((Fit::Pending, frame.clone()))
}

/// The 32-bit counter nearest above `last` with these lower 16 bits (upstream
/// `pkg/networkserver/internal/utils.go`, `FullFCnt`).
fn whole_counter(sent: u32, last: u32, wide: bool) -> u32 {
    let round = last & 0xffff_0000;
    match round.checked_add(0x1_0000) {
        _ if !wide => sent,
        _ if sent >= last & 0xffff => round | sent,
        Some(next) => next | sent,
        None => sent,
    }
}

fn has_mic(ns: &DynamicMessage, session: &str, version: MacVersion, frame: &DataFrame, mic: [u8; 4]) -> bool {
    let stored = |name: &str| key(ns, &format!("{session}.keys.{name}"));
    let Some(f_nwk_s_int) = stored("f_nwk_s_int_key") else { return false };
    let s_nwk_s_int = match stored("s_nwk_s_int_key") {
        Some(key) => key,
        None if version.is_1_1() => return false,
        None => f_nwk_s_int.clone(),
    };
    let conf_f_cnt = counter(ns, &format!("{session}.last_conf_f_cnt_down"));
    frame.uplink_mic(version, conf_f_cnt, &f_nwk_s_int, &s_nwk_s_int) == Ok(mic)
}

fn rekeys(ns: &DynamicMessage, frame: &DataFrame) -> bool {
    let Some(nwk_s_enc) = key(ns, "pending_session.keys.nwk_s_enc_key") else { return false };
    let mut frame = frame.clone();
    frame.crypt_f_opts(&nwk_s_enc).is_ok() && frame.f_opts == REKEY
}

/// What the Network Server stores of the frame.
fn note(
    ns: &mut DynamicMessage,
    fit: Fit,
    frame: &DataFrame,
    mic: [u8; 4],
    now: Timestamp,
) -> Result<(), Dropped> {
    let mut state = match fit {
        Fit::Current => take(ns, "mac_state"),
        Fit::Reset => Some(fresh_mac_state(ns)),
        Fit::Pending => take(ns, "pending_mac_state"),
    }
    .ok_or(Dropped::Rule("no MAC state"))?;
    if fit == Fit::Pending {
        activate(ns, &mut state);
    }
    if fit != Fit::Current {
        stamp(ns, "session.started_at", now);
    }
    answer_rekey(ns, &mut state, frame)?;
    for name in ["pending_mac_state", "pending_session"] {
        path::clear(ns, name);
    }
    for name in ["pending_join_request", "pending_application_downlink", "pending_requests"] {
        path::clear(&mut state, name);
    }
    path::set(&mut state, "rx_windows_available", Value::Bool(true));
    push_uplink(&mut state, data_message(frame, mic), now);
    set_counter(ns, "session.last_f_cnt_up", frame.f_cnt);
    path::set(ns, "mac_state", Value::Message(state));
    Ok(())
}

fn activate(ns: &mut DynamicMessage, state: &mut DynamicMessage) {
    if let Some(session) = path::child(ns, "pending_session") {
        set_bytes(ns, "ids.dev_addr", &path::bytes(&session, "dev_addr"));
        path::set(ns, "session", Value::Message(session));
    }
    if let Some(delay) = path::get(state, "pending_join_request.rx_delay").map(|v| v.into_owned()) {
        path::set(state, "current_parameters.rx1_delay", delay);
    }
}

/// RekeyInd comes until RekeyConf arrives; each one is answered (upstream `pkg/networkserver/mac/rekey.go`).
fn answer_rekey(ns: &DynamicMessage, state: &mut DynamicMessage, frame: &DataFrame) -> Result<(), Dropped> {
    path::clear(state, "queued_responses");
    let is_1_1 = version(state, "lorawan_version").is_some_and(MacVersion::is_1_1);
    let (true, Some(nwk_s_enc)) = (is_1_1, key(ns, "session.keys.nwk_s_enc_key")) else { return Ok(()) };
    let mut frame = frame.clone();
    frame.crypt_f_opts(&nwk_s_enc)?;
    if frame.f_opts == REKEY && path::flag(ns, "supports_join") {
        let mut conf = proto::message("MACCommand");
        path::set(&mut conf, "cid", Value::EnumNumber(CID_REKEY));
        path::set(&mut conf, "rekey_conf.minor_version", Value::EnumNumber(1));
        set_list(state, "queued_responses", vec![conf]);
    }
    Ok(())
}

/// What the Application Server makes of the frame. It marks the device as seen only when it takes the uplink.
fn deliver(
    store: &mut Store,
    as_key: &str,
    ns: &DynamicMessage,
    mut frame: DataFrame,
    now: Timestamp,
) -> Result<Result<Vec<u8>, &'static str>, Dropped> {
    let Some(mut as_) = record(store, Component::As, as_key) else {
        return Ok(Err("no Application Server record"));
    };
    let changed = match match_session(store, ns, &mut as_) {
        Ok(changed) => changed,
        Err(why) => return Ok(Err(why)),
    };
    let first = !path::has(&as_, "activated_at");
    if first {
        stamp(&mut as_, "activated_at", now);
    }
    let app_s = key(&as_, "session.keys.app_s_key");
    // As upstream: the address of the AS session counts, whatever the Network Server has; without one it is zero.
    let addr = path::bytes(&as_, "session.dev_addr");
    frame.dev_addr = DevAddr::from_bytes(&addr).unwrap_or(DevAddr([0; 4]));
    if changed || first {
        put(store, Component::As, as_key, as_, now)?;
    }
    seen(store, as_key, now, first)?;
    decrypt(frame, app_s)
}

fn decrypt(mut frame: DataFrame, app_s: Option<Key>) -> Result<Result<Vec<u8>, &'static str>, Dropped> {
    match (frame.f_port, app_s) {
        (None | Some(0), _) => Ok(Ok(Vec::new())),
        (_, None) => Ok(Err("the Application Server has no AppSKey")),
        (_, Some(app_s)) => {
            frame.crypt_payload(&app_s)?;
            Ok(Ok(frame.payload))
        }
    }
}

/// Makes the session of the Network Server the one of the AS: it has it, has it pending, or fetches its AppSKey from
/// the Join Server. True when the record changed.
fn match_session(store: &Store, ns: &DynamicMessage, as_: &mut DynamicMessage) -> Result<bool, &'static str> {
    let id = path::bytes(ns, "session.keys.session_key_id");
    let has = |as_: &DynamicMessage, session: &str| {
        path::has(as_, session) && path::bytes(as_, &format!("{session}.keys.session_key_id")) == id
    };
    if has(as_, "session") {
        return Ok(false);
    }
    if has(as_, "pending_session") {
        if let Some(session) = path::child(as_, "pending_session") {
            path::set(as_, "session", Value::Message(session));
        }
    } else {
        let app_s = join::app_s_key(store, ns, &id)
            .ok_or("neither the Application Server nor the Join Server has the AppSKey of this session")?;
        let addr = path::bytes(ns, "session.dev_addr");
        path::clear(as_, "session");
        set_bytes(as_, "session.dev_addr", &addr);
        set_bytes(as_, "session.keys.session_key_id", &id);
        set_key(as_, "session.keys.app_s_key", &app_s);
        set_bytes(as_, "ids.dev_addr", &addr);
    }
    path::clear(as_, "pending_session");
    Ok(true)
}
