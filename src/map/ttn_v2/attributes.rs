//! Attributes: V2 takes any name, The Things Stack only IDs.

use std::collections::BTreeMap;

use crate::model::ids::is_id;

/// The longest name of an attribute (`end_device.proto`).
const LONGEST: usize = 36;
/// Put before a name that would be too short.
const PREFIX: &str = "v2-";

/// The attributes of a device as the target gets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// By their name on the target.
    pub map: BTreeMap<String, String>,
    /// Names that changed: from, to.
    pub renamed: Vec<(String, String)>,
    /// Attributes that are left behind since another has their new name, and that name.
    pub clashes: Vec<(String, String)>,
}

impl Attributes {
    /// Maps the names of a device's attributes by [`mapped_key`].
    ///
    /// Where two get one name, the one that had it already keeps it, else the first in the order of the alphabet; the others
    /// are clashes.
    pub fn of(attributes: &BTreeMap<String, String>) -> Self {
        let mut out = Self::default();
        let (kept, odd): (Vec<_>, Vec<_>) = attributes.iter().partition(|(key, _)| is_id(key));
        for (key, value) in kept.into_iter().chain(odd) {
            let name = mapped_key(key);
            if out.map.contains_key(&name) {
                out.clashes.push((key.clone(), name));
                continue;
            }
            if name != *key {
                out.renamed.push((key.clone(), name.clone()));
            }
            out.map.insert(name, value.clone());
        }
        out
    }
}

/// The name of an attribute on the target.
///
/// A name that The Things Stack takes stays. In any other, letters become lower case and every run of other characters than
/// a-z and 0-9 one dash; it is cut to 36, and `v2-` is put before what is shorter than an ID may be. Nothing at all becomes
/// `v2-empty`.
pub fn mapped_key(key: &str) -> String {
    if is_id(key) {
        return key.to_owned();
    }
    let plain: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<_> = plain.split('-').filter(|word| !word.is_empty()).collect();
    let joined = words.join("-");
    let cut = joined[..joined.len().min(LONGEST)].trim_end_matches('-');
    match cut {
        "" => format!("{PREFIX}empty"),
        id if is_id(id) => id.to_owned(),
        short => format!("{PREFIX}{short}"),
    }
}
