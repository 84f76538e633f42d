//! The whole messages by which SetDevice clears a device and restores it.
//!
//! SetDevice stores what it is sent: absent counters become 0, absent EUIs zeros, absent texts empty; only keys and the
//! DevAddr are kept when absent, and cleared by zeros; zero-length ones are an error (docs/servers.md, V2 SetDevice). So
//! every message here is a whole device as it was read, with these four changed and nothing else.

use prost_reflect::{DynamicMessage, Value};
use zeroize::Zeroizing;

use super::{V2Device, lorawan};
use crate::{map::path, model::ids::DevAddr};

/// The keys and the address, and their lengths in bytes.
const APP_KEY: (&str, usize) = ("app_key", 16);
const SESSION: [(&str, usize); 3] = [("app_s_key", 16), ("nwk_s_key", 16), ("dev_addr", 4)];
/// What SetDevice does not take over on an update (`core/handler/manager_server.go`).
const IGNORED: [&str; 3] = ["last_seen", "used_dev_nonces", "used_app_nonces"];
/// What traffic changes: the counters of an uplink or downlink, and when it was.
const MOVING: [&str; 3] = ["f_cnt_up", "f_cnt_down", "last_seen"];

/// Who the device is.
const IDENTIFIERS: [&str; 4] = ["app_id", "dev_id", "app_eui", "dev_eui"];

/// A session that a device gets back.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// Its address.
    pub dev_addr: DevAddr,
    /// 16 bytes.
    pub nwk_s_key: Zeroizing<Vec<u8>>,
    /// 16 bytes.
    pub app_s_key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.dev_addr)
    }
}

/// The message that takes the AppKey away, and with `session` the session too: 16 zero bytes for each key, 4 for the DevAddr.
/// Without `session` the message does not have the session's fields at all, by which they are kept.
///
/// `read` must be what GetDevice just answered: its counters are written.
pub fn cleared(read: &DynamicMessage, session: bool) -> DynamicMessage {
    let mut message = read.clone();
    if session {
        SESSION.into_iter().for_each(|field| zero(&mut message, field));
    } else {
        keep_session(&mut message);
    }
    zero(&mut message, APP_KEY);
    message
}

/// The whole message without the session's fields, by which SetDevice keeps what the device has.
pub fn without_session(device: &V2Device) -> DynamicMessage {
    let mut message = device.message().clone();
    keep_session(&mut message);
    message
}

/// A device as it is now, with the keys, the session and the counters of another reading: what people have written of it stays.
pub fn with_keys_of(now: &V2Device, given: &V2Device) -> DynamicMessage {
    let mut message = now.message().clone();
    let keys = SESSION.into_iter().chain([APP_KEY]).map(|(field, _)| field);
    for at in keys.chain(["f_cnt_up", "f_cnt_down"]).map(lorawan) {
        match path::get(given.message(), &at) {
            Some(value) => path::set(&mut message, &at, value.into_owned()),
            None => path::clear(&mut message, &at),
        }
    }
    message
}

fn keep_session(message: &mut DynamicMessage) {
    SESSION.into_iter().for_each(|(field, _)| path::clear(message, &lorawan(field)));
}

fn zero(message: &mut DynamicMessage, (field, length): (&str, usize)) {
    path::set(message, &lorawan(field), Value::Bytes(vec![0; length].into()));
}

/// True when what was read has no AppKey, and with `session` no session key and no DevAddr either.
pub fn is_cleared(read: &DynamicMessage, session: bool) -> bool {
    let empty = |(field, _): (&str, usize)| path::bytes(read, &lorawan(field)).iter().all(|b| *b == 0);
    empty(APP_KEY) && (!session || SESSION.into_iter().all(empty))
}

/// The message that restores a device from its sealed original.
///
/// Counters are the larger of the seal's and those given (FCntUp of the last uplink, FCntDown of the next downlink), but for
/// another session than the sealed one, whose counters are its own. Join nonces do not come back: V2 never tells them and drops
/// them with the AppKey, so that a DevNonce that was used is accepted once more.
pub fn restored(
    seal: &V2Device,
    session: Option<&Session>,
    f_cnt_up: u32,
    f_cnt_down: u32,
) -> DynamicMessage {
    let mut message = seal.message().clone();
    let other = session.is_some_and(|s| !is_of(seal, s));
    if let Some(session) = session.filter(|_| other) {
        let mut set = |field: &str, bytes: &[u8]| {
            path::set(&mut message, &lorawan(field), Value::Bytes(bytes.to_vec().into()));
        };
        set("dev_addr", &session.dev_addr.0);
        set("nwk_s_key", &session.nwk_s_key);
        set("app_s_key", &session.app_s_key);
    }
    // What is absent would be kept as it was cleared: a device that never had one gets zeros.
    for (field, length) in SESSION.into_iter().chain([APP_KEY]) {
        if path::bytes(&message, &lorawan(field)).is_empty() {
            zero(&mut message, (field, length));
        }
    }
    let count = |sealed: u32, newer: u32| if other { newer } else { sealed.max(newer) };
    let up = count(seal.f_cnt_up(), f_cnt_up);
    let down = count(seal.f_cnt_down(), f_cnt_down);
    path::set(&mut message, &lorawan("f_cnt_up"), Value::U32(up));
    path::set(&mut message, &lorawan("f_cnt_down"), Value::U32(down));
    message
}

/// True when the sealed device has this very session.
fn is_of(seal: &V2Device, session: &Session) -> bool {
    seal.dev_addr() == Some(session.dev_addr)
        && seal.nwk_s_key().as_ref() == Some(&session.nwk_s_key)
        && seal.app_s_key().as_ref() == Some(&session.app_s_key)
}

/// True when two readings of one device are equal but for identifiers, keys, session, counters, and what SetDevice passes over.
pub fn same_standing(before: &V2Device, now: &V2Device) -> bool {
    standing(before.message()) == standing(now.message())
}

fn standing(message: &DynamicMessage) -> DynamicMessage {
    let mut message = message.clone();
    let keys = SESSION.into_iter().chain([APP_KEY]).map(|(field, _)| field);
    for field in keys.chain(IGNORED).chain(MOVING).chain(IDENTIFIERS) {
        path::clear(&mut message, &lorawan(field));
    }
    ["app_id", "dev_id"].iter().for_each(|field| path::clear(&mut message, field));
    message
}
