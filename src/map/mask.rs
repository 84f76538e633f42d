//! Field masks: which paths each RPC takes, from `proto/field_masks.tsv` (recorded from The Things Stack 3.32.1).

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

static TABLE: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let mut table: HashMap<_, Vec<_>> = HashMap::new();
    for line in include_str!("../../proto/field_masks.tsv").lines().skip(1) {
        let mut columns = line.split('\t');
        if let (Some(rpc), Some(_kind), Some(path)) = (columns.next(), columns.next(), columns.next()) {
            table.entry(rpc).or_default().push(path);
        }
    }
    table
});

/// The paths that a server of 3.32.1 takes in the mask of `rpc` (`"NsEndDeviceRegistry/Set"`); empty for RPCs without.
pub fn allowed(rpc: &str) -> &'static [&'static str] {
    TABLE.get(rpc).map_or(&[], Vec::as_slice)
}

/// The deepest paths among those allowed for `rpc`: no path of the answer is the parent of another.
pub fn leaves(rpc: &str) -> Vec<&'static str> {
    let all = allowed(rpc);
    let is_parent = |p: &str| all.iter().any(|q| q.strip_prefix(p).is_some_and(|r| r.starts_with('.')));
    all.iter().copied().filter(|p| !is_parent(p)).collect()
}

/// The deepest of `allowed` that is `path` or a parent of it.
pub fn cover<'a, S: AsRef<str>>(allowed: &'a [S], path: &str) -> Option<&'a str> {
    allowed.iter().map(AsRef::as_ref).filter(|a| super::path::covers(a, path)).max_by_key(|a| a.len())
}

/// A `google.protobuf.FieldMask` of these paths.
pub fn message<S: AsRef<str>>(paths: &[S]) -> DynamicMessage {
    let mut mask = crate::proto::message("google.protobuf.FieldMask");
    let list = paths.iter().map(|p| Value::String(p.as_ref().to_owned())).collect();
    mask.set_field_by_name("paths", Value::List(list));
    mask
}

/// The paths in field `field_mask` of a request; empty when it has none.
pub fn of(request: &DynamicMessage) -> Vec<String> {
    if request.descriptor().get_field_by_name("field_mask").is_none() {
        return Vec::new();
    }
    let paths = super::path::get(request, "field_mask.paths");
    let list = paths.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_hold_no_parent_of_another() {
        let leaves = leaves("JsEndDeviceRegistry/Get");
        assert!(leaves.contains(&"root_keys.app_key.key"));
        assert!(!leaves.contains(&"root_keys"));
    }

    #[test]
    fn a_path_is_covered_by_its_deepest_allowed_parent() {
        let allowed = ["session", "session.keys", "name"];
        assert_eq!(cover(&allowed, "session.keys.app_s_key"), Some("session.keys"));
        assert_eq!(cover(&allowed, "session.dev_addr"), Some("session"));
        assert_eq!(cover(&allowed, "names"), None);
    }

    #[test]
    fn a_mask_is_read_back_from_its_request() {
        let mut request = crate::proto::message("GetEndDeviceRequest");
        request.set_field_by_name("field_mask", Value::Message(message(&["name", "ids"])));
        assert_eq!(of(&request), ["name", "ids"]);
    }
}
