//! Who the copy is: its ID, its EUIs, and the attributes that every copy gets.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{
    facts::{IdFrom, TargetFacts, Wishes},
    finding::{Finding, Kind},
    transform::Found,
};
use crate::{
    map::path,
    model::{
        device::{Component, Record},
        ids::{Eui64, is_id},
    },
};

/// The most that an ID may have (`identifiers.proto`).
const LONGEST: usize = 36;

/// The device's ID at the source.
pub fn device_id(found: &Found) -> String {
    found.records.present().map(|(_, r)| r.device_id()).find(|id| !id.is_empty()).unwrap_or_default()
}

fn dev_eui(found: &Found) -> Option<Eui64> {
    found.records.present().find_map(|(_, r)| r.dev_eui())
}

/// The device's ID on the target: the one that [`renames`] gave it, or `id-prefix` and the ID with dashes for underscores, or
/// the DevEUI where `from = "eui"` and there is one.
pub fn target_id(found: &Found, facts: &TargetFacts, wishes: &Wishes) -> String {
    let id = device_id(found);
    match (wishes.id_from, dev_eui(found)) {
        (IdFrom::Eui, Some(eui)) => format!("{}{}", wishes.id_prefix, eui_id(eui)),
        _ => facts.renames.get(&id).cloned().unwrap_or_else(|| by_rule(&id, wishes)),
    }
}

/// The device's ID by `id-prefix`, with dashes for underscores.
pub(super) fn by_rule(id: &str, wishes: &Wishes) -> String {
    format!("{}{}", wishes.id_prefix, id.replace('_', "-"))
}

/// IDs that cannot be as the rule has them, and others in their place: one that the target refuses makes way for a proposal, and
/// of two that would get the same, the one that had it already keeps it, or else the first in the order of the alphabet.
///
/// It depends on nothing but the IDs of the source, so that every run of a journal gives the same; `ids` are all of them, those
/// that an earlier run has moved too. Empty unless `id_rename` is set.
pub fn renames<'i>(ids: impl IntoIterator<Item = &'i str>, wishes: &Wishes) -> BTreeMap<String, String> {
    if wishes.id_rename { proposals(ids, wishes) } else { BTreeMap::new() }
}

/// What [`renames`] would give if it was allowed: the names that findings propose.
pub fn proposals<'i>(ids: impl IntoIterator<Item = &'i str>, wishes: &Wishes) -> BTreeMap<String, String> {
    let ids: BTreeSet<&str> = ids.into_iter().collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut renames = BTreeMap::new();
    // Those that keep their name first, then those whose name is only clear of underscores, then all others.
    let rank = |id: &&str| {
        let name = by_rule(id, wishes);
        (!is_id(&name), name != format!("{}{id}", wishes.id_prefix))
    };
    let mut ordered: Vec<&str> = ids.into_iter().collect();
    ordered.sort_by_key(rank);
    for id in ordered {
        let name = by_rule(id, wishes);
        let wanted = if is_id(&name) { Some(name.clone()) } else { propose(&name, None) };
        let Some(free) = wanted.and_then(|wanted| free(&wanted, &taken)) else { continue };
        if free != name {
            renames.insert(id.to_owned(), free.clone());
        }
        taken.insert(free);
    }
    renames
}

/// `wanted`, or the first of `wanted-2`, `wanted-3` … that nobody has, cut to what an ID may have.
fn free(wanted: &str, taken: &BTreeSet<String>) -> Option<String> {
    if !taken.contains(wanted) {
        return Some(wanted.to_owned());
    }
    (2_u32..).map(|n| format!("-{n}")).find_map(|suffix| {
        let room = LONGEST - suffix.len();
        let stem = wanted[..wanted.len().min(room)].trim_end_matches('-');
        let id = format!("{stem}{suffix}");
        (is_id(&id) && !taken.contains(&id)).then_some(id)
    })
}

fn eui_id(eui: Eui64) -> String {
    format!("eui-{}", eui.to_string().to_ascii_lowercase())
}

/// The finding for an ID that the target would refuse, with one that it would take.
pub fn check(id: &str, found: &Found) -> Option<Finding> {
    const RENAME: &str = "set transform.device-id = { rename = \"auto\" }, or choose another rule";
    if is_id(id) {
        return None;
    }
    let fix = match propose(id, None).or_else(|| propose(id, dev_eui(found))) {
        Some(proposed) => format!("`{proposed}` would do: {RENAME}"),
        None => RENAME.to_owned(),
    };
    let text = format!("the target takes no device ID `{id}` (3 to 36 of a-z, 0-9, single dashes)");
    Some(Finding::new(Kind::BadId, text).at(Component::Is).paths(["ids.device_id"]).fix(fix))
}

/// An ID like `id` that the target takes: lower case, dashes for everything else, cut to 36; else made of the DevEUI.
pub fn propose(id: &str, eui: Option<Eui64>) -> Option<String> {
    let plain: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<_> = plain.split('-').filter(|word| !word.is_empty()).collect();
    let joined = words.join("-");
    let cut = joined[..joined.len().min(LONGEST)].trim_end_matches('-').to_owned();
    let longer = format!("dev-{cut}");
    [Some(cut), eui.map(eui_id), Some(longer)].into_iter().flatten().find(|id| is_id(id))
}

/// Gives the copy its identifiers: the new ID and application, and the EUIs that this component's record has.
pub fn identify(message: &mut DynamicMessage, record: &Record, wishes: &Wishes, id: &str) {
    path::clear(message, "ids");
    path::set(message, "ids.device_id", Value::String(id.to_owned()));
    let app = wishes.target_app.as_str().to_owned();
    path::set(message, "ids.application_ids.application_id", Value::String(app));
    for eui in ["ids.dev_eui", "ids.join_eui"] {
        if let Some(value) = path::get(&record.0, eui) {
            path::set(message, eui, value.into_owned());
        }
    }
}

/// Adds the attributes of the configuration; names those of the source that make way for them.
pub fn add_attributes(message: &mut DynamicMessage, wishes: &Wishes) -> Option<Finding> {
    if wishes.attributes.is_empty() {
        // An empty map that was touched is not equal to one that never was.
        return None;
    }
    let field = crate::proto::descriptor("EndDevice").get_field_by_name("attributes")?;
    let Value::Map(map) = message.get_field_mut(&field) else { return None };
    let mut lost = Vec::new();
    for (key, value) in &wishes.attributes {
        let new = Value::String(value.clone());
        if map.insert(MapKey::String(key.clone()), new.clone()).is_some_and(|old| old != new) {
            lost.push(format!("attributes.{key}"));
        }
    }
    (!lost.is_empty()).then(|| {
        Finding::new(Kind::Replaced, "the configuration gives these attributes another value")
            .at(Component::Is)
            .paths(lost)
    })
}
