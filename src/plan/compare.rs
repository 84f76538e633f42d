//! Is what a server holds what it should hold? With what traffic may have changed since.

use std::collections::BTreeSet;

use prost_reflect::DynamicMessage;

use super::transform::Write;
use crate::{
    map::{
        diff::{self, Difference},
        path,
    },
    model::device::{Component, Record},
};

/// What is read of the target's NS record besides what was written, to see whether the device lives there.
pub const LIFE: &[&str] = &[
    "session.dev_addr",
    "session.keys.session_key_id",
    "session.keys.f_nwk_s_int_key.key",
    "session.last_f_cnt_up",
    "session.last_n_f_cnt_down",
    "session.last_conf_f_cnt_down",
    "pending_session.dev_addr",
    "mac_state.recent_uplinks",
    "mac_state.recent_downlinks",
    "mac_state.last_downlink_at",
    "mac_settings.schedule_downlinks",
];

/// Counters that only go up in one session.
pub const COUNTERS: &[&str] =
    &["session.last_f_cnt_up", "session.last_n_f_cnt_down", "session.last_conf_f_cnt_down"];
/// Those of them that only a network that sends raises.
pub const DOWNLINK_COUNTERS: &[&str] = &["session.last_n_f_cnt_down", "session.last_conf_f_cnt_down"];

/// AFCntDown, which the Application Server keeps.
pub const A_F_CNT_DOWN: &str = "session.last_a_f_cnt_down";

/// Nonces that only go up.
pub const NONCES: &[&str] = &["last_dev_nonce", "last_join_nonce", "last_rj_count_0", "last_rj_count_1"];

/// DevNonces that LoRaWAN 1.0.x devices have used.
pub const USED_NONCES: &str = "used_dev_nonces";

/// So many of them a Join Server remembers (`DevNonceLimit` of `pkg/joinserver`, by default).
const REMEMBERED_NONCES: usize = 10;

/// What a Network Server learns of a device besides its session.
pub const STATE: &[&str] =
    &["mac_state", "battery_percentage", "downlink_margin", "last_dev_status_received_at"];

/// What a live or muted device changes by itself, by component.
fn moving(component: Component) -> &'static [&'static str] {
    match component {
        // Solved positions are merged into the locations.
        Component::Is => &["updated_at", "last_seen_at", "activated_at", "locations"],
        Component::Js => &[
            "updated_at",
            "ids.dev_addr",
            "used_dev_nonces",
            "last_dev_nonce",
            "last_join_nonce",
            "last_rj_count_0",
            "last_rj_count_1",
            "session",
        ],
        Component::As => &["updated_at", "ids.dev_addr", "pending_session", "session.last_a_f_cnt_down"],
        Component::Ns => &[
            "updated_at",
            "session.last_f_cnt_up",
            "session.last_n_f_cnt_down",
            "session.last_conf_f_cnt_down",
            "session.queued_application_downlinks",
            "mac_state",
            "pending_session",
            "pending_mac_state",
            "queued_application_downlinks",
            "battery_percentage",
            "downlink_margin",
            "power_state",
            "last_dev_status_received_at",
        ],
    }
}

/// How a record on the target stands to what was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Equal in every path that was written, and nothing has happened there since.
    Equal,
    /// Equal but for what traffic changes, and traffic there was: the device lives there.
    MovedOn,
    /// Different; the paths.
    Different(Vec<String>),
}

/// The paths to read for a comparison with `write`.
pub fn paths(component: Component, write: &Write) -> Vec<String> {
    let mut paths = write.paths.clone();
    if component == Component::Ns {
        let covered = |p: &str| write.paths.iter().any(|w| path::covers(w, p));
        paths.extend(LIFE.iter().filter(|p| !covered(p)).map(|p| (*p).to_owned()));
    }
    paths
}

