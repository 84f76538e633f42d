//! Which component stores which part of a device, and what of it can be read and written.
//!
//! All of it follows from `proto/field_masks.tsv`: a component holds what its registry can be told, or tells.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::{mask, options, path};
use crate::{model::device::Component, proto};

/// A path that a component tells but cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritable {
    /// The path, as a mask or [`crate::map::diff`] names it.
    pub path: String,
    /// Why, and what becomes of it: a fragment that follows the path.
    pub reason: &'static str,
}

/// The mask table of a component's Get.
fn get_rpc(component: Component) -> &'static str {
    match component {
        Component::Is => "EndDeviceRegistry/Get",
        Component::Js => "JsEndDeviceRegistry/Get",
        Component::As => "AsEndDeviceRegistry/Get",
        Component::Ns => "NsEndDeviceRegistry/Get",
    }
}

/// The mask table of the call that tells a component; the IS takes the whole record on Create, and these on Update.
pub fn set_rpc(component: Component) -> &'static str {
    match component {
        Component::Is => "EndDeviceRegistry/Update",
        Component::Js => "JsEndDeviceRegistry/Set",
        Component::As => "AsEndDeviceRegistry/Set",
        Component::Ns => "NsEndDeviceRegistry/Set",
    }
}

/// Paths that newer servers have (documented up to April 2026), and that this build knows by name alone: asking for them
/// shows that they hold something, as fields without a name. Older servers refuse them
/// (`field_mask_paths`, `forbidden_paths`), and the caller asks again without.
pub fn newer(component: Component) -> &'static [&'static str] {
    match component {
        Component::Is => &["label_ids"],
        Component::Ns => &["mac_settings_profile_ids"],
        Component::Js | Component::As => &[],
    }
}

/// The components that store `path`: those whose registry can be told it (or something below it), in creation order;
/// if there is none, those that tell it.
///
/// Several components hold identifiers, versions and the session: each its own copy or part.
pub fn owners(path: &str) -> Vec<Component> {
    let by = |rpc: fn(Component) -> &'static str| -> Vec<_> {
        Component::ALL.into_iter().filter(|c| concerns(rpc(*c), path)).collect()
    };
    // The IS is told the identifiers when the device is created.
    let settable = |c: Component| concerns(set_rpc(c), path) || (c == Component::Is && is_id(path));
    match Component::ALL.into_iter().filter(|c| settable(*c)).collect::<Vec<_>>() {
        none if none.is_empty() => by(get_rpc),
        owners => owners,
    }
}

fn is_id(path: &str) -> bool {
    concerns(get_rpc(Component::Is), path) && path::covers("ids", path)
}

/// True when a leaf of the table is `path`, holds it, or lies below it.
fn concerns(rpc: &str, path: &str) -> bool {
    leaves(rpc).iter().any(|leaf| path::covers(leaf, path) || path::covers(path, leaf))
}

/// The mask that reads everything that this build knows of a component's record: the leaves, the parents of what can only
/// be had through them (queued downlinks, which need `RIGHT_APPLICATION_TRAFFIC_READ`), and what is [`newer`].
///
/// [`whole`] asks for the same in fewer words, and sees more of newer servers.
pub fn readable(component: Component) -> Vec<String> {
    let rpc = get_rpc(component);
    let hidden = hidden_parents(rpc);
    let known = mask::leaves(rpc).into_iter().chain(hidden);
    known.chain(newer(component).iter().copied()).map(str::to_owned).collect()
}

/// The mask of the topmost paths and what is [`newer`]: everything that [`readable`] reads, and also fields that newer
/// servers put inside messages that this build knows (found by [`crate::map::unknown`]).
pub fn whole(component: Component) -> Vec<String> {
    let top = mask::allowed(get_rpc(component)).iter().filter(|p| !p.contains('.'));
    top.chain(newer(component)).map(|p| (*p).to_owned()).collect()
}

/// The mask of everything that a component can be told: leaves, as the NS refuses some parents (`session.keys` of
/// LoRaWAN 1.0.x).
///
/// The IS takes its identifiers on Create only, without a mask.
pub fn writable(component: Component) -> Vec<String> {
    mask::leaves(set_rpc(component)).into_iter().map(str::to_owned).collect()
}

/// True when the component can be told `path`: it is settable, or lies in something that is.
pub fn is_writable(component: Component, path: &str) -> bool {
    leaves(set_rpc(component)).iter().any(|leaf| path::covers(leaf, path))
}

