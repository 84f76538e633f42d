//! A join-request: upstream `pkg/networkserver/grpc_gsns.go` (`handleJoinRequest`), `pkg/joinserver/joinserver.go`
//! (`HandleJoin`), `pkg/networkserver/downlink.go` (`processDownlinkTask`), and `handleJoinAccept` of the AS.

use jiff::Timestamp;
use prost_reflect::{DynamicMessage, Value};
use sha2::{Digest as _, Sha256};

use super::{
    Dropped, Heard, NetworkFacts, Uplink,
    fields::{
        JOIN_ACCEPT, counter, fresh_mac_state, join_message, key, may_send, push_downlink, push_uplink, put,
        record, seen, set_bytes, set_counter, set_key, stamp, version,
    },
};
use crate::{
    map::path,
    model::{
        device::Component,
        ids::{DevAddr, DevAddrPrefix},
    },
    rehearsal::{
        device::root_keys,
        lorawan::{JoinAccept, JoinRequest, MacVersion, SessionKeys},
        store::{Store, Table},
    },
};

/// How many DevNonces a Join Server remembers (upstream `cmd/internal/shared/joinserver/config.go`).
const DEV_NONCE_LIMIT: usize = 10;
/// JoinNonces have 24 bits.
const LAST_JOIN_NONCE: u32 = (1 << 24) - 1;

pub fn handle(
    store: &mut Store,
    net: &NetworkFacts,
    now: Timestamp,
    phy: &[u8],
    request: &JoinRequest,
) -> Result<Heard, Dropped> {
    let rule = Dropped::Rule;
    let ns_key = by_euis(store, Table::Ns, request).ok_or(rule("no Network Server record has these EUIs"))?;
    let mut ns = record(store, Component::Ns, &ns_key).ok_or(rule("no Network Server record"))?;
    let version = version(&ns, "lorawan_version").ok_or(rule("unknown LoRaWAN version"))?;
    if !path::flag(&ns, "supports_join") {
        return Err(rule("an ABP device sent a join-request"));
    }
    let answer = accept_at_js(store, net, now, phy, request, version, &ns)?;

    let mut state = fresh_mac_state(&ns);
    set_bytes(&mut state, "queued_join_accept.payload", &answer.payload);
    path::set(&mut state, "queued_join_accept.keys", Value::Message(answer.network_keys(true)));
    set_bytes(&mut state, "queued_join_accept.dev_addr", &answer.accept.dev_addr.0);
    set_bytes(&mut state, "queued_join_accept.net_id", &answer.accept.net_id.0);
    let rx_delay = Value::EnumNumber(answer.accept.rx_delay.into());
    path::set(&mut state, "queued_join_accept.request.rx_delay", rx_delay);
    path::touch(&mut state, "queued_join_accept.request.downlink_settings");
    if answer.accept.opt_neg {
        let at = "queued_join_accept.request.downlink_settings.opt_neg";
        path::set(&mut state, at, Value::Bool(true));
    }
    path::set(&mut state, "rx_windows_available", Value::Bool(true));
    push_uplink(&mut state, join_message(request, phy), now);
    path::set(&mut ns, "pending_mac_state", Value::Message(state));
    put(store, Component::Ns, &ns_key, ns.clone(), now)?;

    let mut downlinks = Vec::new();
    if may_send(&ns) {
        send_accept(store, now, &ns_key, ns, &answer)?;
        downlinks.push(answer.payload);
    }
    let (application_id, device_id) = ns_key.split_once('.').unwrap_or((&ns_key, ""));
    Ok(Heard {
        application_id: application_id.to_owned(),
        device_id: device_id.to_owned(),
        uplink: Uplink::Join,
        downlinks,
    })
}

/// What the Join Server answers to the Network Server.
struct JoinAnswer {
    accept: JoinAccept,
    payload: Vec<u8>,
    keys: SessionKeys,
    session_key_id: [u8; 16],
}

impl JoinAnswer {
    /// The session keys as a Network Server holds them: without the AppSKey, unless it is on its way to the AS.
    fn network_keys(&self, with_app_s_key: bool) -> DynamicMessage {
        let mut keys = crate::proto::message("SessionKeys");
        set_bytes(&mut keys, "session_key_id", &self.session_key_id);
        set_key(&mut keys, "f_nwk_s_int_key", &self.keys.f_nwk_s_int);
        set_key(&mut keys, "s_nwk_s_int_key", &self.keys.s_nwk_s_int);
        set_key(&mut keys, "nwk_s_enc_key", &self.keys.nwk_s_enc);
        if with_app_s_key {
            set_key(&mut keys, "app_s_key", &self.keys.app_s);
        }
        keys
    }
}