/// Compares a record that was read back by [`paths`] with what was written. `live`: the target's NS record is there, so
/// that joins and uplinks may have changed the other records too.
pub fn standing(component: Component, write: &Write, read: &Record, live: bool) -> Standing {
    let mut different = other_device(write, read);
    if component == Component::Ns && !joins(write) && session_of(&write.message) != session_of(&read.0) {
        // Only a join gives a device another session: here it is an edit, not life.
        different.push("session".to_owned());
    }
    let lives = component == Component::Ns && lives(write, read);
    let still: Vec<_> =
        write.paths.iter().filter(|p| !(live || lives) || !is_moving(component, p)).cloned().collect();
    different.extend(names(&differences(&write.message, &read.0, &still)));
    if lives {
        different.extend(backwards(write, read));
    }
    match (different.is_empty(), lives) {
        (false, _) => Standing::Different(different),
        (true, true) => Standing::MovedOn,
        (true, false) => Standing::Equal,
    }
}

/// The identifiers are in every answer and in no mask: another device under the same ID differs in them.
pub fn other_device(write: &Write, read: &Record) -> Vec<String> {
    ["ids.join_eui", "ids.dev_eui"]
        .into_iter()
        .filter(|p| path::bytes(&write.message, p) != path::bytes(&read.0, p))
        .map(str::to_owned)
        .collect()
}

/// True when something has happened on the target since the NS record was written: another session, a join under way, a
/// counter or the list of frames moved on. `read` must hold [`LIFE`].
pub fn lives(write: &Write, read: &Record) -> bool {
    if path::has(&read.0, "pending_session") {
        return true;
    }
    match (session_of(&read.0), session_of(&write.message)) {
        (None, _) => false,
        (now, then) if now != then => joins(write),
        _ => {
            let count = |m: &DynamicMessage, p: &str| path::number(m, p);
            let frames =
                ["mac_state.recent_uplinks", "mac_state.recent_downlinks", "mac_state.last_downlink_at"];
            COUNTERS.iter().any(|p| count(&read.0, p) > count(&write.message, p))
                || frames.iter().any(|p| path::get(&read.0, p) != path::get(&write.message, p))
        }
    }
}

/// True when the device itself was heard: a session that was not written, or an uplink in the one that was.
pub fn was_heard(write: &Write, read: &Record) -> bool {
    match (session_of(&read.0), session_of(&write.message)) {
        (None, _) => false,
        (now, then) if now != then => joins(write),
        _ => {
            path::number(&read.0, "session.last_f_cnt_up")
                > path::number(&write.message, "session.last_f_cnt_up")
                || path::get(&read.0, "mac_state.recent_uplinks")
                    != path::get(&write.message, "mac_state.recent_uplinks")
        }
    }
}

/// As [`was_heard`], for a copy that heard uplinks before it went live, with the counters that it had then.
pub fn was_heard_since(counted: &Write, read: &Record) -> bool {
    match (session_of(&read.0), session_of(&counted.message)) {
        (None, _) => false,
        (now, then) if now != then => joins(counted),
        // Not only more: a device that resets its counters begins at zero.
        _ => {
            let up = |m: &DynamicMessage| path::number(m, "session.last_f_cnt_up");
            up(&read.0) != up(&counted.message)
        }
    }
}

/// True when the device that was written joins over the air.
fn joins(write: &Write) -> bool {
    path::flag(&write.message, "supports_join")
}

/// Counters of the same session that are lower than what was written; a device that may reset them is free to.
fn backwards(write: &Write, read: &Record) -> Vec<String> {
    if path::flag(&write.message, "mac_settings.resets_f_cnt")
        || session_of(&read.0) != session_of(&write.message)
    {
        return Vec::new();
    }
    let lower = |p: &&&str| path::number(&read.0, p) < path::number(&write.message, p);
    COUNTERS.iter().filter(lower).map(|p| (*p).to_owned()).collect()
}

/// What tells one session from another.
pub fn session_of(message: &DynamicMessage) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    path::has(message, "session.dev_addr").then(|| {
        (
            path::bytes(message, "session.dev_addr"),
            path::bytes(message, "session.keys.session_key_id"),
            path::bytes(message, "session.keys.f_nwk_s_int_key.key"),
        )
    })
}

