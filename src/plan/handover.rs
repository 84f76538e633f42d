//! Mute-target: the counters with which a device goes on when it is handed over, there and back.

use prost_reflect::{DynamicMessage, Value};
use zeroize::Zeroizing;

use super::{
    back::waits_for_uplink,
    compare,
    finding::{Finding, Kind, Severity},
    transform::Copy,
};
use crate::{
    map::{
        path,
        ttn_v2::{
            Session, V2Device, cleared, f_cnt_down_of, is_cleared, last_n_f_cnt_down, restored,
            without_session,
        },
    },
    model::{
        device::{Component, Record, Records},
        ids::DevAddr,
    },
};

/// So many downlinks the source may have sent between its last reading and its clear (`docs/strategies.md`).
pub const MARGIN: u32 = 16;

/// Puts into the copy what the target goes on with: the larger FCntUp of both sides, and the source's FCntDown with a margin.
///
/// `there` is the target's NS record in the session of the copy: muted, but hearing uplinks.
pub fn count(copy: &mut Copy, source: &V2Device, there: &Record, margin: u32) {
    let number = |at: &str| u32::try_from(path::number(&there.0, at)).unwrap_or(u32::MAX);
    let up = source.f_cnt_up().max(number("session.last_f_cnt_up"));
    let sent = last_n_f_cnt_down(source.f_cnt_down()).saturating_add(margin);
    let down = sent.max(number("session.last_n_f_cnt_down"));
    if let Some(ns) = &mut copy.ns {
        path::set(&mut ns.message, "session.last_f_cnt_up", Value::U32(up));
        path::set(&mut ns.message, "session.last_n_f_cnt_down", Value::U32(down));
    }
    // LoRaWAN 1.0.x counts downlinks once: the Application Server takes the next number after this.
    if let Some(as_) = copy.as_.as_mut().filter(|as_| path::has(&as_.message, "session")) {
        path::set(&mut as_.message, compare::A_F_CNT_DOWN, Value::U32(down));
    }
}

/// What the source gets when a device returns, and what does not come back.
#[derive(Debug)]
pub struct Return {
    /// The whole message that restores it.
    pub device: V2Device,
    /// What has to be known.
    pub findings: Vec<Finding>,
}

/// Raises V2's FCntDown by the margin where it goes on with its session: SetDevice writes the counters that it is sent, and
/// V2 may have sent a downlink since they were read.
pub fn skip_downlinks(device: &mut DynamicMessage) {
    let at = "lorawan_device.f_cnt_down";
    let next = u32::try_from(path::number(device, at)).unwrap_or(u32::MAX).saturating_add(MARGIN);
    path::set(device, at, Value::U32(next));
}

/// What a reading says of a write that was to clear the device.
#[derive(Debug)]
pub enum AfterClear {
    /// It took effect.
    Cleared,
    /// It took effect, and the device has joined in that moment: it goes on with that session until it joins again. The message
    /// gives it counters of its own; `None` where it has those.
    Joined(Option<V2Device>),
    /// The keys are still there.
    Live,
}

/// Judges a clear. `before` is what the write was made of; `session`: the session was to go too.
pub fn after_clear(before: &V2Device, now: &V2Device, session: bool) -> AfterClear {
    let joined = has_joined(before, now);
    if is_cleared(now.message(), session) {
        return match !session && joined {
            true => AfterClear::Joined(Some(counts_of_new_session(before, now))),
            false => AfterClear::Cleared,
        };
    }
    // The join was stored after the write: V2 stores of a join what it changes alone (`core/networkserver/activation.go`).
    if session && before.is_otaa() && !now.is_otaa() && joined {
        return AfterClear::Joined(None);
    }
    AfterClear::Live
}

/// True when a device has no key any more that it had before.
pub fn lost_its_keys(before: &V2Device, now: &V2Device) -> bool {
    before.is_otaa() && !now.is_otaa() || before.is_abp() && !now.has_session()
}

/// Largest step of a counter that a device takes (LoRaWAN 1.0.2 §4.3.1.5, `MAX_FCNT_GAP`).
const MAX_FCNT_GAP: u32 = 16_384;

/// The write that cleared the AppKey gave the counters of the session before to one that has begun since.
fn counts_of_new_session(before: &V2Device, now: &V2Device) -> V2Device {
    // That none of its uplinks was taken since shows in the counter; what it has counted itself stays.
    let written = before.has_session() && now.f_cnt_up() == before.f_cnt_up();
    let up = if written { 0 } else { now.f_cnt_up() };
    let down = if now.f_cnt_down() < MAX_FCNT_GAP - MARGIN { now.f_cnt_down() + MARGIN } else { MARGIN };
    let mut message = cleared(now.message(), false);
    path::set(&mut message, "lorawan_device.f_cnt_up", Value::U32(up));
    path::set(&mut message, "lorawan_device.f_cnt_down", Value::U32(down));
    V2Device::new(message)
}

