//! The field masks of what is written, and what a target of an older version cannot be told.

use prost_reflect::DynamicMessage;

use super::{
    facts::TargetFacts,
    finding::{Finding, Kind},
    session::Carry,
    transform::{Copy, STARTED_AT},
};
use crate::{
    map::{mask, owner, path},
    model::device::Component,
    proto,
};

/// What the NS needs in every mask that makes a record (facts §5: `frequency_plan_id`, versions; `supports_join` decides
/// which other rules hold), also where it is zero.
const NS_ALWAYS: &[&str] = &["frequency_plan_id", "lorawan_version", "lorawan_phy_version", "supports_join"];

/// The counters of a session that is carried: a zero is written too, and verified.
const NS_COUNTERS: &[&str] =
    &["session.last_f_cnt_up", "session.last_n_f_cnt_down", "session.last_conf_f_cnt_down"];

/// What the IS takes on Create without a mask. Named all the same, so that it is read back and compared: the same ID with
/// other EUIs is another device.
const IS_ALWAYS: &[&str] = &["ids.dev_eui", "ids.join_eui"];

/// The mask for a message: the deepest path that the server takes for everything that is stored.
///
/// Leaves, as the NS refuses `session` and `session.keys` of LoRaWAN 1.0.x (facts §5). But `mac_state` whole: parts of it
/// would be merged into a fresh one (`networkserver/grpc_deviceregistry.go`). Keys are named only where there are any: a
/// key of LoRaWAN 1.0.x that is named and empty differs from FNwkSIntKey and is refused.
/// Without [`STARTED_AT`], which only a second Set keeps.
pub fn write_paths(component: Component, message: &DynamicMessage, carry: Carry) -> Vec<String> {
    let allowed = mask::allowed(owner::set_rpc(component));
    let mut paths: Vec<String> = Vec::new();
    let mut push = |p: &str| {
        if !paths.iter().any(|q| q == p) {
            paths.push(p.to_owned());
        }
    };
    // `ids.dev_addr` follows the session; it has no path of its own, only all of `ids`.
    let named = |p: &String| p != "ids.dev_addr" && p != STARTED_AT;
    for stored in path::stored(message).into_iter().filter(named) {
        if component == Component::Ns && path::covers("mac_state", &stored) {
            push("mac_state");
        } else if let Some(cover) = mask::cover(allowed, &stored) {
            push(cover);
        }
    }
    match component {
        Component::Is => IS_ALWAYS.iter().for_each(|p| push(p)),
        Component::Ns => {
            NS_ALWAYS.iter().for_each(|p| push(p));
            if matches!(carry, Carry::Keep | Carry::Reset) && path::has(message, "session") {
                NS_COUNTERS.iter().for_each(|p| push(p));
            }
        }
        Component::Js | Component::As => {}
    }
    paths
}

/// The finding for values that the target's version has no path for.
pub fn unsupported(component: Component, message: &DynamicMessage, facts: &TargetFacts) -> Option<Finding> {
    let refused = facts.refused_paths.get(&component)?;
    let lost: Vec<_> = path::stored(message).into_iter().filter(|p| is_refused(p, refused)).collect();
    (!lost.is_empty()).then(|| {
        Finding::new(Kind::UnsupportedPaths, "the target is older and cannot store these values")
            .at(component)
            .paths(lost)
            .fix("update the target, or allow the loss \"unsupported-paths\"")
    })
}

/// True when a refused path holds `path`. Masks name `rx1_delay.value` where stored paths name `rx1_delay`.
fn is_refused(path: &str, refused: &[String]) -> bool {
    let device = proto::descriptor("EndDevice");
    let path = path::canonical(&device, path);
    refused.iter().any(|r| path::covers(path::canonical(&device, r), path))
}

/// Takes the paths that the target does not know out of what is written; the finding has said so.
pub fn without_lost_paths(copy: &mut Copy, facts: &TargetFacts) {
    let device = proto::descriptor("EndDevice");
    for (component, refused) in &facts.refused_paths {
        if let Some(write) = copy.slot(*component) {
            write.paths.retain(|p| !is_refused(p, refused));
            for path in refused {
                path::clear(&mut write.message, path::canonical(&device, path));
            }
        }
    }
}