/// As [`session_of`], of an Application Server's record.
pub fn application_session(message: &DynamicMessage) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    path::has(message, "session.dev_addr").then(|| {
        (
            path::bytes(message, "session.dev_addr"),
            path::bytes(message, "session.keys.session_key_id"),
            path::bytes(message, "session.keys.app_s_key.key"),
        )
    })
}

/// The DevNonces that a Join Server's record lists.
pub fn used_nonces(message: &DynamicMessage) -> BTreeSet<u32> {
    let list = path::get(message, USED_NONCES);
    let list = list.as_ref().and_then(|v| v.as_list());
    list.map(|l| l.iter().filter_map(prost_reflect::Value::as_u32).collect()).unwrap_or_default()
}

/// True when a record of the source lacks something of what it gets back: another session, a lower counter or nonce, or
/// anything else that is written and no traffic changes. What is ahead of `write` is not behind. `written`: it was written
/// already, so that a full list of DevNonces that lacks some has forgotten them since.
pub fn is_behind(component: Component, write: &Write, now: &Record, written: bool) -> bool {
    let (write_message, now) = (&write.message, &now.0);
    let lower = |paths: &[&str]| paths.iter().any(|p| path::number(now, p) < path::number(write_message, p));
    let traffic = match component {
        Component::Is => false,
        Component::Js => {
            let used = used_nonces(now);
            let forgotten = written && used.len() >= REMEMBERED_NONCES;
            lower(NONCES) || !(forgotten || used_nonces(write_message).is_subset(&used))
        }
        Component::As => {
            let session = application_session(write_message);
            session.is_some() && (session != application_session(now) || lower(&[A_F_CNT_DOWN]))
        }
        Component::Ns => network_is_behind(write_message, now),
    };
    traffic || !settings_that_differ(component, write, now).is_empty()
}

fn network_is_behind(write: &DynamicMessage, now: &DynamicMessage) -> bool {
    let session = session_of(write);
    if session.is_none() {
        return false;
    }
    // FCntUp of a device that may reset it says nothing; what it was sent is never counted again.
    let kept = if path::flag(write, "mac_settings.resets_f_cnt") { DOWNLINK_COUNTERS } else { COUNTERS };
    let lower = kept.iter().any(|p| path::number(now, p) < path::number(write, p));
    let count = |m: &DynamicMessage| COUNTERS.iter().map(|p| path::number(m, p)).collect::<Vec<_>>();
    let (ours, theirs) = (count(write), count(now));
    // With another uplink the source's own state is the newer one.
    let state = ours == theirs && path::get(write, "mac_state") != path::get(now, "mac_state");
    session != session_of(now) || lower || state
}

/// What was written and differs, but for what traffic changes.
pub fn settings_that_differ(component: Component, write: &Write, now: &DynamicMessage) -> Vec<String> {
    let fixed: Vec<_> = write.paths.iter().filter(|p| !is_moving(component, p)).cloned().collect();
    names(&differences(&write.message, now, &fixed))
}

/// True when traffic changes this path of a live record by itself: a join replaces the whole session.
pub fn is_moving(component: Component, path: &str) -> bool {
    let session = matches!(component, Component::Ns | Component::As) && path::covers("session", path);
    session || moving(component).iter().any(|p| path::covers(p, path))
}

/// True when `now` has counted at least as far as `write` in this path: writing it could only set back what was counted
/// meanwhile. Not for a device that may reset its counters, which has those of where it lives.
pub fn has_counted(component: Component, path: &str, write: &DynamicMessage, now: &DynamicMessage) -> bool {
    let not_behind = path::number(now, path) >= path::number(write, path);
    match component {
        Component::Is => false,
        Component::Js if path == USED_NONCES => used_nonces(write).is_subset(&used_nonces(now)),
        Component::Js => NONCES.contains(&path) && not_behind,
        Component::As => {
            path == A_F_CNT_DOWN && application_session(write) == application_session(now) && not_behind
        }
        Component::Ns => {
            let resets = path::flag(write, "mac_settings.resets_f_cnt");
            let kept = if resets { DOWNLINK_COUNTERS } else { COUNTERS };
            kept.contains(&path) && session_of(write) == session_of(now) && not_behind
        }
    }
}

