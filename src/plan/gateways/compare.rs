//! What two records of a gateway differ in.

use prost_reflect::{DynamicMessage, Value};

use super::{CONTACTS, SET, copied, eui, is_left, redirect::noted};
use crate::{
    map::{diff, mask, path as at},
    plan::transform::Write,
};

/// A gateway without what says the same as nothing, and without the contacts that a server fills in.
fn canonical(gateway: &DynamicMessage, contacts: &[&str]) -> DynamicMessage {
    let mut out = at::project(gateway, &copied(gateway));
    without_notes(&mut out);
    at::set(&mut out, "gateway_server_address", Value::String(at::string(gateway, "gateway_server_address")));
    let stored = at::get(&out, "frequency_plan_ids").map(std::borrow::Cow::into_owned);
    let none = |list: &[Value]| list.iter().all(|v| v.as_str() == Some(""));
    if stored.as_ref().and_then(Value::as_list).is_some_and(none) {
        at::clear(&mut out, "frequency_plan_ids");
    }
    for secret in ["lbs_lns_secret", "claim_authentication_code.secret", "target_cups_key"] {
        at::clear(&mut out, &format!("{secret}.key_id"));
    }
    for contact in CONTACTS.iter().filter(|contact| !contacts.contains(contact)) {
        at::clear(&mut out, contact);
    }
    for (whole, part) in [
        ("lbs_lns_secret", "lbs_lns_secret.value"),
        ("target_cups_key", "target_cups_key.value"),
        ("claim_authentication_code", "claim_authentication_code.secret.value"),
        ("lrfhss", "lrfhss.supported"),
    ] {
        if !at::has(&out, part) {
            at::clear(&mut out, whole);
        }
    }
    for empty in ["version_ids", "schedule_anytime_delay"] {
        if at::child(&out, empty).is_some_and(|inner| inner.fields().next().is_none()) {
            at::clear(&mut out, empty);
        }
    }
    out
}

/// Where what is there is not what is written, by path. Everything that can be set counts, also what only one of them has.
pub fn differences(write: &Write, there: &DynamicMessage) -> Vec<String> {
    let named: Vec<_> = CONTACTS.into_iter().filter(|contact| at::has(&write.message, contact)).collect();
    let (ours, theirs) = (canonical(&write.message, &named), canonical(there, &named));
    let mut paths: Vec<_> = diff::diff(&ours, &theirs).into_iter().map(|d| d.path).collect();
    if eui(&write.message) != eui(there) {
        paths.insert(0, "ids.eui".to_owned());
    }
    paths
}

/// As [`differences`], but for what a gateway changes in its own record while it is connected: its model and firmware among
/// the attributes, and, where it may, the places of its antennas (`pkg/gatewayserver/gatewayserver.go`). Contacts that
/// `write` does not name do not count.
pub fn edited(write: &Write, there: &DynamicMessage) -> Vec<String> {
    let mut sides = [write.message.clone(), there.clone()];
    let moves = at::flag(&write.message, "update_location_from_status");
    for side in &mut sides {
        without_attributes(side, |name| ["model", "firmware"].contains(&name));
        if moves {
            at::clear(side, "antennas");
        }
    }
    let [message, there] = sides;
    differences(&Write { message, paths: Vec::new() }, &there)
}

/// Takes out what CUPS notes of a gateway.
pub(super) fn without_notes(gateway: &mut DynamicMessage) {
    without_attributes(gateway, noted);
}

fn without_attributes(gateway: &mut DynamicMessage, which: impl Fn(&str) -> bool) {
    let attributes = at::get(gateway, "attributes").map(std::borrow::Cow::into_owned);
    let Some(mut left) = attributes.as_ref().and_then(Value::as_map).cloned() else { return };
    left.retain(|name, _| !which(&at::key(name)));
    at::clear(gateway, "attributes");
    if !left.is_empty() {
        at::set(gateway, "attributes", Value::Map(left));
    }
}

/// The write with the new LNS API key as its LNS secret.
#[must_use]
pub fn with_lns_secret(mut write: Write, key: Option<&str>) -> Write {
    if let Some(key) = key {
        at::set(&mut write.message, "lbs_lns_secret.value", Value::Bytes(key.as_bytes().to_vec().into()));
        if !write.paths.iter().any(|p| p == "lbs_lns_secret") {
            write.paths.push("lbs_lns_secret".to_owned());
        }
    }
    write
}

/// The write that makes a gateway that was deleted what it should be, whatever it was.
#[must_use]
pub fn over_all(mut write: Write) -> Write {
    let named: Vec<_> = CONTACTS.into_iter().filter(|contact| at::has(&write.message, contact)).collect();
    let heads = mask::allowed(SET).iter().filter(|p| !p.contains('.') && !is_left(p));
    let heads = heads.filter(|p| !CONTACTS.contains(p) || named.contains(p));
    write.paths = heads.map(|p| (*p).to_owned()).collect();
    write.paths.extend(["ids.eui", "gateway_server_address"].map(str::to_owned));
    write
}
