use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    map::{generate, unknown::inject},
    model::device::Component,
    proto,
};

fn device() -> DynamicMessage {
    let mut device = proto::message("EndDevice");
    path::set(&mut device, "ids.device_id", Value::String("meter-1".into()));
    device
}

/// The differences as text, one a line.
fn shown(left: &DynamicMessage, right: &DynamicMessage) -> Vec<String> {
    diff(left, right).iter().map(Difference::to_string).collect()
}

#[test]
fn scalars_oneofs_and_map_entries_are_named_and_shown_in_their_json() {
    let (mut left, mut right) = (device(), device());
    path::set(&mut left, "name", Value::String("old".into()));
    path::set(&mut left, "mac_settings.adr.mode.static.nb_trans", Value::U32(2));
    path::set(&mut right, "mac_settings.adr.mode.static.nb_trans", Value::U32(3));
    path::set(&mut right, "ids.dev_eui", Value::Bytes(vec![0x70; 8].into()));
    path::set(&mut right, "lorawan_version", Value::EnumNumber(5));
    let map = [(MapKey::String("site".into()), Value::String("roof".into()))];
    path::set(&mut right, "attributes", Value::Map(map.into()));
    assert_eq!(
        shown(&left, &right),
        [
            "ids.dev_eui: nothing → \"7070707070707070\"",
            "name: \"old\" → nothing",
            "attributes.site: nothing → \"roof\"",
            "lorawan_version: nothing → \"MAC_V1_0_3\"",
            "mac_settings.adr.mode.static.nb_trans: 2 → 3",
        ]
    );
}

#[test]
fn a_wrapper_is_one_place() {
    let (mut left, mut right) = (device(), device());
    path::set_wrapped(&mut left, "mac_settings.schedule_downlinks", Value::Bool(false));
    path::set_wrapped(&mut right, "mac_settings.schedule_downlinks", Value::Bool(true));
    assert_eq!(shown(&left, &right), ["mac_settings.schedule_downlinks: false → true"]);
    path::clear(&mut right, "mac_settings.schedule_downlinks");
    assert_eq!(shown(&left, &right), ["mac_settings.schedule_downlinks: false → nothing"]);
    let leaf = ["mac_settings.schedule_downlinks.value"];
    assert_eq!(diff_paths(&left, &right, &leaf).len(), 1, "masks name the value");
}

#[test]
fn a_key_is_never_shown_also_when_only_one_side_has_the_message_around_it() {
    let (left, mut right) = (device(), device());
    path::set(&mut right, "root_keys.app_key.key", Value::Bytes(vec![0xC0; 16].into()));
    assert_eq!(shown(&left, &right), ["root_keys.app_key.key: nothing → [secret]"]);
    let debug = format!("{:?}", diff(&left, &right));
    assert!(!debug.to_lowercase().contains("c0c0") && !debug.contains("192"), "{debug}");
}

#[test]
fn a_message_that_is_set_but_empty_differs_from_none() {
    let (left, mut right) = (device(), device());
    path::touch(&mut right, "mac_settings.adr.mode.disabled");
    assert_eq!(shown(&left, &right), ["mac_settings.adr.mode.disabled: nothing → {}"]);
}

#[test]
fn only_what_the_mask_names_is_compared() {
    let (mut left, right) = (device(), device());
    path::set(&mut left, "session.last_f_cnt_up", Value::U32(7));
    path::set(&mut left, "name", Value::String("x".into()));
    let paths = |mask: &[&str]| -> Vec<String> {
        diff_paths(&left, &right, mask).into_iter().map(|d| d.path).collect()
    };
    assert_eq!(paths(&["session"]), ["session.last_f_cnt_up"]);
    assert_eq!(paths(&["name", "session.dev_addr"]), ["name"]);
}

#[test]
fn long_texts_are_cut() {
    let (left, mut right) = (device(), device());
    path::set(&mut right, "description", Value::String("ü".repeat(2000)));
    let text = diff(&left, &right)[0].right.as_ref().expect("present").to_string();
    assert_eq!(text.chars().count(), Shown::LIMIT + 1);
}

/// The bytes of a message with map entries in the order of their keys.
fn canonical_bytes(message: &DynamicMessage) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, value) in message.fields() {
        out.extend(field.number().to_be_bytes());
        value_bytes(value, &mut out);
    }
    for unknown in message.unknown_fields() {
        unknown.encode(&mut out);
    }
    out
}