/// What differs in a record of the source that could not be muted: everything counts, nonces too.
pub fn changed_while_loud(sealed: Option<&Record>, now: Option<&Record>) -> Vec<String> {
    match (sealed, now) {
        (Some(sealed), Some(now)) => {
            let (mut left, mut right) = (sealed.0.clone(), now.0.clone());
            [&mut left, &mut right].into_iter().for_each(|m| path::clear(m, "updated_at"));
            names(&diff::diff(&left, &right))
        }
        (sealed, now) if sealed.is_some() == now.is_some() => Vec::new(),
        _ => vec!["the record came or went".to_owned()],
    }
}

/// Compares a record of the source with its sealed snapshot: the paths that somebody changed while it was muted.
pub fn changed_while_muted(
    component: Component,
    sealed: Option<&Record>,
    now: Option<&Record>,
) -> Vec<String> {
    match (sealed, now) {
        (None, None) => Vec::new(),
        (Some(sealed), Some(now)) => {
            let joined = path::has(&sealed.0, "pending_session");
            let (mut left, mut right) = (sealed.0.clone(), now.0.clone());
            for message in [&mut left, &mut right] {
                moving(component).iter().for_each(|p| path::clear(message, p));
                // The join that was under way when it was sealed may have become the session.
                if joined {
                    ["session", "ids.dev_addr"].iter().for_each(|p| path::clear(message, p));
                }
            }
            let mut changed = names(&diff::diff(&left, &right));
            if component == Component::Ns && session_of(&sealed.0) == session_of(&now.0) {
                changed.extend(sent_to(sealed, now));
            }
            changed
        }
        (Some(_), None) => vec![format!("the {component} record is gone")],
        (None, Some(_)) => vec![format!("a {component} record has appeared")],
    }
}

/// Downlink counters of one session that are not as they were sealed: they stand still while the source is muted. A device
/// that may reset its counters takes them along.
fn sent_to(sealed: &Record, now: &Record) -> Vec<String> {
    if path::flag(&now.0, "mac_settings.resets_f_cnt") {
        return Vec::new();
    }
    let moved = |p: &&&str| path::number(&sealed.0, p) != path::number(&now.0, p);
    DOWNLINK_COUNTERS.iter().filter(moved).map(|p| (*p).to_owned()).collect()
}

/// The source as it must be when the target goes live: muted, the same session, the same downlink counters.
pub fn still_as_sealed(sealed: &Record, now: &Record) -> Vec<String> {
    let mut changed = Vec::new();
    if path::wrapped_flag(&now.0, super::MUTE) != Some(false) {
        changed.push(super::MUTE.to_owned());
    }
    if session_of(&sealed.0) != session_of(&now.0) {
        changed.push("session".to_owned());
    }
    // A join-accept that was on its way when we muted.
    let pending = |r: &Record| path::bytes(&r.0, "pending_session.dev_addr");
    if path::has(&now.0, "pending_session") && pending(now) != pending(sealed) {
        changed.push("pending_session".to_owned());
    }
    let moved = |p: &&&str| path::number(&sealed.0, p) != path::number(&now.0, p);
    changed.extend(DOWNLINK_COUNTERS.iter().filter(moved).map(|p| (*p).to_owned()));
    changed
}

fn differences(written: &DynamicMessage, read: &DynamicMessage, paths: &[String]) -> Vec<Difference> {
    diff::diff(&path::project(written, paths), &path::project(read, paths))
}

fn names(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(|d| d.path.clone()).collect()
}
