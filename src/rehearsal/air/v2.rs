//! The radio side of V2: its broker (`core/broker/uplink.go`), Network Server (`core/networkserver/{uplink,downlink,
//! activation}.go`) and handler (`core/handler/{activation,uplink,downlink,convert_lorawan}.go`), class A only.
//!
//! Left out beside what [`super`] leaves out: registration on join (a template without DevEUI), and all but one waiting
//! downlink a device, as a new one replaces the queue by default.

use jiff::Timestamp;
use lrwn::FCtrl;
use prost_reflect::{DynamicMessage, Value};

use super::{
    Downlink, Dropped, Heard, NetworkFacts, Uplink,
    fields::{counter, set_bytes, set_counter},
    join::Draw,
};
use crate::{
    map::path,
    model::ids::DevAddr,
    proto,
    rehearsal::{
        device::Identity,
        lorawan::{DataFrame, JoinAccept, JoinKeys, JoinRequest, Key, MacVersion},
        store::{Store, Table, device_key},
        ttn_v2::{is_zero, network_key},
    },
};

/// How far FCntUp may jump (`core/broker/uplink.go`).
const MAX_F_CNT_GAP: u32 = 16_384;
/// V2 knows LoRaWAN 1.0.x, whose frames are alike.
const VERSION: MacVersion = MacVersion::V1_0_2;
/// What the public network asked devices to wait for the first window.
const RX_DELAY: u8 = 1;

/// True for the store of a V2.
pub fn is_v2(store: &Store) -> bool {
    [Table::V2Applications, Table::V2Devices].into_iter().any(|table| store.iter(table).next().is_some())
}

fn key(message: &DynamicMessage, field: &str) -> Option<Key> {
    Key::from_bytes(&path::bytes(message, field))
}

/// `app_id.dev_id` of the Network Server's half.
fn owner(half: &DynamicMessage) -> String {
    device_key(&path::string(half, "app_id"), &path::string(half, "dev_id"))
}

fn seen(half: &mut DynamicMessage, now: Timestamp) {
    let now = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    path::set(half, "last_seen", Value::I64(now));
}

fn heard(half: &DynamicMessage, uplink: Uplink, downlinks: Vec<Vec<u8>>) -> Heard {
    Heard {
        application_id: path::string(half, "app_id"),
        device_id: path::string(half, "dev_id"),
        uplink,
        downlinks,
    }
}

/// A join-request: the Network Server finds the device by its EUIs, the handler checks MIC and DevNonce and makes the session.
pub fn join(
    store: &mut Store,
    net: &NetworkFacts,
    now: Timestamp,
    phy: &[u8],
    request: &JoinRequest,
) -> Result<Heard, Dropped> {
    let rule = Dropped::Rule;
    if is_zero(&request.join_eui.0) || is_zero(&request.dev_eui.0) {
        return Err(rule("a join-request without AppEUI or DevEUI"));
    }
    let mut ids = proto::message("lorawan.Device");
    set_bytes(&mut ids, "app_eui", &request.join_eui.0);
    set_bytes(&mut ids, "dev_eui", &request.dev_eui.0);
    let at = network_key(&ids);
    let half = store.get(Table::V2Network, &at).cloned();
    let mut half = half.ok_or(rule("no device has these EUIs"))?;
    let device_at = owner(&half);
    let device = store.get(Table::V2Devices, &device_at).cloned();
    let mut device = device.ok_or(rule("the handler does not know the device"))?;
    let app_key = key(&device, "lorawan_device.app_key").filter(|key| !is_zero(key.bytes()));
    let app_key = app_key.ok_or(rule("no AppKey"))?;
    if !JoinRequest::has_mic(phy, &app_key) {
        return Err(rule("join-request with a wrong MIC"));
    }
    use_nonce(&mut device, "used_dev_nonces", &request.dev_nonce.to_be_bytes())
        .map_err(|()| rule("DevNonce was used before"))?;
    let draw = Draw::new(net, request, request.dev_nonce.into(), now);
    let accept = JoinAccept {
        join_nonce: app_nonce(&mut device, draw.nonce()),
        net_id: net.net_id,
        dev_addr: draw.dev_addr(net, &path::bytes(&half, "dev_addr")),
        opt_neg: false,
        rx_delay: RX_DELAY,
    };
    let root = JoinKeys { network: app_key.clone(), application: app_key.clone() };
    let keys = accept.derive(request, &root)?;
    set_bytes(&mut device, "lorawan_device.dev_addr", &accept.dev_addr.0);
    set_bytes(&mut device, "lorawan_device.nwk_s_key", keys.f_nwk_s_int.bytes());
    set_bytes(&mut device, "lorawan_device.app_s_key", keys.app_s.bytes());
    store.put(Table::V2Devices, &device_at, device)?;
    set_bytes(&mut half, "dev_addr", &accept.dev_addr.0);
    set_bytes(&mut half, "nwk_s_key", keys.f_nwk_s_int.bytes());
    set_counter(&mut half, "f_cnt_up", 0);
    set_counter(&mut half, "f_cnt_down", 0);
    seen(&mut half, now);
    store.put(Table::V2Network, &at, half.clone())?;
    Ok(heard(&half, Uplink::Join, vec![accept.seal(request, &app_key)?]))
}

