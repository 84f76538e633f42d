//! A device as its stored records describe it.

use prost_reflect::DynamicMessage;

use super::{Nonces, Session};
use crate::{
    map::path,
    model::ids::DevAddr,
    rehearsal::{
        lorawan::{JoinKeys, Key, MacVersion, SessionKeys},
        ttn_v2::is_zero,
    },
};

fn key(message: &DynamicMessage, name: &str) -> Option<Key> {
    Key::from_bytes(&path::bytes(message, &format!("{name}.key")))
}

/// The root keys of a Join Server record, as a device of this version uses them.
pub fn root_keys(js: &DynamicMessage, version: MacVersion) -> Option<JoinKeys> {
    let id = path::string(js, "root_keys.root_key_id");
    JoinKeys::choose(version, key(js, "root_keys.app_key"), key(js, "root_keys.nwk_key"), &id)
}

pub fn nonces(js: &DynamicMessage) -> Nonces {
    let used = path::get(js, "used_dev_nonces");
    let used: Vec<u16> = used
        .iter()
        .filter_map(|v| v.as_list())
        .flatten()
        .filter_map(|v| v.as_u32().and_then(|n| u16::try_from(n).ok()))
        .collect();
    let last = u16::try_from(path::number(js, "last_dev_nonce")).unwrap_or(u16::MAX);
    let last_join_nonce = u32::try_from(path::number(js, "last_join_nonce")).ok().filter(|n| *n > 0);
    Nonces {
        last_dev_nonce: used.last().copied().unwrap_or(0).max(last),
        used,
        last_join_nonce,
        joining: None,
    }
}

pub fn session(ns: &DynamicMessage, as_: Option<&DynamicMessage>) -> Option<Session> {
    let counter =
        |message: &DynamicMessage, p: &str| u32::try_from(path::number(message, p)).unwrap_or(u32::MAX);
    let f_nwk_s_int = key(ns, "session.keys.f_nwk_s_int_key")?;
    let same = |name: &str| key(ns, name).unwrap_or_else(|| f_nwk_s_int.clone());
    let version = MacVersion::from_number(path::number(ns, "mac_state.lorawan_version"))
        .or_else(|| MacVersion::from_number(path::number(ns, "lorawan_version")))?;
    let last_f_cnt_up = counter(ns, "session.last_f_cnt_up");
    let heard = last_f_cnt_up > 0 || path::has(ns, "mac_state.recent_uplinks");
    let last_n = counter(ns, "session.last_n_f_cnt_down");
    // 0 stands for "none yet" as well as for "0 was sent": only the recent downlinks tell, of which a join-accept is
    // the first.
    let sent = last_n > 0 || last_downlink_is_data(ns);
    Some(Session {
        dev_addr: DevAddr::from_bytes(&path::bytes(ns, "session.dev_addr"))?,
        version,
        next_f_cnt_up: if heard { last_f_cnt_up.saturating_add(1) } else { 0 },
        last_n_f_cnt_down: sent.then_some(last_n),
        last_a_f_cnt_down: as_
            .and_then(|as_| last_application_f_cnt(ns, counter(as_, "session.last_a_f_cnt_down"))),
        ack_due: None,
        rekeying: false,
        keys: SessionKeys {
            s_nwk_s_int: same("session.keys.s_nwk_s_int_key"),
            nwk_s_enc: same("session.keys.nwk_s_enc_key"),
            app_s: as_.and_then(|as_| key(as_, "session.keys.app_s_key"))?,
            f_nwk_s_int,
        },
    })
}

fn last_downlink_is_data(ns: &DynamicMessage) -> bool {
    const JOIN_ACCEPT: u64 = 1;
    let recent = path::get(ns, "mac_state.recent_downlinks");
    let last = recent.iter().filter_map(|v| v.as_list()).flatten().next_back();
    last.and_then(|v| v.as_message()).is_some_and(|m| path::number(m, "payload.m_hdr.m_type") != JOIN_ACCEPT)
}

/// The AS counts a downlink when it is queued: what still waits in the Network Server has not been sent.
fn last_application_f_cnt(ns: &DynamicMessage, counted: u32) -> Option<u32> {
    let queue = path::get(ns, "session.queued_application_downlinks");
    let first = queue.iter().filter_map(|v| v.as_list()).flatten().next();
    let waiting = first.and_then(|v| v.as_message()).map(|m| path::number(m, "f_cnt"));
    match waiting.and_then(|n| u32::try_from(n).ok()) {
        Some(first) => first.checked_sub(1),
        None => Some(counted),
    }
    .filter(|n| *n > 0)
}

/// The session of a `handler.Device` of V2: the counter of the last uplink, and of the next downlink.
pub fn v2_session(lorawan: &DynamicMessage) -> Option<Session> {
    let bytes = |field: &str| Some(path::bytes(lorawan, field)).filter(|bytes| !is_zero(bytes));
    let dev_addr = DevAddr::from_bytes(&bytes("dev_addr")?)?;
    let nwk_s = Key::from_bytes(&bytes("nwk_s_key")?)?;
    let app_s = Key::from_bytes(&path::bytes(lorawan, "app_s_key"))?;
    let keys =
        SessionKeys { f_nwk_s_int: nwk_s.clone(), s_nwk_s_int: nwk_s.clone(), nwk_s_enc: nwk_s, app_s };
    let counter = |field: &str| u32::try_from(path::number(lorawan, field)).unwrap_or(u32::MAX);
    let mut session = Session::fresh(dev_addr, keys, MacVersion::V1_0_2, false);
    // 0 also stands for none yet, and V2 then takes any counter.
    session.next_f_cnt_up = match counter("f_cnt_up") {
        0 => 0,
        last => last.wrapping_add(1),
    };
    session.last_n_f_cnt_down = counter("f_cnt_down").checked_sub(1);
    Some(session)
}