fn value_bytes(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Message(inner) => {
            let inner = canonical_bytes(inner);
            out.extend(inner.len().to_be_bytes());
            out.extend(inner);
        }
        Value::List(list) => {
            out.extend(list.len().to_be_bytes());
            list.iter().for_each(|item| value_bytes(item, out));
        }
        Value::Map(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| path::key(key));
            for (key, item) in entries {
                out.extend(path::key(key).as_bytes());
                value_bytes(item, out);
            }
        }
        scalar => out.extend(format!("{scalar:?}").as_bytes()),
    }
}

/// The part of a path that masks can name: without what lies inside a list or map.
fn mask_path(descriptor: &prost_reflect::MessageDescriptor, path: &str) -> String {
    let mut mask = path.to_owned();
    while !path::exists(descriptor, &mask) {
        let Some((parent, _)) = mask.rsplit_once('.') else { break };
        mask = parent.to_owned();
    }
    mask
}

/// Takes `right` over at each place where `left` differs. What a message loses leaves it empty, which is a difference of
/// its own: each round takes away one level of those.
fn take_over(left: &mut DynamicMessage, right: &DynamicMessage) {
    let descriptor = left.descriptor();
    for _ in 0..12 {
        let paths: Vec<_> = diff(left, right).iter().map(|d| mask_path(&descriptor, &d.path)).collect();
        path::apply(left, right, &paths);
    }
}

/// Two devices of one component, or two arbitrary messages; only seeds, so that failures are short.
#[derive(Debug, Clone, Copy)]
struct Pair {
    left: u64,
    right: u64,
    component: Option<Component>,
}

impl Pair {
    fn messages(self) -> (DynamicMessage, DynamicMessage) {
        let of = |seed| match self.component {
            Some(component) => generate::device(seed % 64, component),
            None => generate::message(&proto::descriptor("EndDevice"), seed),
        };
        (of(self.left), of(self.right))
    }
}

fn pairs() -> impl Strategy<Value = Pair> {
    (any::<u64>(), any::<u64>(), 0_usize..8).prop_map(|(left, right, index)| Pair {
        left,
        right,
        component: Component::ALL.get(index).copied(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_differs_from_itself_over_the_wire(pair in pairs()) {
        let (left, _) = pair.messages();
        prop_assert_eq!(diff(&left, &left), vec![]);
        let bytes = left.encode_to_vec();
        let back = DynamicMessage::decode(left.descriptor(), bytes.as_slice()).expect("decodes");
        prop_assert_eq!(diff(&left, &back), vec![]);
    }

    #[test]
    fn there_is_no_difference_exactly_when_the_bytes_are_equal(pair in pairs()) {
        let (left, right) = pair.messages();
        prop_assert_eq!(diff(&left, &right).is_empty(), canonical_bytes(&left) == canonical_bytes(&right));
    }

    #[test]
    fn one_changed_field_is_one_or_more_differences_at_that_field(seed: u64, other: u64, index in 0_usize..55) {
        let left = generate::message(&proto::descriptor("EndDevice"), seed);
        let field = left.descriptor().fields().nth(index % left.descriptor().fields().len()).expect("a field");
        let mut right = left.clone();
        match generate::field(&field, other) {
            Some(value) => right.set_field(&field, value),
            None => right.clear_field(&field),
        }
        let found = diff(&left, &right);
        prop_assert_eq!(found.is_empty(), canonical_bytes(&left) == canonical_bytes(&right));
        for difference in found {
            prop_assert!(path::covers(&path::segment(&field), &difference.path), "{}", difference.path);
        }
    }

    #[test]
    fn taking_over_what_differs_makes_them_equal(pair in pairs()) {
        let (mut left, right) = pair.messages();
        take_over(&mut left, &right);
        prop_assert_eq!(shown(&left, &right), Vec::<String>::new());
        prop_assert!(left == right);
    }

    #[test]
    fn both_directions_find_the_same_places(pair in pairs()) {
        let (left, right) = pair.messages();
        let places = |l, r| diff(l, r).into_iter().map(|d| d.path).collect::<Vec<_>>();
        prop_assert_eq!(places(&left, &right), places(&right, &left));
    }

    #[test]
    fn an_unknown_field_is_a_difference_that_shows_its_size_alone(pair in pairs(), seed: u64) {
        let (left, _) = pair.messages();
        let mut right = left.clone();
        let injected = inject::anywhere(&mut right, "canary", &mut generate::Rng::new(seed));
        let found = diff(&left, &right);
        prop_assert_eq!(found.len(), 1);
        let dot = if injected.path.is_empty() { "" } else { "." };
        prop_assert_eq!(&found[0].path, &format!("{}{dot}#9999", injected.path));
        prop_assert_eq!(found[0].right.clone(), Some(Shown::Unknown(injected.bytes)));
    }
}