/// What V2 is given, with what it has counted itself since that was decided: in AppKey-only clears its session goes on, and a
/// device may have joined it in the moment of the clear. `sealed` is the last that was seen of it before.
pub fn with_counts_of(given: &V2Device, now: &V2Device, sealed: &V2Device) -> V2Device {
    let other = has_joined(given, now);
    // A session that came from the target is newer than any of V2's.
    let from_target = has_joined(sealed, given);
    if !now.has_session() || other && from_target {
        return given.clone();
    }
    let mut message = if other { without_session(given) } else { given.message().clone() };
    let (up, down) = match other {
        true => (now.f_cnt_up(), now.f_cnt_down()),
        false => (given.f_cnt_up().max(now.f_cnt_up()), given.f_cnt_down().max(now.f_cnt_down())),
    };
    path::set(&mut message, "lorawan_device.f_cnt_up", Value::U32(up));
    path::set(&mut message, "lorawan_device.f_cnt_down", Value::U32(down));
    skip_downlinks(&mut message);
    V2Device::new(message)
}

/// True when a device that had a session has another now.
pub fn has_joined(before: &V2Device, now: &V2Device) -> bool {
    let session = |d: &V2Device| (d.dev_addr(), d.nwk_s_key());
    now.has_session() && session(before) != session(now)
}

/// Decides what V2 gets: its sealed device, with the session and the counters that the device has on the target now.
///
/// `sealed` is the last that was seen of the source before the clear; `there` the muted target.
///
/// # Errors
/// Why the device cannot return now: it stays on the target.
pub fn back(sealed: &V2Device, there: &Records) -> Result<Return, Box<Finding>> {
    let mut findings: Vec<_> = sealed.is_otaa().then(nonces).into_iter().collect();
    waits_for_uplink(there)?;
    let Some(ns) = &there.ns else {
        let device = V2Device::new(restored(sealed, None, 0, 0));
        return Ok(Return { device, findings });
    };
    let session = session(ns, there.as_.as_ref())?;
    if let Some(session) = session.as_ref().filter(|s| sealed.dev_addr() != Some(s.dev_addr)) {
        let text = format!(
            "it has joined the target: V2 routes by DevAddr, and {} is none of its own, so that it may not hear the device \
             until it joins again",
            session.dev_addr
        );
        findings.push(Finding::new(Kind::OutsidePrefixes, text).at(Component::Ns));
    }
    let number = |m: &DynamicMessage, at: &str| u32::try_from(path::number(m, at)).unwrap_or(u32::MAX);
    let by_as = there.as_.as_ref().map_or(0, |r| number(&r.0, compare::A_F_CNT_DOWN));
    let (up, down) = match &session {
        None => (0, 0),
        Some(_) => (
            number(&ns.0, "session.last_f_cnt_up"),
            f_cnt_down_of(number(&ns.0, "session.last_n_f_cnt_down").max(by_as)),
        ),
    };
    let device = V2Device::new(restored(sealed, session.as_ref(), up, down));
    Ok(Return { device, findings })
}

/// V2 never tells which nonces it has seen, and forgets them with the AppKey.
fn nonces() -> Finding {
    let text = "the join nonces that V2 had seen do not come back: it takes a DevNonce that was used before once more";
    let mut finding = Finding::new(Kind::LeftBehind, text).at(Component::Js);
    finding.severity = Severity::Note;
    finding
}

/// The session of the target, as V2 keeps one; an error where one of its keys cannot be read.
fn session(ns: &Record, as_: Option<&Record>) -> Result<Option<Session>, Box<Finding>> {
    let Some(dev_addr) = DevAddr::from_bytes(&path::bytes(&ns.0, "session.dev_addr")) else {
        return Ok(None);
    };
    let nwk_s_key = Zeroizing::new(path::bytes(&ns.0, "session.keys.f_nwk_s_int_key.key"));
    let of_as = |r: &Record| path::bytes(&r.0, "session.keys.app_s_key.key");
    let same = |r: &&Record| path::bytes(&r.0, "session.dev_addr") == dev_addr.0;
    let app_s_key = Zeroizing::new(as_.filter(same).map(of_as).unwrap_or_default());
    if nwk_s_key.len() != 16 || app_s_key.len() != 16 {
        let text = "the target's Network Server and Application Server do not tell the keys of one session";
        let mut finding = Finding::new(Kind::SessionMismatch, text).at(Component::As);
        finding.severity = Severity::Wait;
        return Err(Box::new(finding.fix("run again after its next uplink")));
    }
    Ok(Some(Session { dev_addr, nwk_s_key, app_s_key }))
}

/// True when the source holds all that it was given: the same keys, and the same session with counters that are not lower, or
/// for a device that joins one that it has joined since.
pub fn has_returned(given: &V2Device, now: &V2Device) -> bool {
    let keys = |d: &V2Device| (d.app_key(), d.app_eui(), d.dev_eui());
    let session = |d: &V2Device| (d.dev_addr(), d.nwk_s_key(), d.app_s_key());
    let counted = now.f_cnt_up() >= given.f_cnt_up() && now.f_cnt_down() >= given.f_cnt_down();
    let same = session(given) == session(now) && counted;
    keys(given) == keys(now) && (same || given.is_otaa() && has_joined(given, now))
}
