//! Fields that this build does not know: a newer server sent them, `prost-reflect` carries them, and the plan names them.

use std::fmt;

use prost_reflect::{DynamicMessage, Value};

use super::path;

/// A field that `proto/` does not have. What it holds may be a secret, so only its size is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownField {
    /// Path of the message that holds it, with list indices and map keys; empty for the outermost.
    pub path: String,
    /// Field number.
    pub number: u32,
    /// Bytes on the wire, over all occurrences, with their tags.
    pub bytes: usize,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "field {}, which this version does not know ({} bytes)", self.number, self.bytes)
    }
}

/// All unknown fields of a message and of the messages, lists and maps inside it, in the order of their paths and
/// numbers.
pub fn find(message: &DynamicMessage) -> Vec<UnknownField> {
    let mut out: Vec<UnknownField> = Vec::new();
    collect(message, "", &mut out);
    out.sort();
    out
}

fn collect(message: &DynamicMessage, at: &str, out: &mut Vec<UnknownField>) {
    for field in message.unknown_fields() {
        let (number, bytes) = (field.number(), field.encoded_len());
        match out.iter_mut().find(|f| f.path == at && f.number == number) {
            Some(seen) => seen.bytes += bytes,
            None => out.push(UnknownField { path: at.to_owned(), number, bytes }),
        }
    }
    for (field, value) in message.fields() {
        let segment = path::segment(&field);
        let below = if at.is_empty() { segment } else { format!("{at}.{segment}") };
        match value {
            Value::Message(inner) => collect(inner, &below, out),
            Value::List(list) => {
                for (index, inner) in list.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_message()?)))
                {
                    collect(inner, &format!("{below}.{index}"), out);
                }
            }
            Value::Map(map) => {
                for (key, inner) in map.iter().filter_map(|(k, v)| Some((k, v.as_message()?))) {
                    collect(inner, &format!("{below}.{}", path::key(key)), out);
                }
            }
            _ => {}
        }
    }
}

/// Adds unknown fields to messages: what a newer server would send.
#[cfg(test)]
pub(super) mod inject {
    use prost::Message as _;
    use prost_reflect::ReflectMessage as _;

    use super::*;
    use crate::map::generate::Rng;

    /// Puts field 9999 with the given text into a message somewhere inside `message`; answers where it went.
    pub(in crate::map) fn anywhere(message: &mut DynamicMessage, text: &str, rng: &mut Rng) -> UnknownField {
        let places = places(message, "");
        let place = rng.pick(&places).cloned().unwrap_or_default();
        at(message, &place, "", text);
        UnknownField { path: place, number: 9999, bytes: tagged(text).len() }
    }

    /// The bytes of field 9999 holding a text.
    fn tagged(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::string::encode(9999, &text.to_owned(), &mut bytes);
        bytes
    }

    /// Paths of all messages, with the outermost as the empty one.
    fn places(message: &DynamicMessage, at: &str) -> Vec<String> {
        let mut out = vec![at.to_owned()];
        for (below, inner) in children(message, at) {
            out.extend(places(&inner, &below));
        }
        out
    }

    fn children(message: &DynamicMessage, at: &str) -> Vec<(String, DynamicMessage)> {
        let mut out = Vec::new();
        for (field, value) in message.fields() {
            let name = path::segment(&field);
            let below = if at.is_empty() { name } else { format!("{at}.{name}") };
            match value {
                Value::Message(inner) => out.push((below, inner.clone())),
                Value::List(list) => {
                    for (i, item) in list.iter().enumerate() {
                        out.extend(item.as_message().map(|m| (format!("{below}.{i}"), m.clone())));
                    }
                }
                Value::Map(map) => {
                    for (k, item) in map {
                        out.extend(
                            item.as_message().map(|m| (format!("{below}.{}", path::key(k)), m.clone())),
                        );
                    }
                }
                _ => {}
            }
        }
        out
    }

    fn at(message: &mut DynamicMessage, place: &str, here: &str, text: &str) {
        if place == here {
            let mut bytes = message.encode_to_vec();
            bytes.extend(tagged(text));
            *message = DynamicMessage::decode(message.descriptor(), bytes.as_slice()).expect("decodes");
            return;
        }
        for (field, value) in message.fields_mut() {
            let name = path::segment(&field);
            let below = if here.is_empty() { name } else { format!("{here}.{name}") };
            let leads = |to: &str| path::covers(to, place);
            match value {
                Value::Message(inner) if leads(&below) => at(inner, place, &below, text),
                Value::List(list) => {
                    for (i, item) in list.iter_mut().enumerate() {
                        let below = format!("{below}.{i}");
                        if let (true, Some(inner)) = (leads(&below), item.as_message_mut()) {
                            at(inner, place, &below, text);
                        }
                    }
                }
                Value::Map(map) => {
                    for (k, item) in map.iter_mut() {
                        let below = format!("{below}.{}", path::key(k));
                        if let (true, Some(inner)) = (leads(&below), item.as_message_mut()) {
                            at(inner, place, &below, text);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost_reflect::ReflectMessage as _;

    use super::*;
    use crate::{map::generate, model::device::Component};

    #[test]
    fn a_known_message_holds_nothing_unknown() {
        assert_eq!(find(&generate::device(1, Component::Ns)), []);
    }

    #[test]
    fn a_finding_tells_the_place_and_never_the_content() {
        let field = UnknownField { path: "mac_settings".into(), number: 40, bytes: 7 };
        assert_eq!(field.to_string(), "mac_settings: field 40, which this version does not know (7 bytes)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_unknown_field_is_found_at_any_depth_and_survives_the_wire(seed: u64, index in 0_usize..4) {
            let mut message = generate::device(seed, Component::ALL[index]);
            let injected = inject::anywhere(&mut message, "canary", &mut generate::Rng::new(seed));
            prop_assert_eq!(find(&message), vec![injected.clone()]);
            let back = DynamicMessage::decode(message.descriptor(), message.encode_to_vec().as_slice());
            let back = back.expect("decodes");
            prop_assert_eq!(find(&back), vec![injected]);
            prop_assert!(back == message);
        }
    }
}