/// What [`readable`] reads and [`writable`] cannot write, each with its reason.
pub fn unwritable(component: Component) -> Vec<Unwritable> {
    let rpc = get_rpc(component);
    let mut paths: Vec<String> = leaves(rpc).iter().map(|p| (*p).to_owned()).collect();
    for parent in hidden_parents(rpc) {
        expand(&proto::descriptor("EndDevice"), parent, &mut paths);
    }
    paths.sort();
    paths.dedup();
    let fixed = paths.into_iter().filter(|p| !is_writable(component, p));
    fixed.map(|path| Unwritable { reason: reason(component, &path), path }).collect()
}

fn reason(component: Component, path: &str) -> &'static str {
    if path.ends_with(".kek_label") || path.ends_with(".encrypted_key") {
        return "keys are read and written in the clear; how a server wraps them is its own";
    }
    let fits = |row: &&Reason| row.0.is_none_or(|c| c == component) && path::covers(row.1, path);
    REASONS.iter().find(fits).map_or(UNEXPLAINED, |row| row.2)
}

/// A component (or any), a path, and why it and what lies below cannot be written. The first row that fits counts.
type Reason = (Option<Component>, &'static str, &'static str);

const UNEXPLAINED: &str = "the server has no mask path for it";
const THROUGH_PARENT: &str = "has no path of its own: only a mask of the whole state sets it";
const BY_NS: &str = "is held by the Network Server";
const BY_AS: &str = "is held by the Application Server";

const REASONS: &[Reason] = {
    use Component::{As, Is, Ns};
    &[
        (None, "created_at", "is the server's own time"),
        (None, "updated_at", "is the server's own time"),
        (None, "ids.dev_addr", "follows session.dev_addr"),
        (Some(Is), "ids", "is fixed when the device is created"),
        (Some(Ns), "power_state", "is set by the device's next status report only"),
        (Some(Ns), "session.keys.app_s_key", BY_AS),
        (Some(Ns), "session.last_a_f_cnt_down", BY_AS),
        (
            Some(Ns),
            "session.queued_application_downlinks",
            "the queue is filled by pushing downlinks, not by setting the device",
        ),
        (Some(Ns), "pending_session.keys.app_s_key", BY_AS),
        (Some(Ns), "pending_session", "a session that no uplink has confirmed has no counters and no queue"),
        (Some(Ns), "mac_state", THROUGH_PARENT),
        (Some(Ns), "pending_mac_state", THROUGH_PARENT),
        (
            Some(As),
            "pending_session",
            "the Application Server cannot be told a session that is not confirmed: let the device finish its join",
        ),
        (
            Some(As),
            "session.started_at",
            "is refused by the Application Server; the Network Server's is kept",
        ),
        (Some(As), "session", BY_NS),
    ]
};

/// The topmost paths of a table below which a message has fields that no other path of the table names.
fn hidden_parents(rpc: &str) -> Vec<&'static str> {
    let (device, leaves) = (proto::descriptor("EndDevice"), leaves(rpc));
    let mut parents: Vec<&str> = Vec::new();
    // A bare `oneof` hides nothing that its message does not.
    let is_message = |p: &&&str| !leaves.contains(p) && path::message_at(&device, p).is_some();
    for parent in mask::allowed(rpc).iter().filter(is_message) {
        let mut below = Vec::new();
        expand(&device, parent, &mut below);
        let hidden = below.iter().any(|p| !leaves.iter().any(|leaf| path::covers(leaf, p)));
        if hidden && !parents.iter().any(|p| path::covers(p, parent)) {
            parents.push(parent);
        }
    }
    parents
}

/// The leaves of the tables of devices, wrappers without their `value`.
static LEAVES: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let device = proto::descriptor("EndDevice");
    let canonical = |rpc| mask::leaves(rpc).into_iter().map(|leaf| path::canonical(&device, leaf)).collect();
    let rpcs = Component::ALL.into_iter().flat_map(|c| [get_rpc(c), set_rpc(c)]);
    rpcs.map(|rpc| (rpc, canonical(rpc))).collect()
});

fn leaves(rpc: &str) -> &'static [&'static str] {
    LEAVES.get(rpc).map_or(&[], Vec::as_slice)
}