/// Notes a nonce as used; an error when it was already.
fn use_nonce(device: &mut DynamicMessage, field: &str, nonce: &[u8]) -> Result<(), ()> {
    let at = format!("lorawan_device.{field}");
    let used = path::get(device, &at).map(|value| value.into_owned());
    let mut used = used.as_ref().and_then(|value| value.as_list()).unwrap_or_default().to_vec();
    if used.iter().any(|value| value.as_bytes().is_some_and(|bytes| bytes == nonce)) {
        return Err(());
    }
    used.push(Value::Bytes(nonce.to_vec().into()));
    path::set(device, &at, Value::List(used));
    Ok(())
}

/// An AppNonce that was not used, from the drawn one on.
fn app_nonce(device: &mut DynamicMessage, drawn: u32) -> u32 {
    let mut nonce = drawn & 0x00ff_ffff;
    while use_nonce(device, "used_app_nonces", &nonce.to_be_bytes()[1..]).is_err() {
        nonce = nonce.wrapping_add(1) & 0x00ff_ffff;
    }
    nonce
}

/// A data frame: the broker finds the device by address and MIC, the Network Server counts, the handler decrypts.
pub fn data(store: &mut Store, now: Timestamp, frame: DataFrame, mic: [u8; 4]) -> Result<Heard, Dropped> {
    let (at, frame) = find(store, &frame, mic)?;
    let half = store.get(Table::V2Network, &at).cloned();
    let mut half = half.ok_or(Dropped::Rule("the Network Server does not know the device"))?;
    check_counter(&half, &frame)?;
    set_counter(&mut half, "f_cnt_up", frame.f_cnt);
    seen(&mut half, now);
    store.put(Table::V2Network, &at, half.clone())?;
    let device = store.get(Table::V2Devices, &owner(&half)).cloned();
    let uplink = |payload| Uplink::Data { f_cnt: frame.f_cnt, payload };
    let delivered = device.ok_or("the handler does not know the device").and_then(|device| {
        let payload = decrypted(&device, frame.clone(), mic)?;
        Ok((device, payload))
    });
    match delivered {
        Ok((device, payload)) => {
            let downlinks = answer(store, &at, half.clone(), &device, &frame)?;
            Ok(heard(&half, uplink(Ok(payload)), downlinks))
        }
        Err(why) => Ok(heard(&half, uplink(Err(why)), Vec::new())),
    }
}

/// The Network Server's key of the device whose session has this address and made this MIC, with the whole counter.
fn find(store: &Store, frame: &DataFrame, mic: [u8; 4]) -> Result<(String, DataFrame), Dropped> {
    if is_zero(&frame.dev_addr.0) {
        return Err(Dropped::Rule("no session has a DevAddr of zeros"));
    }
    let sent = frame.f_cnt;
    let whole = |half: &DynamicMessage| whole_counter(counter(half, "f_cnt_up"), sent);
    let wide = |half: &DynamicMessage| path::flag(half, "uses32_bit_f_cnt");
    let may_be = |half: &DynamicMessage| {
        let last = counter(half, "f_cnt_up");
        path::flag(half, "disable_f_cnt_check") || last <= sent || (wide(half) && last <= whole(half))
    };
    let addressed = |half: &DynamicMessage| path::bytes(half, "dev_addr") == frame.dev_addr.0;
    let halves = store.iter(Table::V2Network);
    let mut halves: Vec<_> = halves.filter(|(_, half)| addressed(half) && may_be(half)).collect();
    halves.sort_by_key(|(_, half)| counter(half, "f_cnt_up"));
    let why =
        if halves.is_empty() { "no session has this DevAddr and so low a counter" } else { "wrong MIC" };
    for (at, half) in halves {
        let Some(nwk_s) = key(half, "nwk_s_key") else { continue };
        let other = wide(half).then(|| whole(half)).filter(|whole| *whole != sent);
        for f_cnt in std::iter::once(sent).chain(other) {
            let frame = DataFrame { f_cnt, ..frame.clone() };
            if frame.uplink_mic(VERSION, 0, &nwk_s, &nwk_s)? == mic {
                return Ok((at.to_owned(), frame));
            }
        }
    }
    Err(Dropped::Rule(why))
}

/// The 32-bit counter with these lower 16 bits (`utils/fcnt/fcnt.go`).
fn whole_counter(last: u32, sent: u32) -> u32 {
    let round = last & 0xffff_0000;
    match sent {
        sent if sent > last => sent,
        sent if last & 0xffff <= sent => round | sent,
        sent => round.wrapping_add(0x1_0000) | sent,
    }
}