fn accept_at_js(
    store: &mut Store,
    net: &NetworkFacts,
    now: Timestamp,
    phy: &[u8],
    request: &JoinRequest,
    version: MacVersion,
    ns: &DynamicMessage,
) -> Result<JoinAnswer, Dropped> {
    let rule = Dropped::Rule;
    let js_key = by_euis(store, Table::Js, request).ok_or(rule("no Join Server record has these EUIs"))?;
    let mut js = record(store, Component::Js, &js_key).ok_or(rule("no Join Server record"))?;
    consume_dev_nonce(&mut js, version, request.dev_nonce)?;
    let join_nonce = counter(&js, "last_join_nonce").saturating_add(1);
    if join_nonce > LAST_JOIN_NONCE {
        return Err(rule("JoinNonces are used up"));
    }
    let root = root_keys(&js, version).ok_or(rule("no root keys"))?;
    if !JoinRequest::has_mic(phy, &root.network) {
        return Err(rule("join-request with a wrong MIC"));
    }
    let draw = Draw::new(net, request, join_nonce, now);
    let accept = JoinAccept {
        join_nonce,
        net_id: net.net_id,
        dev_addr: draw.dev_addr(net, &path::bytes(ns, "session.dev_addr")),
        opt_neg: version.is_1_1(),
        rx_delay: rx1_delay(ns),
    };
    let keys = accept.derive(request, &root)?;
    let answer = JoinAnswer {
        accept,
        payload: accept.seal(request, &root.network)?,
        keys,
        session_key_id: draw.session_key_id(),
    };
    set_counter(&mut js, "last_join_nonce", join_nonce);
    path::clear(&mut js, "session");
    set_bytes(&mut js, "session.dev_addr", &accept.dev_addr.0);
    path::set(&mut js, "session.keys", Value::Message(answer.network_keys(true)));
    stamp(&mut js, "session.started_at", now);
    set_bytes(&mut js, "ids.dev_addr", &accept.dev_addr.0);
    put(store, Component::Js, &js_key, js, now)?;
    Ok(answer)
}

fn consume_dev_nonce(js: &mut DynamicMessage, version: MacVersion, dev_nonce: u16) -> Result<(), Dropped> {
    let nonce = u32::from(dev_nonce);
    let resets = path::flag(js, "resets_join_nonces");
    if version.counts_nonces() {
        let last = counter(js, "last_dev_nonce");
        let first_ever = nonce == 0 && last == 0 && counter(js, "last_join_nonce") == 0;
        if !first_ever && !resets && nonce <= last {
            return Err(Dropped::Rule("DevNonce is too small"));
        }
        set_counter(js, "last_dev_nonce", nonce);
        return Ok(());
    }
    let used = path::get(js, "used_dev_nonces").map(|v| v.into_owned());
    let mut used = used.and_then(|v| v.as_list().map(<[Value]>::to_vec)).unwrap_or_default();
    if used.contains(&Value::U32(nonce)) {
        return if resets { Ok(()) } else { Err(Dropped::Rule("DevNonce was used before")) };
    }
    used.push(Value::U32(nonce));
    used.drain(..used.len().saturating_sub(DEV_NONCE_LIMIT));
    path::set(js, "used_dev_nonces", Value::List(used));
    Ok(())
}

