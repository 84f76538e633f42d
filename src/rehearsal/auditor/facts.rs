//! What the auditor reads from one record: keys as fingerprints, counters as numbers.

use std::{collections::BTreeSet, fmt};

use prost_reflect::DynamicMessage;
use sha2::{Digest as _, Sha256};

use crate::{
    map::path,
    model::ids::Eui64,
    rehearsal::{air::may_send, lorawan::MacVersion},
};

/// Stands for a key: equal for equal keys, and no way back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Fingerprint {
    fn of(what: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(what);
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        Self(std::array::from_fn(|i| digest[i]))
    }
}

/// DevEUI and JoinEUI, where stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Euis {
    pub dev_eui: Option<Eui64>,
    pub join_eui: Option<Eui64>,
}

/// A counter that must not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    FCntUp,
    NFCntDown,
    AFCntDown,
    ConfFCntDown,
    JoinNonce,
    DevNonce,
}

impl Counter {
    /// The path of its field.
    pub fn path(self) -> &'static str {
        match self {
            Self::FCntUp => "session.last_f_cnt_up",
            Self::NFCntDown => "session.last_n_f_cnt_down",
            Self::AFCntDown => "session.last_a_f_cnt_down",
            Self::ConfFCntDown => "session.last_conf_f_cnt_down",
            Self::JoinNonce => "last_join_nonce",
            Self::DevNonce => "last_dev_nonce",
        }
    }
}

/// One record, without its secrets. Fields that belong to other components than the record's are empty.
#[derive(Debug, Clone, Default)]
pub struct RecordFacts {
    pub euis: Euis,
    pub may_send: bool,
    pub supports_join: bool,
    /// The AppKey and the NwkKey.
    pub roots: BTreeSet<Fingerprint>,
    /// The network keys and DevAddr of the session, and of the pending session.
    pub session: Option<Fingerprint>,
    pub pending: Option<Fingerprint>,
    /// The AppSKey of the session, at the AS.
    pub app_session: Option<Fingerprint>,
    /// 1.0.x: network and application downlinks share one counter.
    pub shared_f_cnt_down: bool,
    pub resets_f_cnt: bool,
    pub resets_join_nonces: bool,
    pub used_dev_nonces: BTreeSet<u32>,
    /// It stands for a device of V2, which neither tells nor takes join nonces.
    pub is_v2: bool,
    counters: [u64; 6],
}

impl RecordFacts {
    pub fn read(record: &DynamicMessage) -> Self {
        let flag = |at: &str| path::wrapped_flag(record, at).unwrap_or(false);
        let eui = |at: &str| Eui64::from_bytes(&path::bytes(record, at));
        let euis = Euis { dev_eui: eui("ids.dev_eui"), join_eui: eui("ids.join_eui") };
        let version = MacVersion::from_number(path::number(record, "mac_state.lorawan_version"));
        let all = [
            Counter::FCntUp,
            Counter::NFCntDown,
            Counter::AFCntDown,
            Counter::ConfFCntDown,
            Counter::JoinNonce,
            Counter::DevNonce,
        ];
        Self {
            euis,
            may_send: may_send(record),
            supports_join: flag("supports_join"),
            roots: roots(record, euis),
            session: network_session(record, "session"),
            pending: network_session(record, "pending_session"),
            app_session: app_session(record),
            shared_f_cnt_down: !version.is_some_and(MacVersion::is_1_1),
            resets_f_cnt: flag("mac_settings.resets_f_cnt"),
            resets_join_nonces: flag("resets_join_nonces"),
            used_dev_nonces: numbers(record, "used_dev_nonces"),
            is_v2: false,
            counters: all.map(|counter| path::number(record, counter.path())),
        }
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    pub fn sessions(&self) -> impl Iterator<Item = Fingerprint> {
        self.session.into_iter().chain(self.pending)
    }
}

fn roots(record: &DynamicMessage, euis: Euis) -> BTreeSet<Fingerprint> {
    let Some(dev_eui) = euis.dev_eui else { return BTreeSet::new() };
    ["root_keys.app_key.key", "root_keys.nwk_key.key"]
        .into_iter()
        .map(|at| path::bytes(record, at))
        .filter(|key| !key.is_empty())
        .map(|key| Fingerprint::of("root", &[&dev_eui.0, &key]))
        .collect()
}

fn network_session(record: &DynamicMessage, session: &str) -> Option<Fingerprint> {
    let bytes = |at: &str| path::bytes(record, &format!("{session}.{at}"));
    let key = bytes("keys.f_nwk_s_int_key.key");
    let parts =
        [&bytes("dev_addr")[..], &key, &bytes("keys.s_nwk_s_int_key.key"), &bytes("keys.nwk_s_enc_key.key")];
    // A stack may leave out the keys that 1.0.x does not have.
    let parts = parts.map(|part| if part.is_empty() { &key[..] } else { part });
    (!key.is_empty()).then(|| Fingerprint::of("session", &parts))
}

fn app_session(record: &DynamicMessage) -> Option<Fingerprint> {
    let key = path::bytes(record, "session.keys.app_s_key.key");
    let addr = path::bytes(record, "session.dev_addr");
    (!key.is_empty()).then(|| Fingerprint::of("application session", &[&addr, &key]))
}

fn numbers(record: &DynamicMessage, at: &str) -> BTreeSet<u32> {
    let value = path::get(record, at);
    value.iter().filter_map(|v| v.as_list()).flatten().filter_map(|v| v.as_u32()).collect()
}

/// What is gone from a record that was `before`: all of it, or its keys. Keys that were replaced are not gone.
pub fn loss(before: &DynamicMessage, after: Option<&DynamicMessage>) -> Option<String> {
    let Some(after) = after else { return Some("its record".to_owned()) };
    [
        "root_keys.app_key.key",
        "root_keys.nwk_key.key",
        "session.dev_addr",
        "session.keys.f_nwk_s_int_key.key",
        "session.keys.s_nwk_s_int_key.key",
        "session.keys.nwk_s_enc_key.key",
        "session.keys.app_s_key.key",
    ]
    .into_iter()
    .find(|at| path::has(before, at) && !path::has(after, at))
    .map(|at| format!("`{at}`"))
}