fn check_counter(half: &DynamicMessage, frame: &DataFrame) -> Result<(), Dropped> {
    let (last, now) = (counter(half, "f_cnt_up"), frame.f_cnt);
    let is_next = now > last && now - last <= MAX_F_CNT_GAP;
    let is_retry = now == last && frame.confirmed;
    // A counter of 0 is one that was reset: where the device begins is not known.
    if is_next || is_retry || last == 0 || path::flag(half, "disable_f_cnt_check") {
        return Ok(());
    }
    Err(Dropped::Rule(if now <= last { "FCnt not high enough" } else { "FCnt too high" }))
}

/// What the handler makes of the frame, by its own copy of the session.
fn decrypted(device: &DynamicMessage, mut frame: DataFrame, mic: [u8; 4]) -> Result<Vec<u8>, &'static str> {
    let nwk_s = key(device, "lorawan_device.nwk_s_key").ok_or("the handler has no NwkSKey")?;
    if frame.uplink_mic(VERSION, 0, &nwk_s, &nwk_s) != Ok(mic) {
        return Err("the handler has another NwkSKey");
    }
    if frame.f_port.is_some_and(|port| port > 0) {
        let app_s = key(device, "lorawan_device.app_s_key").ok_or("the handler has no AppSKey")?;
        frame.crypt_payload(&app_s).map_err(|_| "the payload cannot be decrypted")?;
    }
    Ok(frame.payload)
}

/// What is sent in the receive window: an acknowledgement, or what waits.
fn answer(
    store: &mut Store,
    at: &str,
    mut half: DynamicMessage,
    device: &DynamicMessage,
    uplink: &DataFrame,
) -> Result<Vec<Vec<u8>>, Dropped> {
    let queue = owner(&half);
    let mut waiting = store.get(Table::V2Downlinks, &queue).cloned();
    let is_confirmed = |down: &DynamicMessage| path::flag(down, "confirmed");
    if uplink.f_ctrl.ack && waiting.as_ref().is_some_and(is_confirmed) {
        store.remove(Table::V2Downlinks, &queue)?;
        waiting = None;
    }
    if waiting.is_none() && !uplink.confirmed {
        return Ok(Vec::new());
    }
    let port = waiting.as_ref().map(|down| u8::try_from(path::number(down, "f_port")).unwrap_or(u8::MAX));
    let mut frame = DataFrame {
        uplink: false,
        confirmed: waiting.as_ref().is_some_and(is_confirmed),
        f_ctrl: FCtrl { ack: uplink.confirmed, ..FCtrl::default() },
        dev_addr: DevAddr::from_bytes(&path::bytes(&half, "dev_addr")).unwrap_or(uplink.dev_addr),
        f_cnt: counter(&half, "f_cnt_down"),
        f_opts: Vec::new(),
        f_port: port,
        payload: waiting.as_ref().map(|down| path::bytes(down, "frm_payload")).unwrap_or_default(),
    };
    if let (Some(_), Some(app_s)) = (&waiting, key(device, "lorawan_device.app_s_key")) {
        frame.crypt_payload(&app_s)?;
    }
    let nwk_s = key(&half, "nwk_s_key").ok_or(Dropped::Rule("the Network Server has no NwkSKey"))?;
    let mic = frame.downlink_mic(VERSION, 0, &nwk_s)?;
    set_counter(&mut half, "f_cnt_down", frame.f_cnt.wrapping_add(1));
    store.put(Table::V2Network, at, half)?;
    // What wants an acknowledgement is sent again until it comes.
    if waiting.is_some_and(|down| !is_confirmed(&down)) {
        store.remove(Table::V2Downlinks, &queue)?;
    }
    Ok(vec![frame.encode(mic)?])
}

/// Puts a downlink in the place of what waits. It is sent after the next uplink.
pub fn downlink(store: &mut Store, device: Identity, down: Downlink<'_>) -> Result<(), Dropped> {
    let rule = Dropped::Rule;
    if down.payload.is_empty() {
        return Err(rule("a downlink needs a payload"));
    }
    let ours = |stored: &DynamicMessage| {
        let eui = |field: &str| path::bytes(stored, &format!("lorawan_device.{field}"));
        device.dev_eui.is_some_and(|dev_eui| eui("dev_eui") == dev_eui.0)
            && device.join_eui.is_none_or(|join_eui| eui("app_eui") == join_eui.0)
    };
    let found = store.iter(Table::V2Devices).find(|(_, stored)| ours(stored));
    let at = found.map(|(at, _)| at.to_owned()).ok_or(rule("the handler does not know the device"))?;
    let mut item = proto::message("ApplicationDownlink");
    set_counter(&mut item, "f_port", down.f_port.into());
    set_bytes(&mut item, "frm_payload", down.payload);
    path::set(&mut item, "confirmed", Value::Bool(down.confirmed));
    Ok(store.put(Table::V2Downlinks, &at, item)?)
}