fn send_accept(
    store: &mut Store,
    now: Timestamp,
    ns_key: &str,
    mut ns: DynamicMessage,
    answer: &JoinAnswer,
) -> Result<(), Dropped> {
    let mut state = path::child(&ns, "pending_mac_state").unwrap_or_else(|| fresh_mac_state(&ns));
    if let Some(request) = path::get(&state, "queued_join_accept.request").map(|v| v.into_owned()) {
        path::set(&mut state, "pending_join_request", request);
    }
    path::clear(&mut state, "queued_join_accept");
    path::clear(&mut state, "rx_windows_available");
    push_downlink(&mut state, JOIN_ACCEPT, 0, 0);
    path::set(&mut ns, "pending_mac_state", Value::Message(state));
    path::clear(&mut ns, "pending_session");
    set_bytes(&mut ns, "pending_session.dev_addr", &answer.accept.dev_addr.0);
    path::set(&mut ns, "pending_session.keys", Value::Message(answer.network_keys(false)));
    put(store, Component::Ns, ns_key, ns, now)?;

    let Some(mut as_) = record(store, Component::As, ns_key) else { return Ok(()) };
    path::clear(&mut as_, "pending_session");
    set_bytes(&mut as_, "pending_session.dev_addr", &answer.accept.dev_addr.0);
    set_bytes(&mut as_, "pending_session.keys.session_key_id", &answer.session_key_id);
    set_key(&mut as_, "pending_session.keys.app_s_key", &answer.keys.app_s);
    put(store, Component::As, ns_key, as_, now)?;
    seen(store, ns_key, now, false)
}

/// The key of the record with these EUIs: join messages carry no other identifier.
pub fn by_euis(store: &Store, table: Table, request: &JoinRequest) -> Option<String> {
    store
        .iter(table)
        .find(|(_, record)| {
            path::bytes(record, "ids.dev_eui") == request.dev_eui.0
                && path::bytes(record, "ids.join_eui") == request.join_eui.0
        })
        .map(|(key, _)| key.to_owned())
}

fn rx1_delay(ns: &DynamicMessage) -> u8 {
    let desired = path::number(ns, "mac_settings.desired_rx1_delay.value");
    u8::try_from(desired).ok().filter(|d| (1..=15).contains(d)).unwrap_or(5)
}

/// What a network draws at random for a join: here from everything that tells two joins apart, so that a run with the
/// same clock draws the same.
pub struct Draw([u8; 32]);

impl Draw {
    pub fn new(net: &NetworkFacts, request: &JoinRequest, join_nonce: u32, now: Timestamp) -> Self {
        let mut hash = Sha256::new();
        hash.update(net.net_id.0);
        for DevAddrPrefix { addr, bits } in &net.dev_addr_prefixes {
            hash.update(addr.0);
            hash.update([*bits]);
        }
        hash.update(request.dev_eui.0);
        hash.update(request.dev_nonce.to_be_bytes());
        hash.update(join_nonce.to_be_bytes());
        hash.update(now.as_nanosecond().to_be_bytes());
        Self(hash.finalize().into())
    }

    fn session_key_id(&self) -> [u8; 16] {
        std::array::from_fn(|i| self.0[i])
    }

    /// 24 bits.
    pub fn nonce(&self) -> u32 {
        u32::from_be_bytes([0, self.0[20], self.0[21], self.0[22]])
    }

    /// An address in the network's block, other than the one in use.
    pub fn dev_addr(&self, net: &NetworkFacts, in_use: &[u8]) -> DevAddr {
        let drawn = u32::from_be_bytes(std::array::from_fn(|i| self.0[16 + i]));
        let block = net.dev_addr_prefixes.first();
        let place = |n: u32| match block {
            Some(prefix) => {
                let free = u32::MAX.checked_shr(prefix.bits.into()).unwrap_or(0);
                DevAddr((u32::from_be_bytes(prefix.addr.0) & !free | n & free).to_be_bytes())
            }
            None => DevAddr(n.to_be_bytes()),
        };
        let addr = place(drawn);
        if addr.0 == in_use { place(drawn ^ 1) } else { addr }
    }
}

/// The AppSKey that the Join Server keeps for the AS, by the ID of its session (upstream `AsJs.GetAppSKey`).
pub fn app_s_key(
    store: &Store,
    ns: &DynamicMessage,
    session_key_id: &[u8],
) -> Option<super::super::lorawan::Key> {
    let (dev_eui, join_eui) = (path::bytes(ns, "ids.dev_eui"), path::bytes(ns, "ids.join_eui"));
    let (_, js) = store.iter(Table::Js).find(|(_, js)| {
        path::bytes(js, "ids.dev_eui") == dev_eui && path::bytes(js, "ids.join_eui") == join_eui
    })?;
    let same = path::bytes(js, "session.keys.session_key_id") == session_key_id;
    if same && !session_key_id.is_empty() { key(js, "session.keys.app_s_key") } else { None }
}