/// The paths of all scalars, lists, maps, wrappers and empty messages at and below `path`.
fn expand(descriptor: &MessageDescriptor, path: &str, out: &mut Vec<String>) {
    match path::message_at(descriptor, path) {
        Some(message) if !is_one_value(&message) => {
            for field in message.fields() {
                expand_field(&field, &format!("{path}.{}", path::segment(&field)), out);
            }
        }
        _ => out.push(path.to_owned()),
    }
}

fn expand_field(field: &FieldDescriptor, at: &str, out: &mut Vec<String>) {
    match field.kind() {
        Kind::Message(message) if !field.is_list() && !field.is_map() && !is_one_value(&message) => {
            for field in message.fields() {
                expand_field(&field, &format!("{at}.{}", path::segment(&field)), out);
            }
        }
        _ => out.push(at.to_owned()),
    }
}

fn is_one_value(message: &MessageDescriptor) -> bool {
    path::is_leaf(message) || options::wrapped(message).is_some() || message.fields().len() == 0
}

#[cfg(test)]
mod tests {
    use Component::{As, Is, Js, Ns};
    use proptest::prelude::*;

    use super::*;
    use crate::map::generate;

    #[test]
    fn each_part_of_a_device_has_its_owners() {
        assert_eq!(owners("name"), [Is]);
        assert_eq!(owners("root_keys.app_key.key"), [Js]);
        assert_eq!(owners("mac_settings.rx1_delay"), [Ns]);
        assert_eq!(owners("mac_state.recent_uplinks"), [Ns]);
        assert_eq!(owners("formatters.up_formatter"), [As]);
        assert_eq!(owners("session"), [As, Ns]);
        assert_eq!(owners("session.keys.app_s_key.key"), [As]);
        assert_eq!(owners("version_ids.brand_id"), [Is, As, Ns]);
        assert_eq!(owners("attributes.site"), [Is]);
        assert_eq!(owners("ids.dev_eui"), [Is, Js, As, Ns]);
        assert_eq!(owners("claim_authentication_code.value"), [Is, Js]);
    }

    #[test]
    fn what_no_component_can_be_told_is_owned_by_those_that_tell_it() {
        assert_eq!(owners("power_state"), [Ns]);
        assert_eq!(owners("pending_session.keys.app_s_key.key"), [As]);
        assert_eq!(owners("nonsense"), []);
    }

    #[test]
    fn reading_asks_for_newer_fields_and_for_parents_of_what_has_no_path() {
        let ns = readable(Ns);
        for path in ["session", "session.dev_addr", "power_state", "mac_settings_profile_ids", "mac_state"] {
            assert!(ns.contains(&path.to_owned()), "{path}");
        }
        assert!(!ns.contains(&"mac_settings".to_owned()), "all of it has paths");
        assert!(readable(Is).contains(&"label_ids".to_owned()));
        assert!(!readable(Js).iter().any(|p| newer(Is).contains(&p.as_str())));
    }

    #[test]
    fn the_topmost_paths_cover_all_others() {
        for component in Component::ALL {
            let whole = whole(component);
            let missed: Vec<_> = readable(component)
                .into_iter()
                .filter(|p| !whole.iter().any(|w| path::covers(w, p)))
                .collect();
            assert_eq!(missed, Vec::<String>::new(), "{component}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_named_with_a_reason() {
        let reason = |component, path: &str| {
            unwritable(component).into_iter().find(|u| u.path == path).map(|u| u.reason)
        };
        assert!(reason(Ns, "session.queued_application_downlinks").is_some_and(|r| r.contains("pushing")));
        assert!(reason(Ns, "power_state").is_some_and(|r| r.contains("status report")));
        assert!(reason(As, "pending_session.keys.app_s_key.key").is_some_and(|r| r.contains("join")));
        assert!(reason(Js, "root_keys.app_key.kek_label").is_some_and(|r| r.contains("wraps")));
        assert_eq!(reason(Ns, "session.dev_addr"), None);
        for component in Component::ALL {
            for unwritable in unwritable(component) {
                assert_ne!(unwritable.reason, UNEXPLAINED, "{component} {}", unwritable.path);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_a_generated_device_holds_is_writable_and_owned_by_its_component(seed: u64, index in 0_usize..4) {
            let component = Component::ALL[index];
            for path in path::stored(&generate::device(seed, component)) {
                let writable = is_writable(component, &path) || (component == Is && is_id(&path));
                prop_assert!(writable, "{component} {path}");
                prop_assert!(owners(&path).contains(&component), "{component} {path}");
            }
        }
    }
}
